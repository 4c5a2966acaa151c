package tracker

import (
	"hash/maphash"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	shardCount = 64
	// beat is how often a node that wants nothing lets itself be heard.
	beat = 30 * time.Second
	// nodeSilence is when a node is taken for gone: it missed three beats.
	nodeSilence = 3 * beat
	// againLeast and againMost bound how often a node that wants a digest
	// announces it; the larger the swarm, the rarer.
	againLeast = time.Second
	againMost  = 5 * time.Second
	// youngAgain is how soon it may speak up while it is young: the first of
	// many that ask at the same moment is told of nobody, and on a fast network
	// it would take all of the blob from the seed before it hears of the rest.
	youngAgain = 150 * time.Millisecond
	youngFor   = 2 * time.Second
	// checkingAgain is how soon a node asks again whose right is being asked.
	checkingAgain = 200 * time.Millisecond
	// wantSilence is when a node no longer wants what it once wanted.
	wantSilence = 3 * againMost
	// swarmSilence is when a swarm without any word is dropped.
	swarmSilence = 24 * time.Hour
)

// Config bounds a Tracker. The zero value is usable.
type Config struct {
	// Seeds are the supernodes that hold or fetch what is asked for; they are
	// named to everybody.
	Seeds func() []blob.Peer
	// MaxDigests bounds the digests that are known; 0 means 200,000.
	MaxDigests int
	// MaxPeers bounds the nodes of one digest; 0 means 20,000.
	MaxPeers int
	// Neighbours is how many nodes one node is told of, seeds included; 0
	// means 24.
	Neighbours int
}

// Peer is a node as it announces itself. ID comes from its certificate.
type Peer struct {
	ID   string
	Addr string // host:port of its piece listener
	Rack string
	Zone string
}

// State is what a node says about a digest.
type State int

// The states of an announcement.
const (
	Wants State = iota + 1
	Complete
	Gone
)

// SeedState is what the seed of this data centre does about a digest.
type SeedState int

// The states of a seed.
const (
	SeedAbsent   SeedState = iota // it neither has it nor can fetch it
	SeedHas                       // it has it, or is fetching it
	SeedFailed                    // it tried, and the origin could not be reached
	SeedRefused                   // the origin refused it
	SeedUnneeded                  // the blob is of no upstream, nobody is to go there
	SeedChecking                  // whether this node may have it is being asked
)

// Announcement is one node's word on one digest.
type Announcement struct {
	Digest blob.Digest
	Size   int64 // bytes; -1 when not known
	State  State
	Held   int // pieces
	// Outside is true when the blob is known at a registry outside.
	Outside bool
	// Seed is what this supernode does about it, with the HTTP status and the
	// reason when the origin refused.
	Seed          SeedState
	RefusedStatus int
	RefusedReason string
}

// Reply answers one announcement.
type Reply struct {
	Digest        blob.Digest
	Peers         []blob.Peer // nil for a node that wants nothing
	Again         time.Duration
	OriginBytes   int64
	RefusedStatus int
	RefusedReason string
}

// Tracker is safe for concurrent use.
type Tracker struct {
	cfg    Config
	epoch  uint64
	seed   maphash.Seed
	nodes  sync.Map // peer ID → *node
	shards [shardCount]shard
}

// node is a member as it was last heard.
type node struct {
	id   string
	peer atomic.Pointer[Peer]
	seen atomic.Int64 // Unix nanoseconds
	gone atomic.Bool  // revoked or long silent
}

func (n *node) alive(now time.Time) bool {
	return !n.gone.Load() && now.Sub(time.Unix(0, n.seen.Load())) < nodeSilence
}

type shard struct {
	mu     sync.Mutex             // guards what follows
	swarms map[blob.Digest]*swarm //
	rng    *rand.Rand
}

// New makes an empty tracker.
func New(cfg Config) *Tracker {
	if cfg.Seeds == nil {
		cfg.Seeds = func() []blob.Peer { return nil }
	}
	if cfg.MaxDigests <= 0 {
		cfg.MaxDigests = 200_000
	}
	if cfg.MaxPeers <= 0 {
		cfg.MaxPeers = 20_000
	}
	if cfg.Neighbours <= 0 {
		cfg.Neighbours = 24
	}
	t := &Tracker{cfg: cfg, epoch: rand.Uint64() | 1, seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].swarms = map[blob.Digest]*swarm{}
		t.shards[i].rng = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return t
}

// Epoch tells one life of the tracker from the next: a node that sees another
// one announces all that it holds.
func (t *Tracker) Epoch() uint64 { return t.epoch }

// Beat is how often a node that has nothing to announce is to announce that.
func (t *Tracker) Beat() time.Duration { return beat }

func (t *Tracker) shard(d blob.Digest) *shard {
	return &t.shards[maphash.String(t.seed, string(d))%shardCount]
}

