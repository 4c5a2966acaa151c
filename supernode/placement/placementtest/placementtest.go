// Package placementtest is the conformance suite of placement.Engine: what
// every engine has to do, the twin in memory included.
package placementtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/placement"
)

// Rig is an engine before two hosts that run no containers yet. It is used
// inside a bubble of testing/synctest.
type Rig struct {
	Engine placement.Engine
	Hosts  [2]placement.Host
	// Reports are what the hosts say; the engine's owner must not lose one.
	Reports <-chan Report
	// Good and Missing are services whose images are there and are not there.
	Good, Missing placement.Service
	// Cut takes the line of a host away, Mend gives it back.
	Cut, Mend func(server string)
}

// Report is what one host said of its containers.
type Report struct {
	Server string
	Said   *shoalv1.ReportContainersRequest
}

// Run holds an engine against the suite; each test gets a rig of its own, and
// its context ends before the bubble does.
func Run(t *testing.T, rig func(ctx context.Context, t *testing.T) Rig) {
	for _, c := range []struct {
		name string
		play func(ctx context.Context, t *testing.T, r Rig)
	}{
		{"prepull, then run", runs},
		{"an image that is not there", missing},
		{"an older order is ignored", older},
		{"what is not named goes", goes},
		{"a host that is away", away},
		{"one that goes away in the middle", leaves},
		{"who stops waiting", cancelled},
		{"logs", logs},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.Background())
				defer synctest.Wait()
				defer cancel()
				c.play(ctx, t, rig(ctx, t))
			})
		})
	}
}

// desired is the generation in which a host runs these containers of a service.
func desired(generation int64, s placement.Service, ids ...string) *shoalv1.Desired {
	d := &shoalv1.Desired{Generation: generation}
	for _, id := range ids {
		d.Containers = append(d.Containers, &shoalv1.Container{
			Id: id, Placement: "app", Revision: 1, Repository: s.Image.Repository, Digest: s.Digest, Run: true,
		})
	}
	return d
}

func quiet(int64, int64) {}

// until waits for a report of a host that fits.
func until(t *testing.T, r Rig, server, what string, fits func(*shoalv1.ReportContainersRequest) bool) {
	t.Helper()
	late := time.After(time.Hour)
	for {
		select {
		case said := <-r.Reports:
			if said.Server == server && fits(said.Said) {
				return
			}
		case <-late:
			t.Fatalf("%s never says that %s", server, what)
		}
	}
}

// healthy fits a report in which exactly these containers run.
func healthy(generation int64, ids ...string) func(*shoalv1.ReportContainersRequest) bool {
	return func(m *shoalv1.ReportContainersRequest) bool {
		var up []string
		for _, c := range m.Containers {
			if c.State == shoalv1.ContainerStatus_RUNNING {
				up = append(up, c.Id)
			}
		}
		slices.Sort(up)
		return m.Generation == generation && len(m.Containers) == len(ids) && slices.Equal(up, ids)
	}
}

// begin has a host run containers.
func begin(ctx context.Context, t *testing.T, r Rig, host placement.Host, generation int64, ids ...string) {
	t.Helper()
	if err := r.Engine.Prepull(ctx, host, r.Good, quiet); err != nil {
		t.Fatalf("prepull: %v", err)
	}
	if err := r.Engine.Assign(ctx, host, desired(generation, r.Good, ids...)); err != nil {
		t.Fatalf("assign: %v", err)
	}
	until(t, r, host.Server, "they are healthy", healthy(generation, ids...))
}

func runs(ctx context.Context, t *testing.T, r Rig) {
	var done, total int64
	if err := r.Engine.Prepull(ctx, r.Hosts[0], r.Good, func(d, n int64) { done, total = d, n }); err != nil {
		t.Fatalf("prepull: %v", err)
	}
	if total == 0 || done != total {
		t.Errorf("the last figures of a prepull that is done are %d of %d", done, total)
	}
	begin(ctx, t, r, r.Hosts[0], 1, "one", "two")
	// The same again changes nothing.
	if err := r.Engine.Assign(ctx, r.Hosts[0], desired(1, r.Good, "one", "two")); err != nil {
		t.Errorf("the same order again: %v", err)
	}
}

func missing(ctx context.Context, t *testing.T, r Rig) {
	err := r.Engine.Prepull(ctx, r.Hosts[0], r.Missing, quiet)
	if err == nil || errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("an image that is not there: %v", err)
	}
}

func older(ctx context.Context, t *testing.T, r Rig) {
	begin(ctx, t, r, r.Hosts[0], 5, "one")
	if err := r.Engine.Assign(ctx, r.Hosts[0], desired(4, r.Good)); err != nil {
		t.Errorf("an older order: %v", err)
	}
	begin(ctx, t, r, r.Hosts[0], 6, "one", "two")
}

func goes(ctx context.Context, t *testing.T, r Rig) {
	begin(ctx, t, r, r.Hosts[0], 1, "one", "two")
	begin(ctx, t, r, r.Hosts[0], 2, "two")
	if err := r.Engine.Assign(ctx, r.Hosts[0], desired(3, r.Good)); err != nil {
		t.Errorf("an empty order: %v", err)
	}
	until(t, r, r.Hosts[0].Server, "nothing is there", healthy(3))
}

func away(ctx context.Context, t *testing.T, r Rig) {
	host := r.Hosts[0]
	begin(ctx, t, r, host, 1, "one")
	r.Cut(host.Server)
	synctest.Wait()
	if err := r.Engine.Prepull(ctx, host, r.Good, quiet); !errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("a prepull of a host that is away: %v", err)
	}
	if err := r.Engine.Assign(ctx, host, desired(2, r.Good)); !errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("an order to a host that is away: %v", err)
	}
	if err := r.Engine.Logs(ctx, host, "one", 0, false, func([]byte) error { return nil }); !errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("a log of a host that is away: %v", err)
	}
	r.Mend(host.Server)
	until(t, r, host.Server, "what it ran still runs", healthy(1, "one"))
}

func leaves(ctx context.Context, t *testing.T, r Rig) {
	ended := make(chan error, 1)
	go func() { ended <- r.Engine.Prepull(ctx, r.Hosts[1], r.Good, quiet) }()
	synctest.Wait()
	r.Cut(r.Hosts[1].Server)
	if err := <-ended; !errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("a host that went away while it fetched: %v", err)
	}
}

func cancelled(ctx context.Context, t *testing.T, r Rig) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Engine.Prepull(ctx, r.Hosts[0], r.Good, quiet) }()
	synctest.Wait()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a prepull that nobody waits for: %v", err)
	}
}

func logs(ctx context.Context, t *testing.T, r Rig) {
	host := r.Hosts[0]
	begin(ctx, t, r, host, 1, "one")
	var all strings.Builder
	if err := r.Engine.Logs(ctx, host, "one", 0, false, func(b []byte) error { all.Write(b); return nil }); err != nil {
		t.Errorf("a log: %v", err)
	}
	if all.Len() == 0 {
		t.Error("the log is empty")
	}
	if err := r.Engine.Logs(ctx, host, "none", 0, false, func([]byte) error { return nil }); err == nil {
		t.Error("the log of a container that is not there is one")
	}
	enough := errors.New("enough")
	if err := r.Engine.Logs(ctx, host, "one", 0, true, func([]byte) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a reader that had enough: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Engine.Logs(ctx, host, "one", 1, true, func([]byte) error { return nil }) }()
	synctest.Wait()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a log that is followed no more: %v", err)
	}
}
