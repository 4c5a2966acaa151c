package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// tick is as in pkg/swarm.
const tick = 50 * time.Millisecond

// session fetches one blob on one host.
type session struct {
	h         *host
	blob      int
	have      blob.Bitmap
	gone      blob.Bitmap
	picker    *policy.Picker
	known     map[string]*host
	followers []*session
	jobs      map[int]*job
	order     []*job // the same, as they began: a map's order is no seed's
	nexts     []*request
	pace      policy.Pace
	hunger    policy.Starving
	againAt   time.Duration // nothing scarce is asked for before
	fresh     []int         // gained and not yet told
	telling   bool
}

type job struct {
	piece    int
	requests []*request
	writer   *request
	chance   float64
}

func newSession(h *host, b int) *session {
	n := h.w.cfg.Pieces
	return &session{
		h: h, blob: b, have: blob.NewBitmap(n), gone: blob.NewBitmap(n),
		picker: policy.NewPicker(h.w.cfg.Policy, n, h.w.rand),
		known:  map[string]*host{}, jobs: map[int]*job{},
	}
}

func (s *session) fed() { s.hunger.Fed(s.h.w.cfg.Policy, s.h.w.clock(), s.h.w.rand.Float64()) }

func (s *session) finished() bool { return s.have.Full() }

// tick is the loop that looks for what is late, and keeps seeds asked.
func (s *session) tick() {
	if s.finished() || s.h.dead || s.h.liar {
		return
	}
	s.watch()
	s.step()
	s.h.w.after(tick, s.tick)
}

func (s *session) step() {
	if s.finished() || s.h.dead || s.h.liar {
		return
	}
	s.fill(false)
	s.askSeed()
	s.hedge()
}

func (s *session) want() blob.Bitmap {
	want := blob.NewBitmap(s.have.Len())
	want.Fill()
	want = want.Minus(s.have)
	for _, j := range s.order {
		want.Clear(j.piece)
	}
	return want
}

func (s *session) fill(granted bool) {
	w := s.h.w
	want := s.want()
	for {
		if !granted && !s.h.share.Acquire(s) {
			s.fed()
			return
		}
		granted = false
		c, ok := s.picker.Pick(w.clock(), want, blob.Bitmap{})
		if !ok {
			s.release()
			return
		}
		want.Clear(c.Piece)
		s.ask(&request{from: s, to: s.known[c.Peer], piece: c.Piece, slot: true})
	}
}

func (s *session) release() {
	if next, ok := s.h.share.Release(s); ok {
		next.h.w.after(0, func() {
			if next.finished() || next.h.dead {
				next.release()
				return
			}
			next.fill(true)
		})
	}
}

func (s *session) ask(r *request) {
	w := s.h.w
	r.start = w.now
	if p := s.h.peers[r.to.name]; p != nil {
		p.Outstanding++
	}
	if r.next {
		s.nexts = append(s.nexts, r)
	} else {
		s.adopt(r)
	}
	w.after(w.cfg.Latency, func() { r.to.receive(r) })
}

func (s *session) adopt(r *request) {
	j := s.jobs[r.piece]
	if j == nil {
		j = &job{piece: r.piece, chance: s.h.w.rand.Float64()}
		s.jobs[r.piece] = j
		s.order = append(s.order, j)
	}
	j.requests = append(j.requests, r)
}

// answered is the header of an answer.
func (s *session) answered(r *request) {
	if r.over {
		return
	}
	if r.next {
		if s.have.Has(r.piece) {
			r.abort()
			return
		}
		r.start = s.h.w.now
		s.adopt(r)
	}
	j := s.jobs[r.piece]
	switch {
	case j == nil:
		r.abort()
		return
	case j.writer != nil && j.writer != r:
		if !s.late(j.writer) {
			r.abort()
			return
		}
		s.beat(j.writer)
	}
	j.writer = r
	for _, o := range append([]*request(nil), j.requests...) {
		if o != r {
			s.beat(o)
		}
	}
}

// beat calls off a request that another was faster than.
func (s *session) beat(r *request) {
	if p := s.h.peers[r.to.name]; p != nil && (r.slow || r.still) {
		if r.still || r.flow == nil || r.flow.left >= s.h.w.cfg.Piece {
			p.Silent(s.h.w.clock(), s.h.w.rand)
		}
		p.Slow(2 * (s.h.w.now - r.start))
	}
	r.abort()
}

// arrived is the end of a piece.
func (s *session) arrived(r *request) {
	if r.over {
		return
	}
	r.over = true
	w := s.h.w
	s.leave(r)
	took := w.now - r.start
	s.pace.Add(took)
	if p := s.h.peers[r.to.name]; p != nil {
		p.Delivered(took)
	}
	if j := s.jobs[r.piece]; j != nil {
		s.forget(j)
		for _, o := range append([]*request(nil), j.requests...) {
			o.abort()
		}
	}
	s.fed()
	if !s.have.Has(r.piece) {
		s.have.Set(r.piece)
		s.tell(r.piece)
		if s.finished() {
			s.finish()
		}
	}
	s.step()
}

func (s *session) finish() {
	w := s.h.w
	w.left--
	if s.h.open--; s.h.open == 0 {
		s.h.done = w.now
	}
	for _, r := range slices.Clone(s.nexts) {
		r.abort()
	}
}

