package fetch

import (
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

func TestDecide(t *testing.T) {
	const s = time.Second
	up := func(change func(*facts)) facts {
		v := facts{road: upstreamWay, tracker: answered, dht: unasked, age: s / 10, quiet: s / 10, lull: s / 10}
		change(&v)
		return v
	}
	own := func(change func(*facts)) facts {
		v := up(change)
		if v.road == upstreamWay {
			v.road = noRoad
		}
		return v
	}
	relay := func(change func(*facts)) facts {
		v := up(change)
		v.road = gatewayWay
		return v
	}
	for name, c := range map[string]struct {
		v                 facts
		fill, dht, giveUp bool
	}{
		"no discovery at all goes upstream at once": {v: facts{road: upstreamWay}, fill: true},
		"the tracker's first answer is waited for":  {v: up(func(v *facts) { v.tracker = asking })},
		"a grant and nobody else":                   {v: up(func(v *facts) { v.budget = 1 }), fill: true},
		"a grant, but neighbours come first":        {v: up(func(v *facts) { v.budget, v.peers = 1, 1 })},
		"a grant and neighbours that stall":         {v: up(func(v *facts) { v.budget, v.peers, v.lull = 1, 1, s }), fill: true},
		"no grant: the seed fetches for everybody":  {v: up(func(v *facts) { v.seeds, v.lull, v.quiet = 1, 30*s, 30*s }), dht: true},
		"no grant and no seed: no byte in a minute": {
			v:      up(func(v *facts) { v.peers, v.lull, v.quiet, v.age = 1, 60*s, 60*s, 60*s }),
			giveUp: true,
		},
		"silence: the DHT has its chance": {v: up(func(v *facts) { v.tracker = silent }), dht: true},
		"silence: the DHT is still at it": {v: up(func(v *facts) { v.tracker, v.dht, v.alone, v.dhtAge = silent, asking, s/2, s/2 })},
		"silence: the DHT takes too long": {v: up(func(v *facts) { v.tracker, v.dht, v.alone, v.dhtAge = silent, asking, s, dhtWait }), fill: true},
		"silence: jitter spreads hosts": {v: up(func(v *facts) {
			v.tracker, v.dht, v.alone, v.jitter = silent, answered, s/10, s/5
		})},
		"silence: a neighbour of the DHT first": {v: up(func(v *facts) { v.tracker, v.dht, v.peers = silent, answered, 1 })},
		"silence: neighbours that stall": {v: up(func(v *facts) {
			v.tracker, v.dht, v.peers, v.lull = silent, answered, 1, s
		}), fill: true},
		"the tracker answers with nobody: the DHT is asked after a stall": {
			v: up(func(v *facts) { v.lull = s }), dht: true,
		},
		"the origin refused the seed": {v: up(func(v *facts) { v.refused, v.seeds = true, 0 }), giveUp: true},
		"the origin refused the seed, but a neighbour has it": {v: up(func(v *facts) {
			v.refused, v.peers = true, 1
		})},
		"own image, nobody known": {
			v:      own(func(v *facts) { v.age, v.quiet, v.dht = loneWait, loneWait, answered }),
			giveUp: true,
		},
		"own image, nobody known yet":      {v: own(func(v *facts) { v.age, v.quiet, v.dht = 9*s, 9*s, answered })},
		"own image, a seed that is slow":   {v: own(func(v *facts) { v.seeds, v.age, v.quiet, v.lull = 1, 30*s, 30*s, 30*s }), dht: true},
		"relay: neighbours come first":     {v: relay(func(v *facts) { v.seeds, v.lull, v.age = 1, s, s }), dht: true},
		"relay: no piece port answers":     {v: relay(func(v *facts) { v.seeds, v.lull, v.age = 1, 2*s, 2*s }), fill: true, dht: true},
		"relay: in the queue of a seed":    {v: relay(func(v *facts) { v.seeds, v.reached, v.lull, v.age = 1, true, 5*s, 5*s }), dht: true},
		"relay: the queue does not move":   {v: relay(func(v *facts) { v.seeds, v.reached, v.lull, v.age = 1, true, 20*s, 20*s }), fill: true, dht: true},
		"relay: once begun it goes on":     {v: relay(func(v *facts) { v.seeds, v.filling = 1, true }), fill: true},
		"relay: and ends with a neighbour": {v: relay(func(v *facts) { v.seeds, v.filling, v.reached = 1, true, true })},
		"relay: no tracker, nobody known":  {v: relay(func(v *facts) { v.tracker, v.dht, v.alone = silent, answered, s }), fill: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(c.v)
			if d.fill != c.fill || d.askDHT != c.dht || d.giveUp != c.giveUp {
				t.Errorf("got %+v, want fill=%t dht=%t giveUp=%t", d, c.fill, c.dht, c.giveUp)
			}
			if !d.fill && d.why == "" {
				t.Error("a flight that waits does not say why")
			}
		})
	}
}

