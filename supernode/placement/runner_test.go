package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	image1 = "sha256:1111"
	image2 = "sha256:2222"
)

// pond is a pool of pretended hosts, and a supernode before it that can be
// killed and started again over the same metadata.
type pond struct {
	t     *testing.T
	meta  *meta.Memory
	store *mortal
	twin  *Memory
	over  Engine // what the supernode sees of it; nil is all

	mu     sync.Mutex
	hosts  []Host // guarded by mu
	quota  Need   // guarded by mu
	lists  int    // guarded by mu; how often all hosts were listed
	runner *Runner
	stop   func()
}

// newPond has hosts a, b, c… of 4 cores and 8 GiB; image1 and image2 take a
// second to fetch and one to start.
func newPond(t *testing.T, hosts int) *pond {
	p := &pond{t: t, meta: meta.NewMemory()}
	p.twin = NewMemory(func(server string, m *shoalv1.ReportContainersRequest) {
		p.mu.Lock()
		r := p.runner
		p.mu.Unlock()
		if r != nil {
			_ = r.Report(context.Background(), server, m) // of a killed supernode it is lost
		}
	})
	for i := range hosts {
		h := aHost(string(rune('a' + i)))
		p.hosts = append(p.hosts, h)
		p.twin.Add(h.Server)
	}
	for _, d := range []string{image1, image2} {
		p.twin.Set(d, Behaviour{Size: 100, Fetch: time.Second, Start: time.Second, Stop: 400 * time.Millisecond})
	}
	return p
}

// Hosts implements World.
func (p *pond) Hosts(_ context.Context, pool string, _ *Image, _ *Service) ([]Host, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lists++
	var out []Host
	for _, h := range p.hosts {
		h.Connected = p.twin.Up(h.Server)
		if pool == "" || h.Pool == pool {
			out = append(out, h)
		}
	}
	return out, nil
}

// Host implements World.
func (p *pond) Host(_ context.Context, server string) (*Host, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.hosts {
		if h.Server == server {
			h.Connected = p.twin.Up(server)
			return &h, nil
		}
	}
	return nil, nil
}

// Quota implements World.
func (p *pond) Quota(context.Context, string) (Need, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.quota, nil
}

// Image implements World.
func (p *pond) Image(context.Context, Service) (Image, error) {
	return Image{Platforms: []string{"linux/amd64"}, Parts: []Part{{layerA, 100}}}, nil
}

func (p *pond) edit(name string, edit func(*Host)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.hosts {
		if p.hosts[i].Name == name {
			edit(&p.hosts[i])
		}
	}
}

// mortal is the metadata until the supernode dies, after its nth commit.
type mortal struct {
	meta.Store
	mu     sync.Mutex
	left   int         // guarded by mu; -1: it does not die
	before bool        // the last commit is lost, not only its answer
	dead   bool        // guarded by mu
	full   atomic.Bool // hosts' records are not taken now
	died   func()
}

var errDead = errors.New("the supernode was killed")

func (m *mortal) Commit(ctx context.Context, c []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return 0, errDead
	}
	if m.full.Load() && strings.HasPrefix(ops[0].Key, hostPrefix) {
		return 0, errors.New("the disk is full")
	}
	if m.left--; m.left == 0 {
		m.dead = true
		defer m.died()
		if m.before {
			return 0, errDead
		}
		_, _ = m.Store.Commit(ctx, c, ops)
		return 0, errDead
	}
	return m.Store.Commit(ctx, c, ops)
}

// start brings the supernode up; it dies at its nth commit, 0 is never.
func (p *pond) start(dies int, before bool) {
	ctx, cancel := context.WithCancel(context.Background())
	p.store = &mortal{Store: p.meta, left: dies, before: before, died: cancel}
	if dies == 0 {
		p.store.left = -1
	}
	engine := p.over
	if engine == nil {
		engine = p.twin
	}
	r := New(Config{Meta: p.store, World: p, Engine: engine, Now: time.Now})
	p.mu.Lock()
	p.runner = r
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.Run(ctx); err != nil {
			p.t.Error(err)
		}
	}()
	p.stop = func() {
		cancel()
		<-ended
	}
	for _, h := range p.hosts {
		if p.twin.Up(h.Server) {
			p.twin.tell(h.Server) // as an agent does when its line is up
		}
	}
}

func anOrder(name string, replicas int, edit ...func(*Order)) Order {
	o := Order{
		Name: name, Pool: "web", By: "ada", Replicas: replicas, Spares: 1,
		Service: Service{Digest: image1, Need: Need{CPU: 1000, Memory: gib}},
	}
	for _, e := range edit {
		e(&o)
	}
	return o
}

