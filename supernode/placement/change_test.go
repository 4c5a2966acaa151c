package placement

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// bring has a placement of image1 running.
func (p *pond) bring(replicas int, edit ...func(*Order)) Record {
	p.t.Helper()
	p.place(anOrder("app", replicas, edit...))
	record := p.settle("app")
	if record.Phase != PhaseRunning {
		p.t.Fatalf("app is %s: %s", record.Phase, record.Reason)
	}
	return record
}

func to(digest string, edit ...func(*Service)) func(Record, Service) (Service, error) {
	return func(_ Record, s Service) (Service, error) {
		s.Digest = digest
		for _, e := range edit {
			e(&s)
		}
		return s, nil
	}
}

func (p *pond) update(edit func(Record, Service) (Service, error)) Record {
	p.t.Helper()
	if _, err := p.runner.Update(p.t.Context(), "app", "eve", 0, edit); err != nil {
		p.t.Fatal(err)
	}
	return p.settle("app")
}

// most is how many of a placement's containers ran at once, and least how few,
// between two times.
func (p *pond) most(from, to time.Time) (most, least int) {
	runs := map[string]bool{}
	least = 1 << 30
	ledger := p.twin.Ledger()
	for i, e := range ledger {
		switch e.What {
		case "started":
			runs[e.Container] = true
		case "removed":
			delete(runs, e.Container)
		}
		together := i+1 < len(ledger) && ledger[i+1].At.Equal(e.At)
		if !together && !e.At.Before(from) && !e.At.After(to) {
			most, least = max(most, len(runs)), min(least, len(runs))
		}
	}
	return most, least
}

func TestAnUpdateRollsOverWhenTheImageIsEverywhere(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.twin.Set(image1, Behaviour{}) // is gone at once
		p.bring(3, func(o *Order) { o.Spread = SpreadHost })
		began := time.Now()
		record := p.update(to(image2))
		p.expect(record, PhaseRunning, "a:2 b:2 c:2")
		p.gated(image2, record.Containers)
		if most, least := p.most(began, time.Now()); most != 4 || least != 3 {
			t.Errorf("between %d and %d ran at once, want 3 to 4: one new beside the old ones", least, most)
		}
		if len(record.Revisions) != 2 || record.Revisions[1].By != "eve" {
			t.Errorf("revisions %+v", record.Revisions)
		}
		for server, h := range p.claims() {
			if h.used().CPU != 1000 {
				t.Errorf("%s holds %+v", server, h.Claims)
			}
		}
	})
}

func TestAnUpdateWithAPortStopsTheOldOneFirst(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.bring(2, func(o *Order) { o.Service.Need.Ports = []int32{80} })
		began := time.Now()
		p.expect(p.update(to(image2)), PhaseRunning, "a:2 b:2")
		if most, _ := p.most(began, time.Now()); most != 2 {
			t.Errorf("%d ran at once on one port of two hosts", most)
		}
	})
}

func TestAnUpdateThatNeedsMoreThanItsHostHasMoves(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.bring(2)
		p.expect(p.update(to(image2, func(s *Service) { s.Need.CPU = 3000 })), PhaseRunning, "a:2 b:2")
	})
}

