package profile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// cut ends the run at one of the calls of its steps: before it is made or
// after it has had its effect.
type cut struct {
	Step
	calls *int
	at    int
	stop  context.CancelFunc
}

var errCut = errors.New("cut off")

func (c cut) now() bool {
	*c.calls++
	if *c.calls == c.at {
		c.stop()
		return true
	}
	return false
}

func (c cut) Check(ctx context.Context) (Found, error) {
	if c.now() {
		return Found{}, errCut
	}
	return c.Step.Check(ctx)
}

func (c cut) Apply(ctx context.Context) (string, error) {
	if c.now() {
		return "", errCut
	}
	said, err := c.Step.Apply(ctx)
	if c.now() {
		return said, errCut
	}
	return said, err
}

// TestCutOffAnywhere ends a run at every point and starts it again, as an agent
// does that was killed: the host ends up as if nothing had happened.
func TestCutOffAnywhere(t *testing.T) {
	p := &shoalv1.Profile{Name: "p", Steps: []*shoalv1.Step{
		{Name: "limits", Kind: "limits", Version: 1, Settings: map[string]string{"nofile": "9"}},
		{Name: "sysctl", Kind: "sysctl", Version: 2, Settings: map[string]string{"vm.a": "1", "vm.b": "2"}},
		{Name: "keys", Kind: "ssh-keys", Version: 1, Settings: map[string]string{"user": "ann", "keys": testKey}},
		{Name: "agent", Kind: "agent", Version: 1},
	}}
	files := []string{limitsFile, sysctlFile, annsKeys, "/proc/sys/vm/a", "/proc/sys/vm/b"}
	var whole []string
	calls := 0
	for at := 0; at <= calls; at++ { // 0 is never
		h := homely(t)
		h.put("/proc/sys/vm/a", "0\n")
		h.put("/proc/sys/vm/b", "0\n")
		h.put(annsKeys, "ann's own\n")
		path := filepath.Join(t.TempDir(), "steps.json")
		run := func(at int) ([]*shoalv1.StepStatus, error) {
			memory, err := OpenMemory(path)
			if err != nil {
				t.Fatal(err)
			}
			steps, err := Plan(p, h.Host)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			made := 0
			for i := range steps {
				steps[i].Step = cut{steps[i].Step, &made, at, stop}
			}
			got, err := Run(ctx, steps, Options{Memory: memory, Now: now})
			calls = max(calls, made)
			return got, err
		}
		if got, err := run(at); at > 0 && (err == nil || got != nil) {
			t.Fatalf("cut off at call %d it told %v", at, got)
		}
		got, err := run(0)
		if err != nil || slices.ContainsFunc(got, func(s *shoalv1.StepStatus) bool { return s.State != ok && s.State != changed }) {
			t.Fatalf("cut off at call %d it came to %v, %v", at, got, err)
		}
		var holds []string
		for _, f := range files {
			holds = append(holds, f+": "+h.get(f))
		}
		if at == 0 {
			whole = holds
		} else if !slices.Equal(holds, whole) {
			t.Errorf("cut off at call %d the files are\n%s\nwant\n%s", at, fmt.Sprint(holds), fmt.Sprint(whole))
		}
	}
	if calls < 12 {
		t.Errorf("it was cut off at %d calls only", calls)
	}
}
