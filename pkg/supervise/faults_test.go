package supervise

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/engine"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

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

// slow is an engine that takes its time to make a container.
type slow struct{ Engine }

func (s slow) Create(ctx context.Context, c engine.Spec) error {
	<-time.After(2 * time.Second)
	return s.Engine.Create(ctx, c)
}

// A container that is being made when it is not wanted any more is told of
// until it is gone: else its place would be given away while it runs.
func TestWhatIsBeingMadeIsTold(t *testing.T) {
	simulate(t, func(_ *testing.T, h *host) {
		h.down()
		h.over = slow{h.engine}
		h.up()
		h.take(1, container("a"))
		wait(100 * time.Millisecond)
		h.take(2)
		told := false // that nothing is left
		for range 1000 {
			r, there := h.last(), h.stands() != ""
			if told = told || r.GetGeneration() == 2 && len(r.Containers) == 0; told && there {
				t.Fatal("it was told that nothing is left, and then a is there")
			}
			wait(10 * time.Millisecond)
		}
		h.expect("nothing is wanted", "")
		if r := h.last(); r.GetGeneration() != 2 || len(r.Containers) != 0 {
			t.Errorf("told %v", r)
		}
	})
}