func TestAnUpdateThatIsNotHealthyIsTakenBack(t *testing.T) {
	for _, c := range []struct {
		name string
		sick Behaviour
		edit func(*Order)
		by   func(*Service)
	}{
		{"it ends", Behaviour{Sick: true, Fetch: time.Second}, nil, nil},
		{"it hangs", Behaviour{Start: time.Hour}, nil, nil},
		{"in the old one's place", Behaviour{Sick: true}, func(o *Order) { o.Service.Need.Ports = []int32{80} }, nil},
		{"on another host", Behaviour{Sick: true}, func(o *Order) { o.Spread = Packed }, func(s *Service) { s.Need.CPU = 2500 }},
	} {
		inPond(t, 4, func(p *pond) {
			edit := c.edit
			if edit == nil {
				edit = func(o *Order) { o.Spread = SpreadHost }
			}
			p.bring(3, edit)
			runs := p.runs()
			p.twin.Set(image2, c.sick)
			record := p.update(to(image2, func(s *Service) {
				if c.by != nil {
					c.by(s)
				}
			}))
			p.expect(record, PhaseRunning, runs)
			if !strings.HasPrefix(record.Reason, "rolled back to revision 1: ") || record.Ended.Outcome != EndedRolledBack {
				t.Errorf("%s: %q, %+v", c.name, record.Reason, record.Ended)
			}
			if len(record.Revisions) != 1 {
				t.Errorf("%s: revisions %+v", c.name, record.Revisions)
			}
			var held Need
			for _, h := range p.claims() {
				held = held.plus(h.used())
			}
			if held.CPU != 3000 || held.Memory != 3*gib {
				t.Errorf("%s: %+v is held for three of 1000m and 1 GiB", c.name, held)
			}
		})
	}
}

// A version that becomes sick on the last host turns back those that were done.
func TestAnUpdateIsTakenBackWhereItWasDone(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.bring(3, func(o *Order) { o.Service.Need.Ports = []int32{80} })
		old, err := p.runner.Get(t.Context(), "app")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.runner.Update(t.Context(), "app", "eve", 0, to(image2)); err != nil {
			t.Fatal(err)
		}
		for p.runs() != "a:2 b:1 c:1" {
			tickOver()
		}
		p.twin.Set(image2, Behaviour{Sick: true, Stop: 2 * time.Second})
		record := p.settle("app")
		p.expect(record, PhaseRunning, "a:1 b:1 c:1")
		if record.Containers[0].ID == old.Containers[0].ID {
			t.Error("an ID was used again")
		}
	})
}

func TestAnUpdateWhoseImageIsMissingTouchesNothing(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		before := p.bring(2)
		p.twin.Set(image2, Behaviour{Missing: true})
		record := p.update(to(image2))
		p.expect(record, PhaseRunning, "a:1 a:1")
		if !slices.EqualFunc(record.Containers, before.Containers, func(a, b Placed) bool { return a.ID == b.ID }) || record.Ended.Outcome != EndedUndone {
			t.Errorf("%+v, %+v", record.Containers, record.Ended)
		}
		if starts := strings.Count(strings.Join(whats(p.twin.Ledger()), " "), "started"); starts != 2 {
			t.Errorf("%d starts, want the 2 of before", starts)
		}
	})
}

func whats(list []Entry) (out []string) {
	for _, e := range list {
		out = append(out, e.What)
	}
	return out
}

func TestRollBack(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.bring(2)
		p.update(to(image2))
		if _, err := p.runner.RollBack(t.Context(), "app", "eve", 0, func(Service) error { return nil }); err != nil {
			t.Fatal(err)
		}
		record := p.settle("app")
		p.expect(record, PhaseRunning, "a:3 a:3")
		if record.current().Service.Digest != image1 {
			t.Errorf("%+v", record.current())
		}
	})
}

func TestRollBackToWhatIsNotKept(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.bring(1)
		for _, revision := range []int64{0, 7, -1} {
			_, err := p.runner.RollBack(t.Context(), "app", "eve", revision, func(Service) error { return nil })
			if !errors.Is(err, ErrNoRevision) || errors.Is(err, ErrNotFound) {
				t.Errorf("to revision %d: %v", revision, err)
			}
		}
	})
}

