package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

// sample is a blob whose bytes are known to the test.
type sample struct {
	data   []byte
	digest blob.Digest
	hashes []blob.PieceHash
}

func newSample(size int, seed uint64) sample {
	return newSampleOf(size, seed, digest.SHA256)
}

func newSampleOf(size int, seed uint64, algorithm digest.Algorithm) sample {
	data := make([]byte, size)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(data)
	w := blob.NewMapWriter(int64(size))
	_, _ = w.Write(data)
	return sample{data, algorithm.FromBytes(data), w.Hashes()}
}

func (s sample) size() int64 { return int64(len(s.data)) }

func (s sample) piece(i int) []byte {
	r := blob.PieceRange(s.size(), i)
	return s.data[r.Start:r.End]
}

// noSign stands for a signature that the caller of the store has checked.
func noSign([]byte) (string, []byte, error) { return "signer", []byte("signature"), nil }

func (s sample) signedMap(t testing.TB) *blob.PieceMap {
	t.Helper()
	m, err := blob.NewPieceMap(s.digest, s.size(), s.hashes, noSign)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (s sample) batch(t testing.TB, flight string, first, n int) *blob.Batch {
	t.Helper()
	b, err := blob.NewBatch(flight, s.digest, s.size(), first, s.hashes[first:first+n], noSign)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put puts piece i with its right bytes.
func (s sample) put(t testing.TB, b *Blob, pieces ...int) {
	t.Helper()
	for _, i := range pieces {
		h, err := b.PutPiece(i, bytes.NewReader(s.piece(i)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if h != s.hashes[i] {
			t.Fatalf("piece %d hashed to %x, want %x", i, h, s.hashes[i])
		}
	}
}

func (s sample) putAll(t testing.TB, b *Blob) {
	t.Helper()
	for i := range s.hashes {
		s.put(t, b, i)
	}
}

// clock is a clock that the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

var quiet = slog.New(slog.DiscardHandler)

func openStore(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	if opts.Log == nil {
		opts.Log = quiet
	}
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func create(t testing.TB, s *Store, x sample) *Blob {
	t.Helper()
	b, err := s.Create(x.digest, x.size())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// fill stores a whole blob.
func fill(t testing.TB, s *Store, x sample) {
	t.Helper()
	b := create(t, s, x)
	x.putAll(t, b)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
}

func reopen(t testing.TB, s *Store, dir string, opts Options) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return openStore(t, dir, opts)
}

func bits(b blob.Bitmap) []int {
	out := []int{}
	for i := range b.All() {
		out = append(out, i)
	}
	return out
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// await waits until ok holds, looking again at each change.
func await(t testing.TB, what string, look func() (ok bool, changed <-chan struct{})) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		ok, changed := look()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func wantContent(t testing.TB, s *Store, x sample) {
	t.Helper()
	b, err := s.Get(x.digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, x.data) {
		t.Fatalf("read %d bytes of %d, equal %v: %v", len(got), len(x.data), bytes.Equal(got, x.data), err)
	}
}
