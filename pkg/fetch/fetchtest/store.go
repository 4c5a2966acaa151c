// Package fetchtest has in-memory twins of what a Fetcher works with.
package fetchtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
)

// Store keeps blobs in memory; complete ones get a file in a folder.
type Store struct {
	dir string
	// OnReader is called before a reader of a growing blob is made. May be nil.
	OnReader func()

	mu      sync.Mutex // guards what follows
	blobs   map[blob.Digest]*Blob
	full    bool
	created int
}

// NewStore makes an empty store that puts complete blobs into dir.
func NewStore(dir string) *Store { return &Store{dir: dir, blobs: map[blob.Digest]*Blob{}} }

// SetFull makes every Create and PutPiece fail with blob.ErrFull, or no more.
func (s *Store) SetFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *Store) isFull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full
}

// Created counts the blobs that were made.
func (s *Store) Created() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.created
}

// Blob is the blob of this digest, nil without one.
func (s *Store) Blob(d blob.Digest) *Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blobs[d]
}

// Get implements fetch.Store.
func (s *Store) Get(d blob.Digest) (fetch.Blob, error) {
	if b := s.Blob(d); b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("get %s: %w", d, blob.ErrNotHeld)
}

// Create implements fetch.Store.
func (s *Store) Create(d blob.Digest, size int64) (fetch.Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.blobs[d]; b != nil && (b.Size() == size || b.Complete()) {
		return b, nil // one of another size was left over from a wrong guess
	}
	if s.full {
		return nil, fmt.Errorf("create %s: %w", d, blob.ErrFull)
	}
	n := blob.PieceCount(size)
	b := &Blob{
		store: s, digest: d, data: make([]byte, size), written: blob.NewBitmap(n),
		hashes: make([]blob.PieceHash, n), changed: make(chan struct{}), blocked: map[*reader]int{},
	}
	s.blobs[d] = b
	s.created++
	return b, nil
}

func (s *Store) remove(d blob.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, d)
}

// Blob is a blob in memory.
type Blob struct {
	store  *Store
	digest blob.Digest

	mu       sync.Mutex // guards what follows
	data     []byte
	written  blob.Bitmap
	hashes   []blob.PieceHash
	signed   *blob.PieceMap
	batches  []*blob.Batch
	complete bool
	changed  chan struct{} // closed at every change of anything
	blocked  map[*reader]int
}

// Digest implements fetch.Blob.
func (b *Blob) Digest() blob.Digest { return b.digest }

// Size implements fetch.Blob.
func (b *Blob) Size() int64 { return int64(len(b.data)) }

// Close implements fetch.Blob.
func (b *Blob) Close() error { return nil }

func (b *Blob) fire() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Progress implements fetch.Blob.
func (b *Blob) Progress() (blob.Bitmap, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := blob.NewBitmap(b.written.Len())
	for i := range b.written.All() {
		if _, signed := b.want(i); signed || b.complete {
			have.Set(i)
		}
	}
	return have, b.changed
}

// ReadAt implements fetch.Blob.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.NewReader(b.data).ReadAt(p, off)
}

// Proof implements fetch.Blob.
func (b *Blob) Proof() (*blob.PieceMap, []*blob.Batch, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.signed, b.batches, b.changed
}

// PutPiece implements fetch.Blob.
func (b *Blob) PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error) {
	if b.store.isFull() {
		return blob.PieceHash{}, fmt.Errorf("piece %d: %w", i, blob.ErrFull)
	}
	b.mu.Lock()
	there, h := b.written.Has(i), b.hashes[i]
	b.mu.Unlock()
	if there {
		return h, nil
	}
	at := blob.PieceRange(b.Size(), i)
	buf := make([]byte, at.Len())
	if _, err := io.ReadFull(r, buf); err != nil {
		return blob.PieceHash{}, fmt.Errorf("piece %d: %w", i, err)
	}
	hasher := blob.NewPieceHasher(b.Size())
	hasher.Write(buf) //nolint:errcheck // it takes or gives every byte
	h = hasher.Sum()
	b.mu.Lock()
	defer b.mu.Unlock()
	if signed, ok := b.want(i); want != nil && h != *want || ok && h != signed {
		return blob.PieceHash{}, fmt.Errorf("piece %d: %w", i, blob.ErrPieceMismatch)
	}
	if !b.written.Has(i) {
		copy(b.data[at.Start:], buf)
		b.written.Set(i)
		b.hashes[i] = h
		b.fire()
	}
	return h, nil
}