func TestWhatIsStoppedIsNotRestarted(t *testing.T) {
	inPond(t, 1, func(p *pond) {
		p.bring(1)
		if _, err := p.runner.Stop(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.runner.Restart(t.Context(), "app"); !errors.Is(err, ErrStopped) {
			t.Errorf("a restart: %v", err)
		}
		p.expect(p.settle("app"), PhaseStopped, "a:1 stopped")
	})
}

func TestSparesAreBounded(t *testing.T) {
	for n, ok := range map[int]bool{-2: false, -1: true, 0: true, MaxReplicas: true, MaxReplicas + 1: false} {
		if err := anOrder("app", 1, func(o *Order) { o.Spares = n }).check(); errors.Is(err, ErrInvalid) == ok {
			t.Errorf("%d spares: %v", n, err)
		}
	}
}

func TestScale(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		scale := func(n int) Record {
			t.Helper()
			if _, err := p.runner.Scale(t.Context(), "app", n); err != nil {
				t.Fatal(err)
			}
			return p.settle("app")
		}
		p.bring(1, func(o *Order) { o.Spread = SpreadHost })
		p.expect(scale(4), PhaseRunning, "a:1 a:1 b:1 b:1")
		if record := scale(9); record.Replicas != 4 || record.Ended.Outcome != EndedUndone || !strings.Contains(record.Reason, "too few") {
			t.Errorf("%d replicas, %+v", record.Replicas, record.Ended)
		}
		p.expect(scale(2), PhaseRunning, "a:1 b:1")
	})
}

func TestAViewSaysHowItIsNow(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.twin.Set(image1, Behaviour{Start: 3 * time.Minute}) // later than is waited for
		p.place(anOrder("app", 2, func(o *Order) { o.Spread = SpreadHost }))
		stands := func(phase string, healthy int) {
			t.Helper()
			v, err := p.runner.Look(t.Context(), "app")
			if err != nil || v.Phase != phase || v.Healthy != healthy || (v.Reason == "") != (phase == PhaseRunning) {
				t.Errorf("%s, %d healthy, %q, %v; want %s and %d", v.Phase, v.Healthy, v.Reason, err, phase, healthy)
			}
		}
		if record := p.settle("app"); record.Ended.Outcome != EndedFailed || !strings.Contains(record.Reason, "2 of 2 are not healthy") {
			t.Errorf("%+v", record.Ended)
		}
		stands(PhaseDegraded, 0)
		<-time.After(2 * time.Minute)
		stands(PhaseRunning, 2)
		if record, err := p.runner.Scale(t.Context(), "app", 1); err != nil || record.Ended.Outcome != EndedRunning {
			t.Errorf("fewer of what failed once: %+v, %v", record.Ended, err)
		}
		p.settle("app")
		p.twin.Cut("id-a")
		p.twin.Cut("id-b")
		<-time.After(20 * time.Second)
		if v, err := p.runner.Look(t.Context(), "app"); err != nil || v.Phase != PhaseDegraded || v.Healthy != 0 {
			t.Errorf("%s with its hosts away: %d healthy, %v", v.Phase, v.Healthy, err)
		}
		// A host that speaks again is back, before all hosts are looked at again.
		v, err := p.runner.Look(t.Context(), "app")
		if err != nil {
			t.Fatal(err)
		}
		left := v.Containers[0]
		said := &shoalv1.ReportContainersRequest{
			Generation: p.claims()[left.Server].Generation, Containers: []*shoalv1.ContainerStatus{{Id: left.ID, State: shoalv1.ContainerStatus_RUNNING}},
		}
		if err := p.runner.Report(t.Context(), left.Server, said); err != nil {
			t.Fatal(err)
		}
		stands(PhaseRunning, 1)
	})
}

func TestStopStartRestartRemove(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.bring(2, func(o *Order) { o.Spread = SpreadHost })
		do := func(f func(*Runner) (Record, error)) Record {
			t.Helper()
			if _, err := f(p.runner); err != nil {
				t.Fatal(err)
			}
			return p.settle("app")
		}
		p.expect(do(func(r *Runner) (Record, error) { return r.Stop(t.Context(), "app") }), PhaseStopped, "a:1 stopped b:1 stopped")
		p.expect(do(func(r *Runner) (Record, error) { return r.Start(t.Context(), "app") }), PhaseRunning, "a:1 b:1")
		starts := len(p.twin.Ledger())
		p.expect(do(func(r *Runner) (Record, error) { return r.Restart(t.Context(), "app") }), PhaseRunning, "a:1 b:1")
		if n := len(p.twin.Ledger()) - starts; n != 2 {
			t.Errorf("%d entries for a restart of 2", n)
		}
		if err := p.runner.Remove(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if runs := p.runs(); runs != "" {
			t.Errorf("%s still runs", runs)
		}
		for server, h := range p.claims() {
			if len(h.Claims) > 0 {
				t.Errorf("%s still holds %+v", server, h.Claims)
			}
		}
	})
}

