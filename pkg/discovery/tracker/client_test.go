package tracker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	digestA = blob.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	digestB = blob.Digest("sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
)

// supernode is a tracker as a client sees it.
type supernode struct {
	shoalv1connect.UnimplementedNodeServiceHandler

	mu      sync.Mutex // guards what follows
	down    bool
	hangs   bool
	epoch   uint64
	again   int64
	grant   int64
	heard   []*shoalv1.AnnounceRequest
	times   []time.Time
	reports []*shoalv1.ReportRequest
}

func (s *supernode) Announce(_ context.Context, r *connect.Request[shoalv1.AnnounceRequest]) (*connect.Response[shoalv1.AnnounceResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, r.Msg)
	s.times = append(s.times, time.Now())
	out := &shoalv1.AnnounceResponse{Epoch: s.epoch, BeatMs: 30_000}
	for _, a := range r.Msg.Announcements {
		n := &shoalv1.Neighbours{Digest: a.Digest, AgainMs: s.again}
		if a.State == shoalv1.Announcement_WANTS {
			n.OriginBytes = s.grant
			n.Peers = []*shoalv1.Neighbour{{PeerId: "seed", SwarmAddr: "10.0.0.1:8002", Seed: true, Distance: 3}}
		}
		out.Neighbours = append(out.Neighbours, n)
	}
	return connect.NewResponse(out), nil
}

func (s *supernode) Report(_ context.Context, r *connect.Request[shoalv1.ReportRequest]) (*connect.Response[shoalv1.ReportResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r.Msg)
	return connect.NewResponse(&shoalv1.ReportResponse{}), nil
}

// said lists the announcements of a state, in order.
func (s *supernode) said(state shoalv1.Announcement_State) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.heard {
		for _, a := range r.Announcements {
			if a.State == state {
				out = append(out, a.Digest)
			}
		}
	}
	return out
}

func (s *supernode) set(change func(*supernode)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// line carries requests to supernodes by host name, within the process.
type line map[string]*supernode

func (l line) Do(r *http.Request) (*http.Response, error) {
	s := l[r.URL.Host]
	s.mu.Lock()
	down, hangs := s.down, s.hangs
	s.mu.Unlock()
	switch {
	case down:
		return nil, errors.New("connection refused")
	case hangs:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	_, handler := shoalv1connect.NewNodeServiceHandler(s)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), newBody(body))
	in.Header = r.Header
	handler.ServeHTTP(rec, in)
	return rec.Result(), nil
}

func newBody(b []byte) io.Reader { return &bodyReader{b} }

type bodyReader struct{ rest []byte }

func (b *bodyReader) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// talk runs a client against supernodes "one" and "two".
func talk(t *testing.T, change func(*Config), run func(ctx context.Context, c *Client, one, two *supernode)) {
	synctest.Test(t, func(t *testing.T) {
		one, two := &supernode{epoch: 1, again: 1000}, &supernode{epoch: 2, again: 1000}
		cfg := Config{
			HTTP:  line{"one": one, "two": two},
			Bases: func() []string { return []string{"http://one", "http://two"} },
			Self:  func() Labels { return Labels{SwarmAddr: ":65002", Rack: "r", Zone: "z"} },
		}
		if change != nil {
			change(&cfg)
		}
		c := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		run(ctx, c, one, two)
		cancel()
		running.Wait()
	})
}

func TestAWantIsAnsweredAndAnnouncedAgain(t *testing.T) {
	talk(t, nil, func(ctx context.Context, c *Client, one, two *supernode) {
		one.set(func(s *supernode) { s.grant = 7 })
		held := 0
		began := time.Now()
		finding, stop := context.WithCancel(ctx)
		list := c.Find(finding, blob.Want{
			Digest: digestA, Size: 1 << 20, Held: func() int { return held },
			Origin: blob.Origin{Ref: blob.Ref{Registry: "r", Repository: "x/y"}, Token: "secret"},
		})
		n := <-list
		if n.Silent || len(n.Peers) != 1 || !n.Peers[0].Seed || n.OriginBytes != 7 {
			t.Errorf("answer %+v", n)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the first answer took %s", took)
		}
		<-time.After(3500 * time.Millisecond)
		if a, b := <-list, <-list; a.OriginBytes+b.OriginBytes != 21 {
			t.Errorf("three grants that waited make %d and %d bytes", a.OriginBytes, b.OriginBytes)
		}
		stop()
		for range list { // closed soon
		}
		synctest.Wait()
		before := len(one.said(shoalv1.Announcement_WANTS))
		<-time.After(10 * time.Second)
		if after := len(one.said(shoalv1.Announcement_WANTS)); after != before || before != 4 {
			t.Errorf("announced %d times, then %d", before, after)
		}
		first := one.heard[slices.IndexFunc(one.heard, func(r *shoalv1.AnnounceRequest) bool { return len(r.Announcements) > 0 })]
		a := first.Announcements[0]
		if a.Origin.GetToken() != "secret" || a.Size != 1<<20 || first.Rack != "r" {
			t.Errorf("heard %v", first)
		}
		if len(two.heard) != 0 {
			t.Error("the second supernode was asked although the first answers")
		}
	})
}

