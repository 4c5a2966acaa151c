package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

var now = time.Unix(1000, 0)

func chance() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func bits(n int, on ...int) blob.Bitmap {
	b := blob.NewBitmap(n)
	for _, i := range on {
		b.Set(i)
	}
	return b
}

func TestEmitterSendsEachPieceOnceLowestFirst(t *testing.T) {
	e := NewEmitter(4)
	all := bits(4, 0, 1, 2, 3)
	if i, ok := e.Next(bits(4, 2, 3), all); !ok || i != 2 {
		t.Fatalf("of 2 and 3 it chose %d, %v", i, ok)
	}
	if i, ok := e.Next(all, bits(4, 1, 2)); !ok || i != 1 {
		t.Fatalf("of those held it chose %d, %v", i, ok)
	}
	if _, ok := e.Next(bits(4, 1, 2), all); ok {
		t.Fatal("a piece that is being sent was chosen again")
	}
	e.Returned(2)
	e.Sent(now, 1)
	if i, ok := e.Next(bits(4, 1, 2), all); !ok || i != 2 {
		t.Fatalf("a piece that came back: %d, %v", i, ok)
	}
	if e.Exhausted(bits(4, 1, 2)) {
		t.Error("a piece that is being sent counts as left")
	}
	e.Sent(now, 2)
	if !e.Exhausted(bits(4, 1, 2)) || e.Exhausted(all) {
		t.Error("exhausted is wrong about 1 and 2, or about all")
	}
	if e.Begin(1) || !e.Begin(0) || e.Begin(0) {
		t.Error("asking by index: a piece leaves for the first time once")
	}
}

func TestEmitterSendsAgainWhatLeftLongestAgo(t *testing.T) {
	e := NewEmitter(4)
	all := bits(4, 0, 1, 2, 3)
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	for i, left := range []int{2, 1, 5} {
		if got, ok := e.Next(all, all); !ok || got != i {
			t.Fatalf("it chose %d, %v", got, ok)
		}
		e.Sent(at(left), i)
	}
	const wait = 4 * time.Second
	if i, ok := e.Again(at(4), wait, all, all); ok {
		t.Fatalf("%d left just now and is sent again", i)
	}
	if i, ok := e.Again(at(6), wait, all, all); !ok || i != 1 {
		t.Fatalf("it sends %d again, %v; 1 left first", i, ok)
	}
	if i, ok := e.Again(at(6), wait, bits(4, 1, 3), all); ok {
		t.Fatalf("%d is sent again, being sent, or having never left", i)
	}
	e.Returned(1)
	if i, ok := e.Again(at(6), wait, all, bits(4, 0, 2)); !ok || i != 0 {
		t.Fatalf("of what is held it sends %d again, %v", i, ok)
	}
	if i, ok := e.Again(at(6), wait, all, all); !ok || i != 1 {
		t.Fatalf("a piece that came back: %d, %v", i, ok)
	}
	e.Sent(at(7), 1)
	if i, ok := e.Again(at(8), wait, bits(4, 0, 1, 2), all); ok {
		t.Errorf("%d is sent a third time", i)
	}
}

func TestQuietPeerHoldsNothing(t *testing.T) {
	k := NewPicker(Default(), 3, chance())
	p, other := &Peer{}, &Peer{}
	k.Add("p", p)
	k.Add("other", other)
	k.Reset("p", bits(3, 0, 1))
	k.Reset("other", bits(3, 0))
	all := bits(3, 0, 1, 2)
	scarce := func() []int { return slices.Collect(k.Scarce(now, all).All()) }
	if got := scarce(); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("held by fewer than two: %v", got)
	}
	p.Moved(now)
	p.Stalled(now.Add(time.Second), 2*time.Second)
	if len(scarce()) != 2 {
		t.Error("a peer of which other pieces move is quiet")
	}
	p.Outstanding = 1
	if c, ok := k.Pick(now, bits(3, 1), bits(3)); !ok || c.Peer != "p" {
		t.Error("one piece on its way is too many")
	}
	p.Stalled(now.Add(2*time.Second), 2*time.Second)
	if len(scarce()) != 3 {
		t.Error("a quiet peer is counted on")
	}
	if c, ok := k.Pick(now, bits(3, 1), bits(3)); ok {
		t.Errorf("a quiet peer is asked for more: %+v", c)
	}
	p.Moved(now.Add(3 * time.Second))
	if len(scarce()) != 2 {
		t.Error("a peer that is back is quiet still")
	}
}

