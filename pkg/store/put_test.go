package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

// gate is a reader that hands out part of a piece, says so, and waits.
type gate struct {
	data    []byte
	first   int           // bytes before it waits
	waiting chan struct{} // closed when it waits
	goOn    chan struct{}
	at      int
}

func newGate(data []byte, first int) *gate {
	return &gate{data: data, first: first, waiting: make(chan struct{}), goOn: make(chan struct{})}
}

func (g *gate) Read(p []byte) (int, error) {
	if g.at == g.first {
		close(g.waiting)
		<-g.goOn
	}
	if g.at == len(g.data) {
		return 0, io.EOF
	}
	end := len(g.data)
	if g.at < g.first {
		end = g.first
	}
	n := copy(p, g.data[g.at:end])
	g.at += n
	return n, nil
}

type outcome struct {
	h   blob.PieceHash
	err error
}

func putAsync(b *Blob, i int, r io.Reader, want *blob.PieceHash) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		h, err := b.PutPiece(i, r, want)
		out <- outcome{h, err}
	}()
	return out
}

func TestHedgeOvertakesAStalledWriter(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(3*blob.MinPieceLength, 1)
	b := create(t, s, x)
	lies := bytes.Repeat([]byte{7}, blob.MinPieceLength)
	stalled := newGate(lies, bufferLength) // one buffer of it is in place
	first := putAsync(b, 0, stalled, &x.hashes[0])
	<-stalled.waiting

	second := newGate(x.piece(0), 3*bufferLength) // aside
	hedge := putAsync(b, 0, second, &x.hashes[0])
	<-second.waiting
	third := newGate(x.piece(0), bufferLength) // aside too, and too late
	late := putAsync(b, 0, third, &x.hashes[0])
	<-third.waiting

	close(second.goOn)
	if o := <-hedge; o.err != nil || o.h != x.hashes[0] {
		t.Fatalf("the hedge: %x, %v", o.h, o.err)
	}
	close(stalled.goOn)
	if o := <-first; o.err != nil || o.h != x.hashes[0] {
		t.Errorf("the stalled writer, whose piece is there now: %x, %v", o.h, o.err)
	}
	close(third.goOn)
	if o := <-late; o.err != nil || o.h != x.hashes[0] {
		t.Errorf("the late hedge: %x, %v", o.h, o.err)
	}
	x.put(t, b, 1, 2)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, x)
}

func TestHedgeOutlivesAFailedOwner(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(2*blob.MinPieceLength, 1)
	b := create(t, s, x)
	owner := newGate(x.piece(0)[:2*bufferLength], bufferLength)
	first := putAsync(b, 0, owner, nil)
	<-owner.waiting
	second := newGate(x.piece(0), bufferLength)
	hedge := putAsync(b, 0, second, nil)
	<-second.waiting
	close(owner.goOn)
	wantErr(t, (<-first).err, io.ErrUnexpectedEOF)
	x.put(t, b, 0) // a new owner, in place
	close(second.goOn)
	if o := <-hedge; o.err != nil || o.h != x.hashes[0] {
		t.Errorf("the hedge: %x, %v", o.h, o.err)
	}
	x.put(t, b, 1)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestOvertakenWriterStaysAway: the hedge that took the place over failed in
// doing so, and a third writer owns the place now.
func TestOvertakenWriterStaysAway(t *testing.T) {
	s, disk := failingStore(t, Options{})
	x := newSample(2*blob.MinPieceLength, 1)
	b := create(t, s, x)
	stalled := newGate(bytes.Repeat([]byte{7}, blob.MinPieceLength), bufferLength)
	first := putAsync(b, 0, stalled, nil)
	<-stalled.waiting
	disk.set(blob.MinPieceLength/bufferLength + 1) // room aside, and hardly any in place
	_, err := b.PutPiece(0, bytes.NewReader(x.piece(0)), nil)
	wantErr(t, err, ErrFull)
	disk.set(-1)
	third := newGate(x.piece(0), 3*bufferLength)
	owner := putAsync(b, 0, third, nil)
	<-third.waiting
	close(stalled.goOn)
	wantErr(t, (<-first).err, errOvertaken)
	close(third.goOn)
	if o := <-owner; o.err != nil || o.h != x.hashes[0] {
		t.Fatalf("the third writer: %x, %v", o.h, o.err)
	}
	x.put(t, b, 1)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestManyWritersOfOnePiece has liars and honest writers fight over each
// piece; whatever is marked must be right at any time.
func TestManyWritersOfOnePiece(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(6*blob.MinPieceLength+99, 1)
	b := create(t, s, x)
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for w := range 8 {
		work.Go(func() {
			for i := range x.hashes {
				data := x.piece(i)
				if w%2 == 0 {
					data = bytes.Clone(data)
					data[len(data)-1]++
				}
				_, err := b.PutPiece(i, &trickle{data}, nil)
				if err != nil && !errors.Is(err, ErrPieceMismatch) && !errors.Is(err, errOvertaken) {
					t.Error(err)
				}
				if have, _ := b.Progress(); have.Has(i) {
					got := make([]byte, len(data))
					if _, err := b.ReadAt(got, blob.PieceRange(x.size(), i).Start); err != nil || !bytes.Equal(got, x.piece(i)) {
						t.Errorf("piece %d is marked and wrong (%v)", i, err)
					}
				}
			}
		})
	}
	work.Wait()
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, x)
}

// trickle yields between small reads so that writers interleave.
type trickle struct{ data []byte }

func (r *trickle) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	runtime.Gosched()
	n := copy(p[:min(len(p), 5000)], r.data)
	r.data = r.data[n:]
	return n, nil
}

