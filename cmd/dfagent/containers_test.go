package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/engine/memory"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestWhichEngine(t *testing.T) {
	for name, c := range map[string]struct {
		c    config
		want string // "" for an error
	}{
		"nothing is named":    {config{}, onNothing},
		"containerd is there": {config{Containerd: "c.sock"}, onContainerd},
		"docker is there":     {config{Docker: "d.sock"}, onDocker},
		"both are there":      {config{Containerd: "c.sock", Docker: "d.sock"}, onContainerd},
		"the other one":       {config{Containerd: "c.sock", Docker: "d.sock", Engine: onDocker}, onDocker},
		"none of them":        {config{Containerd: "c.sock", Engine: onNothing}, onNothing},
		"only pretended":      {config{Engine: inMemory}, inMemory},
		"no socket":           {config{Engine: onContainerd, Docker: "d.sock"}, ""},
		"no socket of docker": {config{Engine: onDocker}, ""},
		"an unknown one":      {config{Engine: "podman"}, ""},
	} {
		err := c.c.checkEngine()
		if (err == nil) != (c.want != "") || err == nil && c.c.runs() != c.want {
			t.Errorf("%s: %s, %v; want %q", name, c.c.runs(), err, c.want)
		}
	}
}

// reading is a supernode that reads logs.
type reading struct {
	*logs
	work sync.WaitGroup

	mu      sync.Mutex
	got     map[string]*bytes.Buffer // guarded by mu, by order
	ends    map[string]string        // guarded by mu: the error that it ended with
	largest int                      // guarded by mu
	calls   int                      // guarded by mu
	unread  bool                     // guarded by mu: nobody reads any more
}

// newReading runs a container "a" that writes n lines, and then waits.
func newReading(t *testing.T, n int) *reading {
	t.Helper()
	e, err := memory.Open(memory.Options{Program: func(ctx context.Context, _ engine.Spec, out io.Writer) int {
		for i := range n {
			fmt.Fprintf(out, "line %d\n", i)
		}
		<-ctx.Done()
		return 0
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := engine.Spec{ID: "a", Image: "team/app", Digest: digest.FromString("app")}
	if err := errors.Join(e.Unpack(s.Digest), e.Create(t.Context(), s), e.Start(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	r := &reading{got: map[string]*bytes.Buffer{}, ends: map[string]string{}}
	r.logs = &logs{engine: e, send: r.take, reading: map[string]context.CancelFunc{}, log: slog.New(slog.DiscardHandler)}
	return r
}

func (r *reading) take(_ context.Context, m *shoalv1.SendLogRequest) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got[m.OrderId] == nil {
		r.got[m.OrderId] = &bytes.Buffer{}
	}
	r.got[m.OrderId].Write(m.Data)
	r.largest = max(r.largest, len(m.Data))
	r.calls++
	if m.Done {
		r.ends[m.OrderId] = m.Error
	}
	return r.unread, nil
}

func (r *reading) ask(ctx context.Context, order string, what *shoalv1.ReadLog) {
	r.work.Go(r.begin(ctx, order, what))
}

func (r *reading) over(order string) (text, end string, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end, over = r.ends[order]
	if b := r.got[order]; b != nil {
		text = b.String()
	}
	return text, end, over
}

func TestLogsAreSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReading(t, 20_000)
		e := r.engine
		defer func() { _ = e.Remove(t.Context(), "a") }()
		synctest.Wait()
		r.ask(t.Context(), "all", &shoalv1.ReadLog{Container: "a"})
		r.ask(t.Context(), "tail", &shoalv1.ReadLog{Container: "a", Tail: 2})
		r.ask(t.Context(), "nobody's", &shoalv1.ReadLog{Container: "b"})
		r.work.Wait()
		text, end, over := r.over("all")
		if lines := strings.Count(text, "\n"); lines != 20_000 || end != "" || !over || !strings.HasSuffix(text, "line 19999\n") {
			t.Errorf("%d lines of 20000 came, ended %v %q", lines, over, end)
		}
		if r.largest > logPiece || r.calls > 60 {
			t.Errorf("in %d calls, of %d bytes at most", r.calls, r.largest)
		}
		if text, end, over = r.over("tail"); text != "line 19998\nline 19999\n" || end != "" || !over {
			t.Errorf("the tail is %q, ended %v %q", text, over, end)
		}
		if _, end, _ = r.over("nobody's"); !strings.Contains(end, engine.ErrNone.Error()) {
			t.Errorf("the log of nothing ended with %q", end)
		}
		r.engine = nil
		r.ask(t.Context(), "no engine", &shoalv1.ReadLog{Container: "a"})
		r.work.Wait()
		if _, end, _ = r.over("no engine"); !strings.Contains(end, "--containerd") {
			t.Errorf("without an engine it ended with %q", end)
		}
	})
}

func TestFollowedLogsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReading(t, 3)
		defer func() { _ = r.engine.Remove(t.Context(), "a") }()
		synctest.Wait()
		for i := range logsAtOnce {
			r.ask(t.Context(), fmt.Sprint(i), &shoalv1.ReadLog{Container: "a", Follow: true})
		}
		r.ask(t.Context(), "one more", &shoalv1.ReadLog{Container: "a", Follow: true})
		synctest.Wait()
		if text, _, over := r.over("7"); over || text != "line 0\nline 1\nline 2\n" {
			t.Errorf("it says %q, over: %v", text, over)
		}
		if _, end, over := r.over("one more"); !over || !strings.Contains(end, "too many") {
			t.Errorf("one too many: over %v, %q", over, end)
		}
		r.cancel("7")
		synctest.Wait()
		if n := len(r.reading); n != logsAtOnce-1 {
			t.Errorf("%d are read after one was cancelled", n)
		}
		r.mu.Lock()
		r.unread = true
		r.mu.Unlock()
		<-time.After(logBeat + time.Second)
		synctest.Wait()
		if n := len(r.reading); n != 0 {
			t.Errorf("%d are read, and nobody is there", n)
		}
		r.work.Wait()
	})
}

func TestACancelThatComesAtOnceIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReading(t, 3)
		defer func() { _ = r.engine.Remove(t.Context(), "a") }()
		work := r.begin(t.Context(), "x", &shoalv1.ReadLog{Container: "a", Follow: true})
		r.cancel("x")
		r.work.Go(work)
		r.work.Wait()
		if _, _, over := r.over("x"); over {
			t.Error("it was told to the end")
		}
	})
}
