package provision_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/supernode/provision"
	"github.com/shoalproject/shoal/supernode/provision/provisiontest"
)

// world is what outlives a supernode: the inventory's book and the cloud.
type world struct {
	*book
	cloud    *provisiontest.Twin
	parallel int
}

func newWorld(servers int, cloud provisiontest.Cloud) *world {
	w := &world{book: newBook(servers), parallel: 8}
	cloud.Up = func(m provision.Machine, _ provision.Spec) { w.arrive(m.Key) }
	w.cloud = provisiontest.NewTwin(cloud)
	return w
}

// live lets one supernode live until done says so, or until its step numbered
// dies, and reports whether it was killed. done is asked each second.
func (w *world) live(t *testing.T, dies int, done func() bool) (killed bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &life{book: w.book, cloud: w.cloud, end: cancel, dies: dies}
	r, err := provision.New(provision.Config{
		Provider: provider{l}, Inventory: inventory{l}, Tag: "fleet-a", Parallel: w.parallel, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for range 24 * 3600 {
		if done() {
			cancel()
		}
		select {
		case <-second.C:
		case <-ended:
			return l.killed()
		}
	}
	t.Fatalf("nothing settles: %v alive", w.cloud.Alive())
	return false
}

// clean reports whether every server is retired and nothing of it is left.
func (w *world) clean() bool {
	return len(w.cloud.Alive()) == 0 && w.all(func(s provision.Server) bool {
		return s.Phase == provision.Retired && s.MachineID == "" && w.done[s.ID]
	})
}

// throughLife retires each server as soon as it is ready, until all is clean.
func (w *world) throughLife() bool {
	w.mu.Lock()
	var ready []string
	for id, s := range w.servers {
		if s.Phase == provision.Ready || s.Phase == provision.Failed {
			ready = append(ready, id)
		}
	}
	w.mu.Unlock()
	w.retire(ready...)
	return w.clean()
}

var clouds = map[string]provisiontest.Cloud{
	"with keys":                 {Boot: 3 * time.Second, End: 5 * time.Second},
	"with keys and a slow list": {Boot: 3 * time.Second, End: 5 * time.Second, Lag: 20 * time.Second},
	"without keys":              {Boot: 3 * time.Second, End: 5 * time.Second, Forgetful: true},
}

// TestDeathAnywhere kills the supernode before and after every call of a
// server's life, from the request until its machine is gone, and once more at
// every step of the next supernode. There is never a second machine, and
// never one left.
func TestDeathAnywhere(t *testing.T) {
	for name, cloud := range clouds {
		t.Run(name, func(t *testing.T) {
			pairs := 0
			for first, more := 0, true; more; first++ {
				for second, again := 0, true; again; second++ {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(1, cloud)
						more = w.live(t, first, w.throughLife)
						again = w.live(t, second, w.throughLife)
						w.live(t, -1, w.throughLife)
						if doubles := w.cloud.Doubles(); len(doubles) > 0 {
							t.Errorf("killed at step %d, then at step %d: two machines for %v", first, second, doubles)
						}
						if reason := w.reason("s000"); reason != "" {
							t.Errorf("killed at step %d, then at step %d: failed, %s", first, second, reason)
						}
					})
					pairs++
				}
			}
			t.Logf("%d pairs of deaths", pairs)
			if pairs < 100 {
				t.Error("the lives are too short to show anything")
			}
		})
	}
}

func seed(t *testing.T) uint64 {
	s := rand.Uint64()
	if text := os.Getenv("SHOAL_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SHOAL_SEED=%d", s)
	return s
}

// TestFleet makes 300 servers at once in bad weather, with supernodes that die
// at random steps and machines that vanish: each server has one machine or
// says why not, and all of them go again.
func TestFleet(t *testing.T) {
	for name, cloud := range map[string]provisiontest.Cloud{
		"with keys, late effects and a slow list": {Latency: 200 * time.Millisecond, Boot: 20 * time.Second, End: 10 * time.Second, Lag: 10 * time.Second},
		"without keys": {Latency: 200 * time.Millisecond, Boot: 20 * time.Second, End: 10 * time.Second, Forgetful: true},
	} {
		t.Run(name, func(t *testing.T) {
			draw := rand.New(rand.NewPCG(seed(t), 2))
			synctest.Test(t, func(t *testing.T) {
				const servers = 300
				cloud.Fault = provisiontest.Weather(draw.Uint64(), 0.15, !cloud.Forgetful)
				w := newWorld(servers, cloud)
				lives := func(done func() bool) {
					for range 6 {
						w.live(t, draw.IntN(1500), done)
					}
					w.live(t, -1, done)
				}
				lives(func() bool {
					return w.all(func(s provision.Server) bool { return s.Phase == provision.Ready && s.MachineID != "" })
				})
				w.oneEach(t, servers)
				lost := w.lose(draw, 20)
				lives(func() bool {
					return !slices.ContainsFunc(lost, func(id string) bool { return w.get(id).Phase != provision.Failed })
				})
				w.oneEach(t, servers-len(lost))
				lives(w.throughLife)
				// A call that was still on its way makes an orphan; that goes too.
				quarter := time.Now().Add(15 * time.Minute)
				w.live(t, -1, func() bool { return time.Now().After(quarter) && len(w.cloud.Alive()) == 0 })
				if doubles := w.cloud.Doubles(); len(doubles) > 0 {
					t.Errorf("two machines for %v", doubles)
				}
				if most := w.cloud.MostAtOnce(); most > w.parallel+1 { // and the list
					t.Errorf("%d calls at once, %d are allowed", most, w.parallel)
				}
				t.Logf("%d creates and %d lists for %d servers", w.cloud.Calls(provisiontest.Create), w.cloud.Calls(provisiontest.List), servers)
			})
		})
	}
}

// oneEach checks that so many servers have one machine each, and that it is
// the one that is written down.
func (w *world) oneEach(t *testing.T, want int) {
	t.Helper()
	alive := w.cloud.Alive()
	if len(alive) != want {
		t.Errorf("%d servers have machines, want %d", len(alive), want)
	}
	for id, machines := range alive {
		if len(machines) != 1 || machines[0] != w.get(id).MachineID {
			t.Errorf("server %s has %v, and %s is written down", id, machines, w.get(id).MachineID)
		}
	}
}

// lose makes the machines of some servers vanish.
func (w *world) lose(draw *rand.Rand, n int) (lost []string) {
	alive := w.cloud.Alive()
	ids := make([]string, 0, len(alive))
	for id := range alive {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, i := range draw.Perm(len(ids))[:n] {
		lost = append(lost, ids[i])
		w.cloud.Kill(alive[ids[i]][0])
	}
	return lost
}
