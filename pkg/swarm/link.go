package swarm

import (
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// link is a session's end of the talk with one peer; owned by the session.
type link struct {
	peer   blob.Peer
	state  *policy.Peer // guarded by Exchange.mu
	client *client
	sub    *subscription
	asked  int         // next requests that are open
	told   blob.Bitmap // what a seed is said to hold
	alive  bool        // it has said what it holds
	absent int         // how often in a row it knew nothing of the blob
	askAt  time.Time   // when it is asked again after that; zero: not
}

// relink makes the links those of the latest list.
func (s *session) relink(list []blob.Peer) {
	keep := map[string]blob.Peer{}
	seeds, others := 0, 0
	now := time.Now()
	s.e.mu.Lock()
	for _, p := range list {
		if _, twice := keep[p.ID]; twice || p.ID == s.e.cfg.Self || p.ID == "" || p.Addr == "" {
			continue
		}
		count := &others
		if p.Seed {
			count = &seeds
		}
		if *count >= s.e.params.Neighbours || s.e.peer(p).Banned(now) {
			continue
		}
		*count++
		keep[p.ID] = p
	}
	s.e.mu.Unlock()
	for _, l := range append([]*link(nil), s.order...) {
		if p, ok := keep[l.peer.ID]; !ok || p.Addr != l.peer.Addr || p.Seed != l.peer.Seed {
			s.unlink(l)
		}
	}
	for _, p := range list {
		if _, ok := keep[p.ID]; ok && s.links[p.ID] == nil {
			s.link(keep[p.ID])
		}
	}
}

func (s *session) link(p blob.Peer) {
	l := &link{peer: p, told: blob.NewBitmap(s.pieces)}
	s.e.mu.Lock()
	l.state = s.e.peer(p)
	l.client = s.e.client(p, l.state)
	if !p.Seed {
		s.picker.Add(p.ID, l.state)
	}
	s.e.mu.Unlock()
	s.links[p.ID] = l
	s.order = append(s.order, l)
	l.sub = &subscription{
		digest: s.sink.Digest(), pieces: s.pieces, grant: s.req.Grant,
		tell: func(n news) { s.post(func() { s.hear(l, n) }) },
	}
	l.client.talk.follow(s.ctx, l.sub)
}

// unlink stops talking to a peer. Pieces that are on their way may still
// arrive.
func (s *session) unlink(l *link) {
	l.client.talk.leave(l.sub)
	s.picker.Remove(l.peer.ID)
	delete(s.links, l.peer.ID)
	for i, o := range s.order {
		if o == l {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
	s.e.leaveClient(l.client)
}

// linked reports whether l is still one of the session's links.
func (s *session) linked(l *link) bool { return s.links[l.peer.ID] == l }

// hear takes note of what a peer says about the blob.
func (s *session) hear(l *link, n news) {
	s.later()
	switch {
	case n.absent:
		// It may be about to fetch the blob too: ask again, less and less often.
		l.absent++
		l.askAt = time.Now().Add(min(50*time.Millisecond<<min(l.absent, 10), 5*time.Second))
	case n.have != nil:
		l.told, l.alive, l.absent = *n.have, true, 0
		if s.linked(l) {
			s.picker.Reset(l.peer.ID, *n.have)
		}
	default:
		for _, i := range n.gained {
			l.told.Set(i)
			if s.linked(l) {
				s.picker.Gained(l.peer.ID, i)
			}
		}
	}
}

// askAbsent asks those again that had nothing of the blob.
func (s *session) askAbsent(now time.Time) {
	for _, l := range s.order {
		if !l.askAt.IsZero() && !now.Before(l.askAt) {
			l.askAt = time.Time{}
			l.client.talk.again(l.sub)
		}
	}
}
