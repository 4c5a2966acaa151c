package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Blob is a handle of a blob, whole or growing. All handles of a blob see one
// state. Every method may be called from many goroutines.
type Blob struct {
	c      *content
	closed atomic.Bool
}

// Digest of the whole blob.
func (b *Blob) Digest() blob.Digest { return b.c.digest }

// Size of the whole blob in bytes.
func (b *Blob) Size() int64 { return b.c.size }

// Close gives the handle back. What grows stays in the store. It returns nil.
func (b *Blob) Close() error {
	b.c.store.mu.Lock()
	defer b.c.store.mu.Unlock()
	b.c.store.drop(b)
	return nil
}

// hold opens another handle for the time of an operation or a reader, so
// that the file stays open however soon b is closed.
func (b *Blob) hold() (*Blob, error) {
	return b.c.store.again(b)
}

// Complete reports whether the blob was committed.
func (b *Blob) Complete() bool { return b.c.whole() }

// Progress is which pieces may be served to neighbours, each verified against
// a signed hash or part of a committed blob. changed is closed at the next
// change, which includes that the blob is gone.
func (b *Blob) Progress() (have blob.Bitmap, changed <-chan struct{}) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	have = blob.NewBitmap(c.n)
	switch {
	case c.complete:
		have.Fill()
	case c.gone != nil:
	default:
		for i := range c.written.All() {
			if c.mayServe(i) {
				have.Set(i)
			}
		}
	}
	return have, c.moved.wait()
}

// Missing are the pieces that still have to be put. A piece that an earlier
// process wrote counts as there until it was hashed again; should it prove
// wrong, it turns up here and Progress and Demand signal a change.
func (b *Blob) Missing() blob.Bitmap {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	missing := blob.NewBitmap(c.n)
	if c.complete {
		return missing
	}
	missing.Fill()
	return missing.Minus(c.written).Minus(c.suspect)
}

// ReadAt reads bytes of pieces that Progress reports, and no others:
// blob.ErrNotHeld.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	c := b.c
	if off < 0 {
		return 0, fmt.Errorf("read %s: offset %d", c.digest, off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > c.size-off
	if short {
		p = p[:c.size-off]
	}
	if len(p) == 0 {
		return 0, nil
	}
	before, err := c.servable(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err := c.file.ReadAt(p, off)
	if n < len(p) {
		return n, fmt.Errorf("read %s: %w", c.digest, err)
	}
	// A piece that was dropped meanwhile may have been half rewritten.
	if after, err := c.servable(off, int64(len(p))); err != nil || after != before {
		return 0, errors.Join(fmt.Errorf("read %s: a piece was dropped", c.digest), err)
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// servable checks that the pieces of a range may be served and returns the
// number of drops so far.
func (c *content) servable(off, length int64) (drops uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return 0, fmt.Errorf("read %s: %w", c.digest, c.gone)
	}
	for i := blob.PieceAt(c.size, off); i <= blob.PieceAt(c.size, off+length-1); i++ {
		if !c.mayServe(i) {
			return 0, fmt.Errorf("read %s: piece %d: %w", c.digest, i, blob.ErrNotHeld)
		}
	}
	return c.drops, nil
}

// OpenFile opens the file of a complete blob, for sendfile. The caller closes
// it; its offset is its own.
func (b *Blob) OpenFile() (*os.File, error) {
	c := b.c
	if !c.whole() {
		return nil, fmt.Errorf("open %s: %w", c.digest, ErrIncomplete)
	}
	held, err := b.hold()
	if err != nil {
		return nil, err
	}
	defer held.Close()
	f, err := c.store.root.Open(blobName(c.digest))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", c.digest, ErrNotFound)
	}
	return f, err
}

// Hashes are the piece hashes of a complete blob, for signing its map. Those
// that this store doesn't know it makes from the bytes: 0.7 CPU-seconds a GiB.
func (b *Blob) Hashes(ctx context.Context) ([]blob.PieceHash, error) {
	c := b.c
	held, err := b.hold()
	if err != nil {
		return nil, err
	}
	defer held.Close()
	c.mu.Lock()
	c.loadProof()
	complete, known := c.complete, c.hashes
	c.mu.Unlock()
	if !complete {
		return nil, fmt.Errorf("piece hashes of %s: %w", c.digest, ErrIncomplete)
	}
	if known != nil {
		return slices.Clone(known), nil
	}
	w := blob.NewMapWriter(c.size)
	for i := range c.n {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("piece hashes of %s: %w", c.digest, err)
		}
		if err := c.stream(blob.PieceRange(c.size, i), w); err != nil {
			return nil, err
		}
	}
	hashes := w.Hashes()
	c.mu.Lock()
	if c.hashes == nil {
		c.hashes, c.proofDirty = hashes, true
	}
	c.mu.Unlock()
	c.store.changed(c, 0)
	return slices.Clone(hashes), nil
}

// changed has a content's rows written soon; pieces is how many it put.
func (s *Store) changed(c *content, pieces int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.markDirty(c.digest, c)
	if s.waiting += pieces; s.waiting >= flushPieces {
		poke(s.urgent)
	}
}
