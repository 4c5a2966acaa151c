package supervise

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/engine"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func container(id string) *shoalv1.Container {
	return &shoalv1.Container{Id: id, Repository: "team/app", Digest: string(digest.FromString("app")), Run: true}
}

func stopped(id string) *shoalv1.Container {
	c := container(id)
	c.Run = false
	return c
}

func running(c *shoalv1.Container) *engine.State {
	return &engine.State{ID: c.Id, Hash: specOf(c).Hash(), Running: true, Started: noon.Add(-time.Hour), ExitCode: -1}
}

func ended(c *shoalv1.Container, at time.Time, code int) *engine.State {
	s := running(c)
	s.Running, s.Ended, s.ExitCode = false, at, code
	return s
}

func TestDecide(t *testing.T) {
	run, still, again := container("a"), stopped("a"), container("a")
	again.RestartsWanted = 2
	other := container("a")
	other.CpuMilli = 100
	soon := record{Next: noon.Add(time.Second)}
	for name, c := range map[string]struct {
		want  *shoalv1.Container
		have  *engine.State
		r     record
		do    action
		later time.Time
	}{
		"nothing of nothing":               {},
		"it is not there":                  {want: run, do: begin},
		"it is not there and not to run":   {want: still, do: begin},
		"it runs as wanted":                {want: run, have: running(run)},
		"it rests as wanted":               {want: still, have: ended(run, noon, 0)},
		"it is not wanted":                 {have: running(run), do: remove},
		"it is not wanted and ended":       {have: ended(run, noon, 0), do: remove},
		"it is another one":                {want: other, have: running(run), do: remove},
		"it runs and is to rest":           {want: still, have: running(run), do: stop},
		"it ended":                         {want: run, have: ended(run, noon, 0), do: begin},
		"it ended a moment ago":            {want: run, have: ended(run, noon, 1), r: soon, do: nothing, later: noon.Add(time.Second)},
		"it is to start again":             {want: again, have: running(run), r: record{RestartsDone: 1}, do: restart},
		"it was started again":             {want: again, have: running(run), r: record{RestartsDone: 2}},
		"it could not be removed just now": {have: running(run), r: soon, do: nothing, later: noon.Add(time.Second)},
		"the clock was set back":           {want: run, r: record{Next: noon.Add(time.Hour)}, do: begin},
	} {
		do, later := decide(c.want, c.have, c.r, noon)
		if do != c.do || !later.Equal(c.later) {
			t.Errorf("%s: do %d at %s, want %d at %s", name, do, later, c.do, c.later)
		}
	}
}

func TestBackoffGrowsAndBeginsAnew(t *testing.T) {
	var r record
	c := container("a")
	at := noon
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		state := ended(c, at, 1)
		state.Started = at.Add(-time.Millisecond)
		r = r.observe(state)
		if got := r.Next.Sub(at); got != want*time.Second {
			t.Errorf("after end %d it waits %s, want %s", i+1, got, want*time.Second)
		}
		if again := r.observe(state); again != r {
			t.Errorf("one end was counted twice: %+v", again)
		}
		at = at.Add(2 * time.Minute)
	}
	long := ended(c, at, 3)
	long.Started = at.Add(-stableAfter)
	if r = r.observe(long); r.Next.Sub(at) != backoffFirst || r.ExitCode != 3 {
		t.Errorf("after a long run: %+v", r)
	}
	asked := record{Stopped: true}.observe(ended(c, at, 0))
	if asked.Fails != 0 || !asked.Next.IsZero() || !asked.Ended.Equal(at) {
		t.Errorf("an end that was asked for: %+v", asked)
	}
	if got := (record{}).observe(running(c)); got != (record{}) {
		t.Errorf("a container that runs: %+v", got)
	}
	// The host's clock was set back: the end is one all the same.
	if back := r.observe(ended(c, noon.Add(-time.Hour), 1)); back.Fails != r.Fails+1 {
		t.Errorf("an end before the last one was not counted: %+v", back)
	}
	failed := record{Fails: 2}.failed(errors.New("n\xffo"), noon)
	if failed.Next.Sub(noon) != 4*time.Second || failed.Error != "n?o" {
		t.Errorf("failed: %+v", failed)
	}
	if long := (record{}).failed(errors.New(strings.Repeat("x", 1<<20)), noon); len(long.Error) != maxError {
		t.Errorf("an error of %d bytes is told", len(long.Error))
	}
}

