package tracker

import (
	"fmt"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

var (
	start = time.Unix(1_000_000, 0)
	seeds = []blob.Peer{{ID: "seed", Addr: "10.0.0.1:8002", Distance: 3}}
)

func digest(i int) blob.Digest { return blob.Digest(fmt.Sprintf("sha256:%064x", i)) }

func peer(i int) Peer {
	return Peer{
		ID: fmt.Sprintf("peer-%04d", i), Addr: fmt.Sprintf("10.1.%d.%d:65002", i/250, i%250+1),
		Zone: fmt.Sprintf("zone-%d", i/100), Rack: fmt.Sprintf("rack-%d", i/20),
	}
}

func newTracker() *Tracker {
	return New(Config{Seeds: func() []blob.Peer { return seeds }})
}

func wants(t *Tracker, now time.Time, p Peer, d blob.Digest, held int) Reply {
	return t.Announce(now, p, []Announcement{{Digest: d, Size: 100 << 20, State: Wants, Held: held, Seed: SeedHas}})[0]
}

func ids(r Reply) map[string]blob.Peer {
	out := map[string]blob.Peer{}
	for _, p := range r.Peers {
		out[p.ID] = p
	}
	return out
}

func TestNamesTheSeedAndNeverOneself(t *testing.T) {
	tr := newTracker()
	for i := range 50 {
		r := wants(tr, start, peer(i), digest(1), 0)
		got := ids(r)
		if p, ok := got["seed"]; !ok || !p.Seed {
			t.Fatalf("peer %d is not told of the seed: %v", i, r.Peers)
		}
		if _, self := got[peer(i).ID]; self {
			t.Fatalf("peer %d is told of itself", i)
		}
		if want := min(i+1, 24); len(got) != want || len(r.Peers) != want {
			t.Fatalf("peer %d is told of %d, want %d", i, len(got), want)
		}
	}
	if r := wants(tr, start, peer(0), digest(2), 0); len(r.Peers) != 1 {
		t.Errorf("another digest's swarm shows through: %v", r.Peers)
	}
}

func TestNearOnesFirstButNotAlone(t *testing.T) {
	tr := newTracker()
	for i := range 1000 {
		wants(tr, start, peer(i), digest(1), 0)
	}
	r := wants(tr, start, Peer{ID: "new", Addr: "10.9.9.9:1", Zone: "zone-3", Rack: "rack-15"}, digest(1), 0)
	count := map[int]int{}
	for _, p := range r.Peers[1:] {
		count[p.Distance]++
	}
	if count[1] < 5 || count[1]+count[2] < 12 || count[3] < 5 {
		t.Errorf("distances %v", count)
	}
}

func TestEverybodyIsReachable(t *testing.T) {
	const n = 1000
	tr := New(Config{}) // no seed, which would join all anyhow
	links := make([][]string, n)
	for round := range 3 {
		for i := range n {
			r := wants(tr, start.Add(time.Duration(round)*time.Second), peer(i), digest(1), round)
			links[i] = nil
			for _, p := range r.Peers {
				links[i] = append(links[i], p.ID)
			}
		}
	}
	// Bytes go from who was named to who was told of it.
	told := map[string][]int{}
	for i := range n {
		for _, id := range links[i] {
			told[id] = append(told[id], i)
		}
	}
	seen, queue := map[int]bool{0: true}, []int{0}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		for _, j := range told[peer(i).ID] {
			if !seen[j] {
				seen[j] = true
				queue = append(queue, j)
			}
		}
	}
	if len(seen) != n {
		t.Errorf("bytes of one reach %d of %d", len(seen), n)
	}
	for id, others := range told {
		if len(others) > 100 {
			t.Errorf("%s is named to %d others", id, len(others))
		}
	}
}

func TestListsChangeSlowly(t *testing.T) {
	tr := newTracker()
	for i := range 200 {
		wants(tr, start, peer(i), digest(1), 0)
	}
	before := ids(wants(tr, start, peer(7), digest(1), 0))
	after := ids(wants(tr, start.Add(time.Second), peer(7), digest(1), 0))
	kept := 0
	for id := range before {
		if _, ok := after[id]; ok {
			kept++
		}
	}
	if kept < 22 || kept == len(after) {
		t.Errorf("%d of %d neighbours were kept", kept, len(after))
	}
}

