package swarm

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// answered decides whether an attempt whose peer began to answer may write
// into the sink. There is one writer for each piece at a time.
func (s *session) answered(a *attempt, piece int) {
	if a.next && !s.adopt(a, piece) {
		a.permit <- false
		return
	}
	j := s.jobs[piece]
	switch {
	case j == nil:
		a.permit <- false
	case j.writer == nil:
		s.write(j, a)
	case j.waiting == nil && s.late(j.writer, time.Now()):
		j.waiting = a
		j.writer.cancel(errBeaten)
	default:
		a.permit <- false
	}
}

// write makes a the writer of its piece and calls the others off.
func (s *session) write(j *job, a *attempt) {
	j.writer = a
	a.permit <- true
	for _, other := range j.attempts {
		if other != a {
			other.cancel(errBeaten)
		}
	}
}

// adopt makes the piece that a seed chose a job of this attempt.
func (s *session) adopt(a *attempt, piece int) bool {
	if !s.sink.Missing().Has(piece) || !s.known.Has(piece) {
		return false
	}
	j := s.jobs[piece]
	if j == nil {
		release, ok := s.req.Claim(piece)
		if !ok {
			return false
		}
		j = &job{piece: piece, release: release, chance: s.rand.Float64()}
		s.jobs[piece] = j
	}
	a.piece = piece
	a.start = time.Now() // until now it stood in the seed's queue
	j.attempts = append(j.attempts, a)
	return true
}

// late reports whether an attempt should have a second beside it.
func (s *session) late(a *attempt, now time.Time) bool {
	if a.still {
		return true
	}
	length := blob.PieceRange(s.size, a.piece).Len()
	return s.pace.Late(s.e.params, now.Sub(a.start), a.got.Load(), length)
}

// watch looks which pieces move, and who is silent.
func (s *session) watch(now time.Time) {
	after := s.pace.HedgeAfter(s.e.params)
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for a := range s.attempts {
		if a.piece < 0 {
			continue // it stands in a seed's queue
		}
		last := a.start
		if a.moved.After(last) {
			last = a.moved
		}
		switch got := a.got.Load(); {
		case got > a.seen:
			a.seen, a.moved, a.still = got, now, false
			a.link.state.Moved(now)
		case now.Sub(last) >= after:
			a.still = true
			a.link.state.Stalled(now, after)
		}
	}
}

// ended takes note of how an attempt ended.
func (s *session) ended(a *attempt, err error) {
	delete(s.attempts, a)
	s.due = true
	now := time.Now()
	took := now.Sub(a.start)
	s.e.judge(a.link.state, func(p *policy.Peer, _ time.Time, _ *rand.Rand) { p.Outstanding-- })
	if a.slot {
		s.e.release(s)
	}
	if a.next {
		a.link.asked--
	}
	if err == nil {
		s.delivered(a, now, took)
		return
	}
	s.blame(a, err, took)
	if a.piece < 0 {
		return
	}
	j := s.jobs[a.piece]
	if j == nil {
		return
	}
	j.drop(a)
	switch {
	case j.writer == nil && j.waiting != nil:
		next := j.waiting
		j.waiting = nil
		s.write(j, next)
	case len(j.attempts) == 0:
		delete(s.jobs, j.piece)
		j.release()
	}
}

func (j *job) drop(a *attempt) {
	if j.writer == a {
		j.writer = nil
	}
	if j.waiting == a {
		j.waiting = nil
	}
	for i, other := range j.attempts {
		if other == a {
			j.attempts = append(j.attempts[:i], j.attempts[i+1:]...)
			return
		}
	}
}

// delivered takes note of a piece that is in the sink.
func (s *session) delivered(a *attempt, now time.Time, took time.Duration) {
	j := s.jobs[a.piece]
	if j != nil {
		delete(s.jobs, a.piece)
		j.release()
		j.drop(a)
		for _, other := range j.attempts {
			other.cancel(errBeaten)
		}
	}
	s.fed(now)
	s.pace.Add(took)
	s.e.judge(a.link.state, func(p *policy.Peer, _ time.Time, _ *rand.Rand) { p.Delivered(took) })
}

