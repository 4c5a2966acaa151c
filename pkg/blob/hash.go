package blob

import (
	"crypto/sha256"

	"github.com/anacrolix/torrent/merkle"
	"github.com/anacrolix/torrent/metainfo"
)

// PieceHash is the BEP 52 hash of one piece: the root of the SHA-256 Merkle
// tree over its 16 KiB blocks.
type PieceHash [sha256.Size]byte

// PieceHasher hashes the bytes of one piece as they come. Reset makes it
// ready for the next.
type PieceHasher struct {
	tree *merkle.Hash
	// pad is the length to which the tree is padded; 0 for a blob of a single
	// piece, whose hash is the root over its own blocks only (BEP 52).
	pad int
}

// NewPieceHasher makes a hasher for the pieces of a blob of size bytes.
func NewPieceHasher(size int64) *PieceHasher {
	h := &PieceHasher{tree: merkle.NewHash()}
	if PieceCount(size) > 1 {
		h.pad = int(PieceLength(size))
	}
	return h
}

// Write adds bytes of the piece; it never fails. The caller sees to it that
// a piece gets no more bytes than its length: Sum panics on more.
func (h *PieceHasher) Write(p []byte) (int, error) { return h.tree.Write(p) }

// Sum is the hash of what was written since the last Reset.
func (h *PieceHasher) Sum() PieceHash {
	var out PieceHash
	if h.pad == 0 {
		h.tree.Sum(out[:0])
	} else {
		h.tree.SumMinLength(out[:0], h.pad)
	}
	return out
}

// Reset forgets what was written.
func (h *PieceHasher) Reset() { h.tree.Reset() }

// MapWriter hashes a whole blob's bytes, in order, into piece hashes.
type MapWriter struct {
	hasher *PieceHasher
	length int64
	filled int64
	hashes []PieceHash
}

// NewMapWriter makes a writer for a blob of size bytes.
func NewMapWriter(size int64) *MapWriter {
	return &MapWriter{hasher: NewPieceHasher(size), length: PieceLength(size)}
}

// Write adds the blob's next bytes; it never fails.
func (w *MapWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(int64(len(p)), w.length-w.filled)]
		w.hasher.Write(part) //nolint:errcheck // a hash takes every byte
		w.filled += int64(len(part))
		p = p[len(part):]
		if w.filled == w.length {
			w.close()
		}
	}
	return n, nil
}

func (w *MapWriter) close() {
	w.hashes = append(w.hashes, w.hasher.Sum())
	w.hasher.Reset()
	w.filled = 0
}

// Hashes closes the last piece and returns the hash of each.
func (w *MapWriter) Hashes() []PieceHash {
	if w.filled > 0 {
		w.close()
	}
	return w.hashes
}

// piecesRoot is the BEP 52 "pieces root" of a blob: the Merkle root over its
// piece layer, padded with the hash of a piece of zero blocks.
func piecesRoot(size int64, hashes []PieceHash) PieceHash {
	switch len(hashes) {
	case 0:
		return PieceHash{}
	case 1:
		return hashes[0]
	}
	layer := make([][sha256.Size]byte, len(hashes), merkle.RoundUpToPowerOfTwo(uint(len(hashes))))
	for i, h := range hashes {
		layer[i] = h
	}
	return merkle.RootWithPadHash(layer, metainfo.HashForPiecePad(PieceLength(size)))
}
