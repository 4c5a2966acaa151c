package sim

import (
	"math"
	"slices"
	"time"
)

// flow is bytes on their way between two hosts.
type flow struct {
	from, to *host
	left     float64 // bytes
	rate     float64 // bytes per second
	since    time.Duration
	version  int // of the plan for its end
	over     func()
	ended    bool
}

func (w *world) begin(from, to *host, bytes float64, over func()) *flow {
	f := &flow{from: from, to: to, left: bytes, since: w.now, over: over}
	from.sending = append(from.sending, f)
	to.receiving = append(to.receiving, f)
	w.level(from, to)
	return f
}

// end takes a flow off the links.
func (w *world) end(f *flow) {
	if f.ended {
		return
	}
	f.ended = true
	f.version++
	f.from.sending = without(f.from.sending, f)
	f.to.receiving = without(f.to.receiving, f)
	w.level(f.from, f.to)
}

// without takes one element out of a list that keeps its order.
func without[E comparable](all []E, e E) []E {
	if i := slices.Index(all, e); i >= 0 {
		return slices.Delete(all, i, i+1)
	}
	return all
}

// level shares the links of two hosts anew. Each link is shared evenly, and
// what a flow cannot take because of its other end goes to the rest: the
// max-min rule, looked at from both ends but not further.
func (w *world) level(from, to *host) {
	for _, f := range from.sending {
		w.plan(f)
	}
	for _, f := range to.receiving {
		if f.from != from {
			w.plan(f)
		}
	}
}

func (w *world) plan(f *flow) {
	f.left -= f.rate * (w.now - f.since).Seconds()
	f.since = w.now
	up := share(f.from.up, f.from.sending, f, func(o *flow) float64 { return o.to.down / float64(len(o.to.receiving)) })
	down := share(f.to.down, f.to.receiving, f, func(o *flow) float64 { return o.from.up / float64(len(o.from.sending)) })
	f.rate = min(up, down)
	f.version++
	if f.rate <= 0 {
		return
	}
	version := f.version
	rest := time.Duration(math.Ceil(max(f.left, 0) / f.rate * float64(time.Second)))
	w.after(rest, func() {
		if f.version == version {
			w.end(f)
			f.over()
		}
	})
}

// share is one flow's part of a link on which every flow has a limit of its
// own elsewhere.
func share(capacity float64, flows []*flow, f *flow, limit func(*flow) float64) float64 {
	mine := limit(f)
	even := capacity / float64(len(flows))
	for mine > even {
		// Those that can take less than an even part leave the rest to others.
		taken, few := 0.0, 0
		for _, o := range flows {
			if l := limit(o); l < even {
				taken += l
				few++
			}
		}
		more := (capacity - taken) / float64(len(flows)-few)
		if more <= even*1.0001 {
			break
		}
		even = more
	}
	return min(mine, even)
}