func TestHealth(t *testing.T) {
	h := health{}
	for i, c := range []struct {
		ports   int
		answers bool
		running time.Duration
		want    bool
	}{
		{0, false, 2999 * time.Millisecond, false},
		{0, false, 3 * time.Second, true},
		{1, false, time.Hour, true}, // a miss
		{1, false, time.Hour, true}, // another
		{1, false, time.Hour, false},
		{1, true, time.Second, true},
		{1, false, time.Second, true},
		{1, true, time.Second, true},
		{1, false, time.Second, true},
		{1, false, time.Second, true},
		{1, false, time.Second, false},
	} {
		if h = h.next(c.ports, c.answers, c.running); h.good != c.want {
			t.Fatalf("look %d: healthy %v, want %v", i, h.good, c.want)
		}
	}
}

func TestTell(t *testing.T) {
	run, still := container("a"), stopped("a")
	oom := ended(run, noon, 137)
	oom.Error = "killed"
	failed := record{Error: "no image", Fails: 1}
	seen := record{Ended: noon, ExitCode: 7, Restarts: 3}
	for name, c := range map[string]struct {
		want  *shoalv1.Container
		have  *engine.State
		r     record
		h     health
		state shoalv1.ContainerStatus_State
		err   string
		code  int32
	}{
		"not there yet":       {want: run, state: shoalv1.ContainerStatus_STARTING, code: -1},
		"cannot be made":      {want: run, r: failed, state: shoalv1.ContainerStatus_FAILED, err: "no image", code: -1},
		"made":                {want: run, have: &engine.State{ID: "a", ExitCode: -1}, state: shoalv1.ContainerStatus_STARTING, code: -1},
		"runs":                {want: run, have: running(run), state: shoalv1.ContainerStatus_STARTING, code: -1},
		"is healthy":          {want: run, have: running(run), h: health{good: true}, state: shoalv1.ContainerStatus_RUNNING, code: -1},
		"ended":               {want: run, have: ended(run, noon, 7), r: seen, state: shoalv1.ContainerStatus_EXITED, code: 7},
		"runs again":          {want: run, have: running(run), r: seen, h: health{good: true}, state: shoalv1.ContainerStatus_RUNNING, code: 7},
		"was killed":          {want: run, have: oom, r: record{Ended: noon, ExitCode: 137}, state: shoalv1.ContainerStatus_EXITED, err: "killed", code: 137},
		"the host went down":  {want: run, have: &engine.State{ID: "a", Started: noon, ExitCode: -1}, state: shoalv1.ContainerStatus_EXITED, code: -1},
		"rests":               {want: still, have: ended(run, noon, 0), r: record{Ended: noon}, state: shoalv1.ContainerStatus_STOPPED},
		"is still to end":     {want: still, have: running(run), h: health{good: true}, state: shoalv1.ContainerStatus_RUNNING, code: -1},
		"is not wanted":       {have: running(run), h: health{good: true}, state: shoalv1.ContainerStatus_RUNNING, code: -1},
		"not wanted and over": {have: ended(run, noon, 0), r: record{Ended: noon}, state: shoalv1.ContainerStatus_STOPPED},
	} {
		got := tell("a", c.want, c.have, c.r, c.h)
		if got.State != c.state || got.Error != c.err || got.ExitCode != c.code || got.Restarts != c.r.Restarts {
			t.Errorf("%s: %v", name, got)
		}
	}
}
