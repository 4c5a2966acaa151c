package policy

import "slices"

// Waiter is a request that waits for an upload slot.
type Waiter struct {
	Peer   string
	Class  Class
	Repeat bool // a seed has sent this piece before: served after everything that is new
	Value  any  // the holder's own

	tag uint64 // start-time fair queueing: the turn of this peer
}

// Queue hands upload slots to requests: by class, then what is new before
// repeats, then turn by turn between the peers, first come first served within
// one peer.
type Queue struct {
	params  Params
	waiting []*Waiter
	perPeer map[string]*turn
	active  int
	clock   uint64 // the turn that was served last
}

type turn struct {
	waiting, active int
	last            uint64
}

// NewQueue makes an empty queue; params gives its bounds.
func NewQueue(params Params) *Queue {
	return &Queue{params: params, perPeer: map[string]*turn{}}
}

// Len is how many wait, Active how many are served.
func (q *Queue) Len() int { return len(q.waiting) }

// Active is how many slots are taken.
func (q *Queue) Active() int { return q.active }

// Push lines a request up. It is refused when the queue, or this peer's part
// of it, is full; a more urgent class may then push the last one out, which is
// returned.
func (q *Queue) Push(w *Waiter) (out *Waiter, ok bool) {
	t := q.perPeer[w.Peer]
	if t != nil && t.waiting >= q.params.WaitingPerPeer {
		return nil, false
	}
	if len(q.waiting) >= q.params.Waiting {
		if len(q.waiting) == 0 {
			return nil, false
		}
		last := q.waiting[len(q.waiting)-1]
		if last.Class <= w.Class {
			return nil, false
		}
		q.Remove(last)
		out = last
	}
	if t = q.perPeer[w.Peer]; t == nil {
		t = &turn{}
		q.perPeer[w.Peer] = t
	}
	t.last = max(t.last, q.clock) + 1
	t.waiting++
	w.tag = t.last
	at, _ := slices.BinarySearchFunc(q.waiting, w, func(a, b *Waiter) int {
		if before(b, a) {
			return 1
		}
		return -1
	})
	q.waiting = slices.Insert(q.waiting, at, w)
	return out, true
}

// before reports whether a is served before b; equal ones stay as they came.
func before(a, b *Waiter) bool {
	if a.Class != b.Class {
		return a.Class < b.Class
	}
	if a.Repeat != b.Repeat {
		return !a.Repeat
	}
	return a.tag < b.tag
}

// Remove takes a request that gave up out of the queue.
func (q *Queue) Remove(w *Waiter) bool {
	at := slices.Index(q.waiting, w)
	if at < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, at, at+1)
	q.perPeer[w.Peer].waiting--
	q.forget(w.Peer)
	return true
}

// Next gives a free slot to the first request that is ready; Release must
// follow. nil: no slot is free or nobody is ready.
func (q *Queue) Next(ready func(*Waiter) bool) *Waiter {
	if q.active >= q.params.Slots {
		return nil
	}
	for at, w := range q.waiting {
		t := q.perPeer[w.Peer]
		if t.active >= q.params.PerPeerSlots || !ready(w) {
			continue
		}
		q.waiting = slices.Delete(q.waiting, at, at+1)
		t.waiting--
		t.active++
		q.active++
		q.clock = max(q.clock, w.tag)
		return w
	}
	return nil
}

// Release gives the slot of w back.
func (q *Queue) Release(w *Waiter) {
	q.active--
	q.perPeer[w.Peer].active--
	q.forget(w.Peer)
}

// forget drops a peer that has nothing here, unless its turn lies ahead.
func (q *Queue) forget(peer string) {
	if t := q.perPeer[peer]; t.waiting == 0 && t.active == 0 {
		delete(q.perPeer, peer)
	}
}
