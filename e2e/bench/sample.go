package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/e2e/netns"
)

// watched is a process whose cost belongs to the engine.
type watched struct {
	role string // seed or host
	proc *netns.Process

	before, last      netns.Usage // guarded by sampler.mu
	peakRSS, peakAnon int64       // guarded by sampler.mu
}

// sampler polls what the watched processes cost. The kernel keeps a high-water
// mark of VmRSS only since the process began, and none of RssAnon.
type sampler struct {
	mu  sync.Mutex
	all []*watched // the slice is fixed once sampling has begun
}

func newSampler(procs map[*netns.Process]string) *sampler {
	s := &sampler{}
	for p, role := range procs {
		w := &watched{role: role, proc: p}
		w.before, _ = p.Usage() // it has just answered that it is ready
		w.last = w.before
		s.all = append(s.all, w)
	}
	return s
}

// run polls until the context ends, and once more then.
func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s.sample()
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.sample()
			return
		}
	}
}

func (s *sampler) sample() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.all {
		u, err := w.proc.Usage()
		if err != nil {
			continue // it is just ending
		}
		w.last = u
		w.peakRSS = max(w.peakRSS, u.RSS)
		w.peakAnon = max(w.peakAnon, u.RSSAnon)
	}
}

// cost is what the engine's processes took between the start and the last
// sample: CPU of all of them, and the memory of the greediest of a role.
func (s *sampler) cost() (cpu time.Duration, rss, anon map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rss, anon = map[string]int64{}, map[string]int64{}
	for _, w := range s.all {
		cpu += w.last.CPU - w.before.CPU
		rss[w.role] = max(rss[w.role], w.peakRSS)
		anon[w.role] = max(anon[w.role], w.peakAnon)
	}
	return cpu, rss, anon
}

// machine is the first line of /proc/stat, in ticks.
type machine struct{ busy, total int64 }

func readMachine() (machine, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}, fmt.Errorf("CPU of the machine: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return parseMachine(line)
}

// parseMachine reads "cpu user nice system idle iowait irq softirq steal …"
// (proc(5)). Waiting for the disk is idle time; guest time is inside user.
func parseMachine(line string) (machine, error) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return machine{}, fmt.Errorf("CPU of the machine: line %q", line)
	}
	var m machine
	for i, f := range fields[1:9] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return machine{}, fmt.Errorf("CPU of the machine: line %q: %w", line, err)
		}
		m.total += ticks
		if i != 3 && i != 4 {
			m.busy += ticks
		}
	}
	return m, nil
}

// busySince is the share of the machine's CPU time that was used.
func (m machine) busySince(before machine) float64 {
	if m.total == before.total {
		return 0
	}
	return float64(m.busy-before.busy) / float64(m.total-before.total)
}