func TestRemoveInTheMiddle(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.twin.Set(image1, Behaviour{Fetch: time.Hour})
		p.place(anOrder("app", 2))
		<-time.After(time.Second)
		if _, err := p.runner.Scale(t.Context(), "app", 3); err == nil || !strings.Contains(err.Error(), "in the middle of a change (place)") {
			t.Errorf("scale in the middle of a placement: %v", err)
		}
		if err := p.runner.Remove(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if _, err := p.runner.Get(t.Context(), "app"); err == nil {
			t.Error("it is still there")
		}
		p.place(anOrder("app", 1, func(o *Order) { o.Service.Digest = image2 }))
		p.expect(p.settle("app"), PhaseRunning, "a:1")
	})
}

func TestADeadHostsContainersArePlacedAgain(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.bring(2, func(o *Order) { o.Spread = SpreadHost })
		p.twin.Cut("id-a")
		<-time.After(50 * time.Second)
		if runs := p.runs(); runs != "a:1 b:1" {
			t.Errorf("%s after less than a minute", runs)
		}
		<-time.After(30 * time.Second)
		record := p.settle("app")
		p.expect(record, PhaseRunning, "a:1 b:1 c:1") // a still runs its own, unseen
		p.gated(image1, record.Containers)
		p.twin.Mend("id-a")
		<-time.After(time.Second)
		p.expect(p.settle("app"), PhaseRunning, "b:1 c:1")
		if held := p.claims()["id-a"].Claims; len(held) > 0 {
			t.Errorf("a still holds %+v", held)
		}
	})
}

func TestADeadHostWithoutRoomElsewhereIsTriedAgain(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.edit("c", func(h *Host) { h.Phase = "draining" })
		p.bring(2, func(o *Order) { o.Service.Need.Ports = []int32{80} })
		p.twin.Cut("id-a")
		<-time.After(90 * time.Second)
		if record := p.settle("app"); record.Phase != PhaseDegraded || !strings.Contains(record.Reason, "too few hosts fit") {
			t.Errorf("%s: %s", record.Phase, record.Reason)
		}
		p.edit("c", func(h *Host) { h.Phase = phaseReady })
		<-time.After(time.Minute)
		p.expect(p.settle("app"), PhaseRunning, "a:1 b:1 c:1")
	})
}

func TestTwoDeadHostsAndRoomForOne(t *testing.T) {
	inPond(t, 4, func(p *pond) {
		p.edit("c", func(h *Host) { h.Phase = phaseDraining })
		p.edit("d", func(h *Host) { h.Phase = phaseDraining })
		p.bring(2, func(o *Order) { o.Service.Need.Ports = []int32{80} })
		p.edit("c", func(h *Host) { h.Phase = phaseReady })
		p.twin.Cut("id-a")
		p.twin.Cut("id-b")
		<-time.After(2 * time.Minute)
		p.expect(p.settle("app"), PhaseDegraded, "a:1 b:1 c:1")
	})
}

func TestADrainedHostIsEmptied(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.bring(2)
		began := time.Now()
		p.edit("a", func(h *Host) { h.Phase = phaseDraining })
		<-time.After(20 * time.Second)
		p.expect(p.settle("app"), PhaseRunning, "b:1 b:1")
		if most, least := p.most(began, time.Now()); least != 2 || most > 4 {
			t.Errorf("between %d and %d ran at once, want the old ones until the new ones were healthy", least, most)
		}
	})
}

