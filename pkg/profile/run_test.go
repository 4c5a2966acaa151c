package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// told is a step that does as it is told.
type told struct {
	holds    bool
	useless  bool // applying changes nothing
	checkErr error
	applyErr error
	output   string
	block    bool // in Check, until its context ends
	checks   int
	applied  int
}

func (s *told) Check(ctx context.Context) (Found, error) {
	s.checks++
	if s.block {
		<-ctx.Done()
		return Found{}, ctx.Err()
	}
	return Found{Holds: s.holds, Output: s.output}, s.checkErr
}

func (s *told) Apply(context.Context) (string, error) {
	s.applied++
	if s.applyErr == nil && !s.useless {
		s.holds = true
	}
	return "applied", s.applyErr
}

// notes is a Memory that is gone with the test.
type notes map[string]int32

func (n notes) Applied(s Planned) int32    { return n[s.Name] }
func (n notes) Remember(s Planned) error   { n[s.Name] = s.Version; return nil }
func now() time.Time                       { return time.Unix(1700000000, 0) }
func planned(name string, s *told) Planned { return Planned{name, "told", 2, time.Minute, s} }

const (
	ok      = shoalv1.StepStatus_OK
	changed = shoalv1.StepStatus_CHANGED
	would   = shoalv1.StepStatus_WOULD_CHANGE
	fails   = shoalv1.StepStatus_FAILED
	waits   = shoalv1.StepStatus_WAITING
)

func TestRun(t *testing.T) {
	bad := errors.New("no")
	type states []shoalv1.StepStatus_State
	for _, c := range []struct {
		name    string
		step    told // the second of three; the others hold
		dry     bool
		before  int32 // version that was applied
		want    states
		applied int
		after   int32
	}{
		{"holds", told{holds: true}, false, 0, states{ok, ok, ok}, 0, 2},
		{"is put in place", told{}, false, 0, states{ok, changed, ok}, 1, 2},
		{"holds by this version", told{holds: true}, false, 2, states{ok, ok, ok}, 0, 2},
		{"holds by an older version", told{holds: true}, false, 1, states{ok, changed, ok}, 1, 2},
		{"holds by a newer version", told{holds: true}, false, 3, states{ok, changed, ok}, 1, 2},
		{"cannot be looked at", told{checkErr: bad}, false, 1, states{ok, fails, waits}, 0, 1},
		{"cannot be put in place", told{applyErr: bad}, false, 0, states{ok, fails, waits}, 1, 0},
		{"is of no use", told{useless: true}, false, 0, states{ok, fails, waits}, 1, 0},
		{"dry: holds", told{holds: true}, true, 0, states{ok, ok, ok}, 0, 0},
		{"dry: would change", told{}, true, 0, states{ok, would, ok}, 0, 0},
		{"dry: an older version", told{holds: true}, true, 1, states{ok, would, ok}, 0, 1},
		{"dry: cannot be looked at", told{checkErr: bad}, true, 0, states{ok, fails, ok}, 0, 0},
	} {
		memory, step := notes{"b": c.before}, c.step
		first, last := &told{holds: true}, &told{holds: true}
		var reports [][]shoalv1.StepStatus_State
		got, err := Run(t.Context(), []Planned{planned("a", first), planned("b", &step), planned("c", last)}, Options{
			DryRun: c.dry, Memory: memory, Now: now,
			Report: func(all []*shoalv1.StepStatus) { reports = append(reports, statesOf(all)) },
		})
		if err != nil || !slices.Equal(statesOf(got), c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, statesOf(got), err, c.want)
			continue
		}
		if step.applied != c.applied || memory["b"] != c.after {
			t.Errorf("%s: applied %d times, version %d; want %d and %d", c.name, step.applied, memory["b"], c.applied, c.after)
		}
		if ended := slices.Contains(c.want, waits); (last.checks == 0) != ended {
			t.Errorf("%s: the step behind it was looked at %d times", c.name, last.checks)
		}
		if n := len(reports); !slices.Equal(reports[n-1], c.want) || !slices.Equal(reports[0], states{ok, waits, waits}) {
			t.Errorf("%s: was told as %v", c.name, reports)
		}
		if b := got[1]; b.State == fails && b.Error == "" || b.Name != "b" || b.Version != 2 || !b.At.AsTime().Equal(now()) {
			t.Errorf("%s: the status is %v", c.name, b)
		}
	}
}