// Announce takes in what a node says and names neighbours for what it wants.
// The caller has authenticated the node and checked that it may know who
// holds these digests. An empty list is a sign of life.
func (t *Tracker) Announce(now time.Time, from Peer, list []Announcement) []Reply {
	n := t.hear(now, from)
	out := make([]Reply, 0, len(list))
	for _, a := range list {
		out = append(out, t.announce(now, n, a))
	}
	return out
}

// hear notes that a node lives.
func (t *Tracker) hear(now time.Time, from Peer) *node {
	v, ok := t.nodes.Load(from.ID)
	if !ok {
		v, _ = t.nodes.LoadOrStore(from.ID, &node{id: from.ID})
	}
	n := v.(*node)
	if old := n.peer.Load(); old == nil || *old != from {
		n.peer.Store(&from)
	}
	n.gone.Store(false)
	n.seen.Store(now.UnixNano())
	return n
}

func (t *Tracker) announce(now time.Time, n *node, a Announcement) Reply {
	sh := t.shard(a.Digest)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	reply := Reply{Digest: a.Digest, Again: beat, RefusedStatus: a.RefusedStatus, RefusedReason: a.RefusedReason}
	switch {
	case a.State == Wants && a.Seed == SeedChecking:
		reply.Again = checkingAgain
		return reply
	case a.State == Wants && a.Seed == SeedRefused:
		// Who may not have it is not told who does, and is named to nobody.
		reply.Again = againMost
		sh.leave(a.Digest, n.id)
		return reply
	case a.State == Gone:
		sh.leave(a.Digest, n.id)
		return reply
	}
	s := sh.swarm(a.Digest, t.cfg.MaxDigests/shardCount+1)
	s.touched = now
	if a.Size >= 0 {
		s.size = a.Size
	}
	e := s.put(now, n, a, t.cfg.MaxPeers)
	if a.State != Wants {
		return reply
	}
	reply.Again = again(len(s.everybody.list), now.Sub(e.since))
	reply.OriginBytes = s.lease(now, n.id, a)
	reply.Peers = s.name(now, sh.rng, n, e, t.cfg.Seeds(), t.cfg.Neighbours)
	return reply
}

// leave takes a node out of a swarm.
func (sh *shard) leave(d blob.Digest, id string) {
	s := sh.swarms[d]
	if s == nil {
		return
	}
	s.remove(id)
	if len(s.entries) == 0 {
		delete(sh.swarms, d)
	}
}

// again is how soon a node of a swarm of so many, which has wanted the digest
// for as long as age, speaks up again.
func again(peers int, age time.Duration) time.Duration {
	least := againLeast
	if age < youngFor {
		least = youngAgain
	}
	return min(max(time.Duration(peers)*5*time.Millisecond, least), againMost)
}

// swarm finds or makes a swarm; with most swarms known it forgets the one of
// a few at random that was silent longest.
func (sh *shard) swarm(d blob.Digest, most int) *swarm {
	if s := sh.swarms[d]; s != nil {
		return s
	}
	if len(sh.swarms) >= most {
		var victim *swarm
		looked := 0
		for _, s := range sh.swarms {
			if victim == nil || s.touched.Before(victim.touched) {
				victim = s
			}
			if looked++; looked == 8 {
				break
			}
		}
		delete(sh.swarms, victim.digest)
	}
	s := newSwarm(d)
	sh.swarms[d] = s
	return s
}

// Report notes that reporter got wrong bytes, or none, from bad. A node is no
// longer named for a digest once two others of its swarm reported it, or one
// with evidence (bytes that contradict a signed hash). Only nodes that want or
// hold the digest are heard.
func (t *Tracker) Report(now time.Time, reporter, bad string, d blob.Digest, evidence bool) {
	sh := t.shard(d)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s := sh.swarms[d]; s != nil && reporter != bad {
		s.report(now, reporter, bad, evidence)
	}
}

// Remove forgets nodes at once, as when they were revoked.
func (t *Tracker) Remove(peerIDs ...string) {
	for _, id := range peerIDs {
		if v, ok := t.nodes.LoadAndDelete(id); ok {
			v.(*node).gone.Store(true)
		}
	}
}

// Sweep drops nodes and swarms that fell silent. It is to be called about
// every minute; Announce works without it, with more memory.
func (t *Tracker) Sweep(now time.Time) {
	t.nodes.Range(func(key, v any) bool {
		if n := v.(*node); !n.alive(now) {
			n.gone.Store(true)
			t.nodes.CompareAndDelete(key, v)
		}
		return true
	})
	for i := range t.shards {
		t.shards[i].sweep(now)
	}
}

func (sh *shard) sweep(now time.Time) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for d, s := range sh.swarms {
		for id, e := range s.entries {
			if !e.current(now) {
				s.remove(id)
			}
		}
		if len(s.entries) == 0 || now.Sub(s.touched) > swarmSilence {
			delete(sh.swarms, d)
		}
	}
}

// host is the machine's address, without the port.
func (p *Peer) host() string {
	if h, _, err := net.SplitHostPort(p.Addr); err == nil {
		return h
	}
	return p.Addr
}
