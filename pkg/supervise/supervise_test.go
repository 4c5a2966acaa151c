package supervise

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/engine/memory"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// host is a Supervisor with an engine in memory, in simulated time. Its
// containers do what their first argument says: run (or nothing), crash.
type host struct {
	*Supervisor
	t      *testing.T
	dir    string
	engine *memory.Engine
	over   Engine // what the Supervisor sees of it
	change func(*Config)

	mu      sync.Mutex
	reports []*shoalv1.ReportContainersRequest // guarded by mu
	starts  map[string][]time.Time             // guarded by mu: by ID
	ports   map[int]bool                       // guarded by mu: that answer

	down func()
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir(), starts: map[string][]time.Time{}, ports: map[int]bool{}}
	var err error
	h.engine, err = memory.Open(memory.Options{Program: func(ctx context.Context, s engine.Spec, _ io.Writer) int {
		h.mu.Lock()
		h.starts[s.ID] = append(h.starts[s.ID], time.Now())
		h.mu.Unlock()
		if slices.Contains(s.Args, "crash") {
			return 3
		}
		<-ctx.Done()
		return 0
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.over = h.engine
	if err := h.engine.Unpack(digest.FromString("app")); err != nil {
		t.Fatal(err)
	}
	return h
}

// up starts the Supervisor, as the agent's start does.
func (h *host) up() {
	cfg := Config{
		Engine: h.over, Dir: h.dir, Log: slog.New(slog.DiscardHandler),
		Report: func(_ context.Context, r *shoalv1.ReportContainersRequest) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reports = append(h.reports, r)
			return nil
		},
		Probe: func(_ context.Context, port int) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.ports[port]
		},
	}
	if h.change != nil {
		h.change(&cfg)
	}
	h.Supervisor = New(cfg)
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	h.down = func() { cancel(); <-ended }
}

func (h *host) take(generation int64, containers ...*shoalv1.Container) {
	h.t.Helper()
	if err := h.Take(&shoalv1.Desired{Generation: generation, Containers: containers}); err != nil {
		h.t.Fatal(err)
	}
}

func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// stands is what the engine has: the IDs, those that run with a "+".
func (h *host) stands() string {
	list, err := h.engine.List(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, c := range list {
		if c.Running {
			c.ID += "+"
		}
		out = append(out, c.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (h *host) expect(what, want string) {
	h.t.Helper()
	if got := h.stands(); got != want {
		h.t.Errorf("%s: there is %q, want %q", what, got, want)
	}
}

func (h *host) started(id string) []time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.starts[id])
}

func (h *host) last() *shoalv1.ReportContainersRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.reports) == 0 {
		return nil
	}
	return h.reports[len(h.reports)-1]
}

func (h *host) status(id string) *shoalv1.ContainerStatus {
	for _, c := range h.last().GetContainers() {
		if c.Id == id {
			return c
		}
	}
	return nil
}

// simulate runs a test in simulated time.
func simulate(t *testing.T, test func(t *testing.T, h *host)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.up()
		test(t, h)
		h.down()
		// Programs end with their containers.
		list, err := h.engine.List(t.Context())
		for _, c := range list {
			err = errors.Join(err, h.engine.Remove(t.Context(), c.ID))
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func TestContainersAreAsWanted(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.take(1, container("a"), container("b"), stopped("c"))
		wait(time.Second)
		h.expect("three are wanted", "a+ b+ c")
		if s := h.status("a"); s.GetState() != shoalv1.ContainerStatus_STARTING {
			t.Errorf("after a second it is %v", s)
		}
		wait(3 * time.Second)
		if s := h.status("a"); s.GetState() != shoalv1.ContainerStatus_RUNNING {
			t.Errorf("after four seconds it is %v", s)
		}
		h.take(2, stopped("a"), container("c"), container("d"))
		wait(time.Second)
		h.expect("others are wanted", "a c+ d+")
		if r := h.last(); r.Generation != 2 || len(r.Containers) != 3 {
			t.Errorf("told %v", r)
		}
		h.take(1, container("z"))
		wait(time.Second)
		h.expect("an older wish came late", "a c+ d+")
		h.take(3)
		wait(time.Second)
		h.expect("nothing is wanted", "")
	})
}

func TestNothingIsRemovedUnasked(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.take(1, container("a"))
		wait(time.Second)
		h.down()
		if err := os.WriteFile(filepath.Join(h.dir, keptFile), []byte("{damaged"), 0o600); err != nil {
			h.t.Fatal(err)
		}
		h.up()
		wait(time.Minute)
		h.expect("nobody said what is wanted", "a+")
		h.take(1)
		wait(time.Second)
		h.expect("the supernode said it again", "")
	})
}

func TestContainersOutliveTheSupervisor(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		again := container("a")
		again.RestartsWanted = 1
		h.take(1, again, stopped("b"))
		wait(time.Minute)
		h.down()
		before := len(h.reports)
		f := &faulty{Engine: h.engine}
		f.away.Store(true) // at first
		h.over = f
		h.up()
		h.take(1)
		wait(time.Minute)
		if n := len(h.reports); n != before {
			t.Errorf("%d reports were made of what nobody saw", n-before)
		}
		f.away.Store(false)
		wait(time.Minute)
		h.expect("it is adopted", "a+ b")
		for _, r := range h.reports[before:] {
			if len(r.Containers) != 2 || r.Containers[0].State != shoalv1.ContainerStatus_RUNNING {
				t.Errorf("told of what went on running: %v", r)
			}
		}
		if n := len(h.started("a")); n != 1 {
			t.Errorf("it was started %d times", n)
		}
		h.down()
		if err := h.engine.Remove(h.t.Context(), "a"); err != nil {
			h.t.Fatal(err)
		}
		h.up() // and no supernode
		wait(time.Second)
		h.expect("it went while nobody looked", "a+ b")
	})
}

