package store

import (
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/shoalproject/shoal/pkg/blob"
)

// bufferLength is how much of a blob is in memory at a time, for each stream.
const bufferLength = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferLength]byte) }}

// pieceFile is what a content needs of its file; *os.File is one.
type pieceFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// content is a blob that is open, shared by its handles.
type content struct {
	store   *Store
	digest  blob.Digest
	size    int64
	n       int // pieces
	file    pieceFile
	hashers sync.Pool    // *blob.PieceHasher
	handles atomic.Int32 // handles and readers; changed under Store.mu
	refs    int          // guarded by Store.mu: handles, readers, operations, rows to be written
	shut    bool         // guarded by Store.mu; the file was closed

	life sync.Mutex // the last step of a commit and a removal exclude each other

	mu       sync.Mutex
	gone     error            // guarded by mu; why nothing works any more
	complete bool             // guarded by mu
	sealed   bool             // guarded by mu; the digest was verified, a commit is under way
	written  blob.Bitmap      // guarded by mu; pieces in the file; unused when complete
	suspect  blob.Bitmap      // guarded by mu; pieces that the index names, not hashed yet
	hashes   []blob.PieceHash // guarded by mu; of the written pieces
	slots    map[int]*slot    // guarded by mu; pieces being written
	drops    uint64           // guarded by mu; grows when a written piece is dropped

	fresh      bool             // guarded by mu; the index may have rows of an earlier blob
	dirty      map[int]struct{} // guarded by mu; pieces whose rows are out of date
	proofDirty bool             // guarded by mu

	proofLoaded bool             // guarded by mu; for a complete blob
	signed      *blob.PieceMap   // guarded by mu
	batches     []*blob.Batch    // guarded by mu; empty once signed is known
	provisional []blob.PieceHash // guarded by mu; the hashes of batches
	promised    blob.Bitmap      // guarded by mu; which of them are known
	refuted     map[flight]bool  // guarded by mu; flights that a later one contradicted

	flat      hash.Hash // owned by the follower; between runs guarded by mu
	flatAt    int64     // guarded by mu; bytes of the prefix that are in flat
	flatErr   error     // guarded by mu; why the follower stopped
	following bool      // guarded by mu
	growing   bool      // guarded by mu; pieces were put by this process

	readers map[*reader]struct{} // guarded by mu

	arrived signal // guarded by mu; written, complete, gone or a reader's failure changed
	moved   signal // guarded by mu; what Progress returns changed
	proved  signal // guarded by mu; what Proof returns changed
	asked   signal // guarded by mu; what Demand returns changed
	stepped signal // guarded by mu; the follower got on
}

func newContent(s *Store, e *entry, f pieceFile) *content {
	n := blob.PieceCount(e.size)
	c := &content{
		store: s, digest: e.digest, size: e.size, n: n, file: f,
		complete: e.complete,
		slots:    make(map[int]*slot),
		dirty:    make(map[int]struct{}),
		readers:  make(map[*reader]struct{}),
	}
	c.hashers.New = func() any { return blob.NewPieceHasher(c.size) }
	if !c.complete {
		c.written, c.suspect = blob.NewBitmap(n), blob.NewBitmap(n)
		c.hashes = make([]blob.PieceHash, n)
		c.flat = c.digest.Algorithm().Hash()
	}
	return c
}

// load takes a partial blob's pieces and map from the index. Nobody else has
// the content yet.
func (c *content) load(trusted bool) error {
	known, hashes, err := c.store.index.pieces(c.digest, c.n)
	if err != nil {
		return err
	}
	c.hashes = hashes
	if trusted {
		c.written = known
	} else {
		c.suspect = known
	}
	m, _, err := c.store.index.proof(c.digest, c.size)
	if err != nil {
		c.store.log.Warn("a recorded piece map can't be read; it will be asked for again", "digest", c.digest, "error", err)
		return nil
	}
	c.signed = m
	return nil
}

// loadProof fetches a complete blob's map or hashes from the index, once.
// c.mu is held.
func (c *content) loadProof() {
	if !c.complete || c.proofLoaded {
		return
	}
	c.proofLoaded = true
	if c.hashes != nil {
		return // committed by this process
	}
	m, hashes, err := c.store.index.proof(c.digest, c.size)
	if err != nil {
		c.store.log.Warn("recorded piece hashes can't be read", "digest", c.digest, "error", err)
		return
	}
	c.signed, c.hashes = m, hashes
}

// whole reports whether the blob is complete.
func (c *content) whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.complete
}

// end wakes everybody with why; nothing works afterwards.
func (c *content) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone = why
	}
	c.fireAll()
}

func (c *content) fireAll() {
	c.arrived.fire()
	c.moved.fire()
	c.proved.fire()
	c.asked.fire()
	c.stepped.fire()
}

// signedHash is the hash that a signature vouches for. c.mu is held.
func (c *content) signedHash(i int) (blob.PieceHash, bool) {
	if i < 0 || i >= c.n {
		return blob.PieceHash{}, false
	}
	if c.signed != nil {
		return c.signed.Hashes[i], true
	}
	if c.promised.Has(i) {
		return c.provisional[i], true
	}
	return blob.PieceHash{}, false
}

// mayServe reports whether a neighbour may have the piece. A written piece
// that contradicts a signed hash doesn't exist: it was dropped. c.mu is held.
func (c *content) mayServe(i int) bool {
	if c.complete {
		return i >= 0 && i < c.n
	}
	_, ok := c.signedHash(i)
	return ok && c.written.Has(i)
}

// mark makes a piece whose bytes are in place known. c.mu is held.
func (c *content) mark(i int, h blob.PieceHash) {
	c.written.Set(i)
	c.hashes[i] = h
	c.dirty[i] = struct{}{}
	c.arrived.fire()
	c.asked.fire()
	if c.mayServe(i) {
		c.moved.fire()
	}
}

// unmark makes a piece missing again. c.mu is held; the caller has the rows
// written.
func (c *content) unmark(i int) {
	c.written.Clear(i)
	c.dirty[i] = struct{}{}
	c.drops++
	if blob.PieceRange(c.size, i).Start < c.flatAt {
		c.flatAt = 0 // the follower begins anew
	}
	c.fireAll()
}

// hashPiece reads a piece from the file. It gives up early when the store
// stops.
func (c *content) hashPiece(i int) (blob.PieceHash, error) {
	hasher := c.hashers.Get().(*blob.PieceHasher)
	defer c.hashers.Put(hasher)
	hasher.Reset()
	if err := c.stream(blob.PieceRange(c.size, i), hasher); err != nil {
		return blob.PieceHash{}, err
	}
	return hasher.Sum(), nil
}

// stream reads a range of the file into a hash.
func (c *content) stream(r blob.Range, into io.Writer) error {
	buf := buffers.Get().(*[bufferLength]byte)
	defer buffers.Put(buf)
	for r.Len() > 0 {
		select {
		case <-c.store.stop:
			return ErrClosed
		default:
		}
		part := buf[:min(bufferLength, r.Len())]
		if n, err := c.file.ReadAt(part, r.Start); n < len(part) {
			return fmt.Errorf("read %s: %w", c.digest, err)
		}
		into.Write(part) //nolint:errcheck // a hash takes every byte
		r.Start += int64(len(part))
	}
	return nil
}
