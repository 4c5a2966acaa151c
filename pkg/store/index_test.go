package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/shoalproject/shoal/pkg/blob"
)

func FuzzDecodeRecord(f *testing.F) {
	f.Add(record{size: 5, complete: true, access: time.Unix(1e9, 0)}.encode())
	f.Add(record{lease: time.Unix(2e9, 0)}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeRecord(raw)
		if err != nil {
			return
		}
		if blob.PieceCount(r.size) > blob.MaxPieces {
			t.Errorf("a size of %d bytes was taken", r.size)
		}
		if !bytes.Equal(r.encode(), raw) {
			t.Errorf("%x became %x", raw, r.encode())
		}
	})
}

func FuzzDecodeProof(f *testing.F) {
	x := newSample(2*plen, 1)
	f.Add(encodeProof(x.signedMap(f), nil))
	f.Add(encodeProof(nil, x.hashes))
	f.Add([]byte{proofMap})
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, hashes, err := decodeProof(raw, x.digest, x.size())
		if err != nil {
			return
		}
		if len(hashes) != 2 || m != nil && (m.Digest != x.digest || m.Size != x.size()) {
			t.Errorf("%d hashes, map %v", len(hashes), m)
		}
		if !bytes.Equal(encodeProof(m, hashes), raw) {
			t.Error("doesn't encode to what it came from")
		}
	})
}

func FuzzDecodePiece(f *testing.F) {
	f.Add(pieceKey(3), make([]byte, 32), 4)
	f.Fuzz(func(t *testing.T, k, v []byte, n int) {
		i, h, ok := decodePiece(k, v, n)
		if ok && (i < 0 || i >= n || !bytes.Equal(h[:], v)) {
			t.Errorf("piece %d of %d", i, n)
		}
	})
}

func FuzzPartialDigest(f *testing.F) {
	f.Add("sha256-" + string(bytes.Repeat([]byte("a"), 64)))
	f.Add("sha512-")
	f.Add("aside-0")
	f.Fuzz(func(t *testing.T, name string) {
		if d, ok := partialDigest(name); ok && partialName(d) != partialDir+"/"+name {
			t.Errorf("%q became %q", name, d)
		}
	})
}

// TestIndexFailureIsMadeUpFor: rows that could not be written are written
// later.
func TestIndexFailureIsMadeUpFor(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	x.put(t, b, 0, 2)
	broken, err := openIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.close(); err != nil {
		t.Fatal(err)
	}
	good := swapIndex(s, broken)
	if err := s.flush(); err == nil {
		t.Fatal("a closed index was written")
	}
	swapIndex(s, good)
	s = reopen(t, s, dir, Options{})
	b = create(t, s, x)
	if got := bits(b.Missing()); !slices.Equal(got, []int{1}) {
		t.Errorf("missing %v, want 1", got)
	}
	if m, _, _ := b.Proof(); m == nil {
		t.Error("the map is lost")
	}
}

func swapIndex(s *Store, x *index) (old *index) {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	old, s.index = s.index, x
	return old
}

// TestWriteBehind has its own time: a change is in the index a second later,
// and one that could not be written is tried again.
func TestWriteBehind(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, dir, Options{})
		x := newSample(3*plen, 1)
		b := create(t, s, x)
		x.put(t, b, 0)
		recorded := func() int {
			synctest.Wait()
			known, _, err := s.index.pieces(x.digest, 3)
			if err != nil {
				t.Fatal(err)
			}
			return known.Count()
		}
		if got := recorded(); got != 0 {
			t.Errorf("%d pieces were recorded at once, each for itself", got)
		}
		<-time.After(flushEvery)
		if got := recorded(); got != 1 {
			t.Errorf("%d pieces are recorded after a second, want 1", got)
		}
		broken, err := openIndex(filepath.Join(dir, partialDir))
		if err != nil {
			t.Fatal(err)
		}
		if err := broken.close(); err != nil {
			t.Fatal(err)
		}
		good := swapIndex(s, broken)
		x.put(t, b, 1)
		<-time.After(3 * flushEvery)
		swapIndex(s, good)
		<-time.After(flushEvery)
		if got := recorded(); got != 2 {
			t.Errorf("%d pieces are recorded after the index came back, want 2", got)
		}
		_ = b.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestUnreadableRows: what can't be read is made again, asked for again or
// dropped.
func TestUnreadableRows(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	whole, growing := newSample(2*plen, 1), newSample(2*plen, 2)
	fill(t, s, whole)
	b := create(t, s, growing)
	if err := b.AddProof(growing.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	growing.put(t, b, 0)
	_ = b.Close()
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	err := s.index.db.Update(func(tx *bbolt.Tx) error {
		rows := tx.Bucket(bucketPieces).Bucket([]byte(growing.digest))
		return errors.Join(
			tx.Bucket(bucketProofs).Put([]byte(whole.digest), []byte{proofHashes, 1, 2}),
			tx.Bucket(bucketProofs).Put([]byte(growing.digest), []byte("?")),
			tx.Bucket(bucketBlobs).Put([]byte("sha256:zz"), record{}.encode()),
			tx.Bucket(bucketBlobs).Put([]byte(newSample(1, 3).digest), []byte("?")),
			rows.Put(pieceKey(9), make([]byte, 32)),
			rows.Put(pieceKey(1), make([]byte, 31)),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s, dir, Options{})
	if got := len(s.List()); got != 2 {
		t.Errorf("%d blobs are listed", got)
	}
	b = create(t, s, growing)
	if got := bits(b.Missing()); !slices.Equal(got, []int{1}) {
		t.Errorf("missing %v, want 1", got)
	}
	if m, _, _ := b.Proof(); m != nil {
		t.Error("a map came out of nothing")
	}
	w := create(t, s, whole)
	if h, err := w.PutPiece(1, failing{}, nil); err != nil || h != whole.hashes[1] {
		t.Errorf("the hash of a piece whose row is unreadable: %x, %v", h, err)
	}
	if got, err := w.Hashes(t.Context()); err != nil || !slices.Equal(got, whole.hashes) {
		t.Errorf("hashes %x, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Hashes(ctx); !errors.Is(err, ErrIncomplete) {
		t.Errorf("hashes of a growing blob: %v", err)
	}
	s = reopen(t, s, dir, Options{})
	w = create(t, s, whole)
	if _, hashes, err := s.index.proof(whole.digest, whole.size()); err != nil || !slices.Equal(hashes, whole.hashes) {
		t.Errorf("the row was not made again: %v", err)
	}
	_ = w.Close()
}

func TestTruncatedFileIsNoBlob(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(2*plen, 1)
	fill(t, s, x)
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, blobName(x.digest)), plen); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(x.digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("a truncated blob was opened: %v", err)
	}
	fill(t, s, x)
	wantContent(t, s, x)
}
