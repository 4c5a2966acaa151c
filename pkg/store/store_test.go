package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

func TestPutCommitRead(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for _, size := range []int{0, 1, 16 << 10, blob.MinPieceLength, blob.MinPieceLength + 1, 3*blob.MinPieceLength - 7} {
			t.Run(fmt.Sprint(algorithm, size), func(t *testing.T) {
				dir := t.TempDir()
				s := openStore(t, dir, Options{})
				x := newSampleOf(size, 1, algorithm)
				fill(t, s, x)
				wantContent(t, s, x)
				b, err := s.Get(x.digest)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				f, err := b.OpenFile()
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, x.data) {
					t.Errorf("the file holds %d bytes, %v", len(got), err)
				}
				if have, _ := b.Progress(); !have.Full() || b.Missing().Count() != 0 || !b.Complete() {
					t.Error("a committed blob isn't whole")
				}
				if hashes, err := b.Hashes(t.Context()); err != nil || fmt.Sprint(hashes) != fmt.Sprint(x.hashes) {
					t.Errorf("hashes %x, %v", hashes, err)
				}
				wantContent(t, reopen(t, s, dir, Options{}), x)
			})
		}
	}
}

func TestModesAndLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := openStore(t, dir, Options{})
	x := newSample(10, 1)
	fill(t, s, x)
	hex := x.digest.Encoded()
	for name, want := range map[string]os.FileMode{
		"": 0o700, "blobs": 0o700, "partial": 0o700, "index.db": 0o600,
		"blobs/sha256/" + hex[:2] + "/" + hex: 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{MaxBytes: 1 << 20})
	x := newSample(10, 1)
	fill(t, s, x)
	for _, c := range []struct {
		d    blob.Digest
		size int64
		want error
	}{
		{"sha256:../../etc/passwd", 1, blob.ErrInvalidDigest},
		{"", 1, blob.ErrInvalidDigest},
		{x.digest, 11, ErrSizeMismatch},
		{newSample(1, 2).digest, 1<<20 + 1, ErrFull},
		{newSample(1, 2).digest, -1, nil},
		{newSample(1, 2).digest, 1 << 62, nil},
	} {
		_, err := s.Create(c.d, c.size)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("create %q, %d bytes: %v, want %v", c.d, c.size, err, c.want)
		}
	}
	_, err := s.Get(newSample(1, 2).digest)
	wantErr(t, err, ErrNotFound)
	wantErr(t, err, blob.ErrNotHeld)
}

func TestCreateAfterAWrongSize(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(100, 1)
	wrong, err := s.Create(x.digest, 7)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(x.digest, x.size())
	wantErr(t, err, ErrSizeMismatch)
	_ = wrong.Close()
	fill(t, s, x)
	wantContent(t, s, x)
	if got := s.Stats().Bytes; got != 100 {
		t.Errorf("%d bytes are counted, want 100", got)
	}
}

