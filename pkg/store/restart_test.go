package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// childEnv makes the test binary put pieces into a store until it is killed.
const childEnv = "SHOAL_STORE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := runChild(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const childPieces = 300

func childSamples() (growing, whole sample) {
	return newSample(childPieces*plen, 77), newSample(plen+1, 78)
}

// runChild puts a piece each 2 ms and says after each how many the index has,
// so that the test knows when to kill it. Then it goes on with a blob that it
// commits over and over.
func runChild(dir string) error {
	s, err := Open(dir, Options{Log: quiet})
	if err != nil {
		return err
	}
	x, whole := childSamples()
	b, err := s.Create(x.digest, x.size())
	if err != nil {
		return err
	}
	if m, err := blob.NewPieceMap(x.digest, x.size(), x.hashes, noSign); err != nil || b.AddProof(m, nil) != nil {
		return fmt.Errorf("add the map: %w", err)
	}
	say := func() error {
		known, _, err := s.index.pieces(x.digest, childPieces)
		fmt.Println(known.Count())
		return err
	}
	pace := time.NewTicker(2 * time.Millisecond)
	for i := range childPieces - 1 {
		<-pace.C
		if _, err := b.PutPiece(i, bytes.NewReader(x.piece(i)), nil); err != nil {
			return err
		}
		if err := say(); err != nil {
			return err
		}
	}
	for {
		if err := s.Delete(whole.digest); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		w, err := s.Create(whole.digest, whole.size())
		if err != nil {
			return err
		}
		for i := range 2 {
			if _, err := w.PutPiece(i, bytes.NewReader(whole.piece(i)), nil); err != nil {
				return err
			}
		}
		if err := errors.Join(w.Commit(context.Background()), w.Close(), say()); err != nil {
			return err
		}
	}
}

// killedChild runs the child until the index has enough pieces, and kills it
// a little later.
func killedChild(t *testing.T, dir string, pieces int) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	for more := 5; more > 0; {
		if !said.Scan() {
			t.Fatal("the child ended by itself")
		}
		n, err := strconv.Atoi(said.Text())
		if err != nil {
			t.Fatal(said.Text())
		}
		if n >= pieces {
			more--
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
}

func TestKill9(t *testing.T) {
	dir := t.TempDir()
	x, whole := childSamples()
	for _, pieces := range []int{60, 120, 180, childPieces - 1} {
		killedChild(t, dir, pieces)
		s := openStore(t, dir, Options{})
		b, err := s.Get(x.digest)
		if err != nil {
			t.Fatal(err)
		}
		there := childPieces - b.Missing().Count()
		await(t, "the pieces to be hashed again", func() (bool, <-chan struct{}) {
			have, changed := b.Progress()
			return have.Count() == childPieces-b.Missing().Count(), changed
		})
		have, _ := b.Progress()
		for i := range have.All() {
			got := make([]byte, plen)
			if _, err := b.ReadAt(got, int64(i)*plen); err != nil || !bytes.Equal(got, x.piece(i)) {
				t.Fatalf("piece %d is marked and wrong (%v)", i, err)
			}
		}
		if have.Count() != there {
			t.Errorf("%d of %d recorded pieces were right; kill -9 loses none of the page cache", have.Count(), there)
		}
		if there < pieces {
			t.Errorf("%d pieces survived, %d had been recorded", there, pieces)
		}
		if b, err := s.Get(whole.digest); err == nil {
			if b.Complete() {
				wantContent(t, s, whole)
			}
			_ = b.Close()
		}
		_ = b.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPartialSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(6*plen+1, 1)
	b := create(t, s, x)
	if err := b.AddProof(x.signedMap(t), nil); err != nil {
		t.Fatal(err)
	}
	x.put(t, b, 0, 1, 2, 5)
	_ = b.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	spoil(t, filepath.Join(dir, partialName(x.digest)), plen+17)

	s = openStore(t, dir, Options{})
	b = create(t, s, x)
	if got := b.Missing(); got.Has(0) || !got.Has(3) {
		t.Errorf("missing %v right after the restart", bits(got))
	}
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	defer r.Close()
	got := readAsync(r)
	await(t, "the recorded pieces", func() (bool, <-chan struct{}) {
		have, changed := b.Progress()
		return slices.Equal(bits(have), []int{0, 2, 5}) && slices.Equal(bits(b.Missing()), []int{1, 3, 4, 6}), changed
	})
	awaitDemand(t, b, 1, 3)
	x.put(t, b, 1, 3, 4, 6)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, x.data) {
		t.Error("the blob came out wrong")
	}
}

// TestPutOverARecordedPiece: a piece that the index names is not written over
// when it is right, and is when it is not.
func TestPutOverARecordedPiece(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	x.put(t, b, 0, 1)
	_ = b.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	spoil(t, filepath.Join(dir, partialName(x.digest)), plen)
	s = openStore(t, dir, Options{})
	b = create(t, s, x)
	if h, err := b.PutPiece(0, failing{}, nil); err != nil || h != x.hashes[0] {
		t.Errorf("a piece that survived: %x, %v", h, err)
	}
	x.put(t, b, 1, 2)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, s, x)
}

