package fleet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestPick(t *testing.T) {
	hosts := []Host{
		{PeerID: "p3", Hostname: "c", Pool: "web"},
		{PeerID: "p1", Hostname: "a", Pool: "web"},
		{PeerID: "p2", Hostname: "b", Pool: "db"},
	}
	for _, c := range []struct {
		name string
		s    Selection
		want string // host names, or "error"
	}{
		{"all", Selection{}, "abc"},
		{"pool", Selection{Pool: "web"}, "ac"},
		{"no such pool", Selection{Pool: "x"}, "error"},
		{"by name", Selection{Servers: []string{"b"}}, "b"},
		{"by peer", Selection{Servers: []string{"p3", "a"}}, "ac"},
		{"named and away", Selection{Servers: []string{"a", "z"}}, "error"},
		{"named in another pool", Selection{Pool: "web", Servers: []string{"b"}}, "error"},
		{"count", Selection{Count: 2}, "ab"},
		{"too many", Selection{Count: 4}, "error"},
		{"half, rounded up", Selection{Count: 50, Percent: true}, "ab"},
		{"one percent is one", Selection{Count: 1, Percent: true}, "a"},
	} {
		got, err := c.s.Pick(hosts)
		names := ""
		for _, h := range got {
			names += h.Hostname
		}
		if err != nil {
			names = "error"
			if !errors.Is(err, ErrNoHosts) {
				t.Errorf("%s: %v is no ErrNoHosts", c.name, err)
			}
		}
		if names != c.want {
			t.Errorf("%s: got %q, want %q", c.name, names, c.want)
		}
	}
}

func TestOrdersAreAnsweredByEachHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		good, gone := connect(t, f, Host{PeerID: "good"}), connect(t, f, Host{PeerID: "gone"})
		go func() {
			order := <-good.Orders()
			f.Progress(t.Context(), "good", order.Id, Update{Bytes: 1, Size: 2})
			f.Progress(t.Context(), "stranger", order.Id, Update{Done: true, Error: "not asked"})
			f.Progress(t.Context(), "good", order.Id, Update{Bytes: 2, Size: 2, Done: true})
		}()
		go func() {
			<-gone.Orders()
			gone.Close()
		}()
		updates := make(chan Update, 16)
		write := func(h Host) (*shoalv1.Order, error) {
			if h.PeerID == "refused" {
				return nil, errors.New("revoked")
			}
			return &shoalv1.Order{}, nil
		}
		f.Do(t.Context(), append(f.Hosts(), Host{PeerID: "never"}, Host{PeerID: "refused"}), write, updates)
		close(updates)
		last := map[string]Update{}
		for u := range updates {
			last[u.Host.PeerID] = u
		}
		if u := last["good"]; !u.Done || u.Error != "" || u.Bytes != 2 {
			t.Errorf("good: %+v", u)
		}
		for _, peer := range []string{"gone", "never", "refused"} {
			if u := last[peer]; !u.Done || u.Error == "" {
				t.Errorf("%s: %+v", peer, u)
			}
		}
		if len(last) != 4 || len(f.orders) != 0 {
			t.Errorf("%d hosts answered, %d orders are left over", len(last), len(f.orders))
		}
	})
}

func connect(t *testing.T, f *Fleet, h Host) *Line {
	t.Helper()
	l, _, err := f.Connect(h)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestClones plays the arrivals of processes that have one key. A capital
// letter opens a line, the small one closes it.
func TestClones(t *testing.T) {
	for name, c := range map[string]struct {
		play, refused, clones string
	}{
		"a start":                                  {"A", "", ""},
		"the line breaks and comes back":           {"AaAaA", "", ""},
		"the line comes back before it broke":      {"AAA", "", ""},
		"a restart":                                {"AaBbC", "", ""},
		"a restart after the power went":           {"ABC", "", ""},
		"a copy":                                   {"ABA", "", "B"},
		"a copy that comes again":                  {"ABABbB", "BB", "B"},
		"a copy that is started again":             {"ABACA", "", "BC"},
		"the first one starts again beside a copy": {"ABAaDB", "B", "B"},
		"a copy of a host that is switched off":    {"AaB", "", ""},
		"which is then switched on":                {"AaBCBC", "C", "C"},
	} {
		f, lines, refused, clones := New(), map[rune]*Line{}, "", ""
		for _, who := range c.play {
			if who >= 'a' {
				lines[who].Close()
				continue
			}
			l, clone, err := f.Connect(Host{PeerID: "p", Instance: string(who)})
			clones += clone
			if err != nil {
				refused += string(who)
				continue
			}
			lines[who+'a'-'A'] = l
		}
		if refused != c.refused || clones != c.clones {
			t.Errorf("%s (%s): refused %q, clones %q; want %q and %q", name, c.play, refused, clones, c.refused, c.clones)
		}
		if cloned := f.Cloned()["p"]; cloned != (c.clones != "") {
			t.Errorf("%s: listed as cloned: %v", name, cloned)
		}
	}
}

func TestInstancesAreBounded(t *testing.T) {
	f := New()
	for i := range 5 * maxInstances {
		connect(t, f, Host{PeerID: "p", Instance: fmt.Sprint(i)})
	}
	if n := len(f.lives["p"].displaced); n > maxInstances {
		t.Errorf("%d are remembered", n)
	}
}

func TestANewLineReplacesTheOldOne(t *testing.T) {
	f := New()
	old := connect(t, f, Host{PeerID: "p", Version: "1"})
	connect(t, f, Host{PeerID: "p", Version: "2"})
	<-old.Gone()
	old.Close()
	if hosts := f.Hosts(); len(hosts) != 1 || hosts[0].Version != "2" {
		t.Errorf("connected: %+v", hosts)
	}
}

func TestDoStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New()
		connect(t, f, Host{PeerID: "silent"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			f.Do(ctx, f.Hosts(), func(Host) (*shoalv1.Order, error) { return &shoalv1.Order{}, nil }, make(chan Update))
			close(ended)
		}()
		synctest.Wait()
		cancel()
		<-ended
	})
}

// A host that is cut off does not close its line.
func TestASilentHostIsGone(t *testing.T) {
	f := New()
	quiet, speaks := connect(t, f, Host{PeerID: "quiet"}), connect(t, f, Host{PeerID: "speaks"})
	now := time.Unix(1000, 0)
	f.Heard(now, "quiet")
	f.Heard(now, "nobody")
	for range 10 {
		now = now.Add(silence / 3)
		f.Heard(now, "speaks")
		for _, h := range f.Sweep(now) {
			if h.PeerID != "quiet" || now.Sub(time.Unix(1000, 0)) != silence {
				t.Errorf("%s is gone after %s", h.PeerID, now.Sub(time.Unix(1000, 0)))
			}
		}
	}
	select {
	case <-quiet.Gone():
	default:
		t.Error("the line of a silent host is open")
	}
	if hosts := f.Hosts(); len(hosts) != 1 || hosts[0].PeerID != "speaks" {
		t.Errorf("connected: %v", hosts)
	}
	select {
	case <-speaks.Gone():
		t.Error("the line of one that speaks was closed")
	default:
	}
	connect(t, f, Host{PeerID: "quiet"}) // it is back, and was not heard yet
	if gone := f.Sweep(now.Add(time.Hour)); len(gone) != 1 || gone[0].PeerID != "speaks" {
		t.Errorf("gone: %v", gone)
	}
}
