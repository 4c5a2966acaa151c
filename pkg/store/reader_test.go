package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

const plen = blob.MinPieceLength

// readAsync reads all of r and sends what came.
func readAsync(r io.Reader) <-chan []byte {
	out := make(chan []byte, 1)
	go func() {
		got, _ := io.ReadAll(r)
		out <- got
	}()
	return out
}

func awaitDemand(t *testing.T, b *Blob, want ...int) {
	t.Helper()
	var last []int
	defer func() {
		if t.Failed() {
			t.Logf("demand was %v, want %v", last, want)
		}
	}()
	await(t, fmt.Sprint("demand ", want), func() (bool, <-chan struct{}) {
		d, changed := b.Demand()
		last = bits(d)
		return slices.Equal(last, want), changed
	})
}

func TestReaderTailsInAnyOrder(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(6*plen+10, 1)
	b := create(t, s, x)
	whole := b.NewReader(t.Context(), blob.Range{End: x.size()})
	defer whole.Close()
	part := b.NewReader(t.Context(), blob.Range{Start: 4*plen + 3, End: 5*plen + 7})
	defer part.Close()
	got, gotPart := readAsync(whole), readAsync(part)
	awaitDemand(t, b, 0, 1, 2, 4, 5)
	x.put(t, b, 5, 1)
	awaitDemand(t, b, 0, 2, 4)
	x.put(t, b, 4)
	if p := <-gotPart; !bytes.Equal(p, x.data[4*plen+3:5*plen+7]) {
		t.Errorf("the range came out wrong, %d bytes", len(p))
	}
	awaitDemand(t, b, 0, 2)
	x.put(t, b, 0, 2, 3)
	awaitDemand(t, b, 6)
	x.put(t, b, 6)
	awaitDemand(t, b) // only the commit is waited for
	select {
	case <-got:
		t.Fatal("the last piece was handed out before the commit")
	default:
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g := <-got; !bytes.Equal(g, x.data) {
		t.Errorf("the blob came out wrong, %d bytes", len(g))
	}
}

func TestReaderNeedsNoWaitForWhatIsThere(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(3*plen+10, 1)
	b := create(t, s, x)
	x.put(t, b, 1)
	for _, r := range []blob.Range{
		{Start: plen, End: 2 * plen}, {Start: plen + 5, End: plen + 6}, {Start: 7, End: 7}, {Start: x.size(), End: x.size()},
	} {
		got, err := io.ReadAll(b.NewReader(t.Context(), r))
		if err != nil || !bytes.Equal(got, x.data[r.Start:r.End]) {
			t.Errorf("%v: %d bytes, %v", r, len(got), err)
		}
	}
	for _, r := range []blob.Range{{Start: -1, End: 5}, {Start: 5, End: 4}, {Start: 0, End: x.size() + 1}} {
		rd := b.NewReader(t.Context(), r)
		if _, err := io.ReadAll(rd); err == nil {
			t.Errorf("%v was read", r)
		}
		_ = rd.Close()
	}
}

func TestLastPieceWaits(t *testing.T) {
	for _, size := range []int{0, 1, plen, 2 * plen} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := openStore(t, t.TempDir(), Options{})
			x := newSample(size, 1)
			b := create(t, s, x)
			if err := b.AddProof(x.signedMap(t), nil); err != nil {
				t.Fatal(err)
			}
			x.putAll(t, b)
			ctx, cancel := context.WithCancel(t.Context())
			last := max(0, int64(size)-1)
			r := b.NewReader(ctx, blob.Range{Start: last, End: int64(size)})
			defer r.Close()
			read := make(chan error, 1)
			go func() {
				got, err := io.ReadAll(r)
				if len(got) > 0 {
					t.Errorf("%d bytes of the last piece came before the commit", len(got))
				}
				read <- err
			}()
			await(t, "the reader to block", func() (bool, <-chan struct{}) {
				b.c.mu.Lock()
				defer b.c.mu.Unlock()
				return r.(*reader).blocked >= 0, b.c.asked.wait()
			})
			cancel()
			wantErr(t, <-read, context.Canceled)
			if err := b.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantContent(t, s, x)
		})
	}
}

func TestReaderEnds(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	x.put(t, b, 0)
	lost := errors.New("all neighbours are gone")
	open := func(ctx context.Context) (io.ReadCloser, <-chan error) {
		r := b.NewReader(ctx, blob.Range{End: x.size()})
		read := make(chan error, 1)
		go func() {
			got, err := io.ReadAll(r)
			if len(got) != plen {
				t.Errorf("%d bytes were read, want the piece that is there", len(got))
			}
			read <- err
		}()
		awaitDemand(t, b, 1, 2)
		return r, read
	}
	r, read := open(t.Context())
	b.Fail(lost)
	wantErr(t, <-read, lost)
	_ = r.Close()
	awaitDemand(t, b)

	ctx, cancel := context.WithCancel(t.Context())
	r, read = open(ctx) // a later reader isn't touched by the failure
	cancel()
	wantErr(t, <-read, context.Canceled)
	awaitDemand(t, b)
	_ = r.Close()

	r, read = open(t.Context())
	_ = r.Close()
	_ = r.Close()
	wantErr(t, <-read, ErrClosed)
	awaitDemand(t, b)
}

func TestReaderOutlivesItsHandle(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(2*plen, 1)
	b := create(t, s, x)
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	defer r.Close()
	_ = b.Close()
	_ = b.Close() // only the first counts
	_, err := b.PutPiece(0, failing{}, nil)
	wantErr(t, err, ErrClosed)
	got := readAsync(r)
	fill(t, s, x)
	if !bytes.Equal(<-got, x.data) {
		t.Error("the blob came out wrong")
	}
}

func TestReaderAfterADrop(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	wrong := bytes.Repeat([]byte{1}, plen)
	if _, err := b.PutPiece(1, bytes.NewReader(wrong), nil); err != nil {
		t.Fatal(err)
	}
	x.put(t, b, 0, 2)
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	if got := bits(b.Missing()); !slices.Equal(got, []int{1}) {
		t.Fatalf("missing %v, want the piece that the map contradicts", got)
	}
	wantErr(t, b.Commit(t.Context()), ErrIncomplete)
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	defer r.Close()
	got := readAsync(r)
	awaitDemand(t, b, 1)
	x.put(t, b, 1)
	if err := b.Commit(t.Context()); err != nil { // the prefix was hashed with the wrong piece before
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, x.data) {
		t.Error("the blob came out wrong")
	}
}
