package blob

import (
	"fmt"
	"math/bits"
)

const (
	// MinPieceLength is the shortest piece: 256 KiB.
	MinPieceLength = 256 << 10
	// MaxPieceLength is the longest piece: 64 MiB.
	MaxPieceLength = 64 << 20
	// MaxPieces bounds what a decoder takes for one blob (4 TiB of bytes).
	MaxPieces = 1 << 16

	piecesWanted = 512
)

// Range is the half-open byte range [Start, End).
type Range struct{ Start, End int64 }

// Len is the number of bytes in the range.
func (r Range) Len() int64 { return r.End - r.Start }

// Check reports whether the range lies within a blob of size bytes.
func (r Range) Check(size int64) error {
	if r.Start < 0 || r.End < r.Start || r.End > size {
		return fmt.Errorf("range [%d,%d) does not lie within %d bytes", r.Start, r.End, size)
	}
	return nil
}

// PieceLength is the piece length in bytes for a blob of size bytes: the
// next power of two that is at least size/512, within 256 KiB and 64 MiB. It
// is a function of the size alone, so two nodes never disagree.
func PieceLength(size int64) int64 {
	want := (size + piecesWanted - 1) / piecesWanted
	if want <= MinPieceLength {
		return MinPieceLength
	}
	if want >= MaxPieceLength {
		return MaxPieceLength
	}
	return 1 << bits.Len64(uint64(want-1))
}

// PieceCount is the number of pieces of a blob of size bytes.
func PieceCount(size int64) int {
	if size <= 0 {
		return 0
	}
	length := PieceLength(size)
	return int((size-1)/length + 1)
}

// PieceRange is the byte range of piece i of a blob of size bytes.
func PieceRange(size int64, i int) Range {
	length := PieceLength(size)
	start := int64(i) * length
	return Range{Start: start, End: min(start+length, size)}
}

// PieceAt is the index of the piece that holds the byte at offset.
func PieceAt(size, offset int64) int {
	return int(offset / PieceLength(size))
}
