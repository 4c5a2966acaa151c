package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/durable"
)

// Options of a store. The zero value is a store without a limit.
type Options struct {
	// MaxBytes bounds the sizes of all blobs together, in bytes, growing ones
	// at their full size; 0 is no limit but the disk's.
	MaxBytes int64
	// Log is where faults that nobody waits for are told; nil is the default.
	Log *slog.Logger
	// Now is the clock for access times and leases; nil is time.Now.
	Now func() time.Time
}

// Store keeps blobs in one folder. Its locks are taken in the order
// content.life, slot.mu, Store.mu, content.mu.
type Store struct {
	root  *os.Root
	index *index
	max   int64
	log   *slog.Logger
	now   func() time.Time
	wrap  func(*os.File) pieceFile // the tests put a failing disk here

	flushing sync.Mutex     // one flush at a time; taken before mu
	work     sync.WaitGroup // goroutines of the store; Add only while mu is held and closed is false
	settled  sync.WaitGroup // files that Open found and the index didn't know
	stop     chan struct{}  // closed by Close
	kick     chan struct{}  // capacity 1: something is dirty
	urgent   chan struct{}  // capacity 1: much is dirty

	mu      sync.Mutex
	closed  bool                     // guarded by mu
	entries map[blob.Digest]*entry   // guarded by mu; every blob of the store
	open    map[blob.Digest]*content // guarded by mu; those with a file open
	dirty   map[blob.Digest]*content // guarded by mu; rows to write; holds a reference
	waiting int                      // guarded by mu; pieces put since the last flush
	feeds   map[*feed]struct{}       // guarded by mu
	used    int64                    // guarded by mu; sum of the entries' sizes
	evicted uint64                   // guarded by mu
}

// entry is a blob of the store. Guarded by Store.mu.
type entry struct {
	record
	digest blob.Digest
	saved  time.Time // access as the index has it
	// trusted: the pieces that the index names were hashed by this process.
	trusted bool
}

func (e *entry) name() string {
	if e.complete {
		return blobName(e.digest)
	}
	return partialName(e.digest)
}

const (
	blobsDir   = "blobs"
	partialDir = "partial"
)

func blobName(d blob.Digest) string {
	hex := d.Encoded()
	return blobsDir + "/" + string(d.Algorithm()) + "/" + hex[:2] + "/" + hex
}

func partialName(d blob.Digest) string {
	return partialDir + "/" + strings.Replace(string(d), ":", "-", 1)
}

// Open opens the store in dir and makes the folder if need be. Files that the
// index doesn't know are verified and taken in in the background.
func Open(dir string, opts Options) (*Store, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s := &Store{
		root: root, max: opts.MaxBytes, log: opts.Log, now: opts.Now,
		wrap:    func(f *os.File) pieceFile { return f },
		stop:    make(chan struct{}),
		kick:    make(chan struct{}, 1),
		urgent:  make(chan struct{}, 1),
		entries: make(map[blob.Digest]*entry),
		open:    make(map[blob.Digest]*content),
		dirty:   make(map[blob.Digest]*content),
		feeds:   make(map[*feed]struct{}),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.now == nil {
		s.now = time.Now
	}
	for _, name := range []string{blobsDir, partialDir} {
		if err := durable.MkdirAllIn(root, name, 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("open the store: %w", explain(err)), root.Close())
		}
	}
	if s.index, err = openIndex(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", err), root.Close())
	}
	if err := s.reconcile(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the store in %s: %w", dir, err), s.index.close(), root.Close())
	}
	s.work.Go(s.flushLoop)
	return s, nil
}

// Close ends every reader, stops the store's goroutines, writes the index and
// closes the files. Handles that are still open answer ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for d, e := range s.entries {
		if !e.access.Equal(e.saved) {
			s.markDirty(d, nil)
		}
	}
	for _, c := range s.open {
		c.end(ErrClosed)
	}
	close(s.stop)
	s.mu.Unlock()
	s.work.Wait()
	err := s.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		c.shut = true
		err = errors.Join(err, c.file.Close())
	}
	clear(s.open)
	return errors.Join(err, s.index.close(), s.root.Close())
}

