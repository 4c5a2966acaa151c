package swarm

import (
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// askSeeds keeps requests open at the seeds: next, for what has not left them
// yet, next again for what has and few who answer hold, and at last
// by index for the rest, when this session starves.
func (s *session) askSeeds(now time.Time, want blob.Bitmap) {
	ahead := s.e.params.NextAhead
	if s.alone(now) {
		ahead = s.e.params.NextAlone
	}
	for _, l := range s.order {
		if !l.peer.Seed || !s.ready(l.state, now) {
			continue
		}
		fresh := s.fresh(want)
		for n := min(ahead, fresh.Count()); l.asked < n; {
			s.start(&attempt{link: l, next: true, want: fresh}, nil)
		}
		if l.asked < ahead && !now.Before(s.againAt) {
			lost := s.scarce(now, l, want)
			for n := min(ahead, lost.Count()); l.asked < n; {
				s.start(&attempt{link: l, next: true, again: true, want: lost}, nil)
			}
		}
		s.repeat(now, l, want, ahead)
	}
}

func (s *session) ready(p *policy.Peer, now time.Time) bool {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return p.Ready(now)
}

// alone reports whether no neighbour is there to exchange with.
func (s *session) alone(now time.Time) bool {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for _, l := range s.order {
		if !l.peer.Seed && l.alive && !l.state.Hopeless(now) {
			return false
		}
	}
	return true
}

// fresh is what a seed is asked to choose from: what a reader waits for and no
// neighbour has, if there is such a piece, else all that is wanted.
func (s *session) fresh(want blob.Bitmap) blob.Bitmap {
	fresh := want.Minus(s.gone)
	urgent := blob.NewBitmap(s.pieces)
	for i := range s.demand.All() {
		if fresh.Has(i) && s.picker.Held(i) == 0 {
			urgent.Set(i)
		}
	}
	if urgent.Count() > 0 {
		return urgent
	}
	return fresh
}

// scarce is what has left the seed and fewer than two who answer hold: that is
// wanted, or is owed by somebody who is silent.
func (s *session) scarce(now time.Time, seed *link, want blob.Bitmap) blob.Bitmap {
	lost := want.Clone()
	for i, j := range s.jobs {
		if len(j.attempts) == 1 && j.attempts[0].still && j.attempts[0].link != seed {
			lost.Set(i)
		}
	}
	kept := lost.Minus(s.gone)
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return s.picker.Scarce(now, lost.Minus(kept))
}

// repeat asks a seed by index for pieces that have left it, when this session
// starves.
func (s *session) repeat(now time.Time, l *link, want blob.Bitmap, ahead int) {
	open := 0
	for a := range s.attempts {
		if a.link == l && !a.next {
			open++
		}
	}
	if open >= ahead {
		return
	}
	for a := range s.attempts {
		if a.got.Load() > 0 && !s.late(a, now) {
			s.fed(now)
			break
		}
	}
	if !s.hunger.Starved(now) {
		return
	}
	var lost []int
	for i := range want.All() {
		if s.gone.Has(i) && l.told.Has(i) {
			lost = append(lost, i)
		}
	}
	// In no order, so that hosts in the same need ask for different ones.
	s.rand.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
	for _, i := range lost {
		if open >= ahead {
			break
		}
		release, ok := s.req.Claim(i)
		if !ok {
			continue
		}
		open++
		s.fed(now)
		s.start(&attempt{link: l, piece: i}, release)
	}
}
