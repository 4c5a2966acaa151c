package engine_test

import (
	"strings"
	"testing"

	"github.com/shoalproject/shoal/pkg/engine"
)

func TestTail(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 999)+"\n", 200)
	for _, c := range []struct {
		text  string
		from  int64
		lines int
		want  string
	}{
		{"", 0, 3, ""},
		{"a\nb\nc\n", 0, 0, "a\nb\nc\n"},
		{"a\nb\nc\n", 0, 1, "c\n"},
		{"a\nb\nc", 0, 1, "c"},
		{"a\nb\nc", 0, 2, "b\nc"},
		{"a\nb\nc\n", 0, 3, "a\nb\nc\n"},
		{"a\nb\nc\n", 0, 9, "a\nb\nc\n"},
		{"a\nb\nc\n", 2, 9, "b\nc\n"},
		{"\n\n\n", 0, 2, "\n\n"},
		{long, 0, 100, long[100_000:]},
		{long, 150_000, 100, long[150_000:]},
		{long + "end", 0, 1, "end"},
	} {
		at, err := engine.Tail(strings.NewReader(c.text), c.from, int64(len(c.text)), c.lines)
		if err != nil || c.text[at:] != c.want {
			t.Errorf("last %d lines of %.20q from %d: from %d, %v; want %d bytes", c.lines, c.text, c.from, at, err, len(c.want))
		}
	}
	if at, err := engine.Tail(strings.NewReader("a\n"), 0, 100, 1); err == nil {
		t.Errorf("a text that became shorter has a tail at %d", at)
	}
}