// Get opens a blob of the store, whole or growing, or returns ErrNotFound.
// The caller closes the handle.
func (s *Store) Get(d blob.Digest) (*Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	e := s.entries[d]
	if e == nil {
		return nil, fmt.Errorf("get %s: %w", d, ErrNotFound)
	}
	b, err := s.handle(e)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", d, err)
	}
	return b, nil
}

// Create opens the blob, or makes an empty growing one of size bytes. To make
// room it evicts what was accessed least recently, is not leased and not open.
// ErrFull: there is no room. ErrSizeMismatch: it is known under another size.
func (s *Store) Create(d blob.Digest, size int64) (*Blob, error) {
	if _, err := blob.ParseDigest(string(d)); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := checkSize(size); err != nil {
		return nil, fmt.Errorf("create %s: %w", d, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	b, err := s.create(d, size)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", d, err)
	}
	return b, nil
}

// create is Create while s.mu is held.
func (s *Store) create(d blob.Digest, size int64) (*Blob, error) {
	if e := s.entries[d]; e != nil {
		b, err := s.handle(e)
		switch {
		case errors.Is(err, ErrNotFound): // its file is gone; begin anew
		case err != nil:
			return nil, err
		case e.size == size:
			return b, nil
		default:
			known := e.size
			s.drop(b)
			if e.complete || s.inUse(d) {
				return nil, fmt.Errorf("%w: %d bytes, not %d", ErrSizeMismatch, known, size)
			}
			s.remove(e, ErrRemoved) // left over from a wrong guess
		}
	}
	if err := s.makeRoom(size); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(partialName(d), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, explain(err)
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(explain(err), f.Close(), s.root.Remove(partialName(d)))
	}
	noReadAhead(f)
	e := &entry{digest: d, trusted: true, record: record{size: size, access: s.now()}}
	s.entries[d] = e
	s.used += size
	c := newContent(s, e, s.wrap(f))
	c.fresh = true
	s.open[d] = c
	s.markDirty(d, c)
	return s.handle(e)
}

// checkSize refuses what no piece map could describe.
func checkSize(size int64) error {
	if size < 0 || size > int64(blob.MaxPieces)*blob.MaxPieceLength {
		return fmt.Errorf("a blob of %d bytes is out of range", size)
	}
	return nil
}

// PutBytes stores a small blob, a manifest for instance. data that doesn't
// make the digest is ErrDigestMismatch and changes nothing.
func (s *Store) PutBytes(ctx context.Context, d blob.Digest, data []byte) error {
	d, err := blob.ParseDigest(string(d))
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if d.Algorithm().FromBytes(data) != d {
		return fmt.Errorf("put %s: %w", d, ErrDigestMismatch)
	}
	b, err := s.Create(d, int64(len(data)))
	if err != nil {
		return err
	}
	defer b.Close()
	for i := range b.Missing().All() {
		r := blob.PieceRange(b.Size(), i)
		if _, err := b.PutPiece(i, bytes.NewReader(data[r.Start:r.End]), nil); err != nil {
			return err
		}
	}
	return b.Commit(ctx)
}

// Delete removes a blob, leased or not. Open handles of a complete one read
// on; those of a growing one answer ErrRemoved.
func (s *Store) Delete(d blob.Digest) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	e, c := s.entries[d], s.open[d]
	if e == nil {
		s.mu.Unlock()
		return fmt.Errorf("delete %s: %w", d, ErrNotFound)
	}
	if c == nil {
		s.remove(e, ErrRemoved)
		s.mu.Unlock()
		return nil
	}
	c.refs++
	s.mu.Unlock()
	c.life.Lock() // a commit that has begun ends first
	defer c.life.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[d] == e {
		s.remove(e, ErrRemoved)
	}
	s.release(c)
	return nil
}

