package meta

import (
	"context"
	"iter"
	"sync"
)

const (
	historyCommits = 4096
	historyBytes   = 8 << 20
)

// history keeps the latest commits of an engine of this process for its
// watches. What is older is compacted.
type history struct {
	mu      sync.Mutex
	commits []entry       // guarded by mu, ascending
	bytes   int           // guarded by mu, of commits
	floor   Revision      // guarded by mu: commits above it are kept
	changed chan struct{} // guarded by mu, closed at the next change
	closed  bool          // guarded by mu
}

type entry struct {
	revision Revision
	events   []Event
	bytes    int
}

func newHistory(floor Revision) *history {
	return &history{floor: floor, changed: make(chan struct{})}
}

// add takes the events of one commit over.
func (h *history) add(revision Revision, events []Event) {
	e := entry{revision: revision, events: events}
	for _, ev := range events {
		e.bytes += len(ev.Key) + len(ev.Data)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commits = append(h.commits, e)
	h.bytes += e.bytes
	for len(h.commits) > historyCommits || h.bytes > historyBytes {
		h.floor = h.commits[0].revision
		h.bytes -= h.commits[0].bytes
		h.commits[0] = entry{}
		h.commits = h.commits[1:]
	}
	h.wake()
}

func (h *history) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.wake()
}

// next returns the first commit above after, or a channel to wait on.
func (h *history) next(after Revision) (entry, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return entry{}, nil, ErrClosed
	case after < h.floor:
		return entry{}, nil, ErrCompacted
	}
	// Revisions are dense, so the place is known without a search.
	if n := len(h.commits); n > 0 && after < h.commits[n-1].revision {
		return h.commits[max(after+1, h.commits[0].revision)-h.commits[0].revision], nil, nil
	}
	return entry{}, h.changed, nil
}

func (h *history) watch(ctx context.Context, prefix string, after Revision) iter.Seq2[[]Event, error] {
	return func(yield func([]Event, error) bool) {
		for at := after; ; {
			e, wait, err := h.next(at)
			switch {
			case err != nil:
				yield(nil, err)
				return
			case wait != nil:
				select {
				case <-ctx.Done():
					yield(nil, ctx.Err())
					return
				case <-wait:
				}
				continue
			}
			at = e.revision
			if events := withPrefix(e.events, prefix); len(events) > 0 && !yield(events, nil) {
				return
			}
		}
	}
}

func withPrefix(events []Event, prefix string) []Event {
	var out []Event
	for _, ev := range events {
		if hasPrefix(ev.Key, prefix) {
			out = append(out, ev)
		}
	}
	return out
}

// eventOf is the event of an op that changes something; its data is a copy.
func eventOf(op Op, revision Revision) Event {
	ev := Event{Key: op.Key, Deleted: op.Delete, Revision: revision}
	if !op.Delete {
		ev.Data = append([]byte{}, op.Data...)
	}
	return ev
}
