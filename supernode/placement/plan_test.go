package placement

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	gib    = int64(1) << 30
	layerA = blob.Digest("sha256:a")
	layerB = blob.Digest("sha256:b")
)

// aHost is one of pool web that takes anything.
func aHost(name string, edit ...func(*Host)) Host {
	h := Host{
		Server: "id-" + name, Name: name, PeerID: "peer-" + name, Pool: "web", Phase: "ready", Connected: true, Engine: "memory",
		Platform: "linux/amd64", Tier: TierCore, CPU: 4000, Memory: 8 * gib,
	}
	for _, e := range edit {
		e(&h)
	}
	return h
}

func aRequest(n int, edit ...func(*Request)) Request {
	r := Request{
		Pool: "web", Replicas: n, Need: Need{CPU: 1000, Memory: gib}, Platforms: []string{"linux/amd64"},
		Parts: []Part{{layerA, 100}, {layerB, 10}},
	}
	for _, e := range edit {
		e(&r)
	}
	return r
}

func holds(list ...blob.Digest) func(*Host) {
	return func(h *Host) {
		h.Holds = map[blob.Digest]bool{}
		for _, d := range list {
			h.Holds[d] = true
		}
	}
}

func at(rack, zone string) func(*Host) { return func(h *Host) { h.Rack, h.Zone = rack, zone } }

func claimed(n Need) func(*Host) { return func(h *Host) { h.used = n } }

func TestPlanRefusesWithTheReason(t *testing.T) {
	for _, c := range []struct {
		why  string
		host func(*Host)
		ask  func(*Request)
	}{
		{`is in pool "db"`, func(h *Host) { h.Pool = "db" }, nil},
		{"is draining", func(h *Host) { h.Phase = "draining" }, nil},
		{"is not connected", func(h *Host) { h.Connected = false }, nil},
		{"runs no containers", func(h *Host) { h.Engine = "" }, nil},
		{"is linux/arm64, the image is for linux/amd64", func(h *Host) { h.Platform = "linux/arm64" }, nil},
		{"takes light services only", func(h *Host) { h.Tier = TierLight }, func(r *Request) { r.Tier = TierCore }},
		{`is of hardware class "12c"`, func(h *Host) { h.Class = "12c" }, func(r *Request) { r.Class = "32c" }},
		{`has the taint "gpu"`, func(h *Host) { h.Taints = []string{"gpu"} }, nil},
		{"needs 1000m of CPU, 500m of 4000m are free", claimed(Need{CPU: 3500}), nil},
		{"needs 1024 MiB of memory, 0 of 8192 MiB are free", claimed(Need{Memory: 9 * gib}), nil},
		{"lacks 110 bytes of the image, 50 bytes of disk are free", func(h *Host) { h.DiskFree = 50 }, nil},
		{"port 80 is taken there", claimed(Need{Ports: []int32{443, 80}}), func(r *Request) { r.Need.Ports = []int32{80} }},
		{"holds 64 containers", func(h *Host) { h.containers = MaxClaims }, nil},
		{"it died", nil, func(r *Request) { r.Avoid = map[string]string{"id-a": "it died"} }},
	} {
		h, r := aHost("a"), aRequest(1)
		if c.host != nil {
			c.host(&h)
		}
		if c.ask != nil {
			c.ask(&r)
		}
		p, err := Make(r, []Host{h})
		if !errors.Is(err, ErrNoRoom) || len(p.Chosen) != 0 {
			t.Errorf("%s: chosen %v, error %v", c.why, p.Chosen, err)
		}
		if v := p.Verdicts; len(v) != 1 || v[0].Outcome != OutcomeRefused || !strings.Contains(v[0].Reason, c.why) {
			t.Errorf("want the reason %q, got %+v", c.why, v)
		}
	}
}