// A host says of its own containers how they stand, and of no others; a number
// that no supernode gave is refused.
func TestAHostSpeaksForItselfOnly(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		app := p.bring(1)
		p.place(anOrder("other", 1, func(o *Order) { o.Service.Need.CPU = 4000 }))
		p.expect(p.settle("other"), PhaseRunning, "a:1 b:1")
		id := app.Containers[0].ID
		said := &shoalv1.ReportContainersRequest{Generation: 1, Containers: []*shoalv1.ContainerStatus{{Id: id, State: shoalv1.ContainerStatus_FAILED}}}
		if err := p.runner.Report(t.Context(), "id-b", said); err != nil {
			t.Error(err)
		}
		if p.runner.status("id-b", id) != nil {
			t.Error("another host's word is kept")
		}
		if v, err := p.runner.Look(t.Context(), "app"); err != nil || v.Healthy != 1 {
			t.Errorf("%d healthy, %v", v.Healthy, err)
		}
		said = &shoalv1.ReportContainersRequest{Generation: 1, Containers: []*shoalv1.ContainerStatus{{Id: id, Error: strings.Repeat("é", 1<<20)}}}
		if err := p.runner.Report(t.Context(), "id-a", said); err != nil {
			t.Error(err)
		}
		if s := p.runner.status("id-a", id); len(s.Error) > maxSaid {
			t.Errorf("an error of %d bytes is kept", len(s.Error))
		}
		for _, generation := range []int64{-1, maxGeneration + 1} {
			if err := p.runner.Report(t.Context(), "id-a", &shoalv1.ReportContainersRequest{Generation: generation}); !errors.Is(err, ErrInvalid) {
				t.Errorf("generation %d: %v", generation, err)
			}
		}
		// A host that is ahead is told the present state anew.
		if err := p.runner.Report(t.Context(), "id-a", &shoalv1.ReportContainersRequest{Generation: 100}); err != nil {
			t.Error(err)
		}
		<-time.After(5 * time.Second)
		if n := p.claims()["id-a"].Generation; n != 101 {
			t.Errorf("generation %d after a host was at 100", n)
		}
	})
}

func TestWhatMayStillRunIsStillHeld(t *testing.T) {
	inPond(t, 1, func(p *pond) {
		p.bring(4)
		p.twin.Cut("id-a")
		if err := p.runner.Remove(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if n := len(p.claims()["id-a"].Claims); n != 4 {
			t.Errorf("%d claims while the host was not told, want 4", n)
		}
		p.twin.Mend("id-a")
		<-time.After(time.Second)
		if n := len(p.claims()["id-a"].Claims); n != 0 {
			t.Errorf("%d claims when the host said they are gone", n)
		}
	})
}

// A placement that is removed is there until its hosts have ended what runs:
// one that cannot be heard is waited for until it counts as lost.
func TestRemovedWhenNothingRuns(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.twin.Set(image1, Behaviour{Stop: 20 * time.Second})
		p.bring(2, func(o *Order) { o.Spread = SpreadHost })
		p.twin.Cut("id-b")
		if err := p.runner.Remove(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			at   time.Duration
			runs bool // on a
			is   bool
		}{{10 * time.Second, true, true}, {15 * time.Second, false, true}, {time.Hour, false, false}} {
			<-time.After(c.at)
			record, err := p.runner.Get(t.Context(), "app")
			if is := err == nil; is != c.is || is && record.Phase != PhaseRemoving {
				t.Errorf("%s on: it is there: %v, %s", c.at, is, record.Phase)
			}
			if runs := len(p.twin.Containers("id-a")) > 0; runs != c.runs {
				t.Errorf("%s on: something runs on a: %v", c.at, runs)
			}
		}
		p.twin.Mend("id-b")
		<-time.After(time.Minute)
		if runs := p.runs(); runs != "" {
			t.Errorf("%s still runs", runs)
		}
	})
}
