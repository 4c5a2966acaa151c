package store

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

// The benchmarks report throughput; compare BenchmarkPutPiece (which hashes
// pieces and the whole digest) with BenchmarkPlainCopy (which does neither).
const benchSize = 64 << 20

func BenchmarkPlainCopy(b *testing.B) {
	x := newSample(benchSize, 1)
	name := filepath.Join(b.TempDir(), "copy")
	b.SetBytes(benchSize)
	for b.Loop() {
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, bytes.NewReader(x.data), make([]byte, bufferLength)); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHashes is what no store can be faster than on one core.
func BenchmarkHashes(b *testing.B) {
	x := newSample(benchSize, 1)
	b.SetBytes(benchSize)
	for b.Loop() {
		w := blob.NewMapWriter(benchSize)
		_, _ = w.Write(x.data)
		w.Hashes()
		x.digest.Algorithm().FromBytes(x.data)
	}
}

func BenchmarkPutPiece(b *testing.B) {
	s := openStore(b, b.TempDir(), Options{})
	x := newSample(benchSize, 1)
	b.SetBytes(benchSize)
	for b.Loop() {
		h := create(b, s, x)
		x.putAll(b, h)
		_ = h.Close()
		if err := s.Delete(x.digest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutAndCommit(b *testing.B) {
	s := openStore(b, b.TempDir(), Options{})
	x := newSample(benchSize, 1)
	b.SetBytes(benchSize)
	for b.Loop() {
		fill(b, s, x)
		if err := s.Delete(x.digest); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTail reads a blob while it grows.
func BenchmarkTail(b *testing.B) {
	s := openStore(b, b.TempDir(), Options{})
	x := newSample(benchSize, 1)
	b.SetBytes(benchSize)
	for b.Loop() {
		h := create(b, s, x)
		done := make(chan int64)
		go func() {
			r := h.NewReader(b.Context(), blob.Range{End: benchSize})
			n, _ := io.CopyBuffer(io.Discard, struct{ io.Reader }{r}, make([]byte, bufferLength))
			_ = r.Close()
			done <- n
		}()
		x.putAll(b, h)
		if err := h.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
		if n := <-done; n != benchSize {
			b.Fatalf("%d bytes were read", n)
		}
		_ = h.Close()
		if err := s.Delete(x.digest); err != nil {
			b.Fatal(err)
		}
	}
}
