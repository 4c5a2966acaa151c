package cost

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestBytesSinceTheLastReport(t *testing.T) {
	was := report{Instance: "one", Counters: Counters{100, 20, 5, 1}}
	for _, c := range []struct {
		name string
		now  report
		want Counters
	}{
		{"the same process", report{Instance: "one", Counters: Counters{150, 20, 6, 1}}, Counters{50, 0, 1, 0}},
		{"said again", was, Counters{}},
		{"a step back", report{Instance: "one", Counters: Counters{90, 30, 5, 1}}, Counters{0, 10, 0, 0}},
		{"another process", report{Instance: "two", Counters: Counters{90, 30, 5, 1}}, Counters{90, 30, 5, 1}},
	} {
		if got := c.now.since(was); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func (s *stage) bytes(pool string) PoolSum {
	s.t.Helper()
	report, err := s.Report(s.t.Context(), ByPool, Question{From: day, To: s.now}, Sight{All: true})
	if err != nil {
		s.t.Fatal(err)
	}
	sum := PoolSum{Pool: pool}
	for _, p := range report.Pools {
		if p.Pool == pool {
			sum.Counters, sum.Saved = sum.Counters.plus(p.Counters), sum.Saved+p.Saved
		}
	}
	return sum
}

// TestBytesCountOnce: hosts report, say it again, start anew; commits fail
// before and after they took effect, and the supernode is killed.
func TestBytesCountOnce(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		s := newStage(t)
		want, hosts := Counters{}, make([]report, 5)
		for step := range 200 {
			s.now = at(step/10, step%10*6)
			n := r.IntN(len(hosts))
			h := &hosts[n]
			if h.Instance == "" || r.IntN(12) == 0 {
				*h = report{Instance: fmt.Sprint("run ", step)}
			}
			more := Counters{r.Int64N(1000), r.Int64N(100), r.Int64N(10), r.Int64N(5)}
			h.Counters, want = h.Counters.plus(more), want.plus(more)
			for range 1 + r.IntN(2) {
				if err := s.Traffic(fmt.Sprint("host", n), "web", h.Instance, h.Counters); err != nil {
					t.Fatal(err)
				}
			}
			// A new process' first report may not be lost with the old one's
			// last still unwritten, so each is written down here in the end.
			s.store.before, s.store.after = r.IntN(5) == 0, r.IntN(5) == 0
			for err := s.Flush(t.Context()); err != nil; err = s.Flush(t.Context()) {
				if !errors.Is(err, errDisk) {
					t.Fatal(err)
				}
				if r.IntN(2) == 0 {
					s.restart() // and the host reports again
					if err := s.Traffic(fmt.Sprint("host", n), "web", h.Instance, h.Counters); err != nil {
						t.Fatal(err)
					}
				}
			}
			s.store.before, s.store.after = false, false
		}
		s.now = at(24, 0)
		if got := s.bytes("web"); got.Counters != want {
			t.Fatalf("seed %d: counted %v, reported %v", seed, got.Counters, want)
		}
	}
}

func TestWhatPeersSave(t *testing.T) {
	s := newStage(t)
	report := func(c Counters) {
		t.Helper()
		if err := errors.Join(s.Traffic("p", "web", "i", c), s.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	// 100 GB from peers at 0.09 € a GB are 9 €; those from the supernode, from
	// outside and from the host's own disk save nothing.
	report(Counters{Peer: 100 * gigabyte, Supernode: 5 * gigabyte, Upstream: 2 * gigabyte, Local: gigabyte})
	// 10 GB more at another price, 1 € a GB, in the same hour: 10 €.
	s.terms["web"] = Terms{Price: Price{Currency: "EUR", EgressGB: 1_000_000}}
	s.now = at(0, 30)
	report(Counters{Peer: 110 * gigabyte, Supernode: 5 * gigabyte, Upstream: 2 * gigabyte, Local: gigabyte})
	s.now = at(2, 0)
	want := PoolSum{Pool: "web", Counters: Counters{110 * gigabyte, 5 * gigabyte, 2 * gigabyte, gigabyte}, Saved: 19_000_000}
	if got := s.bytes("web"); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestManyHostsFitTheirCommits(t *testing.T) {
	s := newStage(t)
	for n := range 250 {
		if err := s.Traffic(fmt.Sprint("host", n), []string{"web", "old"}[n%5/4], "i", Counters{Peer: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.now = at(1, 0)
	if web, old := s.bytes("web").Peer, s.bytes("old").Peer; web != 200 || old != 50 {
		t.Errorf("%d and %d bytes", web, old)
	}
}

func TestWhatIsNoReportOfBytes(t *testing.T) {
	s := newStage(t)
	for name, err := range map[string]error{
		"no host":         s.Traffic("", "web", "i", Counters{}),
		"no instance":     s.Traffic("p", "web", "", Counters{}),
		"a long instance": s.Traffic("p", "web", strings.Repeat("i", 256), Counters{}),
		"a path":          s.Traffic("p/q", "web", "i", Counters{}),
		"below nothing":   s.Traffic("p", "web", "i", Counters{Upstream: -1}),
		"without end":     s.Traffic("p", "web", "i", Counters{Peer: maxBytes + 1}),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.waiting) != 0 {
		t.Errorf("%d reports wait", len(s.waiting))
	}
	for n := range maxWaiting {
		s.waiting[fmt.Sprint(n)] = report{}
	}
	if err := s.Traffic("one more", "web", "i", Counters{}); !errors.Is(err, ErrTooMuch) {
		t.Errorf("one more host: %v", err)
	}
}
