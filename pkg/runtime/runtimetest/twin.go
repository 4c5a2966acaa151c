// Package runtimetest stands in for a container runtime in tests: a twin that
// keeps content in a folder, the suite that twin and runtime both pass, and a
// way to start the real ones.
package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime"
)

// Twin is a content store without a runtime around it.
type Twin struct {
	dir string

	// Fail, when set before use, is what every call returns: the runtime is
	// away.
	Fail error

	mu      sync.Mutex
	content map[blob.Digest]int64     // guarded by mu
	leases  map[blob.Digest]time.Time // guarded by mu: until when
	changed chan struct{}             // guarded by mu: closed at the next change
}

// NewTwin makes an empty twin that lives as long as the test.
func NewTwin(t testing.TB) *Twin {
	return &Twin{dir: t.TempDir(), content: map[blob.Digest]int64{}, leases: map[blob.Digest]time.Time{}, changed: make(chan struct{})}
}

// Put adds a blob, as a pull would.
func (w *Twin) Put(data []byte) (blob.Digest, error) {
	d := digest.FromBytes(data)
	if err := os.WriteFile(w.path(d), data, 0o600); err != nil {
		return "", fmt.Errorf("put %s into twin: %w", d, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content[d] = int64(len(data))
	w.stir()
	return d, nil
}

// Collect removes what no lease keeps, as the garbage collector would after
// every image was removed.
func (w *Twin) Collect(now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for d := range w.content {
		if w.leases[d].After(now) {
			continue
		}
		delete(w.content, d)
		errs = append(errs, os.Remove(w.path(d)))
	}
	w.stir()
	return errors.Join(errs...)
}

// stir wakes watchers; the caller holds mu.
func (w *Twin) stir() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Twin) path(d blob.Digest) string { return filepath.Join(w.dir, d.Encoded()) }

// Has implements Content.
func (w *Twin) Has(_ context.Context, d blob.Digest) (bool, error) { return w.has(d) }

func (w *Twin) has(d blob.Digest) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.content[d]
	return ok && w.Fail == nil, w.Fail
}

// OpenLocal implements Content.
func (w *Twin) OpenLocal(d blob.Digest) (*os.File, error) {
	if _, err := blob.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	if held, err := w.has(d); err != nil || !held {
		return nil, errors.Join(err, fmt.Errorf("twin: %s: %w", d, blob.ErrNotHeld))
	}
	return os.Open(w.path(d))
}

// List implements Content.
func (w *Twin) List(context.Context) ([]runtime.Content, error) {
	list, _ := w.look()
	return list, w.Fail
}

func (w *Twin) look() ([]runtime.Content, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []runtime.Content
	for d, size := range w.content {
		list = append(list, runtime.Content{Digest: d, Size: size})
	}
	return list, w.changed
}

// Lease implements Content.
func (w *Twin) Lease(_ context.Context, d blob.Digest, ttl time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.content[d]; !ok {
		return fmt.Errorf("twin: lease %s: %w", d, blob.ErrNotHeld)
	}
	w.leases[d] = time.Now().Add(ttl)
	return w.Fail
}

// Watch implements Content.
func (w *Twin) Watch(ctx context.Context) <-chan runtime.Event {
	out := make(chan runtime.Event)
	go func() {
		defer close(out)
		known := map[blob.Digest]bool{}
		for {
			list, changed := w.look()
			var events []runtime.Event
			there := map[blob.Digest]bool{}
			for _, c := range list {
				there[c.Digest] = true
				if !known[c.Digest] {
					events = append(events, runtime.Event{Digest: c.Digest, Size: c.Size})
				}
			}
			for d := range known {
				if !there[d] {
					events = append(events, runtime.Event{Digest: d, Gone: true})
				}
			}
			for _, e := range events {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			known = there
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
