package store

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/shoalproject/shoal/pkg/blob"
)

// lookahead is how many pieces behind the one that a reader waits for are in
// demand as well.
const lookahead = 2

// reader tails a blob.
type reader struct {
	b      *Blob // a handle of its own
	ctx    context.Context
	off    int64 // owned by Read
	end    int64
	quit   chan struct{}
	closed atomic.Bool

	blocked int   // guarded by content.mu; the piece waited for, -1 for none
	failed  error // guarded by content.mu; what Fail said
}

// NewReader reads the range in order while the blob grows. Pieces that are
// there are handed out, whoever they came from, except the last one of the
// blob, which waits for the commit; so a client can't end up with a whole
// wrong blob. Reads end with ctx, Fail, the removal of the partial blob or
// Close, which may be called during a Read. The reader is a handle: it works
// on after b is closed.
func (b *Blob) NewReader(ctx context.Context, r blob.Range) io.ReadCloser {
	c := b.c
	if err := r.Check(c.size); err != nil {
		return broken{fmt.Errorf("read %s: %w", c.digest, err)}
	}
	held, err := b.hold()
	if err != nil {
		return broken{err}
	}
	rd := &reader{b: held, ctx: ctx, off: r.Start, end: r.End, quit: make(chan struct{}), blocked: -1}
	c.mu.Lock()
	c.readers[rd] = struct{}{}
	c.mu.Unlock()
	return rd
}

// broken is a reader that could not be made.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
func (b broken) Close() error             { return nil }

// Read returns what is there and waits only if nothing is.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, drops, wait, err := r.ready(len(p))
		if err != nil {
			return 0, err
		}
		if wait == nil {
			n, err := r.b.c.file.ReadAt(p[:n], r.off)
			if err == io.EOF && n > 0 {
				err = nil
			}
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", r.b.c.digest, err)
			}
			if !r.stillThere(drops) {
				continue
			}
			r.off += int64(n)
			return n, nil
		}
		select {
		case <-wait:
		case <-r.quit:
		case <-r.ctx.Done():
			r.unblock()
			return 0, fmt.Errorf("read %s: %w", r.b.c.digest, r.ctx.Err())
		}
	}
}

// ready says how many bytes can be read now, or gives a channel to wait on.
func (r *reader) ready(want int) (n int, drops uint64, wait <-chan struct{}, err error) {
	c := r.b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		if wait == nil {
			r.block(-1)
		}
	}()
	switch {
	case r.closed.Load():
		return 0, 0, nil, fmt.Errorf("%w: the reader of %s", ErrClosed, c.digest)
	case r.ctx.Err() != nil:
		return 0, 0, nil, fmt.Errorf("read %s: %w", c.digest, r.ctx.Err())
	case r.off == r.end && (c.size > 0 || c.complete):
		return 0, 0, nil, io.EOF
	case c.gone != nil:
		return 0, 0, nil, fmt.Errorf("read %s: %w", c.digest, c.gone)
	}
	if end := r.reach(r.off + int64(want)); end > r.off {
		return int(end - r.off), c.drops, nil, nil
	}
	if r.failed != nil {
		return 0, 0, nil, fmt.Errorf("read %s: %w", c.digest, r.failed)
	}
	r.block(blob.PieceAt(c.size, r.off))
	return 0, 0, c.arrived.wait(), nil
}

// reach is up to where bytes are there, at most to limit. content.mu is held.
func (r *reader) reach(limit int64) int64 {
	c, limit := r.b.c, min(limit, r.end)
	if c.complete {
		return limit
	}
	at := r.off
	for at < limit {
		i := blob.PieceAt(c.size, at)
		if !c.written.Has(i) || i == c.n-1 {
			return at
		}
		at = blob.PieceRange(c.size, i).End
	}
	return limit
}

// stillThere reports that no piece of what was read was dropped meanwhile: it
// could have been half rewritten.
func (r *reader) stillThere(drops uint64) bool {
	c := r.b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drops == drops
}

// block notes what the reader waits for. content.mu is held.
func (r *reader) block(piece int) {
	if r.blocked != piece {
		r.blocked = piece
		r.b.c.asked.fire()
	}
}

func (r *reader) unblock() {
	r.b.c.mu.Lock()
	defer r.b.c.mu.Unlock()
	r.block(-1)
}

// Close ends the reader; a Read that waits returns ErrClosed.
func (r *reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	close(r.quit)
	c := r.b.c
	c.mu.Lock()
	r.block(-1)
	delete(c.readers, r)
	c.mu.Unlock()
	return r.b.Close()
}

// Demand are the pieces that blocked readers wait for now: for each the first
// that is missing and those of the two behind it that are. changed is closed
// at the next change.
func (b *Blob) Demand() (demand blob.Bitmap, changed <-chan struct{}) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	demand = blob.NewBitmap(c.n)
	if !c.complete && c.n > 0 {
		for r := range c.readers {
			if r.blocked < 0 {
				continue
			}
			last := min(r.blocked+lookahead, blob.PieceAt(c.size, r.end-1))
			for i := r.blocked; i <= last; i++ {
				if !c.written.Has(i) && !c.suspect.Has(i) {
					demand.Set(i)
				}
			}
		}
	}
	return demand, c.asked.wait()
}

// Fail ends the readers of now with err, each as soon as it has read what is
// there. The blob stays, and later readers are not touched: another flight
// may go on with it.
func (b *Blob) Fail(err error) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.readers {
		r.failed = err
	}
	c.arrived.fire()
}
