package store

import (
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// The index is written behind: at most flushEvery after a change, or as soon
// as flushPieces pieces wait. The data is not synced first. The other way, a
// sync of the data before each row, was weighed: it makes every pull force
// the journal of a disk that others use, needs a rule for a sync that fails
// and another for a row that must be gone before its piece is written anew.
// To hash what was recorded when a partial blob is first opened in a process
// needs none of these and also notices a disk that lied about its sync. It
// costs 0.7 CPU-seconds for each GiB of partial blobs after a restart, in
// the background and in order, so that a reader from the start hardly waits.
const (
	flushEvery  = time.Second
	flushPieces = 64
	// accessGrain is how old a recorded access time may become before an
	// access alone is worth a write.
	accessGrain = 10 * time.Minute
)

// flushLoop writes the index behind until the store stops.
func (s *Store) flushLoop() {
	failing := false
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		}
		timer := time.NewTimer(flushEvery)
		select {
		case <-s.stop:
			timer.Stop()
			return
		case <-s.urgent:
			timer.Stop()
		case <-timer.C:
		}
		err := s.flush()
		if err != nil && !failing {
			s.log.Warn("the index could not be written; trying again each second", "error", err)
		}
		if err == nil && failing {
			s.log.Info("the index could be written again")
		}
		failing = err != nil
	}
}

// markDirty has the blob's rows written soon. c may be nil when only the
// entry changed. s.mu is held.
func (s *Store) markDirty(d blob.Digest, c *content) {
	if c != nil && s.open[d] != c {
		return // removed meanwhile: its rows are another's by now
	}
	known, marked := s.dirty[d]
	if c != nil && known != c {
		c.refs++
		if known != nil {
			s.release(known)
		}
		s.dirty[d] = c
	} else if !marked {
		s.dirty[d] = nil
	}
	poke(s.kick)
}

// flush writes every waiting change in one transaction. On an error they
// wait again.
func (s *Store) flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = make(map[blob.Digest]*content)
	s.waiting = 0
	changes := make([]change, 0, len(dirty))
	for d, c := range dirty {
		changes = append(changes, s.changeOf(d, c))
	}
	s.mu.Unlock()
	if len(changes) == 0 {
		return nil
	}
	err := s.index.apply(changes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, ch := range changes {
		c := dirty[ch.digest]
		if err != nil {
			if c != nil {
				c.restore(changes[i])
			}
			s.markDirty(ch.digest, c)
		}
		if c != nil {
			s.release(c)
		}
	}
	return err
}

// changeOf is what memory says of a blob. s.mu is held.
func (s *Store) changeOf(d blob.Digest, c *content) change {
	ch := change{digest: d}
	e := s.entries[d]
	if e == nil {
		return ch
	}
	e.saved = e.access
	r := e.record
	ch.record = &r
	if c != nil {
		c.collect(&ch)
	}
	return ch
}

// collect takes what changed since the last flush.
func (c *content) collect(ch *change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch.fresh, c.fresh = c.fresh, false
	if c.proofDirty {
		c.proofDirty = false
		ch.proof = encodeProof(c.signed, c.hashes)
	}
	ch.put = make(map[int]blob.PieceHash, len(c.dirty))
	for i := range c.dirty {
		if c.written.Has(i) {
			ch.put[i] = c.hashes[i]
		} else {
			ch.drop = append(ch.drop, i)
		}
	}
	clear(c.dirty)
}

// restore gives back what a failed flush took.
func (c *content) restore(ch change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh = c.fresh || ch.fresh
	c.proofDirty = c.proofDirty || ch.proof != nil
	for i := range ch.put {
		c.dirty[i] = struct{}{}
	}
	for _, i := range ch.drop {
		c.dirty[i] = struct{}{}
	}
}
