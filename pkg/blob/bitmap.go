package blob

import (
	"fmt"
	"iter"
	"math/bits"
)

// Bitmap says which pieces of a blob are there. Its length is fixed. It is a
// plain value without a lock; whoever shares one shares a Clone.
type Bitmap struct {
	n     int
	words []uint64
}

// NewBitmap makes an empty bitmap of n bits.
func NewBitmap(n int) Bitmap {
	return Bitmap{n: n, words: make([]uint64, (n+63)/64)}
}

// Len is the number of bits.
func (b Bitmap) Len() int { return b.n }

// Has reports bit i; out of range is false.
func (b Bitmap) Has(i int) bool {
	return i >= 0 && i < b.n && b.words[i/64]&(1<<(i%64)) != 0
}

// Set switches bit i on. It panics when i is out of range, as a slice would.
func (b Bitmap) Set(i int) {
	b.check(i)
	b.words[i/64] |= 1 << (i % 64)
}

// Clear switches bit i off. It panics when i is out of range.
func (b Bitmap) Clear(i int) {
	b.check(i)
	b.words[i/64] &^= 1 << (i % 64)
}

func (b Bitmap) check(i int) {
	if i < 0 || i >= b.n {
		panic(fmt.Sprintf("bitmap: bit %d of %d", i, b.n))
	}
}

// Fill switches every bit on.
func (b Bitmap) Fill() {
	for i := range b.words {
		b.words[i] = ^uint64(0)
	}
	if spare := len(b.words)*64 - b.n; spare > 0 {
		b.words[len(b.words)-1] >>= spare
	}
}

// Count is the number of bits that are on.
func (b Bitmap) Count() int {
	n := 0
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Full reports whether every bit is on.
func (b Bitmap) Full() bool { return b.Count() == b.n }

// Clone is a copy that shares nothing.
func (b Bitmap) Clone() Bitmap {
	return Bitmap{n: b.n, words: append([]uint64(nil), b.words...)}
}

// Minus is the set of bits that are on in b and off in other. Both must have
// the same length.
func (b Bitmap) Minus(other Bitmap) Bitmap {
	out := b.Clone()
	for i := range out.words {
		out.words[i] &^= other.words[i]
	}
	return out
}

// All walks over the bits that are on, in order.
func (b Bitmap) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for w, word := range b.words {
			for word != 0 {
				bit := bits.TrailingZeros64(word)
				if !yield(w*64 + bit) {
					return
				}
				word &^= 1 << bit
			}
		}
	}
}

// Bytes is the wire form: one bit a piece, first piece in the highest bit of
// the first byte, spare bits zero, as BEP 3's bitfield has it.
func (b Bitmap) Bytes() []byte {
	out := make([]byte, (b.n+7)/8)
	for i := range out {
		out[i] = bits.Reverse8(byte(b.words[i/8] >> (i % 8 * 8)))
	}
	return out
}

// BitmapFromBytes reads the wire form of a bitmap of n bits. A wrong length
// or a spare bit that is on is an error.
func BitmapFromBytes(n int, raw []byte) (Bitmap, error) {
	if n < 0 || n > MaxPieces || len(raw) != (n+7)/8 {
		return Bitmap{}, fmt.Errorf("bitmap of %d bytes does not fit %d pieces", len(raw), n)
	}
	b := NewBitmap(n)
	for i, c := range raw {
		b.words[i/8] |= uint64(bits.Reverse8(c)) << (i % 8 * 8)
	}
	if n%64 != 0 && n > 0 && b.words[len(b.words)-1]>>(n%64) != 0 {
		return Bitmap{}, fmt.Errorf("bitmap of %d pieces has spare bits on", n)
	}
	return b, nil
}