// leave takes a request that is over out of the books.
func (s *session) leave(r *request) {
	if p := s.h.peers[r.to.name]; p != nil {
		p.Outstanding--
	}
	if r.slot {
		s.release()
	}
	s.nexts = without(s.nexts, r)
	if j := s.jobs[r.piece]; j != nil && r.piece >= 0 {
		j.requests = without(j.requests, r)
		if j.writer == r {
			j.writer = nil
		}
		if len(j.requests) == 0 {
			s.forget(j)
		}
	}
}

func (s *session) forget(j *job) {
	delete(s.jobs, j.piece)
	s.order = without(s.order, j)
}

func (s *session) failed(r *request, judge func(p *policy.Peer, now time.Time, c *rand.Rand)) {
	s.leave(r)
	if p := s.h.peers[r.to.name]; p != nil {
		judge(p, s.h.w.clock(), s.h.w.rand)
	}
	s.step()
}

// exhausted is a seed's 204.
func (s *session) exhausted(r *request) {
	if r.over {
		return
	}
	r.over = true
	s.leave(r)
	if r.again {
		w := s.h.w
		s.againAt = w.now + w.cfg.Policy.GraceBy(w.rand.Float64())
		s.step()
		return
	}
	for i := range r.want.All() {
		s.gone.Set(i)
	}
	s.step()
}

// tell passes on to the followers what was gained, after a moment in which
// more may come.
func (s *session) tell(piece int) {
	s.fresh = append(s.fresh, piece)
	if s.telling {
		return
	}
	s.telling = true
	w := s.h.w
	w.after(w.cfg.Gather/2+w.cfg.Latency, func() {
		gained := s.fresh
		s.fresh, s.telling = nil, false
		for _, f := range s.followers {
			for _, i := range gained {
				f.picker.Gained(s.h.name, i)
			}
			f.step()
		}
	})
}

func (r *request) got(w *world) float64 {
	if r.flow == nil {
		return 0
	}
	return w.cfg.Piece - (r.flow.left - r.flow.rate*(w.now-r.flow.since).Seconds())
}

// watch looks which pieces move, and who is silent.
func (s *session) watch() {
	w := s.h.w
	after := s.pace.HedgeAfter(w.cfg.Policy)
	for _, j := range s.order {
		for _, r := range j.requests {
			p := s.h.peers[r.to.name]
			switch got := r.got(w); {
			case got > r.seen:
				r.seen, r.moved, r.still = got, w.now, false
				if p != nil {
					p.Moved(w.clock())
				}
			case w.now-max(r.start, r.moved) >= after:
				r.still = true
				if p != nil {
					p.Stalled(w.clock(), after)
				}
			}
		}
	}
}

func (s *session) late(r *request) bool {
	if r.still {
		return true
	}
	got := r.got(s.h.w)
	return s.pace.Late(s.h.w.cfg.Policy, s.h.w.now-r.start, int64(got), int64(s.h.w.cfg.Piece))
}

func (s *session) hedge() {
	w := s.h.w
	open := 0
	for _, j := range s.order {
		if len(j.requests) > 1 {
			open++
		}
	}
	for _, j := range append([]*job(nil), s.order...) {
		if open >= w.cfg.Policy.Hedges {
			return
		}
		latest := j.requests[len(j.requests)-1]
		if len(j.requests) > 2 || !s.late(latest) {
			continue
		}
		asked := make([]string, len(j.requests))
		for i, r := range j.requests {
			asked[i] = r.to.name
		}
		second := w.seed
		if id, ok := s.picker.Second(w.clock(), j.piece, asked...); ok {
			second = s.known[id]
		} else if w.now-latest.start < s.pace.SeedAfter(w.cfg.Policy, j.chance) || slices.Contains(asked, w.seed.name) {
			continue
		}
		latest.slow = true
		open++
		w.hedges++
		s.ask(&request{from: s, to: second, piece: j.piece})
	}
}

// askSeed is as in pkg/swarm.
func (s *session) askSeed() {
	w := s.h.w
	want := s.want()
	fresh := want.Minus(s.gone)
	for n := min(w.cfg.Policy.NextAhead, fresh.Count()); len(s.nexts) < n; {
		s.ask(&request{from: s, to: w.seed, next: true, want: fresh, piece: -1})
	}
	if len(s.nexts) < w.cfg.Policy.NextAhead && w.now >= s.againAt {
		lost := s.scarce(want)
		for n := min(w.cfg.Policy.NextAhead, lost.Count()); len(s.nexts) < n; {
			s.ask(&request{from: s, to: w.seed, next: true, again: true, want: lost, piece: -1})
		}
	}
	open := 0
	for _, j := range s.order {
		for _, r := range j.requests {
			if r.to == w.seed && !r.next {
				open++
			}
		}
	}
	for _, j := range s.order {
		if r := j.writer; r != nil && r.flow != nil && !s.late(r) {
			s.fed()
			break
		}
	}
	if !s.hunger.Starved(w.clock()) {
		return
	}
	var lost []int
	for i := range want.All() {
		if s.gone.Has(i) {
			lost = append(lost, i)
		}
	}
	w.rand.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
	for _, i := range lost {
		if open >= w.cfg.Policy.NextAhead {
			return
		}
		open++
		s.fed()
		s.ask(&request{from: s, to: w.seed, piece: i})
	}
}

// scarce is as in pkg/swarm.
func (s *session) scarce(want blob.Bitmap) blob.Bitmap {
	lost := want.Clone()
	for _, j := range s.order {
		if len(j.requests) == 1 && j.requests[0].still && j.requests[0].to != s.h.w.seed {
			lost.Set(j.piece)
		}
	}
	lost = lost.Minus(lost.Minus(s.gone)) // those that have left the seed
	return s.picker.Scarce(s.h.w.clock(), lost)
}
