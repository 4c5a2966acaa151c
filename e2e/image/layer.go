package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is a tar inside gzip's stored form (random bytes do not compress, and
// some clients take no layer without gzip). It is made anew each time it is
// read, so a layer of a gigabyte needs neither memory nor disk.
type layer struct {
	open   func() (io.Reader, error)
	diffID func() (summed, error)
	digest func() (summed, error)
}

// summed is what one read through the bytes gives.
type summed struct {
	hash v1.Hash
	size int64
}

func newLayer(open func() (io.Reader, error)) *layer {
	l := &layer{open: open}
	l.diffID = sync.OnceValues(func() (summed, error) { return sum(l.Uncompressed) })
	l.digest = sync.OnceValues(func() (summed, error) { return sum(l.Compressed) })
	return l
}

func sum(open func() (io.ReadCloser, error)) (summed, error) {
	r, err := open()
	if err != nil {
		return summed{}, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return summed{}, fmt.Errorf("hash a layer: %w", err)
	}
	return summed{v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}, n}, nil
}

// bulk is a layer whose tar holds one file of random bytes. The tar, headers
// included, is size bytes long (rounded down to tar's 512-byte blocks); gzip
// adds less than a ten-thousandth.
func bulk(name string, size int64, seed uint64) *layer {
	const overhead = 512 + 1024 // one header, two closing blocks
	size = max(size, 2*overhead) / 512 * 512
	return newLayer(func() (io.Reader, error) {
		var header bytes.Buffer
		tw := tar.NewWriter(&header)
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size - overhead, Format: tar.FormatGNU}); err != nil {
			return nil, fmt.Errorf("tar header of %s: %w", name, err)
		}
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed)
		random := io.LimitReader(rand.NewChaCha8(key), size-overhead)
		return io.MultiReader(&header, random, bytes.NewReader(make([]byte, 1024))), nil
	})
}

// files is a layer with a few small files in it.
func files(contents []file) (*layer, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range contents {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.body)), Format: tar.FormatGNU}); err != nil {
			return nil, fmt.Errorf("tar header of %s: %w", f.name, err)
		}
		if _, err := tw.Write(f.body); err != nil {
			return nil, fmt.Errorf("tar %s: %w", f.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("tar: %w", err)
	}
	raw := buf.Bytes()
	return newLayer(func() (io.Reader, error) { return bytes.NewReader(raw), nil }), nil
}

type file struct {
	name string
	mode int64
	body []byte
}

// The methods of v1.Layer.

func (l *layer) Digest() (v1.Hash, error) {
	s, err := l.digest()
	return s.hash, err
}

func (l *layer) DiffID() (v1.Hash, error) {
	s, err := l.diffID()
	return s.hash, err
}

func (l *layer) Size() (int64, error) {
	s, err := l.digest()
	return s.size, err
}

func (l *layer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, err := l.open()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

// Compressed writes through a pipe; closing the reader ends the writer.
func (l *layer) Compressed() (io.ReadCloser, error) {
	r, err := l.open()
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	go func() {
		gz, err := gzip.NewWriterLevel(pw, gzip.NoCompression)
		if err == nil {
			_, err = io.Copy(gz, r)
		}
		if err == nil {
			err = gz.Close()
		}
		pw.CloseWithError(err)
	}()
	return pr, nil
}