func TestSilentNodesAreDropped(t *testing.T) {
	tr := newTracker()
	tr.Announce(start, peer(1), []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	wants(tr, start, peer(2), digest(1), 0)
	later := start.Add(wantSilence + time.Second)
	tr.Announce(later, peer(1), nil) // a sign of life
	got := ids(wants(tr, later, peer(3), digest(1), 0))
	if p, ok := got[peer(1).ID]; !ok || !p.Complete {
		t.Error("a holder that lives is not named")
	}
	if _, ok := got[peer(2).ID]; ok {
		t.Error("a node that no longer asks is named")
	}
	gone := later.Add(nodeSilence)
	if got := ids(wants(tr, gone, peer(3), digest(1), 0)); len(got) != 1 {
		t.Errorf("after the holder's silence: %v", got)
	}
	tr.Sweep(gone.Add(nodeSilence))
	if list := tr.Swarms(gone, 10); len(list) != 0 {
		t.Errorf("swarms of nobody: %v", list)
	}
	if n := tr.Nodes(gone.Add(nodeSilence)); n != 0 {
		t.Errorf("%d nodes", n)
	}
}

func TestGoneAndRemoved(t *testing.T) {
	tr := newTracker()
	tr.Announce(start, peer(1), []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	tr.Announce(start, peer(2), []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	tr.Announce(start, peer(1), []Announcement{{Digest: digest(1), State: Gone}})
	tr.Remove(peer(2).ID)
	if got := ids(wants(tr, start, peer(3), digest(1), 0)); len(got) != 1 {
		t.Errorf("named: %v", got)
	}
	tr.Announce(start, peer(2), []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	if got := ids(wants(tr, start, peer(3), digest(1), 0)); len(got) != 2 {
		t.Errorf("a node that came back is not named: %v", got)
	}
}

func TestReports(t *testing.T) {
	tr := newTracker()
	bad := peer(1)
	tr.Announce(start, bad, []Announcement{{Digest: digest(1), Size: 1, State: Complete}, {Digest: digest(2), Size: 1, State: Complete}})
	named := func(now time.Time, d blob.Digest) bool {
		_, ok := ids(wants(tr, now, peer(2), d, 0))[bad.ID]
		return ok
	}
	wants(tr, start, peer(3), digest(1), 0)
	tr.Report(start, "stranger", bad.ID, digest(1), true)
	tr.Report(start, bad.ID, bad.ID, digest(1), true)
	tr.Report(start, peer(3).ID, bad.ID, digest(1), false)
	tr.Report(start, peer(3).ID, bad.ID, digest(1), false)
	if !named(start, digest(1)) {
		t.Fatal("one report, a stranger's or one's own put a node out")
	}
	tr.Report(start, peer(2).ID, bad.ID, digest(1), false)
	if named(start, digest(1)) {
		t.Error("two reports changed nothing")
	}
	if !named(start, digest(2)) {
		t.Error("it is put out for another digest too")
	}
	tr.Report(start, peer(2).ID, bad.ID, digest(2), true)
	if named(start, digest(2)) {
		t.Error("evidence changed nothing")
	}
}

func TestOneLeaseAtATime(t *testing.T) {
	tr := newTracker()
	ask := func(now time.Time, i, held int, seed SeedState) int64 {
		return tr.Announce(now, peer(i), []Announcement{{
			Digest: digest(1), Size: 100 << 20, State: Wants, Held: held, Outside: true, Seed: seed,
		}})[0].OriginBytes
	}
	if n := ask(start, 1, 0, SeedHas); n != 0 {
		t.Errorf("%d bytes granted while the seed fetches", n)
	}
	if n := ask(start, 1, 0, SeedFailed); n != 100<<20 {
		t.Errorf("%d bytes granted when the seed failed", n)
	}
	granted := int64(0)
	for i := range 1000 {
		granted += ask(start.Add(time.Second), i, 0, SeedFailed)
	}
	if granted != 0 {
		t.Errorf("%d more bytes granted to others", granted)
	}
	ask(start.Add(9*time.Second), 1, 50, SeedFailed) // it moves
	if n := ask(start.Add(15*time.Second), 2, 0, SeedFailed); n != 0 {
		t.Errorf("%d bytes granted to a second while the first moves", n)
	}
	if n := ask(start.Add(20*time.Second), 2, 300, SeedFailed); n == 0 || n > 100<<20 {
		t.Errorf("%d bytes granted after the first stopped", n)
	}
	if n := tr.Announce(start, peer(3), []Announcement{{Digest: digest(9), State: Wants, Size: -1, Seed: SeedUnneeded}})[0].OriginBytes; n != 0 {
		t.Errorf("%d origin bytes for an own image", n)
	}
}

func TestWhoMayNotHaveItLearnsNothing(t *testing.T) {
	tr := newTracker()
	tr.Announce(start, peer(1), []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	for _, state := range []SeedState{SeedRefused, SeedChecking} {
		r := tr.Announce(start, peer(2), []Announcement{{
			Digest: digest(1), Size: 1, State: Wants, Outside: true, Seed: state, RefusedStatus: 401, RefusedReason: "no",
		}})[0]
		if len(r.Peers) != 0 || r.OriginBytes != 0 || r.RefusedStatus != 401 {
			t.Errorf("state %d: %+v", state, r)
		}
	}
	if s, _ := tr.Swarm(start, digest(1)); s.Complete != 1 || s.Partial != 0 {
		t.Errorf("swarm %+v", s)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	tr := New(Config{MaxDigests: shardCount, MaxPeers: 10})
	for i := range 5000 {
		wants(tr, start, peer(1), digest(i), 0)
	}
	if n := len(tr.Swarms(start, 1<<20)); n > 2*shardCount {
		t.Errorf("%d digests are known", n)
	}
	for i := range 100 {
		wants(tr, start, peer(i), digest(1), 0)
	}
	if s, _ := tr.Swarm(start, digest(1)); len(s.Members) > 10 {
		t.Errorf("%d nodes in a swarm", len(s.Members))
	}
}

func TestANodeThatMoves(t *testing.T) {
	tr := newTracker()
	p := peer(1)
	tr.Announce(start, p, []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	p.Addr, p.Rack, p.Zone = "10.7.7.7:65002", "elsewhere", "far"
	tr.Announce(start, p, []Announcement{{Digest: digest(1), Size: 1, State: Complete}})
	got := ids(wants(tr, start, Peer{ID: "x", Addr: "10.8.8.8:1", Rack: "elsewhere", Zone: "far"}, digest(1), 0))
	if one := got[p.ID]; one.Addr != p.Addr || one.Distance != 1 {
		t.Errorf("named as %+v", one)
	}
	s, _ := tr.Swarm(start, digest(1))
	if len(s.Members) != 2 {
		t.Errorf("%d members", len(s.Members))
	}
}

func TestDistance(t *testing.T) {
	a := Peer{Addr: "10.0.0.1:1", Rack: "r", Zone: "z"}
	for _, c := range []struct {
		b    Peer
		want int
	}{
		{Peer{Addr: "10.0.0.1:2"}, 0},
		{Peer{Addr: "10.0.0.2:2", Rack: "r", Zone: "z"}, 1},
		{Peer{Addr: "10.0.0.2:2", Rack: "r", Zone: "y"}, 3},
		{Peer{Addr: "10.0.0.2:2", Rack: "q", Zone: "z"}, 2},
		{Peer{Addr: "10.0.0.2:2"}, 3},
	} {
		if got := Distance(a, c.b); got != c.want {
			t.Errorf("%+v: %d, want %d", c.b, got, c.want)
		}
	}
	if got := Distance(Peer{Addr: "10.0.0.1:1"}, Peer{Addr: "10.0.0.2:1"}); got != 3 {
		t.Errorf("without labels: %d", got)
	}
}

func BenchmarkAnnounce(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tr := newTracker()
			for i := range n {
				wants(tr, start, peer(i), digest(1), 0)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				wants(tr, start, peer(i%n), digest(1), i)
				i++
			}
		})
	}
}

func TestAgain(t *testing.T) {
	for _, c := range []struct {
		peers     int
		age, want time.Duration
	}{
		{1, 0, youngAgain},
		{30, time.Second, youngAgain},
		{100, time.Second, 500 * time.Millisecond},
		{1, youngFor, againLeast},
		{400, youngFor, 2 * time.Second},
		{10_000, 0, againMost},
		{10_000, time.Hour, againMost},
	} {
		if got := again(c.peers, c.age); got != c.want {
			t.Errorf("a swarm of %d, %s old: again after %s, want %s", c.peers, c.age, got, c.want)
		}
	}
}
