package blob

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"
)

const (
	// blockLength is the length in bytes of a leaf's block (BEP 52).
	blockLength = 16 << 10
	// minPieceLevel is the height above the leaves of the shortest piece.
	minPieceLevel = 4

	treeStateVersion = 1
)

// TreeHasher hashes a blob's bytes into piece hashes without knowing the
// blob's size in advance, as a streamed push needs it. The piece length only
// grows with the size, and a longer piece's hash is made from the hashes of
// its halves, so the hasher keeps the hashes for the size written so far and
// folds them in pairs whenever that size asks for a longer piece. It gives
// what a MapWriter gives, keeps at most 32 bytes a piece, and its state can be
// saved and taken up again.
type TreeHasher struct {
	block   hash.Hash // over the last, unfinished block
	written int64
	// open holds the roots of the whole subtrees behind the last whole piece,
	// by falling height: one for each bit of their number of blocks.
	open   []PieceHash
	pieces []PieceHash // of PieceLength(written) bytes each
	level  int         // height of a piece above the leaves
}

// NewTreeHasher makes a hasher of nothing yet.
func NewTreeHasher() *TreeHasher { return &TreeHasher{block: sha256.New(), level: minPieceLevel} }

// Size is the number of bytes written.
func (t *TreeHasher) Size() int64 { return t.written }

// Write adds the blob's next bytes; it never fails.
func (t *TreeHasher) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(int64(len(p)), blockLength-t.written%blockLength)]
		t.block.Write(part)
		t.written += int64(len(part))
		p = p[len(part):]
		t.fold()
		if t.written%blockLength == 0 {
			t.push(t.leaf())
			t.block.Reset()
		}
	}
	return n, nil
}

func (t *TreeHasher) leaf() (h PieceHash) {
	t.block.Sum(h[:0])
	return h
}

// fold makes the pieces as long as the size wants them. Their number is even
// then: the size has just passed 512 of them.
func (t *TreeHasher) fold() {
	for PieceLength(t.written) > blockLength<<t.level {
		for i := range len(t.pieces) / 2 {
			t.pieces[i] = parent(t.pieces[2*i], t.pieces[2*i+1])
		}
		t.pieces = t.pieces[:len(t.pieces)/2]
		t.level++
	}
}

// push adds a whole block's leaf behind t.written bytes.
func (t *TreeHasher) push(h PieceHash) {
	blocks := t.written / blockLength
	for height := range t.level {
		if blocks>>height&1 == 1 {
			t.open = append(t.open, h)
			return
		}
		h = parent(t.open[len(t.open)-1], h)
		t.open = t.open[:len(t.open)-1]
	}
	t.pieces = append(t.pieces, h)
}

// Hashes is the piece hashes of what was written. More may be written after.
func (t *TreeHasher) Hashes() []PieceHash {
	out := append([]PieceHash(nil), t.pieces...)
	if t.written%(blockLength<<t.level) != 0 {
		out = append(out, t.tail())
	}
	return out
}

// tail is the hash of the unfinished last piece. Its missing leaves are zero;
// a blob of one piece only has the leaves that make its own tree full.
func (t *TreeHasher) tail() PieceHash {
	whole := int(t.written % (blockLength << t.level) / blockLength)
	var h, zero PieceHash // at height 0: the leaf behind the whole blocks, and an empty one
	count := whole
	if t.written%blockLength != 0 {
		h = t.leaf()
		count++
	}
	top := t.level
	if len(t.pieces) == 0 {
		top = bits.Len(uint(count - 1))
	}
	if whole == 1<<top {
		return t.open[0]
	}
	left := len(t.open)
	for height := range top {
		if whole>>height&1 == 1 {
			left--
			h = parent(t.open[left], h)
		} else {
			h = parent(h, zero)
		}
		zero = parent(zero, zero)
	}
	return h
}

func parent(left, right PieceHash) PieceHash {
	var both [2 * sha256.Size]byte
	copy(both[:], left[:])
	copy(both[sha256.Size:], right[:])
	return sha256.Sum256(both[:])
}

// MarshalBinary saves the state; UnmarshalBinary takes it up.
func (t *TreeHasher) MarshalBinary() ([]byte, error) {
	block, err := t.block.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("save piece hash state: %w", err)
	}
	b := binary.BigEndian.AppendUint64([]byte{treeStateVersion}, uint64(t.written))
	b = appendString(b, string(block))
	b = appendHashes(b, t.open)
	return appendHashes(b, t.pieces), nil
}

// UnmarshalBinary reads what MarshalBinary wrote. It refuses a state that no
// sequence of writes leads to.
func (t *TreeHasher) UnmarshalBinary(raw []byte) error {
	r := reader{raw: raw}
	if version := r.take(1); r.err == nil && version[0] != treeStateVersion {
		r.fail("piece hash state of version %d, this program writes %d", version[0], treeStateVersion)
	}
	written := r.size()
	block := r.text(maxText)
	open := r.hashes(bits.Len(MaxPieceLength / blockLength))
	pieces := r.hashes(MaxPieces)
	if err := r.end(); err != nil {
		return err
	}
	length := PieceLength(written)
	if int64(len(pieces)) != written/length || len(open) != bits.OnesCount64(uint64(written%length/blockLength)) {
		return fmt.Errorf("%w: a piece hash state of %d bytes with %d pieces and %d subtrees", ErrBadMap, written, len(pieces), len(open))
	}
	fresh := NewTreeHasher()
	if err := fresh.block.(encoding.BinaryUnmarshaler).UnmarshalBinary([]byte(block)); err != nil {
		return fmt.Errorf("%w: piece hash state: %w", ErrBadMap, err)
	}
	fresh.written, fresh.open, fresh.pieces = written, open, pieces
	fresh.level = bits.Len64(uint64(length/blockLength)) - 1
	*t = *fresh
	return nil
}