func TestQueueServesByClassThenNewsThenTurns(t *testing.T) {
	p := Default()
	p.Slots, p.PerPeerSlots, p.Waiting, p.WaitingPerPeer = 1, 1, 100, 100
	q := NewQueue(p)
	push := func(name, peer string, class Class, repeat bool) {
		t.Helper()
		if _, ok := q.Push(&Waiter{Peer: peer, Class: class, Repeat: repeat, Value: name}); !ok {
			t.Fatalf("%s was refused", name)
		}
	}
	push("prewarm", "c", Prewarm, false)
	push("a1", "a", Rollout, false)
	push("a2", "a", Rollout, false)
	push("b1", "b", Rollout, false)
	push("repeat", "b", Rollout, true)
	push("wait", "c", Wait, false)
	var got []string
	for {
		w := q.Next(func(*Waiter) bool { return true })
		if w == nil {
			break
		}
		got = append(got, w.Value.(string))
		if again := q.Next(func(*Waiter) bool { return true }); again != nil {
			t.Fatal("two were served through one slot")
		}
		q.Release(w)
	}
	if want := []string{"wait", "a1", "b1", "a2", "repeat", "prewarm"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
}

func TestQueueIsBounded(t *testing.T) {
	p := Default()
	p.Slots, p.PerPeerSlots, p.Waiting, p.WaitingPerPeer = 2, 1, 2, 1
	q := NewQueue(p)
	always := func(*Waiter) bool { return true }
	first := &Waiter{Peer: "a", Class: Rollout}
	q.Push(first)
	if _, ok := q.Push(&Waiter{Peer: "a"}); ok {
		t.Error("a second request of one peer waits")
	}
	if q.Next(always) != first {
		t.Fatal("the first was not served")
	}
	q.Push(&Waiter{Peer: "a", Class: Rollout})
	if q.Next(always) != nil {
		t.Error("one peer has both slots")
	}
	late := &Waiter{Peer: "b", Class: Prewarm}
	q.Push(late)
	if _, ok := q.Push(&Waiter{Peer: "c", Class: Reseed}); ok {
		t.Error("a full queue takes what is less urgent")
	}
	if out, ok := q.Push(&Waiter{Peer: "d", Class: Wait}); !ok || out != late {
		t.Errorf("a more urgent request pushed out %v, %v", out, ok)
	}
	if q.Len() != 2 || q.Active() != 1 {
		t.Errorf("%d wait, %d are served", q.Len(), q.Active())
	}
	if q.Remove(late) || !q.Remove(q.waiting[0]) || q.Len() != 1 {
		t.Error("removing is wrong")
	}
}

func TestPickerPrefersDemandThenRare(t *testing.T) {
	p := Default()
	p.Jitter, p.IndexWeight = 0, 0.1
	k := NewPicker(p, 8, chance())
	a, b := &Peer{}, &Peer{}
	k.Add("a", a)
	k.Add("b", b)
	k.Reset("a", bits(8, 0, 1, 2, 5))
	k.Reset("b", bits(8, 0, 1, 5))
	all := bits(8, 0, 1, 2, 3, 4, 5, 6, 7)
	none := bits(8)
	if c, ok := k.Pick(now, all, none); !ok || c != (Choice{Piece: 2, Peer: "a"}) {
		t.Errorf("the rare piece: %+v", c)
	}
	if c, ok := k.Pick(now, all, bits(8, 5)); !ok || c.Piece != 5 {
		t.Errorf("the piece in demand: %+v", c)
	}
	if c, ok := k.Pick(now, bits(8, 0, 1), none); !ok || c.Piece != 0 {
		t.Errorf("of equals the lower index: %+v", c)
	}
	a.Outstanding = p.PerPeer
	if c, ok := k.Pick(now, bits(8, 0, 2), none); !ok || c != (Choice{Piece: 0, Peer: "b"}) {
		t.Errorf("with a busy: %+v, %v", c, ok)
	}
	b.Failed(now, chance())
	if c, ok := k.Pick(now, all, none); ok {
		t.Errorf("with b backing off: %+v", c)
	}
	if _, ok := k.Pick(now.Add(time.Minute), all, none); !ok {
		t.Error("backing off never ends")
	}
	k.Remove("b")
	if k.Held(0) != 1 || k.Held(2) != 1 || k.Held(5) != 1 {
		t.Error("the claims of a peer outlive it")
	}
}

func TestPickerSpreadsOverPeers(t *testing.T) {
	k := NewPicker(Default(), 1, chance())
	fast, slow := &Peer{}, &Peer{}
	k.Add("fast", fast)
	k.Add("slow", slow)
	for _, id := range []string{"fast", "slow"} {
		k.Gained(id, 0)
	}
	fast.Delivered(100 * time.Millisecond)
	slow.Delivered(10 * time.Second)
	for range 50 {
		if c, _ := k.Pick(now, bits(1, 0), bits(1)); c.Peer != "fast" {
			t.Fatal("a peer that crawls was preferred")
		}
	}
	if id, ok := k.Second(now, 0, "fast"); !ok || id != "slow" {
		t.Errorf("the second peer is %q", id)
	}
	if _, ok := k.Second(now, 0, "fast", "slow"); ok {
		t.Error("a peer that was asked is asked again")
	}
}

func TestPeersFallFromGrace(t *testing.T) {
	var p Peer
	r := chance()
	p.Lied(now, r)
	p.Lied(now, r)
	if !p.Ready(now) || p.Liar() {
		t.Error("two false claims are not forgiven")
	}
	p.Lied(now, r)
	if p.Ready(now) || !p.Liar() {
		t.Error("three false claims are forgiven")
	}
	p = Peer{}
	last := time.Duration(0)
	for i := range 12 {
		p.Failed(now, r)
		wait := p.until.Sub(now)
		if wait > lastBackOff || i > 1 && i < 5 && wait <= last/2 {
			t.Errorf("failure %d: wait %v after %v", i, wait, last)
		}
		last = wait
	}
	if !p.Hopeless(now) {
		t.Error("twelve failures are not hopeless")
	}
	p.Delivered(time.Second)
	if p.Hopeless(now) {
		t.Error("a piece redeems nothing")
	}
	p.Ban(now)
	if p.Ready(now.Add(59*time.Minute)) || !p.Ready(now.Add(61*time.Minute)) {
		t.Error("a ban is not an hour")
	}
}

func TestHedgeWaitsForTheUsualTime(t *testing.T) {
	p := Default()
	var pace Pace
	if pace.Late(p, 900*time.Millisecond, 0, 100) || !pace.Late(p, 2*time.Second, 0, 100) {
		t.Error("with nothing known the hedge should wait a second")
	}
	for range 100 {
		pace.Add(2 * time.Second)
	}
	if after := pace.HedgeAfter(p); after != 2500*time.Millisecond {
		t.Errorf("after pieces of 2 s the hedge waits %v", after)
	}
	if pace.Late(p, 3*time.Second, 90, 100) {
		t.Error("a piece that is nearly here is hedged")
	}
	if !pace.Late(p, 3*time.Second, 10, 100) {
		t.Error("a piece that crawls is not hedged")
	}
	for range 100 {
		pace.Add(time.Millisecond)
	}
	if after := pace.HedgeAfter(p); after != p.HedgeFloor {
		t.Errorf("the floor is %v, it waits %v", p.HedgeFloor, after)
	}
}

func TestShareIsFairAndKnowsClasses(t *testing.T) {
	s := NewShare[string](3)
	for k, c := range map[string]Class{"a": Rollout, "b": Rollout, "w": Wait} {
		s.Join(k, c)
	}
	for range 3 {
		if !s.Acquire("a") {
			t.Fatal("a free slot is refused")
		}
	}
	for _, k := range []string{"a", "b", "w"} {
		if s.Acquire(k) {
			t.Fatalf("%s got a slot that is not there", k)
		}
	}
	for _, want := range []string{"w", "b"} {
		if next, ok := s.Release("a"); !ok || next != want {
			t.Errorf("the slot went to %q, want %q", next, want)
		}
	}
	s.Leave("a")
	if next, ok := s.Release("b"); ok {
		t.Errorf("a slot went to %q, who left", next)
	}
}
