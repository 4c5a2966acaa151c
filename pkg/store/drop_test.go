package store

import (
	"bytes"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

// hookFile runs something between a read of the file and what is made of it.
type hookFile struct {
	pieceFile
	after *atomic.Pointer[func()]
}

func (f *hookFile) ReadAt(p []byte, at int64) (int, error) {
	n, err := f.pieceFile.ReadAt(p, at)
	if hook := f.after.Swap(nil); hook != nil {
		(*hook)()
	}
	return n, err
}

// hookedBlob is a growing blob whose first piece is wrong, and not signed.
func hookedBlob(t *testing.T) (x sample, b *Blob, after *atomic.Pointer[func()]) {
	t.Helper()
	s := openStore(t, t.TempDir(), Options{})
	after = &atomic.Pointer[func()]{}
	s.wrap = func(f *os.File) pieceFile { return &hookFile{f, after} }
	x = newSample(3*plen, 1)
	return x, create(t, s, x), after
}

func putWrong(t *testing.T, b *Blob) {
	t.Helper()
	if _, err := b.PutPiece(0, bytes.NewReader(make([]byte, plen)), nil); err != nil {
		t.Fatal(err)
	}
}

func awaitFollower(t *testing.T, b *Blob) {
	t.Helper()
	await(t, "the follower", func() (bool, <-chan struct{}) {
		b.c.mu.Lock()
		defer b.c.mu.Unlock()
		return !b.c.following, b.c.stepped.wait()
	})
}

// refuteFirst signs the right hashes and puts the right bytes.
func refuteFirst(t *testing.T, x sample, b *Blob) func() {
	return func() {
		if err := b.AddProof(nil, x.batch(t, "right", 0, 3)); err != nil {
			t.Error(err)
		}
		x.put(t, b, 0)
	}
}

func TestDropDuringARead(t *testing.T) {
	x, b, after := hookedBlob(t)
	putWrong(t, b)
	awaitFollower(t, b)
	hook := refuteFirst(t, x, b)
	after.Store(&hook)
	r := b.NewReader(t.Context(), blob.Range{End: plen})
	defer r.Close()
	if got := <-readAsync(r); !bytes.Equal(got, x.piece(0)) {
		t.Error("a reader got bytes of a piece that was dropped while it read")
	}
}

func TestDropDuringAReadForANeighbour(t *testing.T) {
	x, b, after := hookedBlob(t)
	lie := newSample(3*plen, 2)
	lie.digest = x.digest
	if err := b.AddProof(nil, lie.batch(t, "wrong", 0, 3)); err != nil {
		t.Fatal(err)
	}
	lie.put(t, b, 0)
	awaitFollower(t, b)
	hook := refuteFirst(t, x, b)
	after.Store(&hook)
	got := make([]byte, plen)
	if _, err := b.ReadAt(got, 0); err == nil && !bytes.Equal(got, x.piece(0)) {
		t.Error("a neighbour got bytes of a piece that was dropped while it was read")
	}
}

func TestDropWhileTheDigestIsMade(t *testing.T) {
	x, b, after := hookedBlob(t)
	done := make(chan struct{})
	hook := func() {
		defer close(done)
		refuteFirst(t, x, b)()
	}
	after.Store(&hook)
	putWrong(t, b)
	<-done
	x.put(t, b, 1, 2)
	if err := b.Commit(t.Context()); err != nil {
		t.Errorf("the right bytes don't pass: %v", err)
	}
}

// TestOnceHashedIsTrusted: pieces of an earlier process are hashed again
// once, not each time that somebody opens the blob.
func TestOnceHashedIsTrusted(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	x.put(t, b, 0, 2)
	_ = b.Close()
	s = reopen(t, s, dir, Options{})
	b = create(t, s, x)
	awaitFollower(t, b)
	_ = b.Close()
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	b = create(t, s, x)
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if !slices.Equal(bits(b.c.written), []int{0, 2}) || b.c.suspect.Count() != 0 {
		t.Errorf("written %v, to be hashed again %v", bits(b.c.written), bits(b.c.suspect))
	}
}

func TestRowsOfAnEarlierBlobGo(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	x.put(t, b, 0, 2)
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(x.digest); err != nil {
		t.Fatal(err)
	}
	create(t, s, x)
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	known, _, err := s.index.pieces(x.digest, 3)
	if err != nil || known.Count() != 0 {
		t.Errorf("pieces %v are recorded, %v", bits(known), err)
	}
}
