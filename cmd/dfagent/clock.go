package main

import (
	"sync/atomic"
	"time"
)

// tolerated is how far this host's clock may be off before it is corrected:
// within it, the seconds that an answer takes would only add noise.
const tolerated = time.Minute

// clock is this host's time as the supernode sees it. Tokens live for minutes
// and memberships for a day, so a host whose clock is off by ten minutes would
// refuse good ones; what the supernode stamps on a fresh membership tells by
// how much.
type clock struct{ offset atomic.Int64 }

// Now is the corrected time.
func (c *clock) Now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// set takes the supernode's time, as it was stamped just now, and returns the
// correction.
func (c *clock) set(supernode time.Time) time.Duration {
	off := time.Until(supernode)
	if off.Abs() < tolerated {
		off = 0
	}
	c.offset.Store(int64(off))
	return off
}