func (p *pond) place(o Order) {
	p.t.Helper()
	if _, err := p.runner.Place(p.t.Context(), o); err != nil {
		p.t.Fatalf("place %s: %v", o.Name, err)
	}
}

// settle waits until a placement is not being changed.
func (p *pond) settle(name string) Record {
	p.t.Helper()
	for range 100_000 {
		record, err := p.runner.Get(p.t.Context(), name)
		if err != nil {
			p.t.Fatalf("get %s: %v", name, err)
		}
		if record.Change == nil && !record.Removing {
			<-time.After(3 * time.Second) // what was told to go is gone then
			synctest.Wait()
			return record
		}
		tickOver()
	}
	p.t.Fatalf("%s is never done", name)
	return Record{}
}

// tickOver lets a tenth of a second pass in the bubble.
func tickOver() { <-time.After(100 * time.Millisecond) }

// claims are all that is held, by host.
func (p *pond) claims() map[string]HostRecord {
	p.t.Helper()
	all, err := p.runner.hostRecords(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]HostRecord{}
	for server, v := range all {
		out[server] = v.value
	}
	return out
}

// sound checks what must hold at any time: no host over its capacity, nothing
// started before its image, no container on two hosts.
func (p *pond) sound() {
	p.t.Helper()
	for server, h := range p.claims() {
		used := h.used()
		if used.CPU > 4000 || used.Memory > 8*gib {
			p.t.Errorf("%s is over its capacity: %+v", server, h.Claims)
		}
	}
	seen := map[string]string{}
	for _, e := range p.twin.Ledger() {
		if e.What == "clash" {
			p.t.Errorf("%s was started on %s while its port was taken", e.Container, e.Server)
		}
		if e.What == "unready" {
			p.t.Errorf("%s was started on %s without its image", e.Container, e.Server)
		}
		if was := seen[e.Container]; e.What == "started" && was != "" && was != e.Server {
			p.t.Errorf("%s ran on %s and on %s", e.Container, was, e.Server)
		} else if e.What == "started" {
			seen[e.Container] = e.Server
		}
	}
}

// gated checks that the first container of an image started when every host
// that runs one had it.
func (p *pond) gated(digest string, containers []Placed) {
	p.t.Helper()
	var start, ready time.Time
	hosts := map[string]bool{}
	for _, c := range containers {
		hosts[c.Server] = true
	}
	for _, e := range p.twin.Ledger() {
		if _, runs := hosts[e.Server]; runs && hosts[e.Server] && e.What == "ready" && e.Container == digest {
			ready, hosts[e.Server] = e.At, false
		}
		if e.What == "started" && start.IsZero() && slices.ContainsFunc(containers, func(c Placed) bool { return c.ID == e.Container }) {
			start = e.At
		}
	}
	for server, waits := range hosts {
		if waits {
			p.t.Errorf("%s runs what it never fetched", server)
		}
	}
	if start.Before(ready) {
		p.t.Errorf("the first started at %v, the last had the image at %v", start, ready)
	}
}

// runs lists what really runs, as host:revision.
func (p *pond) runs() string {
	var out []string
	for _, h := range p.hosts {
		for _, c := range p.twin.Containers(h.Server) {
			state := ""
			if !c.Run {
				state = " stopped"
			}
			out = append(out, fmt.Sprintf("%s:%d%s", h.Name, c.Revision, state))
		}
	}
	return strings.Join(out, " ")
}

func (p *pond) expect(record Record, phase, runs string) {
	p.t.Helper()
	if record.Phase != phase {
		p.t.Errorf("%s is %s (%s), want %s", record.Name, record.Phase, record.Reason, phase)
	}
	if got := p.runs(); got != runs {
		p.t.Errorf("%q runs, want %q", got, runs)
	}
	p.sound()
}

func inPond(t *testing.T, hosts int, play func(p *pond)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPond(t, hosts)
		p.start(0, false)
		play(p)
		p.stop()
	})
}

func TestNothingStartsBeforeAllHaveTheImage(t *testing.T) {
	inPond(t, 5, func(p *pond) {
		p.place(anOrder("app", 3, func(o *Order) { o.Spread = SpreadHost }))
		record := p.settle("app")
		p.expect(record, PhaseRunning, "a:1 b:1 c:1")
		p.gated(image1, record.Containers)
		var got []string
		for _, q := range record.Prepulls {
			got = append(got, q.Host+" "+q.State)
		}
		if want := []string{"a ready", "b ready", "c ready", "d ready"}; !slices.Equal(got, want) && !slices.Equal(got[:3], want[:3]) {
			t.Errorf("prepulls %q, want %q", got, want)
		}
		for _, c := range record.Containers {
			if c.Ordered.IsZero() {
				t.Errorf("%s has no time of its order", c.ID)
			}
		}
	})
}

