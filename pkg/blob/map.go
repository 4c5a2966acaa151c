package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// What is signed begins with one of these, so that a signature for one thing
// never passes for another.
const (
	mapContext   = "shoal piece map v1"
	batchContext = "shoal provisional hashes v1"
	tagContext   = "shoal tag record v1"
)

// ErrBadMap is what the decoders and checks of this file wrap.
var ErrBadMap = errors.New("bad piece map")

// SignFunc signs a message with a node's key and returns the signer's peer ID.
type SignFunc func(message []byte) (signer string, signature []byte, err error)

// VerifyFunc checks that signature is signer's over message, and that signer
// is somebody to be believed.
type VerifyFunc func(signer string, message, signature []byte) error

// PieceMap binds a digest and a size to the BEP 52 piece layer of the bytes.
// Who signs one has verified the whole blob against the digest.
type PieceMap struct {
	Digest    Digest
	Size      int64
	Root      PieceHash
	Hashes    []PieceHash // one for each piece
	Signer    string      // peer ID
	Signature []byte
}

// NewPieceMap makes and signs the map of a blob whose digest was verified.
func NewPieceMap(d Digest, size int64, hashes []PieceHash, sign SignFunc) (*PieceMap, error) {
	m := &PieceMap{Digest: d, Size: size, Hashes: hashes, Root: piecesRoot(size, hashes)}
	var err error
	if m.Signer, m.Signature, err = sign(m.statement()); err != nil {
		return nil, fmt.Errorf("sign piece map of %s: %w", d, err)
	}
	return m, nil
}

func (m *PieceMap) statement() []byte {
	b := appendString(nil, mapContext)
	b = appendString(b, string(m.Digest))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(PieceLength(m.Size)))
	return append(b, m.Root[:]...)
}

// Check verifies the shape, the Merkle root and the signature.
func (m *PieceMap) Check(verify VerifyFunc) error {
	if m.Size < 0 || len(m.Hashes) != PieceCount(m.Size) {
		return fmt.Errorf("%w of %s: %d hashes for %d bytes", ErrBadMap, m.Digest, len(m.Hashes), m.Size)
	}
	if piecesRoot(m.Size, m.Hashes) != m.Root {
		return fmt.Errorf("%w of %s: the hashes do not make its root", ErrBadMap, m.Digest)
	}
	if err := verify(m.Signer, m.statement(), m.Signature); err != nil {
		return fmt.Errorf("%w of %s: %w", ErrBadMap, m.Digest, err)
	}
	return nil
}

// Encode is the wire form; DecodePieceMap reads it.
func (m *PieceMap) Encode() []byte {
	b := appendString(nil, string(m.Digest))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Size))
	b = append(b, m.Root[:]...)
	b = appendString(b, m.Signer)
	b = appendString(b, string(m.Signature))
	return appendHashes(b, m.Hashes)
}

// DecodePieceMap reads what Encode wrote. It bounds everything before it
// takes memory and checks the shape; Check is still the caller's.
func DecodePieceMap(raw []byte) (*PieceMap, error) {
	r := reader{raw: raw}
	m := &PieceMap{
		Digest:    r.digest(),
		Size:      r.size(),
		Root:      r.hash(),
		Signer:    r.text(maxText),
		Signature: []byte(r.text(maxText)),
	}
	m.Hashes = r.hashes(PieceCount(m.Size))
	if err := r.end(); err != nil {
		return nil, err
	}
	if len(m.Hashes) != PieceCount(m.Size) {
		return nil, fmt.Errorf("%w: %d hashes for %d bytes", ErrBadMap, len(m.Hashes), m.Size)
	}
	return m, nil
}

// Batch is a run of piece hashes that a supernode signs while the blob is
// still arriving. They allow forwarding and streaming of all but the last
// piece, never a commit.
type Batch struct {
	Flight    string // which fetch of the supernode this came from
	Digest    Digest
	Size      int64
	First     int // index of the first hash
	Hashes    []PieceHash
	Signer    string
	Signature []byte
}

// NewBatch makes and signs a batch.
func NewBatch(flight string, d Digest, size int64, first int, hashes []PieceHash, sign SignFunc) (*Batch, error) {
	b := &Batch{Flight: flight, Digest: d, Size: size, First: first, Hashes: slices.Clone(hashes)}
	var err error
	if b.Signer, b.Signature, err = sign(b.statement()); err != nil {
		return nil, fmt.Errorf("sign provisional hashes of %s: %w", d, err)
	}
	return b, nil
}

