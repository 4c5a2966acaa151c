package cost

import (
	"cmp"
	"slices"
	"time"
)

// Kind says what was used.
type Kind string

// The kinds of intervals.
const (
	Server    Kind = "server"
	Container Kind = "container"
)

const (
	// mebibyte is the unit in which memory is weighed and counted.
	mebibyte = 1 << 20
	// DefaultCPUWeight is how many GiB of memory one core costs as much as,
	// where a pool does not say.
	DefaultCPUWeight = 4
	// The bounds of what is counted with keep every sum of an hour within 63
	// bits; what is more is counted as this much.
	maxCPUMilli  = 1_000_000 // a thousand cores
	maxMemoryMiB = 1 << 30   // a pebibyte
	maxCPUWeight = 1000
)

// Interval is a time in which one thing was used in one way: when anything
// about it changes, the interval ends and another one begins.
type Interval struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	Pool string `json:"pool"`
	// CPUMilli and MemoryBytes are what a server has or a container may use.
	CPUMilli    int64 `json:"cpu_milli,omitempty"`
	MemoryBytes int64 `json:"memory_bytes,omitempty"`

	// Of a container: the ID of its server, its placement, and the project of
	// its image, empty when the image is another registry's.
	Server    string `json:"server,omitempty"`
	Placement string `json:"placement,omitempty"`
	Project   string `json:"project,omitempty"`

	// Of a server, as its pool had them at the start.
	Currency  string `json:"currency,omitempty"`
	Hourly    int64  `json:"hourly_micro,omitempty"`
	CPUWeight int64  `json:"cpu_weight,omitempty"`

	Start time.Time `json:"start"`
	End   time.Time `json:"end,omitzero"` // zero while it goes on
}

// memoryMiB is the memory in whole MiB, a begun one counted as one.
func (i *Interval) memoryMiB() int64 {
	begun := int64(0)
	if i.MemoryBytes%mebibyte > 0 {
		begun = 1
	}
	return min(max(i.MemoryBytes, 0)/mebibyte+begun, maxMemoryMiB)
}

func (i *Interval) cpuMilli() int64 { return min(max(i.CPUMilli, 0), maxCPUMilli) }

// weight is what the interval weighs in a cost, in thousandths of a MiB: a
// core weighs as much as cpuWeight GiB.
func (i *Interval) weight(cpuWeight int64) int64 {
	return i.cpuMilli()*cpuWeight*1024 + i.memoryMiB()*1000
}

func weightOf(cpuWeight int64) int64 {
	if cpuWeight <= 0 {
		return DefaultCPUWeight
	}
	return min(cpuWeight, maxCPUWeight)
}

// span is a time in milliseconds since 1970, its end not included.
type span struct{ from, to int64 }

// within cuts the interval off at the ends of a window; one that goes on ends
// with the window.
func (i *Interval) within(w span) span {
	s := span{max(i.Start.UnixMilli(), w.from), w.to}
	if !i.End.IsZero() {
		s.to = min(i.End.UnixMilli(), w.to)
	}
	return s
}

func (s span) length() int64 { return max(s.to-s.from, 0) }

// clipped sorts the intervals of one thing and takes away what lies outside of
// the window, and from each what those before it have covered, so that no
// moment is counted twice.
func clipped(list []*Interval, w span) []*piece {
	slices.SortFunc(list, func(a, b *Interval) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.endMilli(), b.endMilli()))
	})
	var out []*piece
	covered := w.from
	for _, interval := range list {
		s := interval.within(w)
		s.from = max(s.from, covered)
		if s.length() > 0 {
			out = append(out, &piece{Interval: interval, span: s})
			covered = s.to
		}
	}
	return out
}

func (i *Interval) endMilli() int64 {
	if i.End.IsZero() {
		return 1<<63 - 1
	}
	return i.End.UnixMilli()
}

// piece is the part of an interval that is counted.
type piece struct {
	*Interval
	span

	// Of the hour that is spread: which of its users this is, and for how many
	// milliseconds.
	user int
	used int64
}