// failingFile is a file on a disk that can be full, or fail to sync.
type failingFile struct {
	pieceFile
	disk *failingDisk
}

type failingDisk struct {
	mu      sync.Mutex
	writes  int // until the disk is full; < 0 is never
	syncErr error
}

func (f *failingFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.writes == 0 {
		n, _ := f.pieceFile.WriteAt(p[:len(p)/2], at)
		return n, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	f.disk.writes--
	return f.pieceFile.WriteAt(p, at)
}

func (f *failingFile) Sync() error { return f.disk.syncErr }

func (d *failingDisk) set(writes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = writes
}

func failingStore(t *testing.T, opts Options) (*Store, *failingDisk) {
	s, d := openStore(t, t.TempDir(), opts), &failingDisk{writes: -1}
	s.wrap = func(f *os.File) pieceFile { return &failingFile{f, d} }
	return s, d
}

func TestFullDisk(t *testing.T) {
	s, disk := failingStore(t, Options{})
	x := newSample(3*blob.MinPieceLength, 1)
	b := create(t, s, x)
	x.put(t, b, 0)
	disk.set(2)
	_, err := b.PutPiece(1, bytes.NewReader(x.piece(1)), nil)
	wantErr(t, err, ErrFull)
	wantErr(t, err, syscall.ENOSPC)
	if got := bits(b.Missing()); len(got) != 2 || got[0] != 1 {
		t.Errorf("missing %v, want 1 and 2", got)
	}
	disk.set(-1)
	x.put(t, b, 1, 2)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, x)
}

func TestFullDiskEvicts(t *testing.T) {
	s, disk := failingStore(t, Options{})
	old, x := newSample(10, 1), newSample(blob.MinPieceLength, 2)
	fill(t, s, old)
	b := create(t, s, x)
	events, cancel := s.Events()
	defer cancel()
	disk.set(1)
	done := putAsync(b, 0, bytes.NewReader(x.piece(0)), nil)
	if e := <-events; e != (Event{old.digest, 10, Removed}) {
		t.Errorf("event %v, want that the old blob went", e)
	}
	wantErr(t, (<-done).err, ErrFull) // the disk is full nevertheless
	_, err := s.Get(old.digest)
	wantErr(t, err, ErrNotFound)
}

func TestFailedSyncRemovesThePartialBlob(t *testing.T) {
	s, disk := failingStore(t, Options{})
	x := newSample(blob.MinPieceLength+1, 1)
	b := create(t, s, x)
	x.putAll(t, b)
	disk.syncErr = syscall.EIO
	wantErr(t, b.Commit(t.Context()), syscall.EIO)
	_, err := s.Get(x.digest)
	wantErr(t, err, ErrNotFound)
	disk.syncErr = nil
	fill(t, s, x)
	wantContent(t, s, x)
}

// TestRealFullDisk needs root for its mount.
func TestRealFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("no tmpfs to fill: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := openStore(t, dir, Options{})
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	x := newSample(4<<20, 1)
	b := create(t, s, x)
	var full error
	for i := range x.hashes {
		if _, full = b.PutPiece(i, bytes.NewReader(x.piece(i)), nil); full != nil {
			break
		}
	}
	wantErr(t, full, ErrFull)
	missing := b.Missing()
	if n := missing.Count(); n == 0 || n == missing.Len() {
		t.Fatalf("%d of %d pieces are missing on a half-full disk", n, missing.Len())
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	x.put(t, b, bits(missing)...)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, x)
}

// TestMemoryStaysBounded moves pieces of 2 MiB and looks at what was
// allocated: buffers and hashes, never pieces.
func TestMemoryStaysBounded(t *testing.T) {
	const size = 1 << 30
	s := openStore(t, t.TempDir(), Options{})
	x := newSample(0, 1)
	b, err := s.Create(x.digest, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const pieces = 32
	for i := range pieces {
		if _, err := b.PutPiece(i, zeros{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	moved := uint64(pieces) * uint64(blob.PieceLength(size))
	if got := after.TotalAlloc - before.TotalAlloc; got > moved/16 {
		t.Errorf("%d KiB were allocated to move %d KiB", got>>10, moved>>10)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
