package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

const (
	// patience is how long a request for a piece waits for a slot.
	patience = 4 * time.Second
	// nextPatience is the same for next, where the seed may itself be waiting
	// for the bytes.
	nextPatience = 20 * time.Second
	// A reader must take leastRate bytes a second, after a start of leastStart;
	// else its connection is cut and the slot is free.
	leastRate  = 64 << 10
	leastStart = 10 * time.Second
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// piece serves a piece that was asked for by its index.
func (s *Server) piece(c *call, index int) error {
	if index >= c.pieces || !snapshot(c.content).Has(index) {
		return &refusal{status: http.StatusNotFound, reason: "not held", text: "piece is not held"}
	}
	w := &policy.Waiter{Peer: c.peer, Class: c.class}
	if !s.cfg.Seed {
		return s.serveSlot(c, w, patience, nil, func(start time.Time) error {
			_, err := s.send(c, index, kindPiece)
			s.gate.release(w, time.Since(start))
			return err
		})
	}
	state := s.gate.enter(c.content, c.pieces)
	defer s.gate.leave(state)
	kind, first := kindPiece, false
	if w.Repeat = !s.gate.fresh(state, index); w.Repeat {
		kind = kindRepeat
	}
	ready := func() bool {
		first = state.emitter.Begin(index)
		return true
	}
	return s.serveSlot(c, w, patience, ready, func(start time.Time) error {
		whole, err := s.send(c, index, kind)
		if first {
			s.gate.emitted(state, index, whole)
		}
		s.gate.release(w, time.Since(start))
		return err
	})
}

// next serves a piece that the seed chooses among the wanted.
func (s *Server) next(c *call) error {
	if !s.cfg.Seed {
		return &refusal{status: http.StatusNotImplemented, reason: "garbage", text: "this node is no seed; ask for a piece by its index"}
	}
	want, err := decodeWant(c.r.Header.Get(headerWant), c.pieces)
	if err != nil {
		return &refusal{status: http.StatusBadRequest, reason: "garbage", text: err.Error()}
	}
	state := s.gate.enter(c.content, c.pieces)
	defer s.gate.leave(state)
	s.watch(c, state)
	index, exhausted := 0, false
	again, kind := c.r.Header.Get(headerAgain) != "", kindNext
	ready := func() bool {
		var ok bool
		if again {
			index, ok = state.emitter.Again(time.Now(), s.gate.params.AgainAfter, want, state.have)
		} else {
			index, ok = state.emitter.Next(want, state.have)
		}
		exhausted = !ok && (again || state.emitter.Exhausted(want))
		return ok || exhausted
	}
	if again {
		kind = kindRepeat
	}
	w := &policy.Waiter{Peer: c.peer, Class: c.class, Repeat: again}
	return s.serveSlot(c, w, nextPatience, ready, func(start time.Time) error {
		if exhausted {
			s.gate.release(w, 0)
			c.w.WriteHeader(http.StatusNoContent)
			return c.control.Flush()
		}
		c.w.Header().Set(headerPiece, strconv.Itoa(index))
		whole, err := s.send(c, index, kind)
		s.gate.emitted(state, index, whole)
		s.gate.release(w, time.Since(start))
		return err
	})
}

// serveSlot waits for a slot and runs serve in it; serve gives the slot back.
func (s *Server) serveSlot(c *call, w *policy.Waiter, patience time.Duration, ready func() bool, serve func(start time.Time) error) error {
	if err := s.gate.acquire(c.r.Context(), w, patience, ready); err != nil {
		return err
	}
	return serve(time.Now())
}

// send writes the bytes of a piece. whole is false when the reader did not
// take them all.
func (s *Server) send(c *call, index int, kind string) (whole bool, err error) {
	span := blob.PieceRange(c.content.Size(), index)
	header := c.w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Length", strconv.FormatInt(span.Len(), 10))
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	start := time.Now()
	sent := s.metrics.sent.WithLabelValues(kind)
	for at := span.Start; at < span.End; {
		part := buf[:min(chunk, span.End-at)]
		if n, err := c.content.ReadAt(part, at); n < len(part) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			s.cfg.Log.Error("read a piece for a peer", "digest", c.content.Digest(), "piece", index, "err", err)
			return false, fmt.Errorf("read piece %d: %w", index, err)
		}
		if s.cfg.UploadLimit != nil {
			if err := s.cfg.UploadLimit.WaitN(c.r.Context(), len(part)); err != nil {
				return false, err
			}
		}
		// The deadline moves with the bytes: a slow reader is served, one that
		// crawls loses the slot.
		lent := leastStart + time.Duration(at-span.Start)*time.Second/leastRate
		_ = c.control.SetWriteDeadline(start.Add(lent))
		n, err := c.w.Write(part)
		sent.Add(float64(n))
		if err != nil {
			return false, err
		}
		at += int64(n)
	}
	if err := c.control.Flush(); err != nil {
		return false, err
	}
	s.metrics.pieces.WithLabelValues(kind).Inc()
	return true, nil
}

// watch keeps what a growing blob holds up to date for the next requests that
// wait for it: one goroutine for each blob, while anybody waits.
func (s *Server) watch(c *call, state *seedState) {
	g := s.gate
	g.mu.Lock()
	start := !state.watched && !state.have.Full()
	state.watched = state.watched || start
	g.mu.Unlock()
	if !start {
		return
	}
	ctx := context.WithoutCancel(c.r.Context())
	content, err := s.cfg.Lookup(ctx, c.content.Digest())
	if err != nil {
		g.mu.Lock()
		state.watched = false
		g.mu.Unlock()
		return
	}
	go func() {
		defer content.Close()
		for {
			have, changed := content.Progress()
			if !g.grown(state, have) {
				return
			}
			select {
			case <-changed:
			case <-state.deserted:
				if !g.stillWatched(state) {
					return
				}
			}
		}
	}()
}
