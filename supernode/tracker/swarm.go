package tracker

import (
	"math/rand/v2"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// leaseFor is how long a node may take over bytes from the origin without
	// a new piece before another may.
	leaseFor = 10 * time.Second
	// demotedFor is how long a node that was reported is not named.
	demotedFor = time.Hour
	// smallBucket is a list that is walked through rather than drawn from.
	smallBucket = 128
	// reportsKept bounds who reported a node.
	reportsKept = 8
)

// swarm is who holds or wants one digest. It is guarded by its shard's mu.
type swarm struct {
	digest    blob.Digest
	size      int64
	touched   time.Time
	entries   map[string]*entry // by peer ID
	everybody *bucket
	racks     map[place]*bucket
	zones     map[place]*bucket

	// the lease on origin bytes
	leaseTo   string
	leaseHeld int // pieces that the holder had when it last moved
	leaseAt   time.Time
}

// place names a rack of a zone, or with no rack a zone.
type place struct{ zone, rack string }

// entry is one node in a swarm.
type entry struct {
	node     *node
	at       place
	complete bool
	held     int
	since    time.Time // when it first spoke of the digest
	seen     time.Time
	named    []string // the neighbours it was told of last
	reports  map[string]bool
	demoted  time.Time // until then
	slot     [3]int    // its index in its buckets: everybody, zone, rack
}

// current reports whether the node lives and still means what it said.
func (e *entry) current(now time.Time) bool {
	return e.node.alive(now) && (e.complete || now.Sub(e.seen) < wantSilence)
}

// bucket is a list of entries from which random ones are drawn.
type bucket struct {
	kind int // index into entry.slot
	list []*entry
}

func (b *bucket) add(e *entry) {
	e.slot[b.kind] = len(b.list)
	b.list = append(b.list, e)
}

func (b *bucket) remove(e *entry) {
	i, last := e.slot[b.kind], len(b.list)-1
	b.list[i] = b.list[last]
	b.list[i].slot[b.kind] = i
	b.list[last] = nil
	b.list = b.list[:last]
}

func newSwarm(d blob.Digest) *swarm {
	return &swarm{
		digest: d, size: -1, entries: map[string]*entry{},
		everybody: &bucket{kind: 0}, zones: map[place]*bucket{}, racks: map[place]*bucket{},
	}
}

// enter puts an entry into its buckets; a node that names no zone or no rack
// stands in none of that kind.
func (s *swarm) enter(e *entry) {
	s.everybody.add(e)
	if e.at.zone != "" {
		addAt(s.zones, place{zone: e.at.zone}, 1, e)
	}
	if e.at.rack != "" {
		addAt(s.racks, e.at, 2, e)
	}
}

func addAt(m map[place]*bucket, at place, kind int, e *entry) {
	b := m[at]
	if b == nil {
		b = &bucket{kind: kind}
		m[at] = b
	}
	b.add(e)
}

func removeAt(m map[place]*bucket, at place, e *entry) {
	b := m[at]
	if b == nil { // it named none
		return
	}
	b.remove(e)
	if len(b.list) == 0 {
		delete(m, at)
	}
}

func (s *swarm) put(now time.Time, n *node, a Announcement, most int) *entry {
	at := place{zone: n.peer.Load().Zone, rack: n.peer.Load().Rack}
	e := s.entries[n.id]
	if e != nil && (e.at != at || e.node != n) {
		s.remove(n.id)
		e = nil
	}
	if e == nil {
		if len(s.entries) >= most {
			s.dropOne(now)
		}
		e = &entry{node: n, at: at, since: now}
		s.entries[n.id] = e
		s.enter(e)
	}
	e.seen, e.held, e.complete = now, a.Held, a.State == Complete
	if s.leaseTo == n.id && (a.Held > s.leaseHeld) {
		s.leaseHeld, s.leaseAt = a.Held, now
	}
	return e
}

// dropOne makes room: a silent node if one is met soon, or else any.
func (s *swarm) dropOne(now time.Time) {
	looked, victim := 0, ""
	for id, e := range s.entries {
		victim = id
		if looked++; !e.current(now) || looked == 8 {
			break
		}
	}
	s.remove(victim)
}

func (s *swarm) remove(id string) {
	e := s.entries[id]
	if e == nil {
		return
	}
	delete(s.entries, id)
	s.everybody.remove(e)
	removeAt(s.zones, place{zone: e.at.zone}, e)
	removeAt(s.racks, e.at, e)
	if s.leaseTo == id {
		s.leaseTo = ""
	}
}

// lease grants origin bytes to one node at a time: the whole blob, once, when
// the seed does not fetch it; and to another when that one stops moving.
func (s *swarm) lease(now time.Time, id string, a Announcement) int64 {
	if !a.Outside || (a.Seed != SeedAbsent && a.Seed != SeedFailed) {
		return 0
	}
	if s.leaseTo != "" && now.Sub(s.leaseAt) < leaseFor {
		return 0
	}
	s.leaseTo, s.leaseHeld, s.leaseAt = id, a.Held, now
	size := max(s.size, blob.MinPieceLength)
	if left := blob.PieceCount(s.size) - a.Held; left > 0 {
		return min(size, int64(left)*blob.PieceLength(s.size))
	}
	return size
}

