package placement

import (
	"testing"
	"testing/synctest"
	"time"
)

// A host whose agent joins another pool is told to end what it ran for the
// first one, and serves the other.
func TestAHostThatMovesToAnotherPool(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		record := p.bring(1)
		from, to := "a", "b"
		if record.Containers[0].Server == "id-b" {
			from, to = to, from
		}
		p.edit(from, func(h *Host) { h.Pool = "other" })
		<-time.After(30 * time.Second)
		synctest.Wait()
		p.expect(p.settle("app"), PhaseRunning, to+":1")
		if h := p.claims()["id-"+from]; len(h.Claims) != 0 {
			t.Errorf("%s holds %+v", from, h.Claims)
		}
		p.place(anOrder("next", 4, func(o *Order) { o.Pool = "other" }))
		if record := p.settle("next"); record.Phase != PhaseRunning {
			t.Errorf("%s: %s", record.Phase, record.Reason)
		}
		if h := p.claims()["id-"+from]; h.Pool != "other" || len(h.Claims) != 4 {
			t.Errorf("%+v", h)
		}
	})
}

// What is done for each host does not look at all of them.
func TestHostsAreNotListedForEach(t *testing.T) {
	inPond(t, 12, func(p *pond) {
		p.bring(12, func(o *Order) { o.Spread = SpreadHost })
		p.mu.Lock()
		p.lists = 0
		p.mu.Unlock()
		for _, h := range p.hosts { // as when their lines are up again
			p.runner.Connected(h.Server)
		}
		<-time.After(time.Second)
		synctest.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.lists > 3 {
			t.Errorf("12 hosts were told what they are to run, and all hosts were listed %d times", p.lists)
		}
	})
}

// What was written into a placement reaches its hosts, even when the first try
// to tell them failed.
func TestWhatCouldNotBeWrittenIsTriedAgain(t *testing.T) {
	inPond(t, 1, func(p *pond) {
		p.bring(1)
		p.store.full.Store(true)
		if _, err := p.runner.Stop(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		p.store.full.Store(false)
		<-time.After(time.Minute)
		synctest.Wait()
		p.expect(p.settle("app"), PhaseStopped, "a:1 stopped")
	})
}
