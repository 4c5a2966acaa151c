package store

import (
	"bytes"
	"slices"
	"testing"
	"time"

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
	good := s.index
	broken, err := openIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.close(); err != nil {
		t.Fatal(err)
	}
	s.flushing.Lock()
	s.index = broken
	s.flushing.Unlock()
	if err := s.flush(); err == nil {
		t.Fatal("a closed index was written")
	}
	s.flushing.Lock()
	s.index = good
	s.flushing.Unlock()
	s = reopen(t, s, dir, Options{})
	b = create(t, s, x)
	if got := bits(b.Missing()); !slices.Equal(got, []int{1}) {
		t.Errorf("missing %v, want 1", got)
	}
	if m, _, _ := b.Proof(); m == nil {
		t.Error("the map is lost")
	}
}
