package store

import (
	"sync"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Kind is what happened to a blob.
type Kind int

const (
	// Committed: the blob is complete, verified and durable.
	Committed Kind = iota + 1
	// Removed: the blob, whole or partial, was deleted, evicted or refuted.
	Removed
)

// String is the kind for a log line.
func (k Kind) String() string {
	switch k {
	case Committed:
		return "committed"
	case Removed:
		return "removed"
	}
	return "unknown"
}

// Event is one piece of news of the store.
type Event struct {
	Digest blob.Digest
	Size   int64
	Kind   Kind
}

// feed hands events to one subscriber. The queue has no limit, so a slow
// subscriber neither holds the store up nor misses an event; it grows by one
// small value for each commit or removal.
type feed struct {
	out  chan Event
	quit chan struct{}
	kick chan struct{} // capacity 1

	mu    sync.Mutex
	queue []Event // guarded by mu
}

// Events subscribes to commits and removals from now on, in order. cancel
// ends the subscription; it and Close close the channel.
func (s *Store) Events() (events <-chan Event, cancel func()) {
	f := &feed{out: make(chan Event), quit: make(chan struct{}), kick: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(f.out)
		return f.out, func() {}
	}
	s.feeds[f] = struct{}{}
	s.work.Go(func() { f.run(s.stop) })
	return f.out, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.feeds[f]; ok {
			delete(s.feeds, f)
			close(f.quit)
		}
	}
}

// tell queues an event for every subscriber. s.mu is held, so that all see
// one order.
func (s *Store) tell(e Event) {
	for f := range s.feeds {
		f.mu.Lock()
		f.queue = append(f.queue, e)
		f.mu.Unlock()
		poke(f.kick)
	}
}

func (f *feed) run(stop <-chan struct{}) {
	defer close(f.out)
	for {
		select {
		case <-stop:
			return
		case <-f.quit:
			return
		case <-f.kick:
		}
		f.mu.Lock()
		queue := f.queue
		f.queue = nil
		f.mu.Unlock()
		for _, e := range queue {
			select {
			case f.out <- e:
			case <-stop:
				return
			case <-f.quit:
				return
			}
		}
	}
}

// poke puts a token into a channel of capacity 1 unless there is one.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
