package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// host is one machine: its links, what it serves, what it fetches.
type host struct {
	w         *world
	id        int
	name      string
	up, down  float64
	sending   []*flow
	receiving []*flow

	queue    *policy.Queue
	emitters []*policy.Emitter // of a seed
	serving  []*request

	peers    map[string]*policy.Peer
	share    *policy.Share[*session]
	sessions []*session
	open     int // sessions that are not done
	done     time.Duration

	seed, liar, silent, dead, freezes bool
}

func (w *world) build() {
	cfg := w.cfg
	w.seed = w.host(-1, cfg.seedRate())
	w.seed.seed = true
	p := cfg.Policy
	p.Waiting, p.WaitingPerPeer = 2048, 64
	w.seed.queue = policy.NewQueue(p)
	for range cfg.Blobs {
		w.seed.emitters = append(w.seed.emitters, policy.NewEmitter(cfg.Pieces))
	}
	for i := range cfg.Hosts {
		w.hosts = append(w.hosts, w.host(i, cfg.Rate))
	}
	for i, h := range w.hosts {
		h.liar = i >= cfg.Hosts-int(cfg.Liars*float64(cfg.Hosts))
	}
	if cfg.Crawler {
		w.hosts[0].up /= 100
	}
	w.hosts[0].silent = cfg.Silent
	if cfg.Freezes {
		w.hosts = append(w.hosts, w.host(cfg.Hosts, cfg.Rate))
		w.hosts[cfg.Hosts].freezes = true
	}
	for _, h := range w.hosts {
		for b := range cfg.Blobs {
			h.sessions = append(h.sessions, newSession(h, b))
		}
	}
	w.acquaint()
	for _, h := range w.hosts {
		if h.liar {
			w.after(0, h.boast)
			continue
		}
		if h.freezes {
			w.after(0, h.early)
			w.after(cfg.Bound()/8, h.freeze)
			continue
		}
		w.left += len(h.sessions)
		h.open = len(h.sessions)
		for _, s := range h.sessions {
			w.after(time.Duration(w.rand.Int64N(int64(5*time.Millisecond))), s.tick)
		}
	}
	if dying := int(cfg.Dying * float64(cfg.Hosts)); dying > 0 {
		w.after(cfg.Bound()/2, func() {
			for _, h := range w.hosts[1 : 1+dying] {
				h.die()
			}
		})
	}
}

func (w *world) host(id int, rate float64) *host {
	return &host{
		w: w, id: id, name: fmt.Sprintf("host %d", id), up: rate, down: rate,
		queue: policy.NewQueue(w.cfg.Policy),
		peers: map[string]*policy.Peer{}, share: policy.NewShare[*session](w.cfg.Policy.Downloads),
	}
}

// acquaint tells each host its neighbours, and those of whom they are
// neighbours.
func (w *world) acquaint() {
	n := len(w.hosts)
	for _, h := range w.hosts {
		want := n - 1
		if w.cfg.Neighbours > 0 {
			want = min(want, w.cfg.Neighbours)
		}
		met := map[*host]bool{h: true}
		if want == n-1 {
			for _, o := range w.hosts {
				h.meet(o)
			}
			continue
		}
		for len(met) <= want {
			if o := w.hosts[w.rand.IntN(n)]; !met[o] {
				met[o] = true
				h.meet(o)
			}
		}
	}
}

func (h *host) meet(o *host) {
	if o == h {
		return
	}
	peer := &policy.Peer{Distance: 2}
	h.peers[o.name] = peer
	for b, s := range h.sessions {
		s.picker.Add(o.name, peer)
		s.known[o.name] = o
		o.sessions[b].followers = append(o.sessions[b].followers, s)
	}
}

// boast claims every piece, as a liar does.
func (h *host) boast() {
	all := blob.NewBitmap(h.w.cfg.Pieces)
	all.Fill()
	for _, s := range h.sessions {
		for _, f := range s.followers {
			f.picker.Reset(h.name, all)
		}
	}
}

// early lets a host have everything that there is, from the seed.
func (h *host) early() {
	for b, s := range h.sessions {
		s.have.Fill()
		for i := range h.w.cfg.Pieces {
			h.w.seed.emitters[b].Begin(i)
			h.w.seed.emitters[b].Sent(h.w.clock().Add(-time.Minute), i)
		}
	}
	h.boast()
}

// freeze stops a host in the middle of whatever it sends. Nobody is told.
func (h *host) freeze() {
	h.silent = true
	for _, f := range slices.Clone(h.sending) {
		f.left -= f.rate * (h.w.now - f.since).Seconds()
		h.w.end(f)
		f.rate = 0
	}
}

func (h *host) die() {
	if h.done == 0 {
		h.w.left -= h.open
	}
	h.dead = true
	for _, r := range slices.Clone(h.serving) {
		r.abort()
	}
	for _, s := range h.sessions {
		for _, j := range slices.Clone(s.order) {
			for _, r := range slices.Clone(j.requests) {
				r.abort()
			}
		}
		for _, r := range slices.Clone(s.nexts) {
			r.abort()
		}
	}
}

