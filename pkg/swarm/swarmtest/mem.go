// Package swarmtest holds an in-memory twin of a blob that is given away and
// filled, and the suite that every other implementation must pass too.
package swarmtest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm"
)

var _ swarm.Sink = (*Blob)(nil)

// Blob is a swarm.Sink in memory.
type Blob struct {
	digest blob.Digest
	size   int64

	mu      sync.Mutex
	data    []byte           // guarded by mu
	written blob.Bitmap      // guarded by mu
	proven  blob.Bitmap      // written and matched against a signed hash; guarded by mu
	hashes  []blob.PieceHash // of what is written; guarded by mu
	final   *blob.PieceMap   // guarded by mu
	batches []*blob.Batch    // guarded by mu
	demand  blob.Bitmap      // guarded by mu
	news    chan struct{}    // closed at any change; guarded by mu
}

// New makes an empty blob.
func New(d blob.Digest, size int64) *Blob {
	n := blob.PieceCount(size)
	return &Blob{
		digest: d, size: size, data: make([]byte, size),
		written: blob.NewBitmap(n), proven: blob.NewBitmap(n),
		hashes: make([]blob.PieceHash, n), demand: blob.NewBitmap(n),
		news: make(chan struct{}),
	}
}

// Whole makes a complete blob of the bytes, with a map signed by sign.
func Whole(data []byte, sign blob.SignFunc) (*Blob, error) {
	size := int64(len(data))
	w := blob.NewMapWriter(size)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	d := digest.FromBytes(data)
	m, err := blob.NewPieceMap(d, size, w.Hashes(), sign)
	if err != nil {
		return nil, err
	}
	b := New(d, size)
	copy(b.data, data)
	b.written.Fill()
	b.proven.Fill()
	copy(b.hashes, m.Hashes)
	b.final = m
	return b, nil
}

// Signer is a key pair for tests: Sign makes statements, Verify believes this
// signer and nobody else.
type Signer struct {
	Name string
	key  ed25519.PrivateKey
}

// NewSigner makes the signer of a name; the same name has the same key.
func NewSigner(name string) *Signer {
	seed := sha256.Sum256([]byte(name))
	return &Signer{Name: name, key: ed25519.NewKeyFromSeed(seed[:])}
}

// Sign is a blob.SignFunc.
func (s *Signer) Sign(message []byte) (string, []byte, error) {
	return s.Name, ed25519.Sign(s.key, message), nil
}

// Verify is a blob.VerifyFunc.
func (s *Signer) Verify(signer string, message, signature []byte) error {
	if signer != s.Name || !ed25519.Verify(s.key.Public().(ed25519.PublicKey), message, signature) {
		return errors.New("the signature is not of a trusted signer")
	}
	return nil
}

func (b *Blob) changed() {
	close(b.news)
	b.news = make(chan struct{})
}

// Digest is the blob's digest.
func (b *Blob) Digest() blob.Digest { return b.digest }

// Size is the blob's size in bytes.
func (b *Blob) Size() int64 { return b.size }

// Close does nothing.
func (b *Blob) Close() error { return nil }

// Progress is which pieces were matched against a signed hash.
func (b *Blob) Progress() (blob.Bitmap, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.proven.Clone(), b.news
}

// Proof is what was added by AddProof.
func (b *Blob) Proof() (*blob.PieceMap, []*blob.Batch, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.final, slices.Clone(b.batches), b.news
}

// ReadAt reads what is written.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if off < 0 || off >= b.size {
		return 0, io.EOF
	}
	n := copy(p, b.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Bytes is a copy of the whole content.
func (b *Blob) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.data)
}

// PutPiece writes piece i.
func (b *Blob) PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error) {
	b.mu.Lock()
	if b.written.Has(i) {
		defer b.mu.Unlock()
		return b.hashes[i], nil
	}
	b.mu.Unlock()
	span := blob.PieceRange(b.size, i)
	hasher := blob.NewPieceHasher(b.size)
	buf := make([]byte, 64<<10)
	for at := span.Start; at < span.End; {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), span.End-at)])
		if err != nil {
			return blob.PieceHash{}, fmt.Errorf("read piece %d: %w", i, err)
		}
		if _, err := hasher.Write(buf[:n]); err != nil {
			return blob.PieceHash{}, err
		}
		b.mu.Lock()
		copy(b.data[at:], buf[:n])
		b.mu.Unlock()
		at += int64(n)
	}
	sum := hasher.Sum()
	if want != nil && sum != *want {
		return sum, fmt.Errorf("piece %d of %s: %w", i, b.digest, blob.ErrPieceMismatch)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hashes[i] = sum
	b.written.Set(i)
	if known, ok := b.wantHash(i); ok && known == sum {
		b.proven.Set(i)
	}
	b.changed()
	return sum, nil
}

// Missing is which pieces are not written.
func (b *Blob) Missing() blob.Bitmap {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := blob.NewBitmap(b.written.Len())
	all.Fill()
	return all.Minus(b.written)
}

// AddProof keeps a map or a batch. A written piece that does not match is
// missing again.
func (b *Blob) AddProof(m *blob.PieceMap, batch *blob.Batch) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m != nil && (m.Digest != b.digest || m.Size != b.size) || batch != nil && (batch.Digest != b.digest || batch.Size != b.size) {
		return fmt.Errorf("proof is not of %s, %d bytes", b.digest, b.size)
	}
	if m != nil {
		b.final = m
	}
	if batch != nil {
		b.batches = append(b.batches, batch)
	}
	for i := range b.hashes {
		known, ok := b.wantHash(i)
		if !ok || !b.written.Has(i) {
			continue
		}
		if known == b.hashes[i] {
			b.proven.Set(i)
		} else {
			b.written.Clear(i)
			b.proven.Clear(i)
		}
	}
	b.changed()
	return nil
}

// WantHash is the signed hash of piece i.
func (b *Blob) WantHash(i int) (blob.PieceHash, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wantHash(i)
}

func (b *Blob) wantHash(i int) (blob.PieceHash, bool) {
	if b.final != nil {
		return b.final.Hashes[i], true
	}
	for _, batch := range b.batches {
		if at := i - batch.First; at >= 0 && at < len(batch.Hashes) {
			return batch.Hashes[at], true
		}
	}
	return blob.PieceHash{}, false
}

// Demand is what SetDemand said.
func (b *Blob) Demand() (blob.Bitmap, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.demand.Clone(), b.news
}

// SetDemand says which pieces a reader waits for.
func (b *Blob) SetDemand(pieces ...int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.demand = blob.NewBitmap(b.written.Len())
	for _, i := range pieces {
		b.demand.Set(i)
	}
	b.changed()
}
