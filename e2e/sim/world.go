// Package sim plays a swarm of many hosts on one machine, in simulated time:
// links are fluid, hosts decide with pkg/swarm/policy, the very code that runs
// on real hosts. A run is a function of its Config, seed included, so whatever
// it shows can be played again.
//
// What it leaves out: headers and acknowledgements (about 5 % on real links),
// processors, TCP's way of finding its rate, and the session's own loop, whose
// few rules beside the policy are repeated here.
package sim

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// Config is one run.
type Config struct {
	Hosts      int     // that fetch; there is one seed beside them
	Blobs      int     // fetched at the same time
	Pieces     int     // of each blob
	Piece      float64 // bytes of a piece
	Rate       float64 // bytes per second of every link, each way
	SeedRate   float64 // of the seed's; 0 means Rate
	Neighbours int     // that a host is told of, the seed not counted; 0 means all
	Latency    time.Duration
	Gather     time.Duration // how long a host collects news before it tells them
	Policy     policy.Params
	Random     uint64 // seed of all chance

	Dying   float64 // share of the hosts that die half-way
	Liars   float64 // share of the hosts that claim everything and hold nothing
	Crawler bool    // one host sends at a hundredth of the rate
	Silent  bool    // one host takes requests and sends nothing
	Freezes bool    // one host more had everything before the others asked, gives it and falls silent
}

// Result is what a run showed.
type Result struct {
	Bound  time.Duration // T*
	Last   time.Duration // when the last host had everything; 0 when one never had
	Mean   time.Duration
	Copies float64 // that the seed sent
	Hedges int
	Events int
}

// Ratio is the last host's time in units of the bound.
func (r Result) Ratio() float64 { return float64(r.Last) / float64(r.Bound) }

// Bound is T*: no schedule whatever can be done earlier.
func (c Config) Bound() time.Duration {
	bytes := float64(c.Blobs*c.Pieces) * c.Piece
	seed := c.seedRate()
	n := float64(c.Hosts)
	t := max(bytes/seed, bytes/c.Rate, n*bytes/(seed+n*c.Rate))
	return time.Duration(t * float64(time.Second))
}

func (c Config) seedRate() float64 {
	if c.SeedRate > 0 {
		return c.SeedRate
	}
	return c.Rate
}

// event is something that happens at a time; the first that was planned is
// first among those at the same time.
type event struct {
	at  time.Duration
	seq int
	do  func()
}

type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	old := *a
	last := old[len(old)-1]
	*a = old[:len(old)-1]
	return last
}

// world is one run.
type world struct {
	cfg    Config
	now    time.Duration
	seq    int
	agenda agenda
	rand   *rand.Rand
	seed   *host
	hosts  []*host
	left   int // sessions that are not done
	sent   float64
	hedges int
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.agenda, event{at: w.now + d, seq: w.seq, do: do})
}

// clock is the simulated time as the policy wants it.
func (w *world) clock() time.Time { return time.Unix(1, 0).Add(w.now) }

// Run plays a run to its end, or until no host can get any further.
func Run(cfg Config) Result {
	w := &world{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Random, 1))}
	w.build()
	limit := 20 * cfg.Bound()
	for len(w.agenda) > 0 && w.left > 0 && w.now < limit {
		e := heap.Pop(&w.agenda).(event)
		w.now = e.at
		e.do()
	}
	return w.result()
}

func (w *world) result() Result {
	r := Result{Bound: w.cfg.Bound(), Hedges: w.hedges, Events: w.seq}
	r.Copies = w.sent / (float64(w.cfg.Blobs*w.cfg.Pieces) * w.cfg.Piece)
	n := 0
	for _, h := range w.hosts {
		if h.dead || h.liar || h.freezes {
			continue
		}
		n++
		r.Mean += h.done
		if h.done == 0 {
			r.Last = 0
			return r
		}
		r.Last = max(r.Last, h.done)
	}
	r.Mean /= time.Duration(max(n, 1))
	return r
}
