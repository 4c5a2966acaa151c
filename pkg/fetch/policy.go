package fetch

import (
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// The times of the policy.
const (
	// stall is for how long the swarm may give nothing before the origin is
	// asked as well.
	stall = time.Second
	// dhtWait is for how long the DHT may look for a first neighbour before
	// the origin is asked, when no tracker answers.
	dhtWait = time.Second
	// relayWait is for how long no neighbour may be reached before a blob of
	// the supernode's own registry is read over its HTTPS port.
	relayWait = 2 * time.Second
	// crowdWait is the same when neighbours can be reached but give nothing:
	// long, since a place in the seed's queue is worth more than a copy.
	crowdWait = 20 * time.Second
	// loneWait is when a flight that knows of nobody gives up.
	loneWait = 10 * time.Second
	// quietWait is when a flight gives up that knows neighbours but gets no
	// byte from anybody.
	quietWait = 60 * time.Second
	// lookAgain is how often the policy is asked when nothing happens.
	lookAgain = 250 * time.Millisecond
	// jitterMost is the longest that a host without a tracker waits, so that
	// many do not go upstream in the same instant.
	jitterMost = 400 * time.Millisecond
)

// voice is what is known of a finder.
type voice int

const (
	absent   voice = iota // not configured
	unasked               // configured, not asked yet
	asking                // asked, no answer so far
	answered              // answered, the answer is current
	silent                // asked, and nobody answered in time
)

// road is the kind of HTTP source that a flight may fall back to.
type road int

const (
	noRoad      road = iota
	upstreamWay      // a registry outside
	gatewayWay       // the supernode's registry, for its own images
)

// facts is what the policy sees of a flight.
type facts struct {
	age     time.Duration // since the flight began
	quiet   time.Duration // since bytes last came from anywhere, or since the start
	lull    time.Duration // since bytes last came from the swarm, or since its first neighbour was named
	tracker voice
	dht     voice
	alone   time.Duration // since the tracker fell silent; age when there is none
	dhtAge  time.Duration // since the DHT was asked
	peers   int           // neighbours named, seeds not counted
	seeds   int
	reached bool  // a neighbour answered on its piece port
	budget  int64 // bytes granted by the tracker and not used yet
	road    road
	refused bool // the origin refused the seed, as the tracker says
	filling bool // the origin is being read right now
	jitter  time.Duration
}

// verdict is what the policy says.
type verdict struct {
	askDHT bool
	nudge  bool // ask the tracker again now
	probe  bool // find out whether neighbours can be reached at all
	fill   bool // read from the origin, as the swarm goes on
	giveUp bool
	why    string // what a reader waits for, in words
}

// decide is the whole policy of a flight in progress.
func decide(v facts) verdict {
	onOwn := v.tracker == absent || v.tracker == silent
	known := v.peers + v.seeds
	d := verdict{
		askDHT: v.dht == unasked && (onOwn || (v.peers == 0 && v.lull >= stall)),
		nudge:  v.tracker != absent && v.lull >= stall/2,
		probe:  v.road == gatewayWay && !v.reached && known > 0 && v.lull >= stall/2,
	}
	switch v.road {
	case upstreamWay:
		d.fill, d.why = upstreamDue(v, onOwn, known)
	case gatewayWay:
		d.fill, d.why = relayDue(v, onOwn, known)
	default:
		d.why = "waiting for neighbours: there is no registry to go to"
	}
	if d.fill {
		return d
	}
	switch {
	case v.refused && v.peers == 0:
		d.giveUp, d.why = true, "the registry refused it"
	case known == 0 && min(v.age, v.quiet) >= loneWait:
		d.giveUp, d.why = true, "nobody is known to have it"
	case v.quiet >= quietWait:
		d.giveUp, d.why = true, "no byte came from anybody"
	}
	return d
}

// upstreamDue says whether to read a registry outside: with the tracker's
// leave, or without a tracker after the neighbours had their chance.
func upstreamDue(v facts, onOwn bool, known int) (bool, string) {
	switch {
	case v.tracker == unasked || v.tracker == asking:
		return false, "waiting for the tracker"
	case v.tracker == answered && v.budget <= 0:
		return false, "the supernode fetches it once for everybody"
	case v.tracker == answered:
		return known == 0 || v.lull >= stall, "neighbours get their chance first"
	case known > 0:
		return v.lull >= stall, "neighbours get their chance first"
	case dhtSearching(v):
		return false, "looking for neighbours without a supernode"
	default:
		return v.alone >= v.jitter, "spreading the hosts that go upstream"
	}
}

// relayDue says whether to read the supernode's own registry over HTTPS: only
// where the piece ports cannot be reached, since it costs the supernode a
// copy of its own.
func relayDue(v facts, onOwn bool, known int) (bool, string) {
	switch {
	case v.filling && !v.reached:
		return true, ""
	case v.tracker == unasked || v.tracker == asking:
		return false, "waiting for the tracker"
	case onOwn && known == 0:
		return !dhtSearching(v) && v.alone >= v.jitter, "looking for neighbours without a supernode"
	case v.reached:
		return v.lull >= crowdWait, "waiting for neighbours"
	default:
		return v.lull >= relayWait && v.age >= relayWait, "trying to reach neighbours"
	}
}

// dhtSearching says whether the DHT may still come up with a neighbour soon.
func dhtSearching(v facts) bool {
	return v.dht == unasked || v.dht == asking && v.dhtAge < dhtWait
}

// run is a stretch of pieces [first, end) to be read from the origin by one
// request.
type run struct{ first, end int }

// nextRun chooses what the origin is asked for: the piece that a reader waits
// for, or else the lowest that is missing; and from there on as far as pieces
// are missing and nobody is at them, at most most pieces. With demandOnly it
// looks at what readers wait for and nothing else.
func nextRun(lacking, demand blob.Bitmap, busy func(int) bool, demandOnly bool, most int) (run, bool) {
	first := -1
	for i := range demand.All() {
		if lacking.Has(i) && !busy(i) {
			first = i
			break
		}
	}
	if first < 0 && !demandOnly {
		for i := range lacking.All() {
			if !busy(i) {
				first = i
				break
			}
		}
	}
	if first < 0 || most <= 0 {
		return run{}, false
	}
	end := first + 1
	for end < lacking.Len() && end-first < most && lacking.Has(end) && !busy(end) {
		end++
	}
	return run{first: first, end: end}, true
}

// piecesFor is how many pieces of a blob of size bytes a budget pays for; a
// budget that is left pays for one at least.
func piecesFor(budget, size int64) int {
	if budget <= 0 {
		return 0
	}
	length := blob.PieceLength(size)
	return int(min((budget+length-1)/length, int64(blob.PieceCount(size))))
}