func statesOf(all []*shoalv1.StepStatus) []shoalv1.StepStatus_State {
	var out []shoalv1.StepStatus_State
	for _, s := range all {
		out = append(out, s.State)
	}
	return out
}

func TestAStepThatTakesTooLongFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		slow := Planned{"slow", "told", 1, 90 * time.Second, &told{block: true}}
		got, err := Run(t.Context(), []Planned{slow, planned("next", &told{holds: true})}, Options{Memory: notes{}, Now: time.Now})
		if err != nil || !slices.Equal(statesOf(got), []shoalv1.StepStatus_State{fails, waits}) {
			t.Fatalf("%v, %v", got, err)
		}
		if !strings.Contains(got[0].Error, "1m30s") || time.Since(began) != 90*time.Second {
			t.Errorf("after %v: %s", time.Since(began), got[0].Error)
		}
	})
}

// TestAnEndedRunTellsNothing: an agent that is stopped in the middle must not
// report its host as failed.
func TestAnEndedRunTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		reports := 0
		done := make(chan error)
		go func() {
			got, err := Run(ctx, []Planned{planned("first", &told{holds: true}), planned("second", &told{block: true})},
				Options{Memory: notes{}, Now: time.Now, Report: func([]*shoalv1.StepStatus) { reports++ }})
			if got != nil {
				err = fmt.Errorf("statuses %v", got)
			}
			done <- err
		}()
		synctest.Wait()
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the run ended with %v", err)
		}
		if reports != 1 {
			t.Errorf("%d reports, want one of the first step alone", reports)
		}
	})
}

func TestWhatIsToldIsBounded(t *testing.T) {
	long := strings.Repeat("ö\xff", maxOutput)
	step := &told{output: "begin" + long + "end", checkErr: errors.New(long)}
	got, err := Run(t.Context(), []Planned{planned("a", step)}, Options{Memory: notes{}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	s := got[0]
	if len(s.Output) > maxOutput || len(s.Error) > maxError || !utf8.ValidString(s.Output) || !utf8.ValidString(s.Error) {
		t.Errorf("%d and %d bytes, valid: %v %v", len(s.Output), len(s.Error), utf8.ValidString(s.Output), utf8.ValidString(s.Error))
	}
	if !strings.HasPrefix(s.Output, "begin") || !strings.HasSuffix(s.Output, "end") {
		t.Errorf("the ends are lost: %.20q … %q", s.Output, s.Output[len(s.Output)-20:])
	}
}

func FuzzClip(f *testing.F) {
	f.Add("abc", 10)
	f.Add(strings.Repeat("ö\xff", 50), 31)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 30 + limit&0xfff
		if got := clip(s, limit); len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("%d bytes of %d, valid: %v", len(got), limit, utf8.ValidString(got))
		}
	})
}

func TestMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "steps.json")
	m, err := OpenMemory(path)
	if err != nil {
		t.Fatal(err)
	}
	a := Planned{Name: "a", Kind: "sysctl", Version: 3}
	if m.Applied(a) != 0 {
		t.Error("a new memory knows something")
	}
	if err := m.Remember(a); err != nil {
		t.Fatal(err)
	}
	if m, err = OpenMemory(path); err != nil || m.Applied(a) != 3 {
		t.Errorf("after a restart: %v, %v", m, err)
	}
	if m.Applied(Planned{Name: "a", Kind: "limits"}) != 0 {
		t.Error("another kind of step inherits the version")
	}
	for i := range 3 * maxSteps {
		if err := m.Remember(Planned{Name: fmt.Sprint("s", i), Kind: "x", Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.steps) > maxSteps {
		t.Errorf("%d steps are remembered", len(m.steps))
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenMemory(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged memory: %v", err)
	}
}