func (s *swarm) report(now time.Time, reporter, bad string, evidence bool) {
	e := s.entries[bad]
	if e == nil || s.entries[reporter] == nil {
		return
	}
	if e.reports == nil {
		e.reports = map[string]bool{}
	}
	if len(e.reports) < reportsKept {
		e.reports[reporter] = true
	}
	if evidence || len(e.reports) >= 2 {
		e.demoted = now.Add(demotedFor)
		e.reports = nil
	}
}

// name lists neighbours for a node: the seeds, the neighbours it had that are
// still good, and new ones drawn at random, the near ones first.
func (s *swarm) name(now time.Time, rng *rand.Rand, n *node, e *entry, seeds []blob.Peer, most int) []blob.Peer {
	out := make([]blob.Peer, 0, most)
	for _, seed := range seeds {
		if seed.ID == n.id || len(out) >= most {
			continue
		}
		seed.Seed = true
		out = append(out, seed)
	}
	chosen := s.choose(now, rng, n.id, e, most-len(out))
	e.named = e.named[:0]
	me := n.peer.Load()
	for _, other := range chosen {
		p := other.node.peer.Load()
		e.named = append(e.named, other.node.id)
		out = append(out, blob.Peer{
			ID: other.node.id, Addr: p.Addr, Complete: other.complete, Distance: Distance(*me, *p),
		})
	}
	return out
}

// choose keeps what was named before, less one so that lists mix, and fills
// up: a third from the rack, a third from the zone, the rest from everywhere,
// which keeps the whole swarm one graph.
func (s *swarm) choose(now time.Time, rng *rand.Rand, self string, e *entry, room int) []*entry {
	if room <= 0 {
		return nil
	}
	d := draw{now: now, rng: rng, swarm: s, taken: map[string]bool{self: true}}
	kept := e.named
	if len(kept) >= room {
		d.taken[kept[room-1]] = true // it had its turn
		kept = kept[:room-1]
	}
	inRack, inZone := 0, 0
	for _, id := range kept {
		other := s.entries[id]
		if other == nil || !d.fit(other) {
			continue
		}
		d.take(other)
		if other.at == e.at {
			inRack++
		} else if other.at.zone == e.at.zone {
			inZone++
		}
	}
	if e.at.rack != "" {
		d.from(s.racks[e.at], min(room/3-inRack, room-len(d.out)))
	}
	if e.at.zone != "" {
		d.from(s.zones[place{zone: e.at.zone}], min(room/3-inZone, room-len(d.out)))
	}
	d.from(s.everybody, room-len(d.out))
	if len(d.out) < room && len(e.named) >= room { // too few to change any
		delete(d.taken, e.named[room-1])
		d.from(s.everybody, room-len(d.out))
	}
	// The newest goes first, so that it is not the one that leaves next.
	for i, j := 0, len(d.out)-1; i < j; i, j = i+1, j-1 {
		d.out[i], d.out[j] = d.out[j], d.out[i]
	}
	return d.out
}

// draw is the drawing of one list of neighbours.
type draw struct {
	now   time.Time
	rng   *rand.Rand
	swarm *swarm
	taken map[string]bool
	out   []*entry
}

func (d *draw) take(e *entry) {
	d.taken[e.node.id] = true
	d.out = append(d.out, e)
}

func (d *draw) fit(e *entry) bool {
	return !d.taken[e.node.id] && e.current(d.now) && !d.now.Before(e.demoted)
}

// from takes up to n entries from a bucket, trying a bounded number of random
// places; whoever is met silent leaves the swarm. A small bucket is walked
// through from a random place, so that nobody in it is missed.
func (d *draw) from(b *bucket, n int) {
	if b == nil || n <= 0 {
		return
	}
	walk, tries := len(b.list) <= smallBucket, 4*n
	if walk {
		tries = len(b.list)
	}
	start := 0
	if len(b.list) > 0 {
		start = d.rng.IntN(len(b.list))
	}
	for ; tries > 0 && n > 0 && len(b.list) > 0; tries-- {
		i := d.rng.IntN(len(b.list))
		if walk {
			i = start % len(b.list)
			start++
		}
		e := b.list[i]
		switch {
		case d.fit(e):
			d.take(e)
			n--
		case !e.current(d.now):
			d.swarm.remove(e.node.id)
			start--
		}
	}
}

// Distance is how far two nodes of one data centre are from each other: 0 the
// same host, 1 the same rack, 2 the same zone, 3 the data centre.
func Distance(a, b Peer) int {
	switch {
	case a.host() == b.host():
		return 0
	case a.Rack != "" && a.Rack == b.Rack && a.Zone == b.Zone:
		return 1
	case a.Zone != "" && a.Zone == b.Zone:
		return 2
	}
	return 3
}
