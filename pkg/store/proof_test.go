package store

import (
	"bytes"
	"slices"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

func wantHave(t *testing.T, b *Blob, want ...int) {
	t.Helper()
	have, _ := b.Progress()
	if got := bits(have); !slices.Equal(got, want) {
		t.Fatalf("pieces %v may be served, want %v", got, want)
	}
	for i := range have.Len() {
		r := blob.PieceRange(b.Size(), i)
		_, err := b.ReadAt(make([]byte, r.Len()), r.Start)
		if have.Has(i) != (err == nil) {
			t.Errorf("piece %d, servable %v, read: %v", i, have.Has(i), err)
		}
		if err != nil {
			wantErr(t, err, blob.ErrNotHeld)
		}
	}
}

func TestOriginPiecesAreServedOnceSigned(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(5*plen, 1)
	b := create(t, s, x)
	x.put(t, b, 0, 1, 3)
	wantHave(t, b)
	_, changed := b.Progress()
	_, _, proved := b.Proof()
	if err := b.AddProof(nil, x.batch(t, "f", 0, 2)); err != nil {
		t.Fatal(err)
	}
	<-changed
	<-proved
	wantHave(t, b, 0, 1)
	if _, ok := b.WantHash(3); ok {
		t.Error("a hash that nobody signed")
	}
	_, changed = b.Progress()
	x.put(t, b, 2)
	select {
	case <-changed:
		t.Error("an unsigned piece changed what may be served")
	default:
	}
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	<-changed
	wantHave(t, b, 0, 1, 2, 3)
	if h, ok := b.WantHash(4); !ok || h != x.hashes[4] {
		t.Errorf("want hash %x, %v", h, ok)
	}
	_, changed = b.Progress()
	x.put(t, b, 4)
	<-changed
	wantHave(t, b, 0, 1, 2, 3, 4)
}

func TestUnsignedBlobIsServedAfterTheCommit(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(2*plen, 1)
	b := create(t, s, x)
	x.putAll(t, b)
	wantHave(t, b)
	_, changed := b.Progress()
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-changed
	wantHave(t, b, 0, 1)
}

func TestBatches(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x, y := newSample(4*plen, 1), newSample(4*plen, 2)
	y.digest = x.digest // another opinion about the same blob
	b := create(t, s, x)
	add := func(bt *blob.Batch) error { return b.AddProof(nil, bt) }
	for _, bt := range []*blob.Batch{y.batch(t, "one", 0, 2), y.batch(t, "one", 1, 2), y.batch(t, "one", 0, 3)} {
		if err := add(bt); err != nil {
			t.Fatal(err)
		}
	}
	if _, batches, _ := b.Proof(); len(batches) != 2 {
		t.Errorf("%d batches are kept, want the two that had news", len(batches))
	}
	if _, err := b.PutPiece(0, bytes.NewReader(y.piece(0)), nil); err != nil {
		t.Fatal(err)
	}
	wantHave(t, b, 0)
	if err := add(x.batch(t, "two", 1, 1)); err != nil { // refutes the first flight
		t.Fatal(err)
	}
	wantHave(t, b)
	if h, ok := b.WantHash(1); !ok || h != x.hashes[1] {
		t.Error("the later flight doesn't stand")
	}
	if _, ok := b.WantHash(0); ok {
		t.Error("a hash of the refuted flight stands")
	}
	wantErr(t, add(y.batch(t, "one", 3, 1)), ErrConflict)
	wantErr(t, add(y.batch(t, "two", 1, 1)), ErrConflict) // contradicts itself
	if err := add(x.batch(t, "two", 0, 1)); err != nil {
		t.Fatal(err)
	}
	if got := bits(b.Missing()); len(got) != 4 {
		t.Errorf("missing %v: the piece of the refuted flight is still there", got)
	}
	_, err := b.PutPiece(0, bytes.NewReader(y.piece(0)), nil)
	wantErr(t, err, ErrPieceMismatch)
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	wantErr(t, add(y.batch(t, "three", 0, 4)), ErrConflict)
	if m, batches, _ := b.Proof(); m == nil || len(batches) != 0 {
		t.Error("the map doesn't stand for the batches")
	}
	x.putAll(t, b)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestProofRefused(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x, y := newSample(4*plen, 1), newSample(3*plen, 2)
	b := create(t, s, x)
	short := *x.signedMap(t)
	short.Hashes = short.Hashes[:3]
	beyond := *x.batch(t, "f", 3, 1)
	beyond.First = 4
	overflow := beyond
	overflow.First = int(^uint(0) >> 1)
	for name, err := range map[string]error{
		"map of another":       b.AddProof(y.signedMap(t), nil),
		"short map":            b.AddProof(&short, nil),
		"batch of another":     b.AddProof(nil, y.batch(t, "f", 0, 1)),
		"batch beyond":         b.AddProof(nil, &beyond),
		"batch that overflows": b.AddProof(nil, &overflow),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		wantErr(t, err, ErrForeignProof)
	}
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	other := newSample(4*plen, 3)
	other.digest = x.digest
	wantErr(t, b.AddProof(other.signedMap(t), nil), ErrConflict)
}

func TestVerifiedBytesRefuteALyingMap(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x, lie := newSample(2*plen, 1), newSample(2*plen, 2)
	lie.digest = x.digest
	fill(t, s, x)
	for range 2 { // from memory, then from the index
		b, err := s.Get(x.digest)
		if err != nil {
			t.Fatal(err)
		}
		wantErr(t, b.AddProof(lie.signedMap(t), nil), ErrConflict)
		wantErr(t, b.AddProof(nil, lie.batch(t, "f", 0, 2)), ErrConflict)
		if err := b.AddProof(nil, x.batch(t, "f", 0, 2)); err != nil {
			t.Error(err)
		}
		if m, _, _ := b.Proof(); m != nil {
			t.Error("the lie was kept")
		}
		_ = b.Close()
		s = reopen(t, s, dir, Options{})
	}
	b, err := s.Get(x.digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	s = reopen(t, s, dir, Options{})
	if b, err = s.Get(x.digest); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if m, _, _ := b.Proof(); m == nil || m.Check(func(string, []byte, []byte) error { return nil }) != nil {
		t.Error("the map didn't survive")
	}
}
