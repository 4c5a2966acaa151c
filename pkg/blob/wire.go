package blob

import (
	"encoding/binary"
	"fmt"
)

const (
	// maxText bounds each string of a wire form.
	maxText = 1024
	// maxSize bounds a blob's size in bytes: what MaxPieces pieces can hold.
	maxSize = int64(MaxPieces) * MaxPieceLength
)

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendHashes(b []byte, hashes []PieceHash) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(hashes)))
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// reader takes a wire form apart. The first fault sticks and every later
// read returns zero, so that a decoder can be written without a check a line.
type reader struct {
	raw []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrBadMap}, args...)...)
	}
}

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.raw) {
		r.fail("cut short: %d bytes wanted, %d left", n, len(r.raw))
	}
	if r.err != nil {
		return nil
	}
	out := r.raw[:n]
	r.raw = r.raw[n:]
	return out
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text(limit int) string {
	n := int(r.uint16())
	if n > limit {
		r.fail("a string of %d bytes, at most %d are taken", n, limit)
	}
	return string(r.take(n))
}

func (r *reader) digest() Digest {
	s := r.text(maxText)
	if r.err != nil {
		return ""
	}
	d, err := ParseDigest(s)
	if err != nil {
		r.fail("%w", err)
	}
	return d
}

func (r *reader) size() int64 {
	n := r.uint64()
	if n > uint64(maxSize) {
		r.fail("a size of %d bytes, at most %d are taken", n, maxSize)
		return 0
	}
	return int64(n)
}

func (r *reader) hash() (h PieceHash) {
	copy(h[:], r.take(len(h)))
	return h
}

func (r *reader) hashes(limit int) []PieceHash {
	n := int(r.uint32())
	if n > limit {
		r.fail("%d hashes, at most %d are taken", n, limit)
	}
	raw := r.take(n * len(PieceHash{}))
	if len(raw) == 0 {
		return nil
	}
	out := make([]PieceHash, n)
	for i := range out {
		copy(out[i][:], raw[i*len(out[i]):])
	}
	return out
}

func (r *reader) end() error {
	if r.err == nil && len(r.raw) > 0 {
		r.fail("%d bytes too many", len(r.raw))
	}
	return r.err
}
