package profile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// desk is a Keeper and the supernode that it tells.
type desk struct {
	*Keeper
	*place
	mu   sync.Mutex
	got  []*shoalv1.ReportStepsRequest // guarded by mu
	fail error                         // of the next reports; guarded by mu
}

func (d *desk) failing(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// take is what was told since the last time.
func (d *desk) take() []*shoalv1.ReportStepsRequest {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.got
	d.got = nil
	return out
}

func newDesk(t *testing.T, p *place, folder string, may bool) *desk {
	t.Helper()
	d := &desk{place: p}
	var err error
	d.Keeper, err = OpenKeeper(KeeperConfig{
		Host: p.Host, Folder: folder, May: may, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Send: func(_ context.Context, r *shoalv1.ReportStepsRequest) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.fail == nil {
				d.got = append(d.got, r)
			}
			return d.fail
		},
		Drop: func(err error) bool { return err.Error() == "never" },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func limitsProfile(nofile string) *shoalv1.Profile {
	return &shoalv1.Profile{Name: "p", Steps: []*shoalv1.Step{
		{Name: "limits", Kind: "limits", Version: 1, Settings: map[string]string{"nofile": nofile}},
		{Name: "agent", Kind: "agent", Version: 1},
	}}
}

// shown is the last report in short.
func (d *desk) shown() string {
	got := d.take()
	if len(got) == 0 {
		return "nothing"
	}
	r := got[len(got)-1]
	out := fmt.Sprintf("order=%q done=%v dry=%v busy=%v", r.OrderId, r.Done, r.DryRun, r.Busy)
	for _, s := range r.Steps {
		out += " " + s.Name + "=" + s.State.String()
	}
	if r.Error != "" {
		out += " error"
	}
	return out
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		p, folder := newPlace(t, nil), t.TempDir()
		d := newDesk(t, p, folder, true)
		ended := make(chan struct{})
		go func() { d.Run(ctx); close(ended) }()
		is := func(what, want string) {
			t.Helper()
			if got := d.shown(); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		d.Carry(ctx, "1", &shoalv1.ApplyProfile{Profile: limitsProfile("9"), DryRun: true})
		is("a dry run", `order="1" done=true dry=true busy=false limits=WOULD_CHANGE agent=OK`)
		if got := p.get(limitsFile); got != "(none)" {
			t.Errorf("a dry run wrote %s", got)
		}
		d.Carry(ctx, "2", &shoalv1.ApplyProfile{Profile: limitsProfile("9")})
		is("a run", `order="2" done=true dry=false busy=false limits=CHANGED agent=OK`)
		if got := d.Open(); len(got) != 0 {
			t.Errorf("open are %v", got)
		}
		<-time.After(20 * time.Minute)
		is("a look", `order="" done=true dry=true busy=false limits=OK agent=OK`)
		<-time.After(40 * time.Minute)
		is("nothing new", "nothing")
		<-time.After(30 * time.Minute)
		is("nothing new for an hour", `order="" done=true dry=true busy=false limits=OK agent=OK`)
		p.put(limitsFile, marker+"* - nofile 3\n")
		<-time.After(13 * time.Minute)
		is("a drift", `order="" done=true dry=true busy=false limits=WOULD_CHANGE agent=OK`)
		if got := d.Open(); !slices.Equal(got, []string{"limits"}) {
			t.Errorf("open are %v", got)
		}
		if got := p.get(limitsFile); got != marker+"* - nofile 3\n" {
			t.Errorf("a look changed it to %s", got)
		}
		stop()
		<-ended

		// After a restart it is looked after as before, without a supernode.
		ctx, stop = context.WithCancel(t.Context())
		defer stop()
		d = newDesk(t, p, folder, true)
		go d.Run(ctx)
		<-time.After(firstLook)
		is("a restart", `order="" done=true dry=true busy=false limits=WOULD_CHANGE agent=OK`)
		d.Carry(ctx, "3", &shoalv1.ApplyProfile{Profile: &shoalv1.Profile{}, DryRun: true})
		is("no profile", `order="3" done=true dry=true busy=false`)
		<-time.After(3 * time.Hour)
		is("nothing to look after", "nothing")
	})
}

func TestKeeperRefuses(t *testing.T) {
	p := newPlace(t, nil)
	may := newDesk(t, p, t.TempDir(), true)
	may.Carry(t.Context(), "1", &shoalv1.ApplyProfile{Profile: &shoalv1.Profile{Name: "x", Steps: []*shoalv1.Step{{Name: "a", Kind: "shell", Version: 1}}}})
	if r := may.reports[0]; !r.Done || !strings.Contains(r.Error, `kind "shell"`) || r.Busy || len(r.Steps) > 0 {
		t.Errorf("an unknown kind: %v", r)
	}
	mayNot := newDesk(t, p, t.TempDir(), false)
	mayNot.Carry(t.Context(), "1", &shoalv1.ApplyProfile{Profile: limitsProfile("9")})
	if r := mayNot.reports[0]; !r.Done || !strings.Contains(r.Error, "--apply-profiles") {
		t.Errorf("without the right to: %v", r)
	}
	mayNot.Carry(t.Context(), "2", &shoalv1.ApplyProfile{Profile: limitsProfile("9"), DryRun: true})
	if r := mayNot.reports[1]; r.Error != "" || len(r.Steps) != 2 {
		t.Errorf("a look: %v", r)
	}
	if got := p.get(limitsFile); got != "(none)" {
		t.Errorf("it changed the host all the same: %s", got)
	}
}

// slowly makes the agent step wait until it is let go.
func slowly(p *place) (let chan struct{}) {
	let = make(chan struct{})
	p.Agent.Member = func() error { <-let; return nil }
	return let
}

func TestOneRunAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t, nil)
		d := newDesk(t, p, t.TempDir(), true)
		let := slowly(p)
		go d.Carry(t.Context(), "first", &shoalv1.ApplyProfile{Profile: limitsProfile("9")})
		synctest.Wait()
		d.Carry(t.Context(), "second", &shoalv1.ApplyProfile{Profile: limitsProfile("10")})
		d.look(t.Context())
		i := slices.IndexFunc(d.reports, func(r *shoalv1.ReportStepsRequest) bool { return r.OrderId == "second" })
		if i < 0 || !d.reports[i].Busy || !d.reports[i].Done || d.reports[i].Error == "" {
			t.Errorf("the second order: %v", d.reports)
		}
		d.Cancel("first") // changes the host: it goes on
		close(let)
		synctest.Wait()
		if r := d.reports[0]; r.OrderId != "first" || !r.Done || len(r.Steps) != 2 {
			t.Errorf("the first order: %v", r)
		}
		if got := p.get(limitsFile); !strings.Contains(got, "nofile 9") {
			t.Errorf("the limits are %s", got)
		}
		if d.running != nil {
			t.Error("a run is left over")
		}
	})
}

