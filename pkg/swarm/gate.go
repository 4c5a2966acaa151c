package swarm

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// seedIdle is how long a seed remembers which pieces of a blob left it, after
// the last request for them.
const seedIdle = 2 * time.Minute

var errPushedOut = errors.New("a more urgent request took the place")

// gate hands out the upload slots and keeps what a seed remembers.
type gate struct {
	metrics *serverMetrics

	mu      sync.Mutex
	queue   *policy.Queue              // guarded by mu
	seeds   map[blob.Digest]*seedState // guarded by mu
	service time.Duration              // smoothed time of a piece in its slot; guarded by mu
	params  policy.Params              // never changes
}

// seedState is what a seed remembers about a blob; guarded by gate.mu.
type seedState struct {
	emitter *policy.Emitter
	have    blob.Bitmap // as last seen
	asking  int         // requests that wait or are served
	watched bool        // a goroutine keeps have up to date
	used    time.Time

	deserted chan struct{} // gets a value when asking falls to 0
}

// ticket is the Value of a Waiter.
type ticket struct {
	ready   func() bool // asked with gate.mu held; nil is always ready
	granted chan error
}

func newGate(params policy.Params, m *serverMetrics) *gate {
	return &gate{params: params, metrics: m, queue: policy.NewQueue(params), seeds: map[blob.Digest]*seedState{}}
}

// acquire waits for a slot, no longer than patience. ready is asked with g.mu
// held whenever a slot could be given.
func (g *gate) acquire(ctx context.Context, w *policy.Waiter, patience time.Duration, ready func() bool) error {
	t := &ticket{ready: ready, granted: make(chan error, 1)}
	w.Value = t
	g.mu.Lock()
	out, ok := g.queue.Push(w)
	if !ok {
		retry := g.retry()
		g.mu.Unlock()
		return busy(retry)
	}
	if out != nil {
		out.Value.(*ticket).granted <- errPushedOut
	}
	g.dispatch()
	g.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case err = <-t.granted:
	case <-ctx.Done():
		err = g.giveUp(w, t, ctx.Err())
	case <-timer.C:
		err = g.giveUp(w, t, errPushedOut)
	}
	if errors.Is(err, errPushedOut) {
		g.mu.Lock()
		defer g.mu.Unlock()
		return busy(g.retry())
	}
	return err
}

// giveUp takes w out of the queue, unless it was served at this very moment.
func (g *gate) giveUp(w *policy.Waiter, t *ticket, why error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queue.Remove(w) {
		g.gauge()
		return why
	}
	return <-t.granted
}

// retry guesses when the queue will have moved; g.mu is held.
func (g *gate) retry() time.Duration {
	service := g.service
	if service == 0 {
		service = 50 * time.Millisecond
	}
	return min(max(service*time.Duration(1+g.queue.Len()/2)/time.Duration(g.params.Slots), 10*time.Millisecond), 2*time.Second)
}

func busy(retry time.Duration) error {
	return &refusal{status: http.StatusServiceUnavailable, reason: "busy", text: "no upload slot is free", retry: retry}
}

// release gives the slot of w back.
func (g *gate) release(w *policy.Waiter, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if took > 0 {
		g.service += (took - g.service) / 8
	}
	g.queue.Release(w)
	g.dispatch()
}

// dispatch gives free slots away; g.mu is held.
func (g *gate) dispatch() {
	for {
		w := g.queue.Next(func(w *policy.Waiter) bool {
			t := w.Value.(*ticket)
			return t.ready == nil || t.ready()
		})
		if w == nil {
			break
		}
		w.Value.(*ticket).granted <- nil
	}
	g.gauge()
}

func (g *gate) gauge() {
	g.metrics.slots.Set(float64(g.queue.Active()))
	g.metrics.waiting.Set(float64(g.queue.Len()))
}

// enter finds or makes what is remembered about a blob, and keeps it until
// leave.
func (g *gate) enter(c Content, pieces int) *seedState {
	d := c.Digest()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for other, s := range g.seeds {
		if s.asking == 0 && now.Sub(s.used) > seedIdle {
			delete(g.seeds, other)
		}
	}
	s := g.seeds[d]
	if s == nil {
		s = &seedState{emitter: policy.NewEmitter(pieces), deserted: make(chan struct{}, 1)}
		g.seeds[d] = s
	}
	s.used = now
	s.asking++
	// Read with the lock held, so that an older state never replaces a newer.
	s.have = snapshot(c)
	return s
}

func (g *gate) leave(s *seedState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.used = time.Now()
	if s.asking--; s.asking == 0 {
		select {
		case s.deserted <- struct{}{}:
		default:
		}
	}
}

func (g *gate) fresh(s *seedState, piece int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return s.emitter.Fresh(piece)
}

// emitted notes how sending a piece ended that the seed chose, or that had not
// left before. The slot
// is given back after this, so that whoever gets it sees the news.
func (g *gate) emitted(s *seedState, piece int, whole bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if whole {
		s.emitter.Sent(time.Now(), piece)
	} else {
		s.emitter.Returned(piece)
	}
}

// grown notes what a growing blob holds; false means that nobody needs to
// know any more.
func (g *gate) grown(s *seedState, have blob.Bitmap) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.have = have
	g.dispatch()
	s.watched = !have.Full() && s.asking > 0
	return s.watched
}

// stillWatched reports whether somebody asks again for a blob that was
// deserted.
func (g *gate) stillWatched(s *seedState) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.watched = s.asking > 0
	return s.watched
}
