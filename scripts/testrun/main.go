// Command testrun runs `go test -json` in rounds (argument lists separated by
// "--") and closes with one summary of all of them. go test hides why a test
// was skipped; a test that could not run here for want of root or of a
// program says "NOT RUN: <why>" when it skips, and that is shown and counted.
// With CI=true a test that was not run is a failure.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	started := time.Now()
	sum := newSummary(out)
	broken := 0
	for _, round := range rounds(args) {
		if err := goTest(ctx, round, sum); err != nil {
			fmt.Fprintln(out, err)
			broken++
		}
	}
	sum.close(time.Since(started))
	return sum.verdict(broken, os.Getenv("CI") == "true")
}

// rounds cuts the arguments at each "--".
func rounds(args []string) [][]string {
	var out [][]string
	for {
		i := slices.Index(args, "--")
		if i < 0 {
			return append(out, args)
		}
		out = append(out, args[:i])
		args = args[i+1:]
	}
}

// commandLine is what go is called with. It takes -C, by which a round goes to
// a module of its own, only as the first flag.
func commandLine(args []string) []string {
	var where []string
	if len(args) > 1 && args[0] == "-C" {
		where, args = args[:2], args[2:]
	}
	return slices.Concat([]string{"test"}, where, []string{"-json"}, args)
}

func goTest(ctx context.Context, args []string, sum *summary) error {
	cmd := exec.CommandContext(ctx, "go", commandLine(args)...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	sum.read(pipe)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go test %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// summary is what was seen in all rounds. It is owned by the reading
// goroutine.
type summary struct {
	out                     io.Writer
	lines                   map[string][]string // output of tests that still run
	passed, failed, skipped int
	notRun                  []string
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, lines: map[string][]string{}}
}

func (s *summary) read(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				s.take(e)
			} else {
				fmt.Fprintf(s.out, "%s", line)
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *summary) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		switch {
		case e.Test != "":
			s.lines[key] = append(s.lines[key], e.Output)
		case e.Output != "PASS\n" && !strings.Contains(e.Output, "[no test files]"):
			fmt.Fprint(s.out, e.Output)
		}
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	if e.Test == "" {
		s.orphans(e.Package + " ")
		return
	}
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		fmt.Fprint(s.out, strings.Join(s.lines[key], ""))
	case "skip":
		s.skip(e, s.lines[key])
	}
	delete(s.lines, key)
}

func (s *summary) skip(e event, lines []string) {
	for _, line := range lines {
		if _, why, found := strings.Cut(line, "NOT RUN:"); found {
			note := fmt.Sprintf("NOT RUN: %s %s:%s", e.Package, e.Test, strings.TrimRight(why, "\n"))
			fmt.Fprintln(s.out, note)
			s.notRun = append(s.notRun, note)
			return
		}
	}
	s.skipped++
}

// orphans prints what tests wrote that never ended: their package died.
func (s *summary) orphans(prefix string) {
	for key, lines := range s.lines {
		if strings.HasPrefix(key, prefix) {
			fmt.Fprint(s.out, strings.Join(lines, ""))
			delete(s.lines, key)
		}
	}
}

func (s *summary) close(took time.Duration) {
	if len(s.notRun) > 0 {
		fmt.Fprintf(s.out, "\nnot run here (%d):\n", len(s.notRun))
		for _, note := range s.notRun {
			fmt.Fprintln(s.out, "  "+note)
		}
	}
	fmt.Fprintf(s.out, "\ntests took %s; %d could not run here\n", took.Round(time.Second), len(s.notRun))
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped+len(s.notRun))
}

func (s *summary) verdict(brokenRounds int, ci bool) error {
	switch {
	case brokenRounds > 0 || s.failed > 0:
		return fmt.Errorf("%d tests failed", s.failed)
	case s.passed == 0:
		return fmt.Errorf("no test ran")
	case ci && len(s.notRun) > 0:
		return fmt.Errorf("CI=true and %d tests could not run: run scripts/install-parts test as root", len(s.notRun))
	}
	return nil
}
