package policy

import (
	"slices"
	"time"
)

// paceMemory is how many pieces the hedge rule looks back upon.
const paceMemory = 64

// Pace remembers how long the last pieces of a blob took.
type Pace struct {
	took   [paceMemory]time.Duration
	n      int
	sorted []time.Duration // the same in order; empty when not yet sorted
}

// Add takes note of a piece.
func (p *Pace) Add(took time.Duration) {
	p.took[p.n%paceMemory] = took
	p.n++
	p.sorted = p.sorted[:0]
}

// Quantile is the time within which the share q of the pieces came.
func (p *Pace) Quantile(q float64) time.Duration {
	n := min(p.n, paceMemory)
	if n == 0 {
		return 0
	}
	if len(p.sorted) == 0 {
		p.sorted = append(p.sorted, p.took[:n]...)
		slices.Sort(p.sorted)
	}
	return p.sorted[min(int(q*float64(n)), n-1)]
}

// HedgeAfter is how long a piece may take before a second peer is looked for.
func (p *Pace) HedgeAfter(params Params) time.Duration {
	if p.n < 4 {
		return max(params.HedgeFloor, time.Second)
	}
	return max(params.HedgeFloor, p.Quantile(0.95)*5/4)
}

// SeedAfter is how long a late piece is left to the neighbours before a seed is
// asked for it. chance in [0, 1) spreads the hosts that wait for the same piece:
// the first to get it gives it to the others.
func (p *Pace) SeedAfter(params Params, chance float64) time.Duration {
	return time.Duration(float64(p.HedgeAfter(params)) * (1 + 3*chance))
}

// Late reports whether a piece that has been on its way for took, with got of
// length bytes here, should be asked for a second time: it is overdue, and
// what is missing would at this rate take longer than a whole piece from
// somebody else.
func (p *Pace) Late(params Params, took time.Duration, got, length int64) bool {
	if took < p.HedgeAfter(params) {
		return false
	}
	if got <= 0 {
		return true
	}
	rest := time.Duration(float64(took) * float64(length-got) / float64(got))
	return rest > max(p.Quantile(0.5), params.HedgeFloor/2)
}

// Starving is a session's sense of getting nowhere.
type Starving struct {
	since time.Time // of the last progress
	after time.Duration
}

// Fed takes note of progress: a piece came, one is coming well, or it is the
// host's own slots that are waited for. chance in [0, 1) spreads the hosts that
// starve for the same reason.
func (s *Starving) Fed(params Params, now time.Time, chance float64) {
	s.since = now
	s.after = params.GraceBy(chance)
}

// Starved reports whether there was no progress for about the policy's grace.
func (s *Starving) Starved(now time.Time) bool { return now.Sub(s.since) >= s.after }
