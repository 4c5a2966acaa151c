package provision

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// machines reads "id:state", oldest first.
func machines(key string, words ...string) (out []Machine) {
	states := map[string]State{"partial": Partial, "building": Building, "running": Running, "broken": Broken, "ending": Ending}
	for i, w := range words {
		id, state, _ := strings.Cut(w, ":")
		out = append(out, Machine{ID: id, Key: key, State: states[state], Reason: "no power", Created: noon.Add(time.Duration(i) * time.Second)})
	}
	slices.Reverse(out) // the order of a list says nothing
	return out
}

func told(steps []step) string {
	var out []string
	for _, s := range steps {
		word := string(s.verb)
		if s.machine.ID != "" {
			word += " " + s.machine.ID
		}
		out = append(out, word)
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	const patience = time.Hour
	for _, c := range []struct {
		phase    Phase
		recorded string
		age      time.Duration
		machines string
		want     string
	}{
		{Requested, "", 0, "", "create"},
		{Requested, "", 0, "m1:partial", "create"},
		{Requested, "", 0, "m1:running", "record m1"},
		{Requested, "", 0, "m1:ending", "create"},
		{Requested, "", 2 * patience, "", "create"}, // it waited for its turn
		{Requested, "m1", 0, "", "ask"},             // that it had before it failed
		{Provisioning, "", 0, "", "create"},
		{Provisioning, "", 0, "m1:building", "record m1"},
		{Provisioning, "", 0, "m1:partial", "create"},
		{Provisioning, "", 0, "m1:broken", "record m1"},
		{Provisioning, "", 2 * patience, "", "fail"},
		{Provisioning, "", 2 * patience, "m1:running", "fail"},
		{Provisioning, "m1", 0, "m1:building", ""},
		{Provisioning, "m1", 0, "m1:running", ""},
		{Provisioning, "m1", 0, "m1:partial", "create"},
		{Provisioning, "m1", 0, "m1:broken", "fail"},
		{Provisioning, "m1", 0, "", "ask"},
		{Provisioning, "m1", 0, "m1:ending", "ask"},
		// Two for one: the recorded one stays, else the older one.
		{Provisioning, "", 0, "m1:building m2:building", "delete m2, record m1"},
		{Provisioning, "m2", 0, "m1:building m2:building", "delete m1"},
		{Ready, "m2", 0, "m1:running m2:running m3:running", "delete m1, delete m3"},
		{Ready, "m9", 0, "m1:running", "delete m1, ask"},
		{Initialising, "", 0, "m1:running", "record m1"}, // its agent was faster
		{Initialising, "", 0, "", ""},
		{Ready, "m1", 99 * patience, "m1:running", ""},
		{Ready, "m1", 0, "", "ask"},
		{Draining, "m1", 0, "m1:running", ""},
		{Failed, "m1", 0, "m1:running", ""}, // kept for whoever wants to see why
		{Failed, "m1", 0, "", ""},
		{Failed, "", 0, "m1:partial", "record m1"},
		{Failed, "", 0, "", ""},
		{Retired, "m1", 0, "m1:running", "delete m1"},
		{Retired, "", 0, "m1:partial", "delete m1"},
		{Retired, "m1", 0, "m1:ending", "ask"},
		{Retired, "m1", 0, "", "ask"},
		{Retired, "m1", 0, "m1:running m2:building", "delete m2, delete m1"},
		{Retired, "", 0, "m1:ending", "ask"},
		{Retired, "", 0, "", "ask"}, // and no call is needed to say that there is none
		{"imported", "", 0, "", ""},
	} {
		t.Run(fmt.Sprintf("%s-%s-%s", c.phase, c.recorded, strings.ReplaceAll(c.machines, " ", "-")), func(t *testing.T) {
			s := Server{ID: "s1", Phase: c.phase, MachineID: c.recorded, PhaseSince: noon.Add(-c.age)}
			steps := plan([]Server{s}, machines("s1", strings.Fields(c.machines)...), noon, patience)
			if got := told(steps); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestStrays: what has our tag and no server is an orphan; what ends is not.
func TestStrays(t *testing.T) {
	all := slices.Concat(machines("s1", "m1:running"), machines("gone", "m2:running", "m3:ending"), machines("", "m4:broken"))
	steps := plan([]Server{{ID: "s1", Phase: Ready, MachineID: "m1"}}, all, noon, time.Hour)
	if got := told(steps); got != "orphan m2, orphan m4" && got != "orphan m4, orphan m2" {
		t.Error(got)
	}
}

// TestPlanOrder: the order of the lists changes nothing.
func TestPlanOrder(t *testing.T) {
	all := machines("s1", "m1:running", "m2:running", "m3:partial", "m4:ending")
	var want string
	for i := range all {
		turned := slices.Concat(all[i:], all[:i])
		got := told(plan([]Server{{ID: "s1", Phase: Provisioning}}, turned, noon, time.Hour))
		if i > 0 && got != want {
			t.Errorf("turned by %d: %q, not %q", i, got, want)
		}
		want = got
	}
}

func TestBackoff(t *testing.T) {
	for times := range 100 {
		if wait := backoff(times); wait < firstRetry/2 || wait > longestRetry {
			t.Errorf("after %d failures: %v", times, wait)
		}
	}
	if backoff(50) < longestRetry/2 {
		t.Error("it does not grow")
	}
}

func TestCheckKey(t *testing.T) {
	for _, good := range []string{"a", "0", "a-b", strings.Repeat("x", MaxKey)} {
		if err := CheckKey(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestOutcome(t *testing.T) {
	for want, err := range map[string]error{
		"done":    nil,
		"busy":    fmt.Errorf("create: %w", &BusyError{Err: errors.New("429")}),
		"refused": fmt.Errorf("create: %w", ErrRefused),
		"none":    fmt.Errorf("get: %w", ErrNoMachine),
		"fault":   errors.New("no route to host"),
	} {
		if got := outcome(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
