package supervise

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
		h.up()
		wait(time.Minute)
		h.expect("it is adopted", "a+ b")
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

// faulty is an engine that fails, or whose agent dies: then nothing more of
// its life reaches the runtime.
type faulty struct {
	Engine
	away  atomic.Bool
	calls atomic.Int64
	dies  int64 // at which call, before or after its effect; 0 for none
	die   func()
}

var errAway = errors.New("the runtime is away")

// call wraps a call that changes something.
func (f *faulty) call(do func() error) error {
	if f.away.Load() {
		return errAway
	}
	n := f.calls.Add(1)
	before, after := f.dies == 2*n-1, f.dies == 2*n
	if before || f.dies != 0 && n > (f.dies+1)/2 {
		f.die()
		return context.Canceled
	}
	err := do()
	if after {
		f.die()
		return context.Canceled
	}
	return err
}

func (f *faulty) Create(ctx context.Context, s engine.Spec) error {
	return f.call(func() error { return f.Engine.Create(ctx, s) })
}
func (f *faulty) Start(ctx context.Context, id string) error {
	return f.call(func() error { return f.Engine.Start(ctx, id) })
}
func (f *faulty) Stop(ctx context.Context, id string, grace time.Duration) error {
	return f.call(func() error { return f.Engine.Stop(ctx, id, grace) })
}
func (f *faulty) Remove(ctx context.Context, id string) error {
	return f.call(func() error { return f.Engine.Remove(ctx, id) })
}
func (f *faulty) List(ctx context.Context) ([]engine.State, error) {
	if f.away.Load() {
		return nil, errAway
	}
	return f.Engine.List(ctx)
}

func TestTheRuntimeGoesAndComesBack(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.down()
		f := &faulty{Engine: h.engine}
		h.over = f
		h.up()
		h.take(1, container("a"))
		wait(time.Minute)
		f.away.Store(true)
		h.take(2, container("a"), container("b"))
		wait(time.Minute)
		if s := h.status("a"); s.State != shoalv1.ContainerStatus_RUNNING || !strings.Contains(s.Error, errAway.Error()) {
			t.Errorf("while the runtime is away: %v", s)
		}
		f.away.Store(false)
		wait(time.Minute)
		h.expect("it is back", "a+ b+")
		if s := h.status("a"); s.Error != "" {
			t.Errorf("when it is back: %v", s)
		}
	})
}

// TestTheAgentDiesAnywhere kills the agent before and after each thing that it
// does to the runtime while it makes, restarts, stops and removes, and starts
// it again on what is on disk: it ends as it would have.
func TestTheAgentDiesAnywhere(t *testing.T) {
	for dies := int64(1); dies <= 20; dies++ {
		simulate(t, func(_ *testing.T, h *host) {
			h.down()
			f := &faulty{Engine: h.engine, dies: dies}
			dead := make(chan struct{})
			f.die = sync.OnceFunc(func() { close(dead) })
			h.over = f
			h.up()
			// The kill itself: the old life's context ends, its calls do nothing.
			reborn := make(chan struct{})
			go func() {
				defer close(reborn)
				select {
				case <-dead:
				case <-time.After(time.Hour):
					return
				}
				h.down()
				h.over = h.engine
				h.up()
			}()
			again := container("a")
			again.RestartsWanted = 1
			for i, want := range [][]*shoalv1.Container{
				{container("a"), container("b")},
				{again, stopped("b"), container("c")},
				{again, container("d")},
			} {
				wait(30 * time.Second)
				h.take(int64(1+i), want...)
				wait(30 * time.Second)
			}
			wait(2 * time.Hour)
			<-reborn
			h.expect("killed at step "+string(rune('A'+dies)), "a+ d+")
			if n := len(h.started("a")); n < 2 || n > 3 {
				t.Errorf("killed at step %d: a was started %d times, for one restart", dies, n)
			}
		})
	}
}

// TestWishesOfAnyKindAreMet sends random wishes at random times, with failures
// of the runtime and restarts of the agent between them.
func TestWishesOfAnyKindAreMet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	simulate(t, func(_ *testing.T, h *host) {
		random := rand.New(rand.NewPCG(seed, 0))
		h.down()
		f := &faulty{Engine: h.engine}
		h.over = f
		h.up()
		for generation := range int64(60) {
			var want []*shoalv1.Container
			var names []string
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				if random.IntN(2) == 0 {
					continue
				}
				c := container(id)
				c.Run = random.IntN(3) > 0
				c.RestartsWanted = int32(generation / 10)
				want = append(want, c)
				if c.Run {
					id += "+"
				}
				names = append(names, id)
			}
			h.take(generation+1, want...)
			f.away.Store(random.IntN(4) == 0)
			if random.IntN(4) == 0 {
				h.down()
				h.up()
			}
			wait(time.Duration(random.IntN(5000)) * time.Millisecond)
			if generation%5 == 4 {
				f.away.Store(false)
				wait(2 * time.Minute)
				h.expect("at rest", strings.Join(names, " "))
			}
		}
	})
}

// late is an engine whose list is old when it arrives, and that takes its time
// to start.
type late struct{ Engine }

func (l late) List(ctx context.Context) ([]engine.State, error) {
	list, err := l.Engine.List(ctx)
	<-time.After(300 * time.Millisecond)
	return list, err
}

func (l late) Start(ctx context.Context, id string) error {
	<-time.After(200 * time.Millisecond)
	return l.Engine.Start(ctx, id)
}

func TestAnOldLookDecidesNothing(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.down()
		h.over = late{h.engine}
		h.up()
		c := container("a")
		c.Args = []string{"crash"}
		h.take(1, c)
		for range 600 {
			word(h.poke)
			wait(100 * time.Millisecond)
		}
		starts := h.started("a")
		if s := h.status("a"); int(s.Restarts) != len(starts)-1 {
			t.Errorf("%d restarts are told of %d starts", s.Restarts, len(starts))
		}
		for i := range len(starts) - 1 {
			if pause, want := starts[i+1].Sub(starts[i]), backoff(i+1); pause < want {
				t.Errorf("pause %d is %s, want %s at least", i+1, pause, want)
			}
		}
	})
}