func TestManyWantsAreOneRequest(t *testing.T) {
	talk(t, nil, func(ctx context.Context, c *Client, one, _ *supernode) {
		finding, stop := context.WithCancel(ctx)
		defer stop()
		var lists []<-chan blob.Neighbours
		for _, d := range []blob.Digest{digestA, digestB, digestA} {
			lists = append(lists, c.Find(finding, blob.Want{Digest: d, Size: 1}))
		}
		for i, l := range lists {
			if n := <-l; n.Silent || len(n.Peers) != 1 {
				t.Errorf("want %d: %+v", i, n)
			}
		}
		if len(one.heard) > 3 {
			t.Errorf("%d requests for wants of one moment", len(one.heard))
		}
	})
}

func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(*supernode)
		within time.Duration
	}{
		"refused": {func(s *supernode) { s.down = true }, 50 * time.Millisecond},
		"hanging": {func(s *supernode) { s.hangs = true }, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			talk(t, nil, func(ctx context.Context, client *Client, one, two *supernode) {
				one.set(c.fault)
				two.set(c.fault)
				began := time.Now()
				nudge := make(chan struct{}, 1)
				list := client.Find(ctx, blob.Want{Digest: digestA, Size: 1, Nudge: nudge})
				if n := <-list; !n.Silent {
					t.Errorf("answer %+v", n)
				}
				if took := time.Since(began); took > c.within {
					t.Errorf("silence was noticed after %s", took)
				}
				<-time.After(10 * time.Second)
				<-list
				began = time.Now()
				second := client.Find(ctx, blob.Want{Digest: digestB, Size: 1})
				if n := <-second; !n.Silent || time.Since(began) > c.within {
					t.Errorf("a second want: %+v after %s", n, time.Since(began))
				}
				two.set(func(s *supernode) { s.down, s.hangs = false, false })
				began = time.Now()
				for n := range list {
					if !n.Silent {
						break
					}
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("the supernode that came back was found after %s", took)
				}
			})
		})
	}
}

func TestFailOverIsOneAnswerAway(t *testing.T) {
	talk(t, nil, func(ctx context.Context, c *Client, one, two *supernode) {
		nudge := make(chan struct{}, 1)
		list := c.Find(ctx, blob.Want{Digest: digestA, Size: 1, Nudge: nudge})
		<-list
		one.set(func(s *supernode) { s.down = true })
		nudge <- struct{}{}
		began := time.Now()
		if n := <-list; n.Silent || time.Since(began) > 100*time.Millisecond {
			t.Errorf("%+v after %s", n, time.Since(began))
		}
		two.set(func(s *supernode) { s.down = true })
		nudge <- struct{}{}
		if n := <-list; !n.Silent {
			t.Errorf("with both gone: %+v", n)
		}
	})
}

