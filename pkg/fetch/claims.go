package fetch

import (
	"sync"
	"time"
)

// claims keeps the swarm and the origin from fetching the same piece at the
// same time.
type claims struct {
	mu     sync.Mutex        // guards what follows
	origin map[int]bool      // pieces that the origin is at
	swarm  map[int]swarmHold // pieces that the swarm is at
}

// swarmHold is a piece that the swarm asked for, by so many requests, the
// first of them since then.
type swarmHold struct {
	requests int
	since    time.Time
}

func newClaims() *claims {
	return &claims{origin: map[int]bool{}, swarm: map[int]swarmHold{}}
}

// bySwarm is what the swarm calls before it asks for a piece.
func (c *claims) bySwarm(i int) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.origin[i] {
		return nil, false
	}
	hold := c.swarm[i]
	if hold.requests == 0 {
		hold.since = time.Now()
	}
	hold.requests++
	c.swarm[i] = hold
	return sync.OnceFunc(func() { c.swarmDone(i) }), true
}

func (c *claims) swarmDone(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hold := c.swarm[i]
	if hold.requests--; hold.requests <= 0 {
		delete(c.swarm, i)
		return
	}
	c.swarm[i] = hold
}

// busy reports whether the origin should leave piece i alone: it is at it
// already, or the swarm is and has not been for longer than a stall.
func (c *claims) busy(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.origin[i] || c.swarmAt(i)
}

// swarmAt is called with mu held.
func (c *claims) swarmAt(i int) bool {
	hold, held := c.swarm[i]
	return held && time.Since(hold.since) < stall
}

// byOrigin claims piece i for the origin.
func (c *claims) byOrigin(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.origin[i] || c.swarmAt(i) {
		return false
	}
	c.origin[i] = true
	return true
}

func (c *claims) originDone(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.origin, i)
}