func TestPlanTakes(t *testing.T) {
	for _, c := range []struct {
		name  string
		ask   Request
		hosts []Host
		want  string
	}{
		{"who has the image", aRequest(1), []Host{aHost("a"), aHost("b", holds(layerA, layerB)), aHost("c", holds(layerB))}, "b"},
		{"who lacks the least", aRequest(1), []Host{aHost("a", holds(layerB)), aHost("b", holds(layerA)), aHost("c")}, "b"},
		{"whose neighbour has it", aRequest(1), []Host{
			aHost("a", at("r1", "z")), aHost("b", at("r2", "z")), aHost("c", at("r2", "z"), holds(layerA, layerB), claimed(Need{CPU: 4000})),
		}, "b"},
		{"whose zone has it", aRequest(1), []Host{
			aHost("a", at("r1", "z1")), aHost("b", at("r2", "z2")), aHost("c", at("r3", "z2"), holds(layerA, layerB), claimed(Need{CPU: 4000})),
		}, "b"},
		{"the fullest, when all else is equal", aRequest(2), []Host{aHost("a"), aHost("b", claimed(Need{CPU: 1000})), aHost("c")}, "b b"},
		{"the next one when it is full", aRequest(5), []Host{aHost("a"), aHost("b")}, "a a a a b"},
		{"one for each port", aRequest(2, func(r *Request) { r.Need.Ports = []int32{80} }), []Host{aHost("a"), aHost("b")}, "a b"},
		{"hosts apart", aRequest(3, spread(SpreadHost)), []Host{aHost("a"), aHost("b", holds(layerA)), aHost("c")}, "b a c"},
		{"racks apart", aRequest(3, spread(SpreadRack)), []Host{aHost("a", at("r1", "")), aHost("b", at("r1", "")), aHost("c", at("r2", ""))}, "a c b"},
		{"zones apart, with those that are there", aRequest(2, spread(SpreadZone), func(r *Request) { r.Has = map[string]int{"id-a": 2} }),
			[]Host{aHost("a", at("r", "z1")), aHost("b", at("r", "z1")), aHost("c", at("r", "z2"))}, "c c"},
		{"light ones on core hosts too", aRequest(1, func(r *Request) { r.Tier = TierLight }), []Host{aHost("a")}, "a"},
		{"what tolerates a taint", aRequest(1, func(r *Request) { r.Tolerate = []string{"gpu"} }), []Host{aHost("a", func(h *Host) { h.Taints = []string{"gpu"} })}, "a"},
		{"a variant of the platform", aRequest(1, func(r *Request) { r.Platforms = []string{"linux/arm64/v8"} }), []Host{aHost("a", func(h *Host) { h.Platform = "linux/arm64" })}, "a"},
	} {
		p, err := Make(c.ask, c.hosts)
		if got := strings.ReplaceAll(strings.Join(p.Chosen, " "), "id-", ""); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func spread(s Spread) func(*Request) { return func(r *Request) { r.Spread = s } }

func TestPlanNamesSparesAndTheRest(t *testing.T) {
	r := aRequest(1)
	r.Spares = 1
	p, err := Make(r, []Host{aHost("a", holds(layerA, layerB)), aHost("b"), aHost("c", holds(layerA)), aHost("d")})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Spares, []string{"id-c"}) || !slices.Equal(p.Rest, []string{"id-b", "id-d"}) {
		t.Errorf("spares %v, rest %v", p.Spares, p.Rest)
	}
	var got []string
	for _, v := range p.Verdicts {
		got = append(got, fmt.Sprint(v.Name, " ", v.Outcome, " ", v.Missing))
	}
	want := []string{"a chosen 0", "b rank 110", "c spare 10", "d rank 110"}
	if !slices.Equal(got, want) {
		t.Errorf("verdicts %q, want %q", got, want)
	}
}

func TestPlanKeepsThePoolsQuota(t *testing.T) {
	r := aRequest(3)
	r.Room = &Need{CPU: 2999, Memory: 100 * gib}
	if _, err := Make(r, []Host{aHost("a")}); !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), "room for 2 of 3 containers, the quota") {
		t.Errorf("three in a quota of two: %v", err)
	}
	r.Replicas = 2
	if p, err := Make(r, []Host{aHost("a")}); err != nil || len(p.Chosen) != 2 {
		t.Errorf("two in a quota of two: %v, %v", p.Chosen, err)
	}
}

// aWorld draws hosts of two pools with claims on them, and a request.
func aWorld(rng *rand.Rand) (Request, []Host) {
	r := aRequest(1+rng.IntN(12), spread([]Spread{Packed, SpreadHost, SpreadRack, SpreadZone}[rng.IntN(4)]))
	r.Spares = rng.IntN(4)
	r.Need = Need{CPU: int64(rng.IntN(3)) * 500, Memory: int64(rng.IntN(3)) * gib}
	if rng.IntN(3) == 0 {
		r.Need.Ports = []int32{80}
	}
	if rng.IntN(3) == 0 {
		r.Tier = TierCore
	}
	var hosts []Host
	for i := range 1 + rng.IntN(20) {
		h := aHost(fmt.Sprintf("h%02d", i), at(fmt.Sprint("r", rng.IntN(4)), fmt.Sprint("z", rng.IntN(2))))
		h.Pool = []string{"web", "web", "web", "db"}[rng.IntN(4)]
		h.Tier = []string{TierCore, TierCore, TierLight}[rng.IntN(3)]
		h.Connected = rng.IntN(8) > 0
		h.used = Need{CPU: int64(rng.IntN(9)) * 500, Memory: int64(rng.IntN(8)) * gib}
		if rng.IntN(4) == 0 {
			h.used.Ports = []int32{80}
		}
		if rng.IntN(2) == 0 {
			holds(layerA)(&h)
		}
		hosts = append(hosts, h)
	}
	return r, hosts
}

func TestPlanProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		r, hosts := aWorld(rng)
		p, err := Make(r, hosts)
		if err == nil && len(p.Chosen) != r.Replicas || err != nil && len(p.Chosen) != 0 {
			t.Fatalf("%d chosen of %d, %v", len(p.Chosen), r.Replicas, err)
		}
		if len(p.Verdicts) != len(hosts) {
			t.Fatalf("%d verdicts about %d hosts", len(p.Verdicts), len(hosts))
		}
		keepsWithin(t, r, hosts, p)
		keepsApart(t, r, hosts, p)
		// As many as there is room for are the most for which there is a plan.
		part := r
		part.Partly = true
		if q, err := Make(part, hosts); err == nil {
			fewer, more := r, r
			fewer.Replicas, more.Replicas = len(q.Chosen), len(q.Chosen)+1
			whole, err := Make(fewer, hosts)
			_, none := Make(more, hosts)
			if err != nil || !slices.Equal(whole.Chosen, q.Chosen) || !slices.Equal(whole.Spares, q.Spares) || none == nil && len(q.Chosen) < r.Replicas {
				t.Fatalf("%d of %d have room, then %v and %v", len(q.Chosen), r.Replicas, err, none)
			}
		} else if part.Replicas = 1; r.Replicas > 0 {
			if _, err := Make(part, hosts); err == nil {
				t.Fatal("there is room for one, and none was found for many")
			}
		}
		// Stable: neither the order of the hosts nor one that is out of question
		// changes anything, and neither does a host that ranks last.
		again := slices.Clone(hosts)
		rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if q, _ := Make(r, again); !reflect.DeepEqual(p, q) {
			t.Fatalf("another order, another plan:\n%+v\n%+v", p, q)
		}
		other := append(again, aHost("zz", func(h *Host) { h.Pool = "db" }))
		if q, _ := Make(r, other); !slices.Equal(p.Chosen, q.Chosen) || !slices.Equal(p.Spares, q.Spares) {
			t.Fatalf("a host of another pool changed the plan:\n%v\n%v", p.Chosen, q.Chosen)
		}
	}
}

// keepsWithin: never over capacity, never outside the pool, each port once.
func keepsWithin(t *testing.T, r Request, hosts []Host, p Plan) {
	t.Helper()
	count := map[string]int64{}
	for _, s := range p.Chosen {
		count[s]++
	}
	for _, h := range hosts {
		n := count[h.Server]
		if slices.Contains(p.Spares, h.Server) {
			n = 1
		}
		switch {
		case n == 0:
		case h.Pool != r.Pool || !h.Connected || r.Tier == TierCore && h.Tier != TierCore:
			t.Fatalf("%s was taken: %+v", h.Server, h)
		case r.Need.CPU > 0 && h.used.CPU+n*r.Need.CPU > h.CPU, r.Need.Memory > 0 && h.used.Memory+n*r.Need.Memory > h.Memory:
			t.Fatalf("%s is over its capacity with %d more: %+v", h.Server, n, h)
		case len(r.Need.Ports) > 0 && (n > 1 || len(h.used.Ports) > 0):
			t.Fatalf("%s has a port twice", h.Server)
		}
		if count[h.Server] > 0 && (slices.Contains(p.Spares, h.Server) || slices.Contains(p.Rest, h.Server)) {
			t.Fatalf("%s is chosen and spare", h.Server)
		}
	}
}

// keepsApart: of two groups one is ahead by more than one container only when
// the other has no room.
func keepsApart(t *testing.T, r Request, hosts []Host, p Plan) {
	t.Helper()
	if r.Spread == Packed || len(p.Chosen) == 0 {
		return
	}
	count, room := map[string]int{}, map[string]bool{}
	for _, h := range hosts {
		n := 0
		for _, s := range p.Chosen {
			if s == h.Server {
				n++
				h.used = h.used.plus(r.Need)
				h.containers++
			}
		}
		g := groupOf(r.Spread, h)
		count[g] += n
		room[g] = room[g] || refusal(r, h) == ""
	}
	for a := range count {
		for b := range count {
			if room[b] && count[a] > count[b]+1 {
				t.Fatalf("spread by %s: %d in %s, %d in %s, which has room", r.Spread, count[a], a, count[b], b)
			}
		}
	}
}

func TestFewer(t *testing.T) {
	hosts := []Host{aHost("a", at("r1", "z")), aHost("b", at("r1", "z")), aHost("c", at("r2", "z"))}
	list := []running{
		{id: "1", server: "id-a", healthy: true}, {id: "2", server: "id-a", healthy: true}, {id: "3", server: "id-b", healthy: true},
		{id: "4", server: "id-c", healthy: true}, {id: "5", server: "id-c"}, {id: "6", server: "id-x", gone: true},
	}
	for _, c := range []struct {
		spread Spread
		n      int
		want   string
	}{
		{Packed, 1, "6"}, {Packed, 2, "6 5"}, {Packed, 3, "6 5 4"}, {SpreadHost, 3, "6 5 2"}, {SpreadRack, 4, "6 5 2 3"}, {SpreadHost, 9, "6 5 2 4 3 1"},
	} {
		if got := strings.Join(fewer(c.spread, list, hosts, c.n), " "); got != c.want {
			t.Errorf("%q, %d fewer: %s, want %s", c.spread, c.n, got, c.want)
		}
	}
}