func TestNextRun(t *testing.T) {
	set := func(bits ...int) blob.Bitmap {
		b := blob.NewBitmap(8)
		for _, i := range bits {
			b.Set(i)
		}
		return b
	}
	for name, c := range map[string]struct {
		lacking, demand, busy blob.Bitmap
		demandOnly            bool
		most                  int
		want                  run
		none                  bool
	}{
		"lowest":                {lacking: set(2, 3, 4, 6), demand: set(), busy: set(), most: 8, want: run{2, 5}},
		"demand first":          {lacking: set(2, 3, 4, 6, 7), demand: set(6), busy: set(), most: 8, want: run{6, 8}},
		"not what others do":    {lacking: set(2, 3, 4, 6), demand: set(), busy: set(2, 4), most: 8, want: run{3, 4}},
		"demand at hand":        {lacking: set(2, 3), demand: set(3), busy: set(3), most: 8, want: run{2, 3}},
		"demand only":           {lacking: set(2, 3), demand: set(3), busy: set(3), demandOnly: true, most: 8, none: true},
		"demand that came":      {lacking: set(2), demand: set(3), busy: set(), demandOnly: true, most: 8, none: true},
		"no more than the most": {lacking: set(0, 1, 2, 3), demand: set(), busy: set(), most: 2, want: run{0, 2}},
		"no budget":             {lacking: set(0, 1, 2, 3), demand: set(), busy: set(), most: 0, none: true},
		"nothing missing":       {lacking: set(), demand: set(), busy: set(), most: 8, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := nextRun(c.lacking, c.demand, c.busy.Has, c.demandOnly, c.most)
			if ok == c.none || got != c.want {
				t.Errorf("got %v %t, want %v", got, ok, c.want)
			}
		})
	}
}

func TestPiecesFor(t *testing.T) {
	const piece = blob.MinPieceLength
	for _, c := range []struct {
		budget, size int64
		want         int
	}{{0, 10 * piece, 0}, {-1, piece, 0}, {1, 10 * piece, 1}, {piece + 1, 10 * piece, 2}, {1 << 50, 10 * piece, 10}} {
		if got := piecesFor(c.budget, c.size); got != c.want {
			t.Errorf("piecesFor(%d, %d) = %d, want %d", c.budget, c.size, got, c.want)
		}
	}
}

func TestNewest(t *testing.T) {
	now := time.Unix(10_000, 0)
	record := func(epoch uint64, ago time.Duration) *blob.TagRecord {
		return &blob.TagRecord{Epoch: epoch, Time: now.Add(-ago)}
	}
	old, young, later := record(1, 50*time.Minute), record(1, time.Minute), record(2, 10*time.Minute)
	if got := newest([]*blob.TagRecord{old, young}, now, time.Hour); got != young {
		t.Errorf("got %+v, want the later time", got)
	}
	if got := newest([]*blob.TagRecord{young, later}, now, time.Hour); got != later {
		t.Errorf("got %+v, want the higher epoch", got)
	}
	if got := newest([]*blob.TagRecord{old}, now, 10*time.Minute); got != nil {
		t.Errorf("got %+v, want none within the grace", got)
	}
}
