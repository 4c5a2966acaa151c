package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/shoalproject/shoal/e2e/netns"
)

// result is one run in numbers.
type result struct {
	Engine     string
	N          int
	Mbit       float64
	Cold       bool
	Bytes      int64
	Ideal      float64 // T* in seconds
	Last, Mean float64 // as ratios to T*
	First      float64 // seconds to the first byte of a layer, mean; 0 where not known
	SeedCopies float64 // bytes that left the seed, in images
	UpCopies   float64 // bytes that left the upstream, in images
	CPUPerGiB  float64 // CPU-seconds of the engine for each GiB that arrived
	RSS, Anon  map[string]int64
	Busy       float64 // of the machine's CPU
}

// maxBusy is the share of the machine's CPU beyond which a run says more
// about the machine than about the engine.
const maxBusy = 0.70

// measure runs one engine once.
func measure(ctx context.Context, e engine, p params, c *cargo) (result, error) {
	r := result{Engine: e.name(), N: p.n, Mbit: p.mbit, Cold: p.cold, Bytes: c.size}
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	s, err := newStage(ctx, dir, p, c)
	if err != nil {
		return r, err
	}
	defer s.net.Close()
	rate := bytesPerSecond(p.mbit)
	r.Ideal = ideal(c.size, p.n, rate, rate, rate, 0)
	if p.cold {
		r.Ideal = ideal(c.size, p.n, rate, rate, rate, rate)
	}
	// Nothing sane takes three times as long as every host in turn.
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(3*float64(p.n+1)*r.Ideal)*time.Second)
	defer cancel()
	if err := e.prepare(ctx, s); err != nil {
		return r, fmt.Errorf("%s: %w", e.name(), err)
	}
	if err := s.watch(ctx, e, &r); err != nil {
		return r, fmt.Errorf("%s: %w", e.name(), err)
	}
	return r, nil
}

// watch launches the pulls and fills the numbers in.
func (s *stage) watch(ctx context.Context, e engine, r *result) error {
	begin := time.Now().Add(2*time.Second + time.Duration(s.n)*150*time.Millisecond)
	runners, err := e.launch(ctx, s, begin)
	if err != nil {
		return err
	}
	if late := time.Since(begin); late > 0 {
		return fmt.Errorf("the hosts were ready %s too late: the machine is overloaded", late)
	}
	smp := newSampler(s.engine)
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	sampled := make(chan struct{})
	go func() { smp.run(sampling); close(sampled) }()

	timer := time.NewTimer(time.Until(begin))
	defer timer.Stop()
	<-timer.C
	busyBefore, err := readMachine()
	if err != nil {
		return err
	}
	before, err := s.net.Traffic(ctx)
	if err != nil {
		return err
	}
	if err := s.finish(ctx, runners, begin, r); err != nil {
		return err
	}
	busyAfter, err := readMachine()
	if err != nil {
		return err
	}
	after, err := s.net.Traffic(ctx)
	if err != nil {
		return err
	}
	stop()
	<-sampled
	r.Busy = busyAfter.busySince(busyBefore)
	r.SeedCopies = float64(after["seed"].Sent-before["seed"].Sent) / float64(s.size)
	r.UpCopies = float64(after["upstream"].Sent-before["upstream"].Sent) / float64(s.size)
	cpu, rss, anon := smp.cost()
	r.CPUPerGiB = cpu.Seconds() / (float64(s.size) * float64(s.n) / (1 << 30))
	r.RSS, r.Anon = rss, anon
	return nil
}

// finish waits for every host.
func (s *stage) finish(ctx context.Context, runners []*netns.Process, begin time.Time, r *result) error {
	firsts := 0
	for _, p := range runners {
		n, err := await(ctx, p, isDone)
		if err != nil {
			return err
		}
		took := time.Unix(0, n.Done).Sub(begin).Seconds() / r.Ideal
		r.Last = max(r.Last, took)
		r.Mean += took / float64(len(runners))
		if n.First > 0 {
			r.First += time.Unix(0, n.First).Sub(begin).Seconds()
			firsts++
		}
	}
	if firsts > 0 {
		r.First /= float64(firsts)
	}
	return nil
}