// request is one piece that is asked for.
type request struct {
	from  *session
	to    *host
	piece int
	next  bool
	again bool // of next: what has left the seed before
	want  blob.Bitmap
	slot  bool // a download slot of the asker's
	slow  bool // was hedged

	start  time.Duration
	moved  time.Duration // when bytes were last seen to come
	seen   float64       // how many were here then
	still  bool          // none have come for longer than nearly all pieces take
	waiter *policy.Waiter
	flow   *flow
	first  bool // the seed chose it, or it leaves for the first time
	none   bool // every wanted piece has left the seed
	over   bool
}

// receive is a request's arrival.
func (h *host) receive(r *request) {
	switch {
	case r.over:
		return
	case h.dead:
		r.fail(func(p *policy.Peer, now time.Time, c *rand.Rand) { p.Failed(now, c) })
		return
	case h.silent && !h.seed:
		return
	case !h.seed && !h.sessions[r.from.blob].have.Has(r.piece):
		r.from.picker.Lost(h.name, r.piece)
		r.fail(func(p *policy.Peer, now time.Time, c *rand.Rand) { p.Lied(now, c) })
		return
	}
	r.waiter = &policy.Waiter{Peer: r.from.h.name, Value: r, Repeat: r.again}
	if h.seed && !r.next {
		r.waiter.Repeat = !h.emitters[r.from.blob].Fresh(r.piece)
	}
	if _, ok := h.queue.Push(r.waiter); !ok {
		r.waiter = nil
		retry := 20*time.Millisecond + time.Duration(h.w.rand.Int64N(int64(50*time.Millisecond)))
		r.fail(func(p *policy.Peer, now time.Time, _ *rand.Rand) { p.Busy(now, retry) })
		return
	}
	h.serving = append(h.serving, r)
	h.dispatch()
}

// dispatch gives free upload slots away.
func (h *host) dispatch() {
	for {
		w := h.queue.Next(func(w *policy.Waiter) bool { return h.ready(w.Value.(*request)) })
		if w == nil {
			return
		}
		r := w.Value.(*request)
		if r.none {
			h.queue.Release(w)
			h.serving = without(h.serving, r)
			h.w.after(h.w.cfg.Latency, func() { r.from.exhausted(r) })
			continue
		}
		h.w.after(h.w.cfg.Latency, func() { r.from.answered(r) })
		r.flow = h.w.begin(h, r.from.h, h.w.cfg.Piece, func() { h.sent(r) })
	}
}

func (h *host) ready(r *request) bool {
	if !h.seed {
		return true
	}
	e := h.emitters[r.from.blob]
	if !r.next {
		r.first = e.Begin(r.piece)
		return true
	}
	all := blob.NewBitmap(h.w.cfg.Pieces)
	all.Fill()
	var ok bool
	if r.again {
		r.piece, ok = e.Again(h.w.clock(), h.w.cfg.Policy.AgainAfter, r.want, all)
	} else {
		r.piece, ok = e.Next(r.want, all)
	}
	if ok {
		r.first = true
		return true
	}
	r.piece = -1
	r.none = r.again || e.Exhausted(r.want)
	return r.none
}

// sent is the end of a piece's sending.
func (h *host) sent(r *request) {
	if h.seed {
		h.w.sent += h.w.cfg.Piece
		if r.first {
			h.emitters[r.from.blob].Sent(h.w.clock(), r.piece)
		}
	}
	h.serving = without(h.serving, r)
	h.queue.Release(r.waiter)
	h.dispatch()
	h.w.after(h.w.cfg.Latency, func() { r.from.arrived(r) })
}

// abort breaks a request off, at whichever end.
func (r *request) abort() {
	if r.over {
		return
	}
	h := r.to
	h.serving = without(h.serving, r)
	switch {
	case r.flow != nil && !r.flow.ended:
		if h.seed {
			h.w.sent += h.w.cfg.Piece - max(0, r.flow.left)
		}
		h.w.end(r.flow)
		if r.first {
			h.emitters[r.from.blob].Returned(r.piece)
		}
		h.queue.Release(r.waiter)
		h.dispatch()
	case r.waiter != nil && r.flow == nil:
		h.queue.Remove(r.waiter)
	}
	r.fail(func(p *policy.Peer, now time.Time, c *rand.Rand) {
		if h.dead {
			p.Failed(now, c)
		}
	})
}

// fail tells the asker that nothing will come.
func (r *request) fail(judge func(p *policy.Peer, now time.Time, c *rand.Rand)) {
	if r.over {
		return
	}
	r.over = true
	r.from.h.w.after(r.from.h.w.cfg.Latency, func() { r.from.failed(r, judge) })
}