func (b *Batch) statement() []byte {
	s := appendString(nil, batchContext)
	s = appendString(s, b.Flight)
	s = appendString(s, string(b.Digest))
	s = binary.BigEndian.AppendUint64(s, uint64(b.Size))
	s = binary.BigEndian.AppendUint64(s, uint64(PieceLength(b.Size)))
	s = binary.BigEndian.AppendUint32(s, uint32(b.First))
	return appendHashes(s, b.Hashes)
}

// Check verifies the shape and the signature.
func (b *Batch) Check(verify VerifyFunc) error {
	if b.First < 0 || b.First+len(b.Hashes) > PieceCount(b.Size) {
		return fmt.Errorf("%w: provisional hashes %d+%d of %s are out of range", ErrBadMap, b.First, len(b.Hashes), b.Digest)
	}
	if err := verify(b.Signer, b.statement(), b.Signature); err != nil {
		return fmt.Errorf("%w: provisional hashes of %s: %w", ErrBadMap, b.Digest, err)
	}
	return nil
}

// Encode is the wire form; DecodeBatch reads it.
func (b *Batch) Encode() []byte {
	out := appendString(nil, b.Flight)
	out = appendString(out, string(b.Digest))
	out = binary.BigEndian.AppendUint64(out, uint64(b.Size))
	out = binary.BigEndian.AppendUint32(out, uint32(b.First))
	out = appendString(out, b.Signer)
	out = appendString(out, string(b.Signature))
	return appendHashes(out, b.Hashes)
}

// DecodeBatch reads what Encode wrote, bounded like DecodePieceMap.
func DecodeBatch(raw []byte) (*Batch, error) {
	r := reader{raw: raw}
	b := &Batch{
		Flight:    r.text(maxText),
		Digest:    r.digest(),
		Size:      r.size(),
		First:     int(r.uint32()),
		Signer:    r.text(maxText),
		Signature: []byte(r.text(maxText)),
	}
	b.Hashes = r.hashes(PieceCount(b.Size))
	if err := r.end(); err != nil {
		return nil, err
	}
	if b.First > PieceCount(b.Size)-len(b.Hashes) {
		return nil, fmt.Errorf("%w: provisional hashes %d+%d of %d", ErrBadMap, b.First, len(b.Hashes), PieceCount(b.Size))
	}
	return b, nil
}

// TagRecord says, signed, what a tag named at a time. Neighbours serve it
// when no supernode answers.
type TagRecord struct {
	Ref       Ref
	Tag       string
	Digest    Digest
	MediaType string
	Size      int64 // of the manifest, bytes
	Epoch     uint64
	Time      time.Time // seconds precision
	Signer    string
	Signature []byte
}

// Sign fills in Signer and Signature.
func (t *TagRecord) Sign(sign SignFunc) error {
	var err error
	if t.Signer, t.Signature, err = sign(t.statement()); err != nil {
		return fmt.Errorf("sign tag record of %s:%s: %w", t.Ref, t.Tag, err)
	}
	return nil
}

// Check verifies the signature.
func (t *TagRecord) Check(verify VerifyFunc) error {
	if err := verify(t.Signer, t.statement(), t.Signature); err != nil {
		return fmt.Errorf("tag record of %s:%s: %w", t.Ref, t.Tag, err)
	}
	return nil
}

func (t *TagRecord) statement() []byte { return append(appendString(nil, tagContext), t.body()...) }

func (t *TagRecord) body() []byte {
	b := appendString(nil, t.Ref.Registry)
	b = appendString(b, t.Ref.Repository)
	b = appendString(b, t.Tag)
	b = appendString(b, string(t.Digest))
	b = appendString(b, t.MediaType)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Size))
	b = binary.BigEndian.AppendUint64(b, t.Epoch)
	return binary.BigEndian.AppendUint64(b, uint64(t.Time.Unix()))
}

// Encode is the wire form; DecodeTagRecord reads it.
func (t *TagRecord) Encode() []byte {
	b := appendString(t.body(), t.Signer)
	return appendString(b, string(t.Signature))
}

// DecodeTagRecord reads what Encode wrote; Check is still the caller's.
func DecodeTagRecord(raw []byte) (*TagRecord, error) {
	r := reader{raw: raw}
	t := &TagRecord{
		Ref:       Ref{Registry: r.text(maxText), Repository: r.text(maxText)},
		Tag:       r.text(maxText),
		Digest:    r.digest(),
		MediaType: r.text(maxText),
		Size:      r.size(),
		Epoch:     r.uint64(),
		Time:      time.Unix(int64(r.uint64()), 0).UTC(),
		Signer:    r.text(maxText),
		Signature: []byte(r.text(maxText)),
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return t, nil
}