func TestAPrepullTargetThatDiesIsReplaced(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond} {
		inPond(t, 4, func(p *pond) {
			p.twin.Set(image1, Behaviour{Size: 100, Fetch: 2 * time.Second, Start: time.Second})
			p.place(anOrder("app", 2, func(o *Order) { o.Spread = SpreadHost }))
			<-time.After(after)
			p.twin.Cut("id-a")
			record := p.settle("app")
			p.expect(record, PhaseRunning, "b:1 c:1")
			i := slices.IndexFunc(record.Prepulls, func(q Prepull) bool { return q.Host == "a" })
			if after > 0 && (i < 0 || record.Prepulls[i].State != PrepullReplaced) {
				t.Errorf("after %v: %+v", after, record.Prepulls)
			}
		})
	}
}

func TestOneThatDiesBetweenItsImageAndTheGateIsReplaced(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.twin.hosts["id-a"].images[image1] = true
		p.twin.Set(image1, Behaviour{Size: 100, Fetch: 5 * time.Second})
		p.place(anOrder("app", 2, func(o *Order) { o.Spread = SpreadHost }))
		<-time.After(time.Second)
		p.twin.Cut("id-a")
		p.expect(p.settle("app"), PhaseRunning, "b:1 c:1")
	})
}

func TestAnImageThatNobodyHasChangesNothing(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.twin.Set(image1, Behaviour{Missing: true})
		p.place(anOrder("app", 2))
		record := p.settle("app")
		p.expect(record, PhaseFailed, "")
		if !strings.Contains(record.Reason, "a: @sha256:1111: not found") || record.Ended.Outcome != EndedFailed {
			t.Errorf("the reason is %q, %+v", record.Reason, record.Ended)
		}
		for server, h := range p.claims() {
			if len(h.Claims) > 0 {
				t.Errorf("%s still holds %+v", server, h.Claims)
			}
		}
	})
}

func TestADeadlineUndoes(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.twin.Set(image1, Behaviour{Size: 100, Fetch: time.Hour})
		p.place(anOrder("app", 2, func(o *Order) { o.Spread, o.Deadline = SpreadHost, time.Minute }))
		record := p.settle("app")
		p.expect(record, PhaseFailed, "")
		if want := "the image was not on all hosts within 1m0s; 0 of 2 hosts have the image (a: 50 of 100 bytes; b: 50 of 100 bytes)"; record.Reason != want {
			t.Errorf("%q, want %q", record.Reason, want)
		}
	})
}

func TestTooFewHostsSayWhyEach(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.edit("b", func(h *Host) { h.Phase = "draining" })
		p.place(anOrder("app", 5))
		record := p.settle("app")
		p.expect(record, PhaseFailed, "")
		if len(record.Verdicts) != 2 || record.Verdicts[0].Reason != "is draining" {
			t.Errorf("%q, %+v", record.Reason, record.Verdicts)
		}
		// The name is free again.
		p.place(anOrder("app", 4))
		p.expect(p.settle("app"), PhaseRunning, "a:1 a:1 a:1 a:1")
	})
}

func TestTwoAtOnceNeverOvercommit(t *testing.T) {
	inPond(t, 4, func(p *pond) {
		var wait sync.WaitGroup
		for i := range 8 { // each wants 3 of 16
			wait.Go(func() {
				_, err := p.runner.Place(t.Context(), anOrder(fmt.Sprint("app-", i), 3))
				if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		running := 0
		for i := range 8 {
			record := p.settle(fmt.Sprint("app-", i))
			p.sound()
			if record.Phase == PhaseRunning {
				running++
			}
		}
		if running != 5 {
			t.Errorf("%d of 8 run, want 5", running)
		}
	})
}

func TestAQuotaHoldsForTwoAtOnce(t *testing.T) {
	inPond(t, 4, func(p *pond) {
		p.quota = Need{CPU: 4000}
		for i := range 3 {
			p.place(anOrder(fmt.Sprint("app-", i), 2))
		}
		var phases []string
		for i := range 3 {
			phases = append(phases, p.settle(fmt.Sprint("app-", i)).Phase)
		}
		slices.Sort(phases)
		if want := []string{PhaseFailed, PhaseRunning, PhaseRunning}; !slices.Equal(phases, want) {
			t.Errorf("%v, want %v", phases, want)
		}
	})
}