func TestNewsOfTheStore(t *testing.T) {
	var events chan Held
	held := []Held{{Digest: digestA, Size: 1}}
	talk(t, func(cfg *Config) {
		events = make(chan Held)
		cfg.Events = events
		cfg.Holdings = func(context.Context) ([]Held, error) { return slices.Clone(held), nil }
	}, func(_ context.Context, _ *Client, one, _ *supernode) {
		<-time.After(2 * time.Second)
		if got := one.said(shoalv1.Announcement_COMPLETE); !slices.Equal(got, []string{string(digestA)}) {
			t.Errorf("a new tracker is told %v", got)
		}
		events <- Held{Digest: digestB, Size: 5}
		<-time.After(2 * time.Second)
		if got := one.said(shoalv1.Announcement_COMPLETE); !slices.Contains(got, string(digestB)) {
			t.Errorf("a commit is not announced: %v", got)
		}
		events <- Held{Digest: digestB, Gone: true}
		<-time.After(2 * time.Second)
		if got := one.said(shoalv1.Announcement_GONE); !slices.Equal(got, []string{string(digestB)}) {
			t.Errorf("a removal is not announced: %v", got)
		}
		before := len(one.said(shoalv1.Announcement_COMPLETE))
		<-time.After(5 * time.Minute)
		if after := len(one.said(shoalv1.Announcement_COMPLETE)); after != before {
			t.Error("what a tracker knows is told again and again")
		}
		if n := len(one.heard); n < 8 || n > 20 {
			t.Errorf("%d signs of life in five minutes", n)
		}
		one.set(func(s *supernode) { s.epoch = 9 })
		<-time.After(time.Minute)
		if after := len(one.said(shoalv1.Announcement_COMPLETE)); after != before+1 {
			t.Errorf("a tracker that forgot is told %d holdings", after-before)
		}
	})
}

// TestAListThatHangsHoldsNothingUp lets a container runtime hang while the
// tracker asks for everything that is held.
func TestAListThatHangsHoldsNothingUp(t *testing.T) {
	calls := 0
	var hung atomic.Bool
	var events chan Held
	talk(t, func(cfg *Config) {
		events = make(chan Held)
		cfg.Events = events
		cfg.Holdings = func(ctx context.Context) ([]Held, error) {
			calls++
			store := []Held{{Digest: digestA, Size: 1}, {Digest: digestB, Size: 5}}
			if calls > 1 {
				return store[:1], nil
			}
			hung.Store(true)
			<-ctx.Done()
			hung.Store(false)
			return store, ctx.Err()
		}
	}, func(ctx context.Context, c *Client, one, _ *supernode) {
		<-time.After(2 * time.Second)
		if !hung.Load() {
			t.Fatal("no list is being made")
		}
		asked := time.Now()
		finding, stop := context.WithCancel(ctx)
		if n := <-c.Find(finding, blob.Want{Digest: digestA, Size: 1}); n.Silent || len(n.Peers) != 1 {
			t.Errorf("while the list hangs: %+v", n)
		}
		stop()
		if waited := time.Since(asked); waited > 100*time.Millisecond {
			t.Errorf("Find waited %s for the list", waited)
		}
		events <- Held{Digest: digestB, Gone: true}
		<-time.After(5 * time.Second)
		if !hung.Load() {
			t.Fatal("the list ended too early")
		}
		if got := one.said(shoalv1.Announcement_GONE); !slices.Equal(got, []string{string(digestB)}) {
			t.Errorf("while the list hangs, gone is %v", got)
		}
		<-time.After(listWithin)
		if got := one.said(shoalv1.Announcement_COMPLETE); !slices.Equal(got, []string{string(digestA)}) {
			t.Errorf("what was found before the deadline is announced as %v", got)
		}
		<-time.After(3 * time.Minute)
		if calls != 2 {
			t.Errorf("after a failure and a success there were %d lists", calls)
		}
	})
}

func TestNewsSurvivesSilence(t *testing.T) {
	var events chan Held
	talk(t, func(cfg *Config) { events = make(chan Held); cfg.Events = events }, func(_ context.Context, _ *Client, one, two *supernode) {
		<-time.After(time.Second)
		one.set(func(s *supernode) { s.down = true })
		two.set(func(s *supernode) { s.down = true })
		events <- Held{Digest: digestB, Size: 5}
		<-time.After(20 * time.Second)
		two.set(func(s *supernode) { s.down = false })
		<-time.After(10 * time.Second)
		if got := two.said(shoalv1.Announcement_COMPLETE); !slices.Equal(got, []string{string(digestB)}) {
			t.Errorf("announced %v", got)
		}
	})
}

func TestReport(t *testing.T) {
	talk(t, nil, func(ctx context.Context, c *Client, one, two *supernode) {
		if err := c.Report(ctx, "bad", digestA, 3, "wrong bytes"); err != nil {
			t.Fatal(err)
		}
		if len(one.reports) != 1 || one.reports[0].PeerId != "bad" || one.reports[0].Piece != 3 {
			t.Errorf("reports %v", one.reports)
		}
		one.set(func(s *supernode) { s.down = true })
		two.set(func(s *supernode) { s.down = true })
		if err := c.Report(ctx, "bad", digestA, 3, "wrong bytes"); err == nil {
			t.Error("a report to nobody is no error")
		}
	})
}
