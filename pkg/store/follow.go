package store

import (
	"errors"
	"fmt"

	"github.com/shoalproject/shoal/pkg/blob"
)

// The follower is a goroutine of a growing blob. It hashes again the pieces
// that an earlier process left, and then follows the prefix that is there
// from the file (the page cache, mostly) with the whole digest's hash, so
// that a commit has little left to do. It starts when there is something to
// do and ends when there is not, or when the store closes. The prefix is
// followed only once pieces are put or a commit is tried, and only while
// somebody has a handle: who merely serves a partial blob needs no digest. The state of the whole digest's hash is not kept over a restart: it
// is made again from the start, 0.7 CPU-seconds a GiB.

// follow starts the follower, who is to follow the prefix from now on.
func (c *content) follow() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.mu.Lock()
	c.growing = true
	c.mu.Unlock()
	c.startFollower()
}

// startFollower starts the follower if it has something to do. Store.mu is
// held.
func (c *content) startFollower() {
	s := c.store
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed || c.following || !c.hasWork() {
		return
	}
	c.following = true
	c.refs++
	s.work.Go(func() {
		c.run()
		s.unhold(c)
	})
}

// hasWork reports whether the follower can get on. c.mu is held.
func (c *content) hasWork() bool {
	if c.gone != nil || c.complete || c.sealed || c.flatErr != nil {
		return false
	}
	if c.suspect.Count() > 0 {
		return true // to the end, or a blob opened now and then never gets there
	}
	return c.growing && c.handles.Load() > 0 && c.flatAt < c.size && c.written.Has(c.flatPiece())
}

// flatPiece is the piece that the whole digest's hash needs next. c.mu is
// held.
func (c *content) flatPiece() int { return blob.PieceAt(c.size, c.flatAt) }

func (c *content) run() {
	for {
		c.mu.Lock()
		if !c.hasWork() {
			c.following = false
			c.stepped.fire()
			c.mu.Unlock()
			return
		}
		next := -1
		for i := range c.suspect.All() {
			next = i
			break
		}
		c.mu.Unlock()
		var err error
		if next >= 0 {
			err = c.examine(next)
		} else {
			err = c.extend()
		}
		c.mu.Lock()
		if err != nil {
			c.flatErr = err
		}
		c.stepped.fire()
		c.mu.Unlock()
	}
}

// examine hashes a piece that the index names but this process has not seen,
// and marks it, or drops it when it is wrong or can't be read.
func (c *content) examine(i int) error {
	c.mu.Lock()
	unknown := c.suspect.Has(i)
	c.mu.Unlock()
	if !unknown {
		return nil
	}
	h, err := c.hashPiece(i)
	if errors.Is(err, ErrClosed) {
		return err
	}
	c.mu.Lock()
	if !c.suspect.Has(i) {
		c.mu.Unlock()
		return nil // somebody else was faster
	}
	c.suspect.Clear(i)
	signed, ok := c.signedHash(i)
	good := err == nil && h == c.hashes[i] && (!ok || h == signed)
	if good {
		c.mark(i, h)
		delete(c.dirty, i) // the row is right
	} else {
		c.unmark(i)
	}
	last := c.suspect.Count() == 0
	c.mu.Unlock()
	if !good {
		c.store.log.Info("a piece of an earlier run did not survive; it will be fetched again", "digest", c.digest, "piece", i)
		c.store.changed(c, 0)
	}
	if last {
		c.store.trust(c)
	}
	return nil
}

// trust notes that the index is right about a partial blob.
func (s *Store) trust(c *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[c.digest]; e != nil && s.open[c.digest] == c {
		e.trusted = true
	}
}

// extend takes the next piece of the prefix into the whole digest's hash.
func (c *content) extend() error {
	c.mu.Lock()
	at, drops := c.flatAt, c.drops
	i := c.flatPiece()
	c.mu.Unlock()
	if at == 0 {
		c.flat.Reset()
	}
	r := blob.PieceRange(c.size, i)
	err := c.stream(r, c.flat)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.drops != drops {
		c.flatAt = 0 // what went into the hash may be wrong
		if err != nil {
			return fmt.Errorf("hash %s: %w", c.digest, err)
		}
		return nil
	}
	c.flatAt = r.End
	return nil
}
