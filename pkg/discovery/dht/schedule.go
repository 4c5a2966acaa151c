package dht

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/ipfs/go-cid"
)

// schedule says what is to be announced next. It is a plain value without a
// clock or a lock; its user guards it.
type schedule struct {
	limit   int
	entries map[cid.Cid]*announcement
	due     dueHeap
}

type announcement struct {
	key      cid.Cid
	at       time.Time
	failures int
	index    int // in due; -1 while it is being announced
}

func newSchedule(limit int) *schedule {
	return &schedule{limit: limit, entries: map[cid.Cid]*announcement{}}
}

// add puts a key in; one that is there stays as it is. It reports whether
// there was room.
func (s *schedule) add(key cid.Cid, at time.Time) bool {
	if _, there := s.entries[key]; there {
		return true
	}
	if len(s.entries) >= s.limit {
		return false
	}
	a := &announcement{key: key, at: at}
	s.entries[key] = a
	heap.Push(&s.due, a)
	return true
}

func (s *schedule) remove(key cid.Cid) {
	a := s.entries[key]
	delete(s.entries, key)
	if a != nil && a.index >= 0 {
		heap.Remove(&s.due, a.index)
	}
}

// take hands out what is due at now, or says how long to wait. It waits an
// hour when there is nothing.
func (s *schedule) take(now time.Time) (*announcement, time.Duration) {
	if len(s.due) == 0 {
		return nil, time.Hour
	}
	if wait := s.due[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&s.due).(*announcement), 0
}

// done puts what take handed out back, for another time. What was removed
// meanwhile stays away.
func (s *schedule) done(a *announcement, at time.Time) {
	if s.entries[a.key] != a {
		return
	}
	a.at = at
	heap.Push(&s.due, a)
}

// outcome of an attempt to announce.
type outcome int

const (
	announced outcome = iota
	enough            // others hold it in sufficient number
	failed
)

// pause says how long after an attempt the next one is due. Chance is in
// [0,1) and spreads the nodes.
func pause(o outcome, failures int, ttl time.Duration, chance float64) time.Duration {
	spread := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) * (0.8 + 0.4*chance))
	}
	switch o {
	case announced:
		return spread(ttl * 6 / 10)
	case enough:
		return spread(ttl / 4)
	default:
		return min(spread(time.Second<<min(failures, 6)), ttl/4)
	}
}

// jitter is a random wait below limit.
func jitter(limit time.Duration) time.Duration { return rand.N(max(limit, 1)) }

// dueHeap orders announcements by time, earliest first (container/heap).
type dueHeap []*announcement

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	a := x.(*announcement)
	a.index = len(*h)
	*h = append(*h, a)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	a.index = -1
	return a
}