func TestWhatEndsIsStartedAgainLaterAndLater(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		c := container("a")
		c.Args = []string{"crash"}
		h.take(1, c)
		wait(4 * time.Minute)
		starts := h.started("a")
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			if i+1 >= len(starts) {
				t.Fatalf("it was started %d times", len(starts))
			}
			if pause := starts[i+1].Sub(starts[i]).Round(100 * time.Millisecond); pause != want*time.Second {
				t.Errorf("pause %d is %s, want %s", i+1, pause, want*time.Second)
			}
		}
		if s := h.status("a"); s.State != shoalv1.ContainerStatus_EXITED || s.ExitCode != 3 || int(s.Restarts) != len(starts)-1 {
			t.Errorf("told %v after %d starts", s, len(starts))
		}
		good := container("b")
		h.take(2, good)
		wait(time.Second)
		h.expect("another one is wanted", "b+")
	})
}

func TestAskedRestart(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		c := container("a")
		h.take(1, c)
		wait(time.Second)
		for i := range 3 {
			c = proto.CloneOf(c)
			c.RestartsWanted++
			h.take(int64(2+i), c)
			wait(20 * time.Second)
			h.down()
			h.up()
			wait(20 * time.Second)
			if n := len(h.started("a")); n != i+2 {
				t.Fatalf("after %d asked restarts it was started %d times", i+1, n)
			}
		}
		if s := h.status("a"); s.Restarts != 0 || s.State != shoalv1.ContainerStatus_RUNNING {
			t.Errorf("told %v", s)
		}
	})
}

func TestAnImageThatWentIsFetchedAgain(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.down()
		var asked []string
		h.change = func(c *Config) {
			c.Bring = func(_ context.Context, c *shoalv1.Container) error {
				asked = append(asked, c.Id)
				if len(asked) == 1 {
					return errors.New("nobody has it")
				}
				return h.engine.Unpack(digest.Digest(c.Digest))
			}
		}
		h.up()
		c := container("a")
		c.Digest = string(digest.FromString("gone"))
		h.take(1, c)
		wait(500 * time.Millisecond)
		if s := h.status("a"); s.State != shoalv1.ContainerStatus_FAILED || !strings.Contains(s.Error, "nobody has it") {
			t.Errorf("told %v", s)
		}
		wait(time.Second)
		h.expect("it was fetched at the second try", "a+")
		if s := h.status("a"); len(asked) != 2 || s.Error != "" {
			t.Errorf("asked for %v, told %v", asked, s)
		}
	})
}

func TestHealthFollowsThePorts(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		c := container("a")
		c.Ports = []int32{80, 81}
		answer := func(port int, yes bool) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.ports[port] = yes
		}
		answer(80, true)
		h.take(1, c)
		for _, step := range []struct {
			port  int
			yes   bool
			after time.Duration
			want  shoalv1.ContainerStatus_State
		}{
			{80, true, time.Minute, shoalv1.ContainerStatus_STARTING},
			{81, true, time.Second, shoalv1.ContainerStatus_RUNNING},
			{81, false, 8 * time.Second, shoalv1.ContainerStatus_RUNNING},
			{81, false, 20 * time.Second, shoalv1.ContainerStatus_STARTING},
			{81, true, time.Second, shoalv1.ContainerStatus_RUNNING},
		} {
			answer(step.port, step.yes)
			wait(step.after)
			if s := h.status("a"); s.State != step.want {
				t.Errorf("port %d answers %v for %s: told %v", step.port, step.yes, step.after, s)
			}
		}
		if n := len(h.started("a")); n != 1 {
			t.Errorf("it was started %d times for its health", n)
		}
	})
}

func TestReportsComeOnChangeAndNowAndThen(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.take(1, container("a"))
		wait(30 * time.Second)
		count := func() int {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.reports)
		}
		quiet := count()
		wait(time.Minute)
		if n := count() - quiet; n < 5 || n > 7 {
			t.Errorf("%d reports in a quiet minute", n)
		}
		quiet = count()
		h.take(1, container("a"))
		wait(50 * time.Millisecond)
		if n := count() - quiet; n != 1 {
			t.Errorf("%d reports after the supernode said the same again", n)
		}
	})
}

func TestBadWishesAreRefusedWhole(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.take(1, container("a"))
		if err := h.Take(&shoalv1.Desired{Generation: 2, Containers: []*shoalv1.Container{container("b"), container("b")}}); err == nil {
			t.Error("one ID was taken twice")
		}
		if err := h.Take(&shoalv1.Desired{Generation: 2, Containers: make([]*shoalv1.Container, MostContainers+1)}); err == nil {
			t.Error("too many were taken")
		}
		bad := container("bad")
		bad.MemoryBytes = 1
		h.take(3, container("a"), bad)
		wait(time.Second)
		h.expect("one cannot be made", "a+")
		if s := h.status("bad"); s.State != shoalv1.ContainerStatus_FAILED || s.Error == "" {
			t.Errorf("told %v", s)
		}
	})
}
