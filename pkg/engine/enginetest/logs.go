package enginetest

import (
	"bufio"
	"context"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/engine/enginetest/play"
)

func tails(t *testing.T, s Subject) {
	id := s.start(t, s.spec("tails", "say", "a", "b", "c"))
	awaitOutput(t, s.Engine, id, "c\n")
	for lines, want := range map[int]string{0: "a\nb\nc\n", 1: "c\n", 2: "b\nc\n", 9: "a\nb\nc\n"} {
		log, err := s.Engine.Logs(t.Context(), id, lines, false)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(log)
		log.Close()
		if err != nil || string(raw) != want {
			t.Errorf("the last %d lines: %q, %v; want %q", lines, raw, err, want)
		}
	}
}

func follows(t *testing.T, s Subject) {
	id := s.start(t, s.spec("follows", "count"))
	awaitOutput(t, s.Engine, id, "3\n")
	log, err := s.Engine.Logs(t.Context(), id, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for i := 1; i <= 20; i++ {
		if !lines.Scan() || lines.Text() != itoa(i) {
			t.Fatalf("line %d of the log is %q, %v", i, lines.Text(), lines.Err())
		}
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := followed(t, s.Engine, ctx, id)
	cancel()
	isOver(t, ended, "its context")
	ended = followed(t, s.Engine, t.Context(), id)
	if err := s.Engine.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	isOver(t, ended, "the container")
}

// followed follows a log until that ends by itself.
func followed(t *testing.T, e engine.Engine, ctx context.Context, id string) <-chan struct{} {
	t.Helper()
	log, err := e.Logs(ctx, id, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, log) // how it ends is all the same
		log.Close()
	}()
	return ended
}

func isOver(t *testing.T, ended <-chan struct{}, with string) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("the log does not end with %s", with)
	}
}

func itoa(i int) string { return strconv.Itoa(i) }

// bounds floods a log and sees that its end is kept, and not much more.
func bounds(t *testing.T, s Subject) {
	const bytes = 20 * LogBytes
	id := s.start(t, s.spec("flood", "flood", itoa(bytes)))
	awaitOutput(t, s.Engine, id, "flooded")
	await(t, "the log to be cut", func() bool { return len(output(t, s.Engine, id)) < 5*LogBytes })
	kept := output(t, s.Engine, id)
	last := play.FloodLine(bytes/len(play.FloodLine(0)) - 1)
	if len(kept) < LogBytes || !strings.HasSuffix(kept, last+"flooded\n") {
		t.Errorf("%d bytes are kept, they end with %.40q, want %.40q", len(kept), kept[max(0, len(kept)-len(last)-8):], last)
	}
	log, err := s.Engine.Logs(t.Context(), id, 3, false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if raw, err := io.ReadAll(log); err != nil || len(raw) != 2*len(last)+len("flooded\n") {
		t.Errorf("the last three lines have %d bytes, %v", len(raw), err)
	}
}
