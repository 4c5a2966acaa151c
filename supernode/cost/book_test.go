package cost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

var errDisk = errors.New("the disk is gone")

// stumbling is a store whose commits fail now and then, before or after they
// took effect.
type stumbling struct {
	meta.Store
	before, after bool // the next commit fails
	commits       int
}

func (s *stumbling) Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	if s.before {
		s.before = false
		return 0, errDisk
	}
	s.commits++
	revision, err := s.Store.Commit(ctx, compares, ops)
	if s.after && err == nil {
		s.after = false
		return 0, errDisk
	}
	return revision, err
}

// stage is a book with a clock and prices that a test sets.
type stage struct {
	*Book
	t      *testing.T
	store  *stumbling
	now    time.Time
	terms  map[string]Terms
	alarms []Alarm
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, store: &stumbling{Store: meta.NewMemory()}, now: day, terms: map[string]Terms{
		"web": {Price: Price{Currency: "EUR", Hourly: 2_400_000, EgressGB: 90_000}},
		"old": {Price: Price{Currency: "USD", Hourly: 1_000_000}},
	}}
	t.Cleanup(func() { s.store.Close() })
	s.restart()
	return s
}

// restart forgets everything but the store, as a kill does.
func (s *stage) restart() {
	b, err := New(s.t.Context(), Config{
		Meta: s.store, Now: func() time.Time { return s.now }, Log: slog.New(slog.DiscardHandler),
		Terms: func(_ context.Context, pool string) (Terms, error) { return s.terms[pool], nil },
		Alarm: func(_ context.Context, a Alarm) { s.alarms = append(s.alarms, a) },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Book = b
}

func (s *stage) note(usage ...Usage) {
	s.t.Helper()
	for _, u := range usage {
		if err := s.Note(s.t.Context(), u); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) reconcile(usage ...Usage) {
	s.t.Helper()
	if err := s.Reconcile(s.t.Context(), s.now, usage); err != nil {
		s.t.Fatal(err)
	}
}

// costs are the rows of a report of everything until now.
func (s *stage) costs(by string) map[string]int64 {
	s.t.Helper()
	report, err := s.Report(s.t.Context(), by, Question{From: day, To: s.now}, Sight{All: true})
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]int64{}
	for _, r := range report.Rows {
		out[strings.TrimSpace(r.Pool+" "+r.Name+" "+r.Currency)] = r.Micro
	}
	for _, p := range report.Pools {
		if p.Allocated+p.Idle != p.Servers || p.Idle < 0 {
			s.t.Errorf("pool %s: %d allocated and %d idle do not make up %d", p.Pool, p.Allocated, p.Idle, p.Servers)
		}
	}
	return out
}

func (s *stage) want(by string, want map[string]int64) {
	s.t.Helper()
	if got := s.costs(by); fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Errorf("by %s: %v, want %v", by, got, want)
	}
}

func serverUse(id, pool string, cores, gib int64, since time.Time) Usage {
	return Usage{Kind: Server, ID: id, Name: "host-" + id, Pool: pool, CPUMilli: cores * 1000, MemoryBytes: gib * gibibyte, At: since}
}

func containerUse(id, on, pool, placement, project string, cores, gib int64, since time.Time) Usage {
	return Usage{
		Kind: Container, ID: id, Server: on, Pool: pool, Placement: placement, Project: project,
		CPUMilli: cores * 1000, MemoryBytes: gib * gibibyte, At: since,
	}
}

func ended(u Usage, at time.Time) Usage {
	u.Ended, u.At = true, at
	return u
}

// TestAScriptedDay tells of a day as the fleet would, and adds it up by hand.
// The supernode is killed after every word.
func TestAScriptedDay(t *testing.T) {
	s := newStage(t)
	a, b := serverUse("a", "web", 10, 40, at(0, 0)), serverUse("b", "old", 12, 16, at(8, 0))
	front := containerUse("c1", "a", "web", "front", "shop", 5, 20, at(6, 0))
	job := containerUse("c2", "a", "web", "job", "", 1, 4, at(9, 15))
	batch := containerUse("c3", "b", "old", "batch", "lab", 4, 0, at(10, 0))
	for _, word := range []struct {
		at time.Time
		u  Usage
	}{
		// Pool web costs 2.40 € an hour: 24 h are 57.60 €.
		{at(0, 1), a},
		// front has 5 × 4 + 20 = 40 of 80, so 1.20 € an hour.
		{at(6, 0), front},
		// Pool old costs 1 $ an hour from 08:00 to 20:00: 12 $.
		{at(8, 0), b},
		// job has 1 × 4 + 4 = 8 of 80 for half an hour: 0.12 €.
		{at(9, 15), job},
		{at(9, 15), job}, // said again
		{at(9, 50), ended(job, at(9, 45))},
		{at(9, 50), ended(job, at(9, 45))},
		// batch has 4 × 4 = 16 of 12 × 4 + 16 = 64 from 10:00 to 16:00, a
		// quarter of 6 $: 1.50 $.
		{at(10, 0), batch},
		{at(16, 0), ended(batch, time.Time{})},
		// front ends at 18:30: 12.5 h × 1.20 = 15.00 €.
		{at(18, 30), ended(front, at(18, 30))},
		{at(20, 30), ended(b, at(20, 0))},
	} {
		s.now = word.at
		s.note(word.u)
		s.restart()
	}
	s.now = at(24, 0)
	s.want(ByProject, map[string]int64{
		"shop EUR": 15_000_000, "(no project) EUR": 120_000, "(idle) EUR": 57_600_000 - 15_120_000,
		"lab USD": 1_500_000, "(idle) USD": 10_500_000,
	})
	s.want(ByService, map[string]int64{
		"web web/front EUR": 15_000_000, "web web/job EUR": 120_000, "web (idle) EUR": 42_480_000,
		"old old/batch USD": 1_500_000, "old (idle) USD": 10_500_000,
	})
	s.want(ByPool, map[string]int64{
		"web web EUR": 15_120_000, "web (idle) EUR": 42_480_000, "old old USD": 1_500_000, "old (idle) USD": 10_500_000,
	})
	report, err := s.Report(t.Context(), ByProject, Question{From: day, To: s.now}, Sight{All: true})
	if err != nil {
		t.Fatal(err)
	}
	// front: 5000 thousandths of a core × 45,000 s, and 20 GiB = 20480 MiB.
	shop := report.Rows[slices.IndexFunc(report.Rows, func(r Row) bool { return r.Name == "shop" })]
	if shop.CPUMilliSeconds != 5000*45_000 || shop.MemoryMiBSeconds != 20480*45_000 {
		t.Errorf("shop had %d and %d", shop.CPUMilliSeconds, shop.MemoryMiBSeconds)
	}
	if pools := fmt.Sprint(report.Pools); pools != "[{old USD 12000000 1500000 10500000 {0 0 0 0} 0} {web EUR 57600000 15120000 42480000 {0 0 0 0} 0}]" {
		t.Errorf("pools: %s", pools)
	}
}

func TestWhatIsKnownIsNotWrittenAgain(t *testing.T) {
	s := newStage(t)
	a := serverUse("a", "web", 10, 40, day)
	s.now = at(1, 0)
	s.note(a, containerUse("c", "a", "web", "p", "x", 1, 1, day))
	before := s.store.commits
	s.note(a, a, ended(serverUse("never", "web", 1, 1, day), at(0, 30)))
	a.At = at(0, 10) // of another phase
	s.note(a)
	if s.store.commits != before {
		t.Errorf("%d commits for what was known", s.store.commits-before)
	}
}

func TestAChangeBeginsAnotherInterval(t *testing.T) {
	s := newStage(t)
	a := serverUse("a", "web", 10, 40, day)
	s.note(a)
	s.now = at(10, 0)
	s.terms["web"] = Terms{Price: Price{Currency: "EUR", Hourly: 1_000_000}}
	s.reconcile(a) // when the new price is seen it counts
	s.now = at(12, 0)
	a.Pool = "old"
	s.note(a)
	s.now = at(15, 0)
	s.want(ByPool, map[string]int64{"web (idle) EUR": 24_000_000 + 2_000_000, "old (idle) USD": 3_000_000})
}

func TestTimesAheadCountFromNow(t *testing.T) {
	s := newStage(t)
	s.note(serverUse("a", "web", 10, 40, at(5, 0)))
	s.now = at(1, 0)
	s.note(ended(serverUse("a", "web", 10, 40, day), at(9, 0)))
	s.now = at(24, 0)
	s.want(ByPool, map[string]int64{"web (idle) EUR": 2_400_000})
}

// TestWhatVanishedEndsWhenItWasSeenLast: the end of c and b was lost in a kill.
func TestWhatVanishedEndsWhenItWasSeenLast(t *testing.T) {
	s := newStage(t)
	a, b := serverUse("a", "web", 10, 40, day), serverUse("b", "web", 10, 40, day)
	c := containerUse("c", "a", "web", "p", "x", 5, 20, day)
	s.reconcile(a, b, c)
	s.now = at(2, 0)
	s.reconcile(a, b, c)
	s.now = at(7, 0)
	s.restart()
	s.reconcile(a)
	s.now = at(10, 0)
	s.want(ByProject, map[string]int64{"x EUR": 2_400_000, "(idle) EUR": 12*2_400_000 - 2_400_000})
}

// TestAFleetIsTakenInTogether: a disk syncs a few times, not for each server.
func TestAFleetIsTakenInTogether(t *testing.T) {
	s := newStage(t)
	var fleet []Usage
	for n := range 120 {
		fleet = append(fleet, serverUse(fmt.Sprint(n), "web", 1, 1, day))
	}
	s.reconcile(fleet...)
	if s.store.commits > 4 {
		t.Errorf("%d commits", s.store.commits)
	}
	s.now = at(1, 0)
	s.terms["web"] = Terms{Price: Price{Currency: "EUR", Hourly: 1_000_000}}
	s.reconcile(fleet...)
	s.now = at(2, 0)
	s.store.after = true // the commit of unknown outcome is made good
	if err := s.Reconcile(t.Context(), s.now, fleet[:60]); !errors.Is(err, errDisk) {
		t.Error(err)
	}
	s.now = at(3, 0)
	s.reconcile(fleet[:60]...)
	s.want(ByPool, map[string]int64{"web (idle) EUR": 120*2_400_000 + 60*2_000_000})
}

// TestAnOldLookDoesNotUndoNews: what was told of while the fleet was being
// looked at is newer than that look.
func TestAnOldLookDoesNotUndoNews(t *testing.T) {
	s := newStage(t)
	a := serverUse("a", "web", 10, 40, day)
	c, d := containerUse("c", "a", "web", "p", "x", 5, 20, day), containerUse("d", "a", "web", "p", "y", 5, 20, day)
	s.note(a, c)
	asOf := at(1, 0)
	s.now = at(2, 0)
	s.note(ended(c, s.now), d)
	if err := s.Reconcile(t.Context(), asOf, []Usage{a, c}); err != nil {
		t.Fatal(err)
	}
	s.now = at(3, 0)
	s.want(ByProject, map[string]int64{"x EUR": 2_400_000, "y EUR": 3 * 1_200_000, "(idle) EUR": 1_200_000})
}

// TestACommitOfUnknownOutcomeIsMadeGood: the word is said again, and counts
// once.
func TestACommitOfUnknownOutcomeIsMadeGood(t *testing.T) {
	for _, after := range []bool{false, true} {
		s := newStage(t)
		c := containerUse("c", "a", "web", "p", "x", 5, 20, day)
		for i, u := range []Usage{serverUse("a", "web", 10, 40, day), c, ended(c, at(2, 0))} {
			s.now = at(i, 0)
			s.store.before, s.store.after = !after, after
			if err := s.Note(t.Context(), u); !errors.Is(err, errDisk) {
				t.Fatalf("the error was %v", err)
			}
			s.note(u)
		}
		s.now = at(4, 0)
		s.want(ByProject, map[string]int64{"x EUR": 2_400_000, "(idle) EUR": 4*2_400_000 - 2_400_000})
	}
}

func TestWhatIsNoUsage(t *testing.T) {
	s := newStage(t)
	for _, u := range []Usage{
		{Kind: "ship", ID: "a"}, {Kind: Server}, {Kind: Server, ID: "a/b"}, {Kind: Container, ID: "a", Pool: "x/y"},
		{Kind: Server, ID: strings.Repeat("a", 256)},
	} {
		if err := s.Note(t.Context(), u); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", u, err)
		}
	}
}