func TestPutPieceRefuses(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(3*blob.MinPieceLength, 1)
	b := create(t, s, x)
	short := x.piece(0)[:len(x.piece(0))-1]
	other := x.hashes[1]
	for _, c := range []struct {
		name string
		i    int
		data []byte
		want *blob.PieceHash
		err  error
	}{
		{"short", 0, short, nil, io.ErrUnexpectedEOF},
		{"empty", 0, nil, nil, io.ErrUnexpectedEOF},
		{"of another piece", 0, x.piece(0), &other, ErrPieceMismatch},
		{"before the first", -1, x.piece(0), nil, nil},
		{"behind the last", 3, x.piece(0), nil, nil},
	} {
		_, err := b.PutPiece(c.i, bytes.NewReader(c.data), c.want)
		if err == nil || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
	if got := b.Missing().Count(); got != 3 {
		t.Fatalf("%d pieces are missing, want 3", got)
	}
	wantErr(t, b.Commit(t.Context()), ErrIncomplete)

	long := io.MultiReader(bytes.NewReader(x.piece(0)), strings.NewReader("more"))
	if _, err := b.PutPiece(0, long, &x.hashes[0]); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(long); string(rest) != "more" {
		t.Errorf("%q was left behind the piece, want %q", rest, "more")
	}
	h, err := b.PutPiece(0, failing{}, nil)
	if err != nil || h != x.hashes[0] {
		t.Errorf("a piece that is there: %x, %v", h, err)
	}
}

// failing is a reader that must not be read.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("was read") }

func TestCommitOfWrongBytes(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(2*blob.MinPieceLength, 1)
	b := create(t, s, x)
	events, cancel := s.Events()
	defer cancel()
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	defer r.Close()
	x.put(t, b, 0)
	wrong := bytes.Clone(x.piece(1))
	wrong[5] ^= 1
	if _, err := b.PutPiece(1, bytes.NewReader(wrong), nil); err != nil {
		t.Fatal(err)
	}
	wantErr(t, b.Commit(t.Context()), ErrDigestMismatch)
	if e := <-events; e != (Event{x.digest, x.size(), Removed}) {
		t.Errorf("event %v", e)
	}
	got, err := io.ReadAll(r)
	wantErr(t, err, ErrDigestMismatch)
	if len(got) > blob.MinPieceLength {
		t.Errorf("the reader got %d bytes, the last piece among them", len(got))
	}
	_, err = s.Get(x.digest)
	wantErr(t, err, ErrNotFound)
	_, err = b.PutPiece(0, failing{}, nil)
	wantErr(t, err, ErrDigestMismatch)
	fill(t, s, x)
	wantContent(t, s, x)
	if e := <-events; e.Kind != Committed {
		t.Errorf("event %v", e)
	}
}

func TestCommitEndsWithItsContext(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(2*blob.MinPieceLength, 1)
	b := create(t, s, x)
	x.putAll(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Commit(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPutBytes(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(300<<10, 3)
	for range 2 {
		if err := s.PutBytes(t.Context(), x.digest, x.data); err != nil {
			t.Fatal(err)
		}
	}
	wantContent(t, s, x)
	y := newSample(5, 4)
	wantErr(t, s.PutBytes(t.Context(), y.digest, x.data), ErrDigestMismatch)
	_, err := s.Get(y.digest)
	wantErr(t, err, ErrNotFound)
	wantErr(t, s.PutBytes(t.Context(), "sha1:00", nil), blob.ErrInvalidDigest)
}

func TestDelete(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x, y := newSample(blob.MinPieceLength+1, 1), newSample(blob.MinPieceLength+1, 2)
	fill(t, s, x)
	whole, err := s.Get(x.digest)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	growing := create(t, s, y)
	r := growing.NewReader(t.Context(), blob.Range{End: y.size()})
	defer r.Close()
	for _, d := range []blob.Digest{x.digest, y.digest} {
		if err := s.Delete(d); err != nil {
			t.Fatal(err)
		}
		wantErr(t, s.Delete(d), ErrNotFound)
	}
	got := make([]byte, x.size())
	if _, err := whole.ReadAt(got, 0); err != nil || !bytes.Equal(got, x.data) {
		t.Errorf("an open handle of a complete blob reads on: %v", err)
	}
	_, err = whole.OpenFile()
	wantErr(t, err, ErrNotFound)
	_, err = io.ReadAll(r)
	wantErr(t, err, ErrRemoved)
	if st := s.Stats(); st.Bytes != 0 || st.Complete+st.Partial != 0 {
		t.Errorf("after all was deleted: %+v", st)
	}
	fill(t, s, x)
	s = reopen(t, s, dir, Options{})
	wantContent(t, s, x)
	if _, err := s.Get(y.digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted blob came back: %v", err)
	}
}

func TestListAndLease(t *testing.T) {
	dir, at := t.TempDir(), &clock{time.Unix(1e9, 0)}
	s := openStore(t, dir, Options{Now: at.now})
	x, y := newSample(11, 1), newSample(22, 2)
	fill(t, s, x)
	create(t, s, y)
	until := at.at.Add(time.Hour)
	for _, l := range []time.Time{until, at.at} { // the second is shorter: no change
		if err := s.Lease(x.digest, l); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, s.Lease(newSample(1, 3).digest, until), ErrNotFound)
	for range 2 {
		list := s.List()
		if len(list) != 2 {
			t.Fatalf("%d blobs are listed", len(list))
		}
		for _, info := range list {
			want := Info{x.digest, 11, true, at.at, until}
			if info.Digest == y.digest {
				want = Info{y.digest, 22, false, at.at, time.Time{}}
			}
			if info != want {
				t.Errorf("listed %+v, want %+v", info, want)
			}
		}
		s = reopen(t, s, dir, Options{Now: at.now})
	}
}

func TestClosedStore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	_, err := Open(dir, Options{Log: quiet})
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second store on the folder: %v", err)
	}
	x := newSample(2*blob.MinPieceLength, 1)
	b := create(t, s, x)
	events, _ := s.Events()
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	read := make(chan error)
	go func() {
		_, err := io.ReadAll(r)
		read <- err
	}()
	await(t, "the reader to block", func() (bool, <-chan struct{}) {
		d, changed := b.Demand()
		return d.Has(0), changed
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-read, ErrClosed)
	if _, ok := <-events; ok {
		t.Error("an event after Close")
	}
	_, err = s.Get(x.digest)
	wantErr(t, err, ErrClosed)
	_, err = s.Create(x.digest, x.size())
	wantErr(t, err, ErrClosed)
	_, err = b.PutPiece(0, bytes.NewReader(x.piece(0)), nil)
	wantErr(t, err, ErrClosed)
	wantErr(t, b.Commit(t.Context()), ErrClosed)
	wantErr(t, s.Delete(x.digest), ErrClosed)
	_ = r.Close()
	_ = b.Close()
}
