package placement_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/placement/placementtest"
)

// aRig has the twin as engine.
func aRig(*testing.T) (placementtest.Rig, *placement.Memory) {
	reports := make(chan placementtest.Report, 1000)
	twin := placement.NewMemory(func(server string, m *shoalv1.ReportContainersRequest) {
		reports <- placementtest.Report{Server: server, Said: m}
	})
	r := placementtest.Rig{
		Engine: twin, Reports: reports, Cut: twin.Cut, Mend: twin.Mend,
		Good:    placement.Service{Image: blob.Image{Ref: blob.Ref{Repository: "demo/app"}}, Digest: "sha256:good"},
		Missing: placement.Service{Image: blob.Image{Ref: blob.Ref{Repository: "demo/none"}}, Digest: "sha256:missing"},
	}
	twin.Set("sha256:good", placement.Behaviour{Size: 10, Fetch: time.Second, Start: time.Second})
	twin.Set("sha256:missing", placement.Behaviour{Missing: true})
	for i, name := range []string{"a", "b"} {
		r.Hosts[i] = placement.Host{Server: "id-" + name, Name: name, PeerID: "peer-" + name}
		twin.Add("id-" + name)
	}
	return r, twin
}

func TestMemory(t *testing.T) {
	placementtest.Run(t, func(_ context.Context, t *testing.T) placementtest.Rig {
		r, _ := aRig(t)
		return r
	})
}

// agents answer the orders of a fleet with what the twin's hosts do, as the
// API hands them on.
type agents struct {
	fleet *fleet.Fleet
	twin  *placement.Memory
	ctx   context.Context

	mu    sync.Mutex
	lines map[string]*fleet.Line // guarded by mu
	going map[string]context.CancelFunc
}

func (a *agents) connect(host placement.Host) {
	line, _, err := a.fleet.Connect(fleet.Host{PeerID: host.PeerID, Instance: "i", Hostname: host.Name})
	if err != nil {
		panic(err)
	}
	a.mu.Lock()
	a.lines[host.Server] = line
	a.mu.Unlock()
	go func() {
		for {
			select {
			case o := <-line.Orders():
				ctx, cancel := context.WithCancel(a.ctx)
				a.mu.Lock()
				a.going[o.Id] = cancel
				a.mu.Unlock()
				go a.obey(ctx, host, o)
			case <-line.Gone():
				return
			case <-a.ctx.Done():
				return
			}
		}
	}()
}

func (a *agents) obey(ctx context.Context, host placement.Host, o *shoalv1.Order) {
	switch what := o.What.(type) {
	case *shoalv1.Order_Desired:
		_ = a.twin.Assign(ctx, host, what.Desired)
	case *shoalv1.Order_Cancel:
		a.mu.Lock()
		defer a.mu.Unlock()
		if cancel := a.going[what.Cancel.OrderId]; cancel != nil {
			cancel()
		}
	case *shoalv1.Order_Prewarm:
		service := placement.Service{Image: blob.Image{Ref: blob.Ref{Repository: what.Prewarm.Repository}}, Digest: what.Prewarm.Digest}
		if what.Prewarm.Token != "token of "+host.PeerID || !what.Prewarm.Unpack {
			panic("an order without its token, or that unpacks nothing")
		}
		last := &shoalv1.ProgressRequest{OrderId: o.Id, Done: true}
		err := a.twin.Prepull(ctx, host, service, func(done, total int64) {
			last.BytesTotal = total
			a.fleet.Answer(ctx, host.PeerID, o.Id, &shoalv1.ProgressRequest{OrderId: o.Id, BytesDone: done, BytesTotal: total}, false)
		})
		if err != nil {
			last.Error = err.Error()
		}
		a.fleet.Answer(ctx, host.PeerID, o.Id, last, true)
	case *shoalv1.Order_ReadLog:
		last := &shoalv1.SendLogRequest{OrderId: o.Id, Done: true}
		err := a.twin.Logs(ctx, host, what.ReadLog.Container, int(what.ReadLog.Tail), what.ReadLog.Follow, func(data []byte) error {
			if !a.fleet.Answer(ctx, host.PeerID, o.Id, &shoalv1.SendLogRequest{OrderId: o.Id, Data: data}, false) {
				return context.Canceled
			}
			return nil
		})
		if err != nil {
			last.Error = err.Error()
		}
		a.fleet.Answer(ctx, host.PeerID, o.Id, last, true)
	}
}

func TestAgents(t *testing.T) {
	placementtest.Run(t, func(ctx context.Context, t *testing.T) placementtest.Rig {
		r, twin := aRig(t)
		a := &agents{fleet: fleet.New(), twin: twin, ctx: ctx, lines: map[string]*fleet.Line{}, going: map[string]context.CancelFunc{}}
		hosts := map[string]placement.Host{}
		for _, h := range r.Hosts {
			hosts[h.Server] = h
			a.connect(h)
		}
		r.Engine = placement.Agents{
			Lines: a.fleet, Away: fleet.ErrNotConnected,
			Token: func(peerID, _ string) (string, error) { return "token of " + peerID, nil },
		}
		r.Cut = func(server string) {
			twin.Cut(server)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.lines[server].Close()
		}
		r.Mend = func(server string) {
			a.connect(hosts[server])
			twin.Mend(server)
		}
		return r
	})
}
