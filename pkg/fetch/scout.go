package fetch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// scouted is what discovery said so far in a flight. It is guarded by the
// flight's mu.
type scouted struct {
	tracker, dht voice
	fromTracker  []blob.Peer
	fromDHT      []blob.Peer
	silentSince  time.Time // zero while the tracker answers
	dhtSince     time.Time
	nudged       time.Time
	firstPeers   time.Time // when the first neighbour was named
	budget       int64     // bytes granted and neither read nor reserved
	reserved     int64     // bytes granted to the streams that run
	refused      *RefusedError
	grant        []byte // the latest one
	reached      bool
	out          chan []blob.Peer // to the swarm; holds the latest list
}

func newScouted(tracker, dht bool) scouted {
	s := scouted{}
	if tracker {
		s.tracker = unasked
	}
	if dht {
		s.dht = unasked
	}
	return s
}

// RefusedError is the tracker's word that the origin refused a digest to the
// supernode.
type RefusedError struct {
	Status int // HTTP
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the registry answered the supernode with status %d: %s", e.Status, e.Reason)
}

// merged lists the neighbours that the tracker named, then those of the DHT
// that it did not name.
func (s *scouted) merged() []blob.Peer {
	out := make([]blob.Peer, 0, len(s.fromTracker)+len(s.fromDHT))
	known := map[string]bool{}
	for _, list := range [][]blob.Peer{s.fromTracker, s.fromDHT} {
		for _, p := range list {
			if !known[p.ID] {
				known[p.ID] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// subscribe makes the channel by which the swarm learns of neighbours.
func (s *scouted) subscribe() <-chan []blob.Peer {
	s.out = make(chan []blob.Peer, 1)
	s.publish()
	return s.out
}

// publish puts the latest list in the place of one that was not taken.
func (s *scouted) publish() {
	if s.out == nil {
		return
	}
	list := s.merged()
	if len(list) == 0 && s.firstPeers.IsZero() {
		return
	}
	select {
	case <-s.out:
	default:
	}
	s.out <- list
}

// scout asks a finder, unless there is none, for as long as ctx lasts.
func (fl *flight) scout(ctx context.Context, scouts *sync.WaitGroup, finder Finder, dht bool) {
	if finder == nil {
		return
	}
	want := blob.Want{Digest: fl.digest, Held: fl.held}
	fl.mu.Lock()
	want.Size = fl.size
	if len(fl.leads) > 0 {
		want.Origin = fl.leads[0].origin
	}
	if dht {
		fl.scouted.dht, fl.scouted.dhtSince = asking, time.Now()
	} else {
		fl.scouted.tracker = asking
		want.Nudge = fl.nudge
	}
	fl.mu.Unlock()
	scouts.Go(func() {
		for n := range finder.Find(ctx, want) {
			fl.heard(n, dht)
		}
		if dht {
			fl.dhtDone()
		}
	})
}

// grant is the supernode's latest leave to have this blob, nil without one.
func (fl *flight) grant() []byte {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.scouted.grant
}

func (fl *flight) held() int {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.blob == nil {
		return 0
	}
	return blob.PieceCount(fl.size) - fl.blob.Missing().Count()
}

// heard takes in one answer of a finder.
func (fl *flight) heard(n blob.Neighbours, dht bool) {
	defer fl.poke()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	s := &fl.scouted
	if dht {
		s.dht, s.fromDHT = answered, n.Peers
	} else {
		s.trackerSaid(n)
	}
	if s.firstPeers.IsZero() && len(s.fromTracker)+len(s.fromDHT) > 0 {
		s.firstPeers = time.Now()
	}
	s.publish()
}

func (s *scouted) trackerSaid(n blob.Neighbours) {
	if len(n.Peers) > 0 || !n.Silent {
		s.fromTracker = n.Peers
	}
	if n.Silent {
		if s.tracker != silent {
			s.silentSince = time.Now()
		}
		s.tracker = silent
		return
	}
	s.tracker, s.silentSince = answered, time.Time{}
	s.budget += max(n.OriginBytes, 0)
	s.refused = nil
	if n.Grant != nil {
		s.grant = n.Grant
	}
	if n.RefusedStatus != 0 {
		s.refused = &RefusedError{Status: n.RefusedStatus, Reason: n.RefusedReason}
	}
}

// dhtDone notes that the DHT has nobody more to name.
func (fl *flight) dhtDone() {
	fl.mu.Lock()
	fl.scouted.dht = answered
	fl.mu.Unlock()
	fl.poke()
}

// nudgeTracker asks the tracker for an answer now, at most once in half a
// stall: each answer makes the policy look again.
func (fl *flight) nudgeTracker() {
	fl.mu.Lock()
	s := &fl.scouted
	due := time.Since(s.nudged) >= stall/2
	if due {
		s.nudged = time.Now()
	}
	fl.mu.Unlock()
	if due {
		signal(fl.nudge)
	}
}

// facts gathers what the policy looks at.
func (fl *flight) facts() facts {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := time.Now()
	s := &fl.scouted
	v := facts{
		age: now.Sub(fl.born), quiet: now.Sub(fl.lastBytes()),
		lull:    now.Sub(latest(fl.born, s.firstPeers, fl.swarmed.get())),
		tracker: s.tracker, dht: s.dht, alone: now.Sub(fl.born),
		reached: s.reached || !fl.swarmed.get().IsZero(), budget: s.budget + s.reserved, refused: s.refused != nil,
		filling: fl.filling.on(), jitter: fl.jitter,
	}
	if s.tracker == absent && s.dht == absent {
		v.jitter = 0
	}
	if !s.silentSince.IsZero() {
		v.alone = now.Sub(s.silentSince)
	}
	if !s.dhtSince.IsZero() {
		v.dhtAge = now.Sub(s.dhtSince)
	}
	for _, p := range s.merged() {
		if p.Seed {
			v.seeds++
		} else {
			v.peers++
		}
	}
	if l := fl.bestLead(); l != nil {
		v.road = l.road
	}
	return v
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}