// spoil flips a byte of a file.
func spoil(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := make([]byte, 1)
	if _, err := f.ReadAt(c, at); err != nil {
		t.Fatal(err)
	}
	c[0] ^= 1
	if _, err := f.WriteAt(c, at); err != nil {
		t.Fatal(err)
	}
}

// adopted opens the store and waits until it has settled what the index
// didn't know.
func adopted(t *testing.T, dir string) *Store {
	t.Helper()
	s := openStore(t, dir, Options{})
	s.settled.Wait()
	return s
}

func TestLostIndex(t *testing.T) {
	for _, how := range []string{"gone", "broken"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, Options{})
			x, y, z := newSample(plen+9, 1), newSampleOf(20, 2, "sha512"), newSample(2*plen, 3)
			fill(t, s, x)
			fill(t, s, y)
			fill(t, s, z)
			w := newSample(plen, 4)
			create(t, s, w)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			index := filepath.Join(dir, indexName)
			if how == "gone" {
				if err := os.Remove(index); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(index, bytes.Repeat([]byte("no index"), 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			spoil(t, filepath.Join(dir, blobName(z.digest)), 5)
			s = adopted(t, dir)
			for _, x := range []sample{x, y} {
				wantContent(t, s, x)
			}
			for _, x := range []sample{z, w} {
				if _, err := s.Get(x.digest); err == nil {
					t.Error("a file that doesn't match its digest, or a partial one that nothing is known of, was taken in")
				}
			}
			left, err := os.ReadDir(filepath.Join(dir, partialDir))
			if err != nil || len(left) > 0 {
				t.Errorf("%d files are left over, %v", len(left), err)
			}
			if got := s.Stats(); got.Complete != 2 || got.Bytes != x.size()+y.size() {
				t.Errorf("stats %+v", got)
			}
			s = reopen(t, s, dir, Options{})
			wantContent(t, s, x)
			b, err := s.Get(x.digest)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if got, err := b.Hashes(t.Context()); err != nil || !slices.Equal(got, x.hashes) {
				t.Errorf("hashes %x, %v", got, err)
			}
		})
	}
}

func TestEntryWithoutItsFile(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x, y, z := newSample(30, 1), newSample(40, 2), newSample(50, 3)
	fill(t, s, x)
	create(t, s, y)
	fill(t, s, z)
	if err := s.flush(); err != nil { // nothing has it open any more
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, blobName(z.digest))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(z.digest); err == nil { // noticed while running
		t.Error("a blob without a file was opened")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{blobName(x.digest), partialName(y.digest)} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	stray := filepath.Join(dir, partialDir, "aside-x")
	foreign := filepath.Join(dir, blobsDir, "README")
	for _, name := range []string{stray, foreign} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, dir, Options{})
	if got := s.Stats(); got.Bytes != 0 || got.Complete+got.Partial != 0 {
		t.Errorf("stats %+v", got)
	}
	if _, err := os.Stat(stray); err == nil {
		t.Error("what was left over in partial/ is still there")
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error("a foreign file was removed")
	}
	fill(t, s, x)
	wantContent(t, s, x)
}

// TestRenamedButNotIndexed is a crash between the two: the index still says
// partial.
func TestRenamedButNotIndexed(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(3*plen, 1)
	b := create(t, s, x)
	x.put(t, b, 0)
	_ = b.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, blobName(x.digest))
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, partialName(x.digest)), target); err != nil {
		t.Fatal(err)
	}
	s = adopted(t, dir) // the bytes are not those of the digest
	if _, err := s.Get(x.digest); err == nil {
		t.Fatal("an unverified file looks committed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, x.data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = adopted(t, dir)
	wantContent(t, s, x)
}

func TestAdoptedBlobIsAnnounced(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	x := newSample(8<<20, 1)
	fill(t, s, x)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, indexName)); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	events, cancel := s.Events()
	defer cancel()
	s.settled.Wait()
	select {
	case e := <-events:
		if e != (Event{x.digest, x.size(), Committed}) {
			t.Errorf("event %v", e)
		}
	default: // taken in before the subscription
	}
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
	if got, _ := io.ReadAll(f); !bytes.Equal(got, x.data) {
		t.Error("the file is wrong")
	}
}