// TestLooksGiveWay: an order does not wait for a look, and one that only looks
// can be cancelled.
func TestLooksGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, newPlace(t, nil), t.TempDir(), true)
		waiting := func(orderID string) <-chan error {
			ended := make(chan error, 1)
			ctx, j := d.begin(t.Context(), orderID, true)
			go func() {
				<-ctx.Done()
				ended <- context.Cause(ctx)
				d.end(j)
			}()
			return ended
		}
		look := waiting("")
		d.Carry(t.Context(), "1", &shoalv1.ApplyProfile{Profile: limitsProfile("9")})
		if err := <-look; !errors.Is(err, errOrdered) {
			t.Errorf("the look ended by %v", err)
		}
		if r := d.reports[0]; r.Error != "" || !r.Done {
			t.Errorf("the order: %v", r)
		}
		dry := waiting("2")
		d.Cancel("3")
		synctest.Wait()
		select {
		case err := <-dry:
			t.Fatalf("somebody else's cancel ended it: %v", err)
		default:
		}
		d.Cancel("2")
		if err := <-dry; !errors.Is(err, errCancelled) {
			t.Errorf("it ended by %v", err)
		}
	})
}

func TestReportsAreSentUntilTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, newPlace(t, nil), t.TempDir(), true)
		d.failing(errors.New("nobody is there"))
		go d.deliver(t.Context())
		for i := range 5 {
			d.tell(&shoalv1.ReportStepsRequest{OrderId: "a", Profile: fmt.Sprint(i)})
		}
		d.tell(&shoalv1.ReportStepsRequest{OrderId: "b"})
		<-time.After(10 * time.Minute)
		d.failing(nil)
		<-time.After(sendPause)
		if got := d.take(); len(got) != 2 || got[0].Profile != "4" || got[1].OrderId != "b" {
			t.Errorf("it got %v", got)
		}
		d.failing(errors.New("never"))
		d.tell(&shoalv1.ReportStepsRequest{OrderId: "c"})
		synctest.Wait()
		if len(d.reports) != 0 {
			t.Errorf("what is never taken waits on: %v", d.reports)
		}
		d.failing(errors.New("nobody is there"))
		for i := range 5 * maxReports {
			d.tell(&shoalv1.ReportStepsRequest{OrderId: fmt.Sprint(i)})
		}
		if len(d.reports) > maxReports {
			t.Errorf("%d reports wait", len(d.reports))
		}
	})
}

// TestTheLargestReport is below what an inventory keeps.
func TestTheLargestReport(t *testing.T) {
	r := &shoalv1.ReportStepsRequest{Profile: strings.Repeat("p", 63)}
	for range maxSteps {
		r.Steps = append(r.Steps, &shoalv1.StepStatus{Name: strings.Repeat("n", 63), Output: strings.Repeat("o", maxOutput), Error: strings.Repeat("e", maxError)})
	}
	if n := proto.Size(r); n > 512<<10 {
		t.Errorf("%d bytes", n)
	}
}
