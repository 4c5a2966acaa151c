package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"path"

	"github.com/shoalproject/shoal/pkg/durable"
)

// Commit verifies the whole digest, syncs the bytes, gives the file its final
// name and syncs the folders; only then is the blob complete. Many may call
// it at once; all get the outcome. ErrIncomplete: pieces are missing, possibly
// because a recorded one proved wrong; put them and commit again.
// ErrDigestMismatch: the bytes are wrong as a whole, the partial blob is gone
// and its readers have failed.
//
// The index learns of it within a second. A crash before that leaves a
// verified file which Open verifies once more.
func (b *Blob) Commit(ctx context.Context) error {
	c := b.c
	held, err := b.hold()
	if err != nil {
		return err
	}
	defer held.Close()
	if err := c.verify(ctx); err != nil {
		return fmt.Errorf("commit %s: %w", c.digest, err)
	}
	if err := c.settle(); err != nil {
		return fmt.Errorf("commit %s: %w", c.digest, explain(err))
	}
	return nil
}

// verify waits until the follower has hashed everything.
func (c *content) verify(ctx context.Context) error {
	for {
		c.mu.Lock()
		var err error
		ready := c.complete
		switch there := c.written.Count(); {
		case c.gone != nil:
			err = c.gone
		case c.complete:
		case c.flatErr != nil:
			err, c.flatErr = c.flatErr, nil
		case there+c.suspect.Count() < c.n:
			err = fmt.Errorf("%w: %d of %d pieces are there", ErrIncomplete, there, c.n)
		default:
			ready = there == c.n && c.flatAt == c.size && !c.following
		}
		stepped := c.stepped.wait()
		c.mu.Unlock()
		if err != nil || ready {
			return err
		}
		c.follow()
		select {
		case <-stepped:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle decides, and makes the blob complete.
func (c *content) settle() error {
	c.life.Lock()
	defer c.life.Unlock()
	c.mu.Lock()
	if c.complete || c.gone != nil {
		defer c.mu.Unlock()
		return c.gone
	}
	if c.following || c.written.Count() < c.n || c.flatAt < c.size {
		defer c.mu.Unlock()
		return fmt.Errorf("%w: a piece was dropped", ErrIncomplete)
	}
	good := hex.EncodeToString(c.flat.Sum(nil)) == c.digest.Encoded()
	c.sealed = good
	c.mu.Unlock()
	if !good {
		return c.discard(ErrDigestMismatch)
	}
	if err := c.file.Sync(); err != nil {
		// What a failed sync was about can't be trusted: Linux takes the
		// pages for clean afterwards.
		return c.discard(fmt.Errorf("sync: %w", err))
	}
	if err := c.rename(); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sealed = false
		return err
	}
	c.finish()
	return nil
}

// discard removes the partial blob. c.life is held.
func (c *content) discard(why error) error {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[c.digest]; e != nil && s.open[c.digest] == c {
		s.remove(e, why)
	}
	return why
}

func (c *content) rename() error {
	root, name := c.store.root, blobName(c.digest)
	if err := durable.MkdirAllIn(root, path.Dir(name), 0o700); err != nil {
		return err
	}
	return durable.RenameIn(root, partialName(c.digest), name)
}

// finish tells everybody. c.life is held.
func (c *content) finish() {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.entries[c.digest] == nil || s.open[c.digest] != c {
		return // closed
	}
	s.entries[c.digest].complete = true
	c.complete, c.proofLoaded, c.proofDirty = true, true, true
	c.batches, c.provisional, c.refuted = nil, nil, nil
	clear(c.dirty)
	c.fireAll()
	if s.closed {
		return
	}
	s.markDirty(c.digest, c)
	s.tell(Event{Digest: c.digest, Size: c.size, Kind: Committed})
}
