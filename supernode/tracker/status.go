package tracker

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Swarm is a digest and who has it, for people to look at.
type Swarm struct {
	Digest   blob.Digest
	Size     int64 // -1 when not known
	Complete int   // nodes
	Partial  int   // nodes
	Touched  time.Time
	Members  []Member // nil in a list of swarms
}

// Member is a node of a swarm.
type Member struct {
	Peer     Peer
	Complete bool
	Held     int // pieces
	Seen     time.Time
	Demoted  bool
}

// Swarms lists the swarms that were spoken of last, at most limit.
func (t *Tracker) Swarms(now time.Time, limit int) []Swarm {
	var out []Swarm
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, s := range sh.swarms {
			out = append(out, s.view(now))
		}
		sh.mu.Unlock()
	}
	for i := range out {
		out[i].Members = nil
	}
	slices.SortFunc(out, func(a, b Swarm) int {
		return cmp.Or(b.Touched.Compare(a.Touched), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	return out[:min(len(out), limit)]
}

// Swarm describes one swarm; false when nobody spoke of the digest.
func (t *Tracker) Swarm(now time.Time, d blob.Digest) (Swarm, bool) {
	sh := t.shard(d)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.swarms[d]
	if s == nil {
		return Swarm{}, false
	}
	return s.view(now), true
}

// Nodes counts the nodes that were heard of lately.
func (t *Tracker) Nodes(now time.Time) int {
	n := 0
	t.nodes.Range(func(_, v any) bool {
		if v.(*node).alive(now) {
			n++
		}
		return true
	})
	return n
}

func (s *swarm) view(now time.Time) Swarm {
	out := Swarm{Digest: s.digest, Size: s.size, Touched: s.touched, Members: make([]Member, 0, len(s.entries))}
	for _, e := range s.entries {
		if !e.current(now) {
			continue
		}
		if e.complete {
			out.Complete++
		} else {
			out.Partial++
		}
		out.Members = append(out.Members, Member{
			Peer: *e.node.peer.Load(), Complete: e.complete, Held: e.held, Seen: e.seen, Demoted: now.Before(e.demoted),
		})
	}
	slices.SortFunc(out.Members, func(a, b Member) int { return strings.Compare(a.Peer.ID, b.Peer.ID) })
	return out
}
