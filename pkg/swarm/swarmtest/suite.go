package swarmtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm"
)

// Sample is content for a test: bytes and their signed map.
type Sample struct {
	Data []byte
	Map  *blob.PieceMap
}

// NewSample makes size random bytes, the same each time, and signs their map.
func NewSample(tb testing.TB, size int, sign blob.SignFunc) Sample {
	tb.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	w := blob.NewMapWriter(int64(size))
	_, _ = w.Write(data)
	m, err := blob.NewPieceMap(digest.FromBytes(data), int64(size), w.Hashes(), sign)
	if err != nil {
		tb.Fatal(err)
	}
	return Sample{Data: data, Map: m}
}

// Piece is the bytes of piece i.
func (s Sample) Piece(i int) []byte {
	span := blob.PieceRange(s.Map.Size, i)
	return s.Data[span.Start:span.End]
}

func (s Sample) put(t *testing.T, sink swarm.Sink, i int) {
	t.Helper()
	if _, err := sink.PutPiece(i, bytes.NewReader(s.Piece(i)), &s.Map.Hashes[i]); err != nil {
		t.Fatal(err)
	}
}

// Sink checks that sinks made by create do what the exchange relies on. create
// makes an empty one, and sees to its end.
func Sink(t *testing.T, create func(t *testing.T, d blob.Digest, size int64) swarm.Sink) {
	s := NewSample(t, 3*blob.MinPieceLength+100, NewSigner("suite").Sign)
	fresh := func(t *testing.T) swarm.Sink { return create(t, s.Map.Digest, s.Map.Size) }
	t.Run("fill and read", func(t *testing.T) { fillAndRead(t, s, fresh(t)) })
	t.Run("wrong bytes stay out", func(t *testing.T) { wrongBytes(t, s, fresh(t)) })
	t.Run("a piece cut short stays out", func(t *testing.T) { cutShort(t, s, fresh(t)) })
	t.Run("unsigned pieces are not given away", func(t *testing.T) { unsigned(t, s, fresh(t)) })
	t.Run("a map drops what it refutes", func(t *testing.T) { refuted(t, s, fresh(t)) })
	t.Run("batches name hashes", func(t *testing.T) { batches(t, s, fresh(t)) })
}

func fillAndRead(t *testing.T, s Sample, sink swarm.Sink) {
	if sink.Digest() != s.Map.Digest || sink.Size() != s.Map.Size {
		t.Fatalf("it is %s of %d bytes", sink.Digest(), sink.Size())
	}
	if n := sink.Missing().Count(); n != len(s.Map.Hashes) {
		t.Fatalf("an empty sink misses %d pieces", n)
	}
	_, _, proven := sink.Proof()
	if err := sink.AddProof(s.Map, nil); err != nil {
		t.Fatal(err)
	}
	closed(t, proven, "proof")
	_, changed := sink.Progress()
	s.put(t, sink, 1)
	closed(t, changed, "progress")
	if have, _ := sink.Progress(); !have.Has(1) || have.Count() != 1 {
		t.Errorf("after piece 1 it gives away %d pieces", have.Count())
	}
	got := make([]byte, len(s.Piece(1)))
	if _, err := sink.ReadAt(got, blob.PieceRange(s.Map.Size, 1).Start); err != nil || !bytes.Equal(got, s.Piece(1)) {
		t.Errorf("reading piece 1 back: %v", err)
	}
	r := bytes.NewReader([]byte("not read"))
	if _, err := sink.PutPiece(1, r, &s.Map.Hashes[1]); err != nil || r.Len() != 8 {
		t.Errorf("putting a piece again: %v, %d bytes left", err, r.Len())
	}
	for i := range s.Map.Hashes {
		s.put(t, sink, i)
	}
	if n := sink.Missing().Count(); n != 0 {
		t.Errorf("%d pieces are missing at the end", n)
	}
}

func wrongBytes(t *testing.T, s Sample, sink swarm.Sink) {
	if err := sink.AddProof(s.Map, nil); err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Clone(s.Piece(0))
	wrong[len(wrong)-1] ^= 1
	if _, err := sink.PutPiece(0, bytes.NewReader(wrong), &s.Map.Hashes[0]); !errors.Is(err, blob.ErrPieceMismatch) {
		t.Errorf("wrong bytes: %v", err)
	}
	if !sink.Missing().Has(0) {
		t.Error("wrong bytes count as there")
	}
	s.put(t, sink, 0)
}

func cutShort(t *testing.T, s Sample, sink swarm.Sink) {
	if _, err := sink.PutPiece(0, bytes.NewReader(s.Piece(0)[:1000]), &s.Map.Hashes[0]); err == nil || errors.Is(err, blob.ErrPieceMismatch) {
		t.Errorf("a piece cut short: %v", err)
	}
	if !sink.Missing().Has(0) {
		t.Error("a piece cut short counts as there")
	}
}

func unsigned(t *testing.T, s Sample, sink swarm.Sink) {
	if _, err := sink.PutPiece(2, bytes.NewReader(s.Piece(2)), nil); err != nil {
		t.Fatal(err)
	}
	if have, _ := sink.Progress(); have.Has(2) {
		t.Error("a piece without a signed hash is given away")
	}
	if sink.Missing().Has(2) {
		t.Error("a piece without a signed hash counts as missing")
	}
	if err := sink.AddProof(s.Map, nil); err != nil {
		t.Fatal(err)
	}
	if have, _ := sink.Progress(); !have.Has(2) {
		t.Error("a piece that the map confirms is not given away")
	}
}

func refuted(t *testing.T, s Sample, sink swarm.Sink) {
	other := make([]byte, len(s.Piece(0)))
	if _, err := sink.PutPiece(0, bytes.NewReader(other), nil); err != nil {
		t.Fatal(err)
	}
	if err := sink.AddProof(s.Map, nil); err != nil {
		t.Fatal(err)
	}
	if !sink.Missing().Has(0) {
		t.Error("a piece that the map refutes is not missing")
	}
	s.put(t, sink, 0)
}

func batches(t *testing.T, s Sample, sink swarm.Sink) {
	if _, ok := sink.WantHash(1); ok {
		t.Error("a hash is known before any proof")
	}
	b, err := blob.NewBatch("flight", s.Map.Digest, s.Map.Size, 1, s.Map.Hashes[1:3], NewSigner("suite").Sign)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.AddProof(nil, b); err != nil {
		t.Fatal(err)
	}
	for i, want := range s.Map.Hashes {
		if h, ok := sink.WantHash(i); ok != (i == 1 || i == 2) || ok && h != want {
			t.Errorf("hash of piece %d: %v", i, ok)
		}
	}
	if m, all, _ := sink.Proof(); m != nil || len(all) != 1 {
		t.Errorf("the proof has %d batches, a map: %v", len(all), m != nil)
	}
}

func closed(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	default:
		t.Errorf("the channel of %s is open after a change", what)
	}
}