// Lease keeps a blob from being evicted until then. A lease is never made
// shorter, except by the zero time, which ends it.
func (s *Store) Lease(d blob.Digest, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[d]
	if s.closed {
		return ErrClosed
	}
	if e == nil {
		return fmt.Errorf("lease %s: %w", d, ErrNotFound)
	}
	if until.IsZero() || until.After(e.lease) {
		e.lease = until
		s.markDirty(d, nil)
	}
	return nil
}

// Info is one blob of a List.
type Info struct {
	Digest   blob.Digest
	Size     int64 // bytes
	Complete bool
	Accessed time.Time
	Leased   time.Time // until when; zero or past is not leased
}

// List is every blob of the store, ordered by digest.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Info, 0, len(s.entries))
	for _, e := range s.entries {
		out = append(out, Info{e.digest, e.size, e.complete, e.access, e.lease})
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Digest, b.Digest) })
	return out
}

// Stats are the store's gauges.
type Stats struct {
	Complete, Partial int    // blobs
	Bytes             int64  // what counts against MaxBytes
	MaxBytes          int64  // 0 is no limit
	Evicted           uint64 // blobs, since Open
}

// Stats counts.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Stats{Bytes: s.used, MaxBytes: s.max, Evicted: s.evicted}
	for _, e := range s.entries {
		if e.complete {
			out.Complete++
		} else {
			out.Partial++
		}
	}
	return out
}

// handle opens a handle of an entry. s.mu is held.
func (s *Store) handle(e *entry) (*Blob, error) {
	c, err := s.contentOf(e)
	if err != nil {
		return nil, err
	}
	c.refs++
	c.handles.Add(1)
	c.startFollower() // for what an earlier process left
	if e.access = s.now(); e.access.Sub(e.saved) > accessGrain {
		s.markDirty(e.digest, nil)
	}
	return &Blob{c: c}, nil
}

// contentOf is the open content of an entry; an entry whose file is gone or
// of a wrong size is removed. s.mu is held.
func (s *Store) contentOf(e *entry) (*content, error) {
	if c := s.open[e.digest]; c != nil {
		return c, nil
	}
	flag := os.O_RDWR
	if e.complete {
		flag = os.O_RDONLY
	}
	f, err := s.root.OpenFile(e.name(), flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		s.remove(e, ErrRemoved)
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info.Size() != e.size {
		s.log.Warn("a blob's file has another size than was recorded; removed", "digest", e.digest, "size", e.size, "found", info.Size())
		s.remove(e, ErrRemoved)
		return nil, errors.Join(ErrNotFound, f.Close())
	}
	c := newContent(s, e, s.wrap(f))
	if !e.complete {
		noReadAhead(f)
		if err := c.load(e.trusted); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	s.open[e.digest] = c
	return c, nil
}

// again opens another handle of the same content.
func (s *Store) again(b *Blob) (*Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if b.closed.Load() {
		return nil, fmt.Errorf("%w: the handle of %s", ErrClosed, b.c.digest)
	}
	b.c.refs++
	b.c.handles.Add(1)
	return &Blob{c: b.c}, nil
}

// release gives a reference back and closes the file with the last. s.mu is
// held.
func (s *Store) release(c *content) {
	if c.refs--; c.refs > 0 || c.shut {
		return
	}
	c.shut = true
	if s.open[c.digest] == c {
		delete(s.open, c.digest)
	}
	if err := c.file.Close(); err != nil {
		s.log.Warn("closing a blob's file failed", "digest", c.digest, "error", err)
	}
}

// unhold is release by who doesn't hold s.mu.
func (s *Store) unhold(c *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(c)
}

// drop closes a handle. s.mu is held.
func (s *Store) drop(b *Blob) {
	if b.closed.Swap(true) {
		return
	}
	b.c.handles.Add(-1)
	s.release(b.c)
}
