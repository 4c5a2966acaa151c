package facts

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// wire is a line that a test opens and closes.
type wire struct {
	mu     sync.Mutex
	up     bool             // guarded by mu
	opened chan struct{}    // guarded by mu
	refuse error            // guarded by mu
	told   []*shoalv1.Facts // guarded by mu
}

func (w *wire) Reachable() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.up
}

func (w *wire) Opened() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

func (w *wire) ReportFacts(_ context.Context, f *shoalv1.Facts) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse == nil {
		w.told = append(w.told, f)
	}
	return w.refuse
}

func (w *wire) set(up bool, refuse error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if up && !w.up {
		close(w.opened)
		w.opened = make(chan struct{})
	}
	w.up, w.refuse = up, refuse
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{opened: make(chan struct{})}
		var mu sync.Mutex
		now := &shoalv1.Facts{Hostname: "h"}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			Keep(ctx, w, func(context.Context) (*shoalv1.Facts, error) {
				mu.Lock()
				defer mu.Unlock()
				return proto.CloneOf(now), errors.New("the disk is hidden")
			}, slog.New(slog.DiscardHandler))
		}()
		after := func(wait time.Duration, want int, what string) {
			t.Helper()
			<-time.After(wait)
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.told) != want {
				t.Fatalf("%s: told %d times, want %d", what, len(w.told), want)
			}
		}
		after(5*time.Minute, 0, "no line")
		w.set(true, nil)
		after(0, 1, "the line opened")
		after(5*time.Minute, 1, "nothing new")
		mu.Lock()
		now.Rack = "r2"
		mu.Unlock()
		after(lookEvery, 2, "another rack")
		w.set(false, nil)
		w.set(true, nil)
		after(0, 3, "the line opened again")
		w.set(true, errors.New("busy"))
		mu.Lock()
		now.Rack = "r3"
		mu.Unlock()
		after(lookEvery, 3, "the supernode is busy")
		w.set(true, nil)
		after(againAfter, 4, "it is not any more")
		cancel()
		<-ended
	})
}
