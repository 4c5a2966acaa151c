// Package policy holds every decision of the piece exchange: which piece to
// ask whom for, what a seed hands out next, who waits for an upload slot, when
// a second peer is asked for a piece that is late, and who is left alone.
//
// It does no I/O, reads no clock, starts no goroutine and draws its random
// numbers from a source that it is given, so the simulator in e2e/sim runs the
// very same code as the hosts do. Nothing here locks: each type is guarded by
// whoever holds it.
package policy

import (
	"fmt"
	"time"
)

// Params are the figures of the policy. ADR 0002 has the measurements behind
// the defaults.
type Params struct {
	Downloads      int           // pieces in flight on a host, over all blobs
	PerPeer        int           // of these at most so many from one peer
	Slots          int           // pieces served at a time, over all blobs
	PerPeerSlots   int           // of these at most so many to one peer
	Waiting        int           // requests that may wait for a slot
	WaitingPerPeer int           // of these at most so many of one peer
	NextAhead      int           // requests a session keeps open at a seed
	NextAlone      int           // the same when no neighbour has anything to give
	Neighbours     int           // peers a session talks to at most
	Jitter         float64       // weight of chance in the choice of a piece
	IndexWeight    float64       // weight of a low index
	Grace          time.Duration // how long a starved session waits before it asks a seed for a piece that has already left it
	AgainAfter     time.Duration // how long a seed takes a piece that left it for being passed on, before it sends it again to those whose neighbours lack it
	HedgeFloor     time.Duration // no second peer is asked earlier than this
	Hedges         int           // pieces asked for twice at a time, in one session
}

// Default is the policy that was measured.
func Default() Params {
	return Params{
		Downloads:      6,
		PerPeer:        2,
		Slots:          6,
		PerPeerSlots:   3,
		Waiting:        1,
		WaitingPerPeer: 1,
		NextAhead:      2,
		NextAlone:      6,
		Neighbours:     25,
		Jitter:         1,
		IndexWeight:    0.3,
		Grace:          300 * time.Millisecond,
		AgainAfter:     time.Second,
		HedgeFloor:     300 * time.Millisecond,
		Hedges:         4,
	}
}

// GraceBy is Grace, half or one and a half of it by chance, which is in [0, 1).
func (p Params) GraceBy(chance float64) time.Duration {
	return time.Duration(float64(p.Grace) * (0.5 + chance))
}

// Class says how urgent a request is.
type Class uint8

// The classes, most urgent first.
const (
	Wait    Class = iota // a container waits for it
	Rollout              // hosts are being brought to a new image
	Prewarm              // somebody may want it later
	Reseed               // copies between seeds
)

var classNames = [...]string{"wait", "rollout", "prewarm", "reseed"}

// String is the name of the class on the wire.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// ParseClass reads a class; the empty string is Rollout.
func ParseClass(s string) (Class, error) {
	if s == "" {
		return Rollout, nil
	}
	for i, name := range classNames {
		if s == name {
			return Class(i), nil
		}
	}
	return 0, fmt.Errorf("traffic class %.20q: want wait, rollout, prewarm or reseed", s)
}