// blame takes note of why an attempt brought nothing.
func (s *session) blame(a *attempt, err error, took time.Duration) {
	var (
		status *statusError
		sink   *sinkError
		reason = "broken"
	)
	defer func() { s.e.metrics.failures.WithLabelValues(reason).Inc() }()
	switch {
	case errors.Is(err, errEnded), errors.Is(err, errNotOurs), errors.Is(err, context.Canceled):
		reason = "not needed"
	case errors.Is(err, errBeaten):
		reason = "beaten"
		if !a.slow && !a.still {
			return
		}
		if a.still || a.got.Load() == 0 {
			s.e.judge(a.link.state, (*policy.Peer).Silent)
		}
		s.e.judge(a.link.state, func(p *policy.Peer, _ time.Time, _ *rand.Rand) { p.Slow(2 * took) })
	case errors.Is(err, blob.ErrPieceMismatch):
		reason = "mismatch"
		s.ban(a)
	case errors.As(err, &sink):
		reason = "sink"
		s.fatal = sink.err
	case errors.As(err, &status):
		reason = s.blameStatus(a, status)
	default:
		s.log.Debug("ask a peer for a piece", "peer", a.link.peer.ID, "piece", a.piece, "err", err)
		s.e.judge(a.link.state, (*policy.Peer).Failed)
	}
}

func (s *session) blameStatus(a *attempt, status *statusError) (reason string) {
	switch {
	case status.status == http.StatusServiceUnavailable:
		s.e.judge(a.link.state, func(p *policy.Peer, now time.Time, _ *rand.Rand) { p.Busy(now, status.retry) })
		return "busy"
	case status.status == http.StatusNoContent && a.again:
		s.againAt = time.Now().Add(s.e.params.GraceBy(s.rand.Float64()))
		return "left the seed"
	case status.status == http.StatusNoContent && a.next:
		for i := range a.want.All() {
			s.gone.Set(i)
		}
		return "left the seed"
	case status.status == http.StatusNotImplemented && a.next:
		s.demote(a.link)
		return "no seed"
	case status.status == http.StatusNotFound && !a.next:
		s.picker.Lost(a.link.peer.ID, a.piece)
		a.link.told.Clear(a.piece)
		s.e.judge(a.link.state, (*policy.Peer).Lied)
		return "not held"
	}
	s.e.judge(a.link.state, (*policy.Peer).Failed)
	return "refused"
}

// demote treats a peer that chooses nothing by itself like any neighbour.
func (s *session) demote(l *link) {
	if !s.linked(l) || !l.peer.Seed {
		return
	}
	l.peer.Seed = false
	s.picker.Add(l.peer.ID, l.state)
	s.picker.Reset(l.peer.ID, l.told)
}

// ban leaves a peer alone that sent wrong bytes.
func (s *session) ban(a *attempt) {
	s.e.metrics.mismatches.Inc()
	s.e.metrics.bans.Inc()
	s.e.judge(a.link.state, func(p *policy.Peer, now time.Time, _ *rand.Rand) { p.Ban(now) })
	s.log.Warn("a peer sent wrong bytes and is banned", "peer", a.link.peer.ID, "addr", a.link.peer.Addr, "piece", a.piece)
	s.e.cfg.Report(Bad{Peer: a.link.peer, Digest: s.sink.Digest(), Piece: a.piece, Reason: "the piece does not match its signed hash"})
	if s.linked(a.link) {
		s.unlink(a.link)
	}
}

// hedge asks a second peer for pieces that are late.
func (s *session) hedge(now time.Time) {
	open := 0
	for _, j := range s.jobs {
		if len(j.attempts) > 1 {
			open++
		}
	}
	for _, j := range s.jobs {
		if open >= s.e.params.Hedges {
			return
		}
		latest := j.attempts[len(j.attempts)-1]
		if len(j.attempts) > 2 || !s.late(latest, now) {
			continue
		}
		second := s.second(now, j, latest)
		if second == nil {
			continue
		}
		latest.slow = true
		open++
		s.e.metrics.hedges.Inc()
		s.req.Hedged()
		s.start(&attempt{link: second, piece: j.piece}, nil)
	}
}

// second is whom to ask beside those that were asked: a neighbour, else, after
// some more time, a seed.
func (s *session) second(now time.Time, j *job, latest *attempt) *link {
	asked := make([]string, len(j.attempts))
	for i, a := range j.attempts {
		asked[i] = a.link.peer.ID
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if id, ok := s.picker.Second(now, j.piece, asked...); ok {
		return s.links[id]
	}
	if now.Sub(latest.start) < s.pace.SeedAfter(s.e.params, j.chance) {
		return nil
	}
	for _, l := range s.order {
		if l.peer.Seed && l.told.Has(j.piece) && l.state.Ready(now) && !slices.Contains(asked, l.peer.ID) {
			return l
		}
	}
	return nil
}
