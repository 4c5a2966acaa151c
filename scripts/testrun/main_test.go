package main

import (
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, lines ...string) (*summary, string) {
	t.Helper()
	var out strings.Builder
	s := newSummary(&out)
	s.read(strings.NewReader(strings.Join(lines, "\n") + "\n"))
	s.close(0)
	return s, out.String()
}

func TestSummaryCountsWhatWasNotRun(t *testing.T) {
	s, out := read(t,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: NOT RUN: needs root\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestA"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"    a_test.go:9: only with -long\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestB"}`,
		`{"Action":"pass","Package":"p","Test":"TestC"}`,
		`{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}`,
		`{"Action":"pass","Package":"p"}`)
	for _, want := range []string{"NOT RUN: p TestA: needs root", "ok  \tp\t0.1s\n", "\n1 passed, 0 failed, 2 skipped\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if err := s.verdict(0, false); err != nil {
		t.Errorf("outside CI: %v", err)
	}
	if err := s.verdict(0, true); err == nil {
		t.Error("CI=true took a test that was not run for a pass")
	}
}

func TestSummaryShowsFailures(t *testing.T) {
	s, out := read(t,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"a_test.go:3: broken\n"}`,
		`{"Action":"output","Package":"p","Test":"TestDied","Output":"panic: ouch\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestA"}`,
		`{"Action":"fail","Package":"p"}`)
	if !strings.Contains(out, "broken") || !strings.Contains(out, "panic: ouch") {
		t.Errorf("the failed tests' output is missing:\n%s", out)
	}
	if s.verdict(0, false) == nil {
		t.Error("a failed test passed")
	}
}

func TestNothingRunIsAFailure(t *testing.T) {
	if s, _ := read(t, `{"Action":"pass","Package":"p"}`); s.verdict(0, false) == nil {
		t.Error("a run without any test passed")
	}
}

func TestRounds(t *testing.T) {
	got := rounds([]string{"-race", "./a", "--", "./b"})
	if len(got) != 2 || !slices.Equal(got[0], []string{"-race", "./a"}) || !slices.Equal(got[1], []string{"./b"}) {
		t.Errorf("rounds: %q", got)
	}
}

func TestARoundMayGoToAnotherModule(t *testing.T) {
	for want, args := range map[string][]string{
		"test -json -race ./a":      {"-race", "./a"},
		"test -C there -json ./...": {"-C", "there", "./..."},
	} {
		if got := strings.Join(commandLine(args), " "); got != want {
			t.Errorf("%q becomes %q; want %q", args, got, want)
		}
	}
}
