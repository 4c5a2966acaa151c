package provision_test

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

	"github.com/shoalproject/shoal/supernode/provision"
	"github.com/shoalproject/shoal/supernode/provision/provisiontest"
)

func (w *world) ready() bool {
	return w.all(func(s provision.Server) bool { return s.Phase == provision.Ready && s.MachineID != "" })
}

func (w *world) failed() bool {
	return w.all(func(s provision.Server) bool { return s.Phase == provision.Failed })
}

// after is done when so much time has passed.
func after(d time.Duration) func() bool {
	end := time.Now().Add(d)
	return func() bool { return !time.Now().Before(end) }
}

func always(f provisiontest.Fault, which ...provisiontest.Call) func(provisiontest.Call) provisiontest.Fault {
	return func(c provisiontest.Call) provisiontest.Fault {
		if slices.Contains(which, c) {
			return f
		}
		return provisiontest.Fault{}
	}
}

// TestRefusedFails: what cannot succeed is not tried again, and the server
// says why.
func TestRefusedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := fmt.Errorf("the host key is another one: %w", provision.ErrRefused)
		w := newWorld(1, provisiontest.Cloud{Fault: always(provisiontest.Fault{Err: refused}, provisiontest.Create)})
		w.live(t, -1, w.failed)
		if reason := w.reason("s000"); !strings.Contains(reason, "host key") {
			t.Error(reason)
		}
		w.live(t, -1, after(time.Hour))
		if n := w.cloud.Calls(provisiontest.Create); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestPatienceEnds: a server whose machine cannot be had fails in the end,
// with the last fault; the same fault is noted once.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := provisiontest.Fault{Err: errors.New("no route to host")}
		w := newWorld(1, provisiontest.Cloud{Fault: always(fault, provisiontest.Create)})
		began := time.Now()
		w.live(t, -1, w.failed)
		if took := time.Since(began); took < 30*time.Minute || took > 40*time.Minute {
			t.Errorf("it took %v", took)
		}
		if reason := w.reason("s000"); !strings.Contains(reason, "no route to host") {
			t.Error(reason)
		}
		if noted := w.noted("s000"); strings.Count(noted, "no route") != 1 {
			t.Error(noted)
		}
		if n := w.cloud.Calls(provisiontest.Create); n < 8 || n > 30 {
			t.Errorf("asked %d times in half an hour", n)
		}
	})
}

// TestAgentThatNeverJoins fails its server, and leaves the machine for a look.
func TestAgentThatNeverJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, provisiontest.Cloud{Boot: 1000 * time.Hour})
		w.live(t, -1, w.failed)
		w.live(t, -1, after(time.Hour))
		if alive := w.cloud.Alive(); len(alive["s000"]) != 1 {
			t.Errorf("%v alive", alive)
		}
		w.live(t, -1, w.throughLife)
	})
}

// TestBrokenMachine fails its server with the provider's words.
func TestBrokenMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, provisiontest.Cloud{Boot: time.Minute})
		w.live(t, -1, after(20*time.Second))
		w.cloud.Break(w.get("s000").MachineID, "no valid host was found")
		w.live(t, -1, w.failed)
		if reason := w.reason("s000"); !strings.Contains(reason, "no valid host") {
			t.Error(reason)
		}
	})
}

// TestBusyProviderIsLeftAlone: after a 429, nobody calls before the time that
// it named, neither for this server nor for others.
func TestBusyProviderIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var calls []time.Duration
		fault := func(c provisiontest.Call) provisiontest.Fault {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, time.Since(began))
			if c == provisiontest.Create && time.Since(began) < time.Minute {
				return provisiontest.Fault{Err: &provision.BusyError{After: 2 * time.Minute, Err: errors.New("429")}}
			}
			return provisiontest.Fault{}
		}
		w := newWorld(100, provisiontest.Cloud{Fault: fault, Latency: 100 * time.Millisecond})
		w.live(t, -1, w.ready)
		early := 0
		for _, at := range calls {
			if at > time.Second && at < 2*time.Minute {
				t.Errorf("called after %v", at)
			}
			if at <= time.Second {
				early++
			}
		}
		if early > w.parallel+1 {
			t.Errorf("%d calls before the provider was left alone", early)
		}
	})
}

// TestOrphan: what carries the fleet's tag and is nobody's goes, after the
// grace; what carries another tag stays.
func TestOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(0, provisiontest.Cloud{})
		for key, tag := range map[string]string{"orphan": "fleet-a", "foreign": "fleet-b"} {
			if _, err := w.cloud.Create(t.Context(), key, provision.Spec{Tag: tag}); err != nil {
				t.Fatal(err)
			}
		}
		w.live(t, -1, after(9*time.Minute))
		if alive := w.cloud.Alive(); len(alive["orphan"]) != 1 {
			t.Fatalf("deleted before its grace: %v alive", alive)
		}
		w.live(t, -1, after(12*time.Minute))
		if alive := w.cloud.Alive(); len(alive["orphan"]) != 0 || len(alive["foreign"]) != 1 {
			t.Errorf("%v alive", alive)
		}
	})
}

// TestRetiredWhileQueued: a server that is retired before its turn comes gets
// no machine.
func TestRetiredWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(10, provisiontest.Cloud{Latency: 10 * time.Second})
		w.parallel = 1
		began := time.Now()
		w.live(t, -1, func() bool {
			if time.Since(began) > 25*time.Second {
				for id := range w.servers {
					w.retire(id)
				}
			}
			return time.Since(began) > 10*time.Minute && w.clean()
		})
		if n := w.cloud.Calls(provisiontest.Create); n > 3 {
			t.Errorf("%d machines were asked for", n)
		}
	})
}

// slowCloud takes five seconds to make a machine and loses the answer, and
// lists what was there twenty seconds ago.
type slowCloud struct{ *provisiontest.Twin }

func (s slowCloud) Create(ctx context.Context, key string, spec provision.Spec) (m provision.Machine, err error) {
	select {
	case <-time.After(5 * time.Second):
	case <-ctx.Done():
		return m, ctx.Err()
	}
	if _, err := s.Twin.Create(ctx, key, spec); err != nil {
		return m, err
	}
	return m, errors.New("the answer was lost")
}

func (s slowCloud) List(ctx context.Context, tag string) ([]provision.Machine, error) {
	list, err := s.Twin.List(ctx, tag)
	select {
	case <-time.After(20 * time.Second):
		return list, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestOldListIsNotBelieved: while a list is on its way, a call from before it
// may take effect and fail. That list says nothing about the call's machine.
func TestOldListIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, provisiontest.Cloud{Forgetful: true, Boot: time.Hour})
		r, err := provision.New(provision.Config{
			Provider: slowCloud{w.cloud}, Inventory: w.book, Tag: "fleet-a", Every: time.Second, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		r.Run(ctx)
		if doubles := w.cloud.Doubles(); len(doubles) > 0 || w.get("s000").MachineID == "" {
			t.Errorf("two machines for %v; %q is written down", doubles, w.get("s000").MachineID)
		}
	})
}

// TestTag: a fleet without a tag of its own would delete the machines of
// others.
func TestTag(t *testing.T) {
	if _, err := provision.New(provision.Config{}); err == nil {
		t.Error("a reconciler without a tag")
	}
}
