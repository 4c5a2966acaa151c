package placement

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// The name of what failed is free for who deploys on the same pool; on another
// one it would be somebody else's to take away.
func TestAFailedPlacementIsItsPools(t *testing.T) {
	inPond(t, 2, func(p *pond) {
		p.edit("b", func(h *Host) { h.Pool = "other" })
		p.twin.Set(image1, Behaviour{Missing: true})
		p.place(anOrder("app", 1))
		p.expect(p.settle("app"), PhaseFailed, "")
		_, err := p.runner.Place(t.Context(), anOrder("app", 1, func(o *Order) { o.Pool, o.Service.Digest = "other", image2 }))
		if !errors.Is(err, ErrExists) {
			t.Errorf("placed over another pool's: %v", err)
		}
		if record := p.settle("app"); record.Pool != "web" || record.Phase != PhaseFailed {
			t.Errorf("it is %s on pool %s", record.Phase, record.Pool)
		}
		p.place(anOrder("app", 1, func(o *Order) { o.Service.Digest = image2 }))
		p.expect(p.settle("app"), PhaseRunning, "a:1")
	})
}

// wordy are hosts that refuse an image at length.
type wordy struct{ *Memory }

func (wordy) Prepull(context.Context, Host, Service, func(done, total int64)) error {
	return errors.New(strings.Repeat("x\xff", 1<<20))
}

// A host's words may be of any length; what is written down has to fit.
func TestALongErrorOfAHostIsCut(t *testing.T) {
	inPond(t, 3, func(p *pond) {
		p.stop()
		p.over = wordy{p.twin}
		p.start(0, false)
		p.place(anOrder("app", 2))
		record := p.settle("app")
		p.expect(record, PhaseFailed, "")
		if len(record.Reason) > 2000 || !strings.Contains(record.Reason, "x?x") {
			t.Errorf("a reason of %d bytes: %.70s", len(record.Reason), record.Reason)
		}
		for _, one := range record.Prepulls {
			if len(one.Error) > maxBrief+3 {
				t.Errorf("an error of %d bytes is kept of %s", len(one.Error), one.Host)
			}
		}
	})
}

func TestADeadlineIsBounded(t *testing.T) {
	inPond(t, 1, func(p *pond) {
		p.bring(1)
		for _, d := range []time.Duration{-time.Second, maxDeadline + 1} {
			if _, err := p.runner.Update(t.Context(), "app", "eve", d, to(image2)); !errors.Is(err, ErrInvalid) {
				t.Errorf("an update with a deadline of %v: %v", d, err)
			}
			if _, err := p.runner.Place(t.Context(), anOrder("new", 1, func(o *Order) { o.Deadline = d })); !errors.Is(err, ErrInvalid) {
				t.Errorf("placed with a deadline of %v: %v", d, err)
			}
		}
		long := strings.Repeat("x", maxWord+1)
		for _, edit := range []func(*Order){func(o *Order) { o.Class = long }, func(o *Order) { o.Tolerate = []string{long} }} {
			if _, err := p.runner.Place(t.Context(), anOrder("new", 1, edit)); !errors.Is(err, ErrInvalid) {
				t.Errorf("placed with %d bytes: %v", len(long), err)
			}
		}
	})
}

func TestPlacementsOfAPoolAreBounded(t *testing.T) {
	inPond(t, 1, func(p *pond) {
		for i := range MaxPlacements {
			one := anOrder(fmt.Sprint("old-", i), 1).record(time.Now())
			one.Phase = PhaseFailed
			if _, err := p.runner.save(t.Context(), versioned[Record]{value: one}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.runner.Place(t.Context(), anOrder("app", 1)); !errors.Is(err, ErrTooMany) {
			t.Errorf("one more than there may be: %v", err)
		}
		if _, err := p.runner.Place(t.Context(), anOrder("old-1", 1)); err != nil {
			t.Errorf("in the place of a failed one: %v", err)
		}
	})
}

// A host may say that it has more than there is; what is placed there passes
// no quota by that.
func TestSumsDoNotPassTheLargestNumber(t *testing.T) {
	h := HostRecord{Claims: []Claim{{Need: Need{CPU: 1 << 62, Memory: 1 << 62}}, {Need: Need{CPU: 1 << 62, Memory: 1 << 62}}}}
	for _, n := range []Need{h.used(), h.takes(), h.takes().plus(h.takes())} {
		if n.CPU != math.MaxInt64 || n.Memory != math.MaxInt64 {
			t.Errorf("%+v", n)
		}
	}
	if room := roomIn(Need{CPU: 4000}, h.takes()); allowed(room, Need{CPU: 1000}) != 0 {
		t.Errorf("there is room for more: %+v", room)
	}
}
