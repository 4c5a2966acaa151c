package placement

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// dyingRun plays something with a supernode that dies at its nth commit, then
// starts it again over the same metadata. It reports whether it died.
func dyingRun(t *testing.T, n int, before bool, hosts int, prepare, play func(p *pond), check func(p *pond)) (died bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPond(t, hosts)
		p.start(0, false)
		prepare(p)
		p.stop()
		p.start(n, before)
		play(p)
		for range 3000 { // five minutes, or until it is dead
			p.store.mu.Lock()
			died = p.store.dead
			p.store.mu.Unlock()
			if died {
				break
			}
			tickOver()
		}
		p.stop()
		<-time.After(5 * time.Second) // the hosts go on
		p.start(0, false)
		<-time.After(5 * time.Minute)
		synctest.Wait()
		p.sound()
		check(p)
		if t.Failed() {
			t.Logf("killed at commit %d (lost: %v): %v", n, before, p.twin.Ledger())
		}
		p.stop()
	})
	return died
}

// everyStep kills the supernode between every pair of commits: once so that
// the last commit was kept, once so that it was lost.
func everyStep(t *testing.T, hosts int, prepare, play, check func(p *pond)) {
	t.Helper()
	for _, before := range []bool{false, true} {
		n := 1
		for dyingRun(t, n, before, hosts, prepare, play, check) && !t.Failed() {
			n++
		}
		if n < 4 {
			t.Errorf("the whole took %d commits: nothing was killed in the middle", n)
		}
		t.Logf("killed at each of %d commits", n-1)
	}
}

func nothing(*pond) {}

// holdsExactly checks that hosts hold and run what the placement has, and
// nothing else.
func (p *pond) holdsExactly(cpu int64, runs ...string) {
	p.t.Helper()
	var held int64
	for _, h := range p.claims() {
		held += h.used().CPU
	}
	if held != cpu {
		p.t.Errorf("%dm is held, want %dm: %+v", held, cpu, p.claims())
	}
	for _, want := range runs {
		if p.runs() == want {
			return
		}
	}
	p.t.Errorf("%q runs, want one of %q", p.runs(), runs)
}

func TestKilledWhilePlacing(t *testing.T) {
	everyStep(t, 3, nothing, func(p *pond) {
		_, _ = p.runner.Place(t.Context(), anOrder("app", 2, func(o *Order) { o.Spread = SpreadHost }))
	}, func(p *pond) {
		record, err := p.runner.Get(t.Context(), "app")
		if err != nil {
			p.holdsExactly(0, "") // it was never written down
			return
		}
		p.expect(record, PhaseRunning, p.runs())
		p.holdsExactly(2000, "a:1 b:1")
		p.gated(image1, record.Containers)
	})
}

// Hosts that come back a while after the supernode are waited for.
func TestHostsThatComeBackLater(t *testing.T) {
	for kill := 1; kill < 6; kill++ {
		synctest.Test(t, func(t *testing.T) {
			p := newPond(t, 3)
			p.start(kill, false)
			_, _ = p.runner.Place(context.Background(), anOrder("app", 2, func(o *Order) { o.Spread = SpreadHost }))
			<-time.After(10 * time.Second)
			p.stop()
			for _, h := range p.hosts {
				p.twin.Cut(h.Server)
			}
			p.start(0, false)
			<-time.After(12 * time.Second)
			for _, h := range p.hosts {
				p.twin.Mend(h.Server)
			}
			<-time.After(time.Minute)
			p.expect(p.settle("app"), PhaseRunning, "a:1 b:1")
			p.stop()
		})
	}
}

func TestKilledWhilePlacingWhatCannotBe(t *testing.T) {
	everyStep(t, 3, func(p *pond) { p.twin.Set(image1, Behaviour{Fetch: time.Hour}) }, func(p *pond) {
		_, _ = p.runner.Place(t.Context(), anOrder("app", 2, func(o *Order) { o.Deadline = time.Minute }))
	}, func(p *pond) {
		p.holdsExactly(0, "")
		if record, err := p.runner.Get(t.Context(), "app"); err == nil && record.Phase != PhaseFailed {
			t.Errorf("it is %s", record.Phase)
		}
	})
}

func TestKilledWhileUpdating(t *testing.T) {
	for _, ports := range [][]int32{nil, {80}} {
		everyStep(t, 3, func(p *pond) {
			p.bring(2, func(o *Order) { o.Spread, o.Service.Need.Ports = SpreadHost, ports })
		}, func(p *pond) {
			_, _ = p.runner.Update(t.Context(), "app", "eve", 0, to(image2))
		}, func(p *pond) {
			p.holdsExactly(2000, "a:1 b:1", "a:2 b:2")
		})
	}
}

func TestKilledWhileAnUpdateIsTakenBack(t *testing.T) {
	for _, cpu := range []int64{1000, 2500} { // in place, and on another host
		everyStep(t, 4, func(p *pond) {
			p.twin.Set(image2, Behaviour{Sick: true})
			p.bring(2, func(o *Order) { o.Service.Need.Ports = nil })
		}, func(p *pond) {
			_, _ = p.runner.Update(t.Context(), "app", "eve", 0, to(image2, func(s *Service) { s.Need.CPU = cpu }))
		}, func(p *pond) {
			p.holdsExactly(2000, "a:1 a:1")
			if record, err := p.runner.Get(t.Context(), "app"); err != nil || len(record.Revisions) != 1 || record.Phase != PhaseRunning {
				t.Errorf("%+v, %v", record, err)
			}
		})
	}
}

