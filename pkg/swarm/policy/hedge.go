package policy

import (
	"slices"
	"time"
)

// paceMemory is how many pieces the hedge rule looks back upon.
const paceMemory = 64

// Pace remembers how long the last pieces of a blob took.
type Pace struct {
	took [paceMemory]time.Duration
	n    int
}

// Add takes note of a piece.
func (p *Pace) Add(took time.Duration) {
	p.took[p.n%paceMemory] = took
	p.n++
}

// Quantile is the time within which the share q of the pieces came.
func (p *Pace) Quantile(q float64) time.Duration {
	n := min(p.n, paceMemory)
	if n == 0 {
		return 0
	}
	sorted := slices.Clone(p.took[:n])
	slices.Sort(sorted)
	return sorted[min(int(q*float64(n)), n-1)]
}

// HedgeAfter is how long a piece may take before a second peer is looked for.
func (p *Pace) HedgeAfter(params Params) time.Duration {
	if p.n < 4 {
		return max(params.HedgeFloor, time.Second)
	}
	return max(params.HedgeFloor, p.Quantile(0.95)*5/4)
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