func TestWhoSeesWhat(t *testing.T) {
	s := newStage(t)
	s.note(serverUse("a", "web", 10, 40, day), serverUse("b", "old", 10, 40, day),
		containerUse("c", "a", "web", "p", "shop", 5, 20, day), containerUse("d", "b", "old", "q", "shop", 5, 20, day), containerUse("e", "a", "web", "r", "", 1, 4, day))
	if err := errors.Join(s.Traffic("p", "web", "i", Counters{Peer: 1}), s.Traffic("q", "old", "i", Counters{Peer: 1}), s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	s.now = at(1, 0)
	for _, c := range []struct {
		name  string
		sight Sight
		q     Question
		rows  string
		pools int
	}{
		{"nobody", Sight{}, Question{}, "", 0},
		{"an administrator", Sight{All: true}, Question{}, "(no project) shop (idle) shop (idle)", 2},
		{"one pool's viewer", Sight{Pools: map[string]bool{"web": true}}, Question{}, "(no project) shop (idle)", 1},
		{"a project's member", Sight{Projects: map[string]time.Time{"shop": {}}}, Question{}, "shop shop", 0},
		{"a member since the project is another one", Sight{Projects: map[string]time.Time{"shop": at(0, 1)}}, Question{}, "", 0},
		{"a member of none that is called nothing", Sight{Projects: map[string]time.Time{"": {}}}, Question{}, "", 0},
		{"another pool by name", Sight{Pools: map[string]bool{"web": true}}, Question{Pool: "old"}, "", 0},
		{"one project by name", Sight{All: true}, Question{Project: "shop"}, "shop shop", 0},
		{"another project by name", Sight{Projects: map[string]time.Time{"shop": {}}}, Question{Project: "lab"}, "", 0},
		{"a pool that is not there", Sight{All: true}, Question{Pool: "none"}, "", 0},
	} {
		c.q.From, c.q.To = day, s.now
		report, err := s.Report(t.Context(), ByProject, c.q, c.sight)
		var names []string
		for _, r := range report.Rows {
			names = append(names, r.Name)
		}
		slices.Sort(names)
		want := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(c.rows, "(no project)", "NONE"), "(idle)", "IDLE"))
		for i, w := range want {
			want[i] = strings.NewReplacer("NONE", NoProject, "IDLE", Idle).Replace(w)
		}
		slices.Sort(want)
		if err != nil || !slices.Equal(names, want) || len(report.Pools) != c.pools {
			t.Errorf("%s: rows %q and %d pools, want %q and %d, error %v", c.name, names, len(report.Pools), want, c.pools, err)
		}
	}
	if _, err := s.Report(t.Context(), "colour", Question{From: day, To: s.now}, Sight{All: true}); !errors.Is(err, ErrInvalid) {
		t.Errorf("by colour: %v", err)
	}
}