func TestKilledWhileScaling(t *testing.T) {
	for _, n := range []int{1, 4} {
		everyStepOf(t, n)
	}
}

func everyStepOf(t *testing.T, n int) {
	for _, before := range []bool{false, true} {
		for kill := 1; dyingRun(t, kill, before, 3, func(p *pond) {
			p.bring(2, func(o *Order) { o.Spread = SpreadHost })
		}, func(p *pond) {
			_, _ = p.runner.Scale(t.Context(), "app", n)
		}, func(p *pond) {
			record, err := p.runner.Get(t.Context(), "app")
			if err != nil || record.Replicas != 2 && record.Replicas != n || len(record.Containers) != record.Replicas {
				t.Errorf("%d of %d replicas, %v", len(record.Containers), record.Replicas, err)
			}
			p.holdsExactly(int64(record.Replicas)*1000, p.runs())
			if got := len(strings.Fields(p.runs())); got != record.Replicas {
				t.Errorf("%q runs of %d", p.runs(), record.Replicas)
			}
		}); kill++ {
			if t.Failed() {
				return
			}
		}
	}
}

func TestKilledWhileAHostIsReplaced(t *testing.T) {
	everyStep(t, 3, func(p *pond) {
		p.bring(2, func(o *Order) { o.Spread = SpreadHost })
	}, func(p *pond) {
		p.twin.Cut("id-a")
	}, func(p *pond) {
		record, err := p.runner.Get(t.Context(), "app")
		if err != nil || fmt.Sprint(record.Containers[0].Host, record.Containers[1].Host) != "bc" {
			t.Errorf("%+v, %v", record.Containers, err)
		}
		p.twin.Mend("id-a")
		<-time.After(time.Minute)
		p.holdsExactly(2000, "b:1 c:1")
	})
}

func TestKilledWhileRemoving(t *testing.T) {
	for _, before := range []bool{false, true} {
		for kill := 1; dyingRun(t, kill, before, 2, func(p *pond) { p.bring(2) }, func(p *pond) {
			_ = p.runner.Remove(t.Context(), "app")
		}, func(p *pond) {
			if record, err := p.runner.Get(t.Context(), "app"); err == nil {
				p.expect(record, PhaseRunning, "a:1 a:1") // it was never written down
				return
			}
			p.holdsExactly(0, "")
		}); kill++ {
			if t.Failed() {
				return
			}
		}
	}
}

// hurried is metadata that somebody else changes just before the first commit.
type hurried struct {
	meta.Store
	first func()
}

func (h *hurried) Commit(ctx context.Context, c []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	if first := h.first; first != nil {
		h.first = nil
		first()
	}
	return h.Store.Commit(ctx, c, ops)
}

func TestAClaimThatAnotherWasFasterWith(t *testing.T) {
	for _, c := range []struct {
		name  string
		other string // where the faster one goes
		quota Need
	}{
		{"one host for two", "id-a", Need{}},
		{"one quota for two", "id-b", Need{CPU: 4000}},
	} {
		p := newPond(t, 2)
		p.quota = c.quota
		claim := func(name, server string) *Record {
			o := anOrder(name, 1, func(o *Order) { o.Service.Need.CPU = 3000 })
			record := o.record(time.Now())
			record.Change = &Change{Kind: kindPlace, Step: stepPrepull, Revision: 1, Moves: []Move{{ID: name + "-1", Server: server}}}
			return &record
		}
		faster := New(Config{Meta: p.meta, World: p, Engine: p.twin})
		slower := New(Config{World: p, Engine: p.twin, Meta: &hurried{p.meta, func() {
			if err := faster.sync(t.Context(), claim("faster", c.other)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}}})
		if err := slower.sync(t.Context(), claim("slower", "id-a")); !errors.Is(err, ErrNoRoom) {
			t.Errorf("%s: %v, want that there is no room", c.name, err)
		}
	}
}

func TestAHostsRecordThatAnotherWasFasterWith(t *testing.T) {
	p := newPond(t, 1)
	held := func(name string) *Record {
		record := anOrder(name, 1).record(time.Now())
		record.Containers = []Placed{{ID: name + "-1", Server: "id-a", Revision: 1}}
		return &record
	}
	faster := New(Config{Meta: p.meta, World: p, Engine: p.twin})
	if err := faster.sync(t.Context(), held("old")); err != nil {
		t.Fatal(err)
	}
	slower := New(Config{World: p, Engine: p.twin, Meta: &hurried{p.meta, func() {
		old := held("old")
		old.Removing = true
		if err := faster.sync(t.Context(), old); err != nil {
			t.Error(err)
		}
	}}})
	if err := slower.sync(t.Context(), held("new")); err != nil {
		t.Fatal(err)
	}
	p.runner = faster
	if list := p.claims()["id-a"].Claims; len(list) != 2 || list[1].Gone == 0 || list[1].Open {
		t.Errorf("what was ended meanwhile is there again: %+v", list)
	}
}
