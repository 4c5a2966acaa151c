package swarm

import (
	"errors"
	"io"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Content is a blob, whole or still growing, as it is given to neighbours.
type Content interface {
	Digest() blob.Digest
	Size() int64
	// Progress is which pieces may be given away, and a channel that is closed
	// at the next change.
	Progress() (have blob.Bitmap, changed <-chan struct{})
	// ReaderAt is asked only for ranges within pieces that Progress reported.
	io.ReaderAt
	// Proof is the final signed map if there is one, the signed batches so
	// far, and a channel that is closed at the next change.
	Proof() (m *blob.PieceMap, batches []*blob.Batch, changed <-chan struct{})
	Close() error
}

// Sink is a blob that is being filled.
type Sink interface {
	Content
	// PutPiece writes piece i from r. Bytes that do not make the wanted hash
	// leave the piece missing and are blob.ErrPieceMismatch.
	PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error)
	// Missing is which pieces are not there yet.
	Missing() blob.Bitmap
	// AddProof takes a map or a batch whose signature was verified.
	AddProof(m *blob.PieceMap, b *blob.Batch) error
	// WantHash is the signed hash of a piece, when one is known.
	WantHash(i int) (blob.PieceHash, bool)
	// Demand is which pieces a reader waits for right now, and a channel that
	// is closed at the next change.
	Demand() (blob.Bitmap, <-chan struct{})
}

var (
	// ErrNoPeers says that there is nobody left to ask.
	ErrNoPeers = errors.New("no peer left that has the missing pieces")
	// ErrNoProof says that no peer could show signed piece hashes.
	ErrNoProof = errors.New("no peer has signed piece hashes of this blob")
)
