package main

import (
	"math"
	"testing"
)

func TestIdeal(t *testing.T) {
	const mb = 1e6
	for name, c := range map[string]struct {
		n                              int
		seed, up, down, upstream, want float64
	}{
		"equal links":       {8, mb, mb, mb, 0, 100},
		"slow seed":         {8, mb / 2, mb, mb, 0, 200},
		"slow download":     {8, mb, mb, mb / 4, 0, 400},
		"nobody gives":      {8, mb, 0, mb, 0, 800},
		"slow upstream":     {8, mb, mb, mb, mb / 5, 500},
		"upstream is quick": {8, mb, mb, mb, 9 * mb, 100},
	} {
		if got := ideal(100*mb, c.n, c.seed, c.up, c.down, c.upstream); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%s: T* = %v s, want %v", name, got, c.want)
		}
	}
}

func TestMachine(t *testing.T) {
	before, err := parseMachine("cpu  100 0 100 700 100 0 0 0 50 0")
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseMachine("cpu  200 0 200 800 200 0 0 100 50 0")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.busySince(before); math.Abs(got-0.6) > 1e-9 {
		t.Errorf("busy %v, want 0.6: waiting for the disk is no work, stolen time is", got)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 1 1 1 1 1 1 1", "cpu 1 1 x 1 1 1 1 1"} {
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestWhatIsKeptByHandStays(t *testing.T) {
	const kept = handMark + "\n## More\n"
	if got := byHand("# Benchmarks\n\nnumbers\n" + kept); got != kept {
		t.Errorf("%q", got)
	}
	if got := byHand("# Benchmarks\n"); got != "" {
		t.Errorf("%q of a report with nothing by hand", got)
	}
}