// Missing implements fetch.Blob.
func (b *Blob) Missing() blob.Bitmap {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := blob.NewBitmap(b.written.Len())
	all.Fill()
	return all.Minus(b.written)
}

// AddProof implements fetch.Blob.
func (b *Blob) AddProof(m *blob.PieceMap, batch *blob.Batch) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m != nil {
		b.signed = m
	}
	if batch != nil {
		b.batches = append(b.batches, batch)
	}
	for i := range b.written.Len() {
		if h, ok := b.want(i); ok && b.written.Has(i) && h != b.hashes[i] {
			b.written.Clear(i)
		}
	}
	b.fire()
	return nil
}

// WantHash implements fetch.Blob.
func (b *Blob) WantHash(i int) (blob.PieceHash, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.want(i)
}

func (b *Blob) want(i int) (blob.PieceHash, bool) {
	if b.signed != nil {
		return b.signed.Hashes[i], true
	}
	for _, batch := range b.batches {
		if i >= batch.First && i < batch.First+len(batch.Hashes) {
			return batch.Hashes[i-batch.First], true
		}
	}
	return blob.PieceHash{}, false
}

// Commit implements fetch.Blob.
func (b *Blob) Commit(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.written.Full() {
		return errors.New("commit: incomplete")
	}
	if b.digest.Algorithm().FromBytes(b.data) != b.digest {
		b.store.remove(b.digest)
		return fmt.Errorf("commit: %w", blob.ErrDigestMismatch)
	}
	if err := os.WriteFile(b.path(), b.data, 0o600); err != nil {
		return err
	}
	b.complete = true
	b.fire()
	return nil
}

func (b *Blob) path() string { return filepath.Join(b.store.dir, b.digest.Encoded()) }

// Complete implements fetch.Blob.
func (b *Blob) Complete() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complete
}

// OpenFile implements fetch.Blob.
func (b *Blob) OpenFile() (*os.File, error) { return os.Open(b.path()) }

// Hashes implements fetch.Blob.
func (b *Blob) Hashes(context.Context) ([]blob.PieceHash, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]blob.PieceHash(nil), b.hashes...), nil
}

// Demand implements fetch.Blob.
func (b *Blob) Demand() (blob.Bitmap, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := blob.NewBitmap(b.written.Len())
	for _, i := range b.blocked {
		if i >= 0 && !b.written.Has(i) {
			d.Set(i)
		}
	}
	return d, b.changed
}

// Fail implements fetch.Blob.
func (b *Blob) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for r := range b.blocked {
		r.failed = err
	}
	b.fire()
}

// NewReader implements fetch.Blob.
func (b *Blob) NewReader(ctx context.Context, r blob.Range) io.ReadCloser {
	if b.store.OnReader != nil {
		b.store.OnReader()
	}
	out := &reader{ctx: ctx, b: b, at: r.Start, end: r.End}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blocked[out] = -1
	return out
}

// reader tails a growing blob.
type reader struct {
	ctx     context.Context
	b       *Blob
	at, end int64
	failed  error // guarded by Blob.mu
}

func (r *reader) Read(p []byte) (int, error) {
	if r.at >= r.end {
		return 0, io.EOF
	}
	for {
		n, changed, err := r.try(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

func (r *reader) try(p []byte) (int, <-chan struct{}, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	i := blob.PieceAt(b.Size(), r.at)
	last := i == b.written.Len()-1
	if b.complete || b.written.Has(i) && !last {
		n := copy(p, b.data[r.at:min(r.end, blob.PieceRange(b.Size(), i).End)])
		r.at += int64(n)
		b.blocked[r] = -1
		return n, nil, nil
	}
	if r.failed != nil {
		return 0, nil, r.failed
	}
	if b.blocked[r] != i {
		b.blocked[r] = i
		b.fire()
	}
	return 0, b.changed, nil
}

func (r *reader) Close() error {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	delete(r.b.blocked, r)
	return nil
}