// TestQuestionsWaitForTheirTurn: a crowd that asks takes no more than its
// share, and who waits may go.
func TestQuestionsWaitForTheirTurn(t *testing.T) {
	s := newStage(t)
	s.note(serverUse("a", "web", 10, 40, day))
	s.now = at(1, 0)
	for range maxAsking {
		s.asking <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Report(ctx, ByPool, Question{From: day, To: s.now}, Sight{All: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("one more than may: %v", err)
	}
	<-s.asking
	s.want(ByPool, map[string]int64{"web (idle) EUR": 2_400_000})
	if len(s.asking) != maxAsking-1 {
		t.Errorf("%d turns are taken", len(s.asking))
	}
}

func TestWindow(t *testing.T) {
	now := at(36, 30)
	for _, c := range []struct {
		name             string
		from, to         time.Time
		wantFrom, wantTo time.Time
		wrong            bool
	}{
		{name: "this month until now", wantFrom: day, wantTo: now},
		{name: "not beyond now", from: at(1, 0), to: at(99, 0), wantFrom: at(1, 0), wantTo: now},
		{name: "the month of the end", to: at(-30, 0), wantFrom: time.Date(2030, 2, 1, 0, 0, 0, 0, time.UTC), wantTo: at(-30, 0)},
		{name: "backwards", from: at(2, 0), to: at(1, 0), wrong: true},
		{name: "tomorrow", from: at(40, 0), wrong: true},
		{name: "too long", from: now.Add(-Keep - time.Hour), wrong: true},
	} {
		from, to, err := Window(c.from, c.to, now)
		if (err != nil) != c.wrong || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		} else if !c.wrong && (!from.Equal(c.wantFrom) || !to.Equal(c.wantTo)) {
			t.Errorf("%s: %v to %v", c.name, from, to)
		}
	}
}

func TestOldUsageIsDropped(t *testing.T) {
	s := newStage(t)
	a, b := serverUse("a", "web", 1, 1, day), serverUse("b", "web", 1, 1, day)
	s.note(a, b)
	if err := s.Traffic("peer", "web", "i", Counters{Peer: 5}); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.now = at(2, 0)
	s.note(ended(a, s.now))
	count := func() (n int) {
		for range meta.Scan(t.Context(), s.store, "cost/") {
			n++
		}
		return n
	}
	for _, c := range []struct {
		now  time.Time
		want int // b goes on, a's interval, an hour's bytes, the host
	}{{day.Add(Keep - time.Hour), 4}, {day.Add(Keep + time.Hour), 2}, {day.Add(Keep + 3*time.Hour), 1}} {
		s.now = c.now
		if err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != c.want {
			t.Errorf("%v later: %d values are kept, want %d", c.now.Sub(day), got, c.want)
		}
	}
}

// TestRun: the loop looks at once and each minute, writes bytes down, raises
// alarms, and writes once more when it stops.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.cfg.Now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		fails := true
		look := func(context.Context) ([]Usage, error) {
			if fails = !fails; fails {
				return nil, errDisk
			}
			return []Usage{serverUse("a", "web", 1, 1, time.Time{})}, nil
		}
		if err := s.SetBudget(ctx, Budget{Scope: "pool:web", Currency: "EUR", Monthly: 100_000, Alarms: []int{50}}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- s.Run(ctx, look) }()
		synctest.Wait()
		if len(s.open) != 1 {
			t.Error("nothing was looked at at the start")
		}
		began := time.Now()
		<-time.After(16 * time.Minute) // of synctest's clock
		synctest.Wait()
		if len(s.alarms) != 1 {
			t.Errorf("%d alarms", len(s.alarms))
		}
		if err := s.Traffic("peer", "web", "i", Counters{Peer: 7}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		report, err := s.Report(t.Context(), ByPool, Question{From: began.Add(-time.Hour), To: time.Now()}, Sight{All: true})
		if err != nil || len(report.Pools) != 1 || report.Pools[0].Peer != 7 || report.Pools[0].Servers != 2_400_000/60*16 {
			t.Errorf("%+v, %v", report, err)
		}
	})
}
