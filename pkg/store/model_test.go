package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// toy is what the store should say of one blob.
type toy struct {
	sample
	exists, complete, signed bool
	pieces                   map[int]bool // piece → its bytes are right
	lease                    time.Time
	access                   int // order of accesses
}

func (m *toy) right() bool {
	for i := range m.hashes {
		if !m.pieces[i] {
			return false
		}
	}
	return true
}

func (m *toy) forget() { *m = toy{sample: m.sample} }

// world runs random operations on the store and on the toys, and compares.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	dir   string
	at    *clock
	store *Store
	toys  []*toy
	max   int64
	tick  int
}

func (w *world) open() {
	w.store = openStore(w.t, w.dir, Options{MaxBytes: w.max, Now: w.at.now})
}

func (w *world) touch(m *toy) {
	w.tick++
	w.at.at = w.at.at.Add(time.Second)
	m.access = w.tick
}

// makeRoom is the eviction rule once more, said plainly.
func (w *world) makeRoom(need int64) bool {
	for {
		used, could := int64(0), int64(0)
		var oldest *toy
		for _, m := range w.toys {
			if !m.exists {
				continue
			}
			used += m.size()
			if m.lease.After(w.at.at) {
				continue
			}
			could += m.size()
			if oldest == nil || m.access < oldest.access {
				oldest = m
			}
		}
		if used+need <= w.max {
			return true
		}
		if used-could+need > w.max {
			return false
		}
		oldest.forget()
	}
}

func (w *world) get(m *toy) *Blob {
	b, err := w.store.Get(m.digest)
	if m.exists != (err == nil) {
		w.t.Fatalf("get: exists %v, error %v", m.exists, err)
	}
	if err == nil {
		w.touch(m)
	}
	return b
}

func (w *world) step() {
	m := w.toys[w.rnd.IntN(len(w.toys))]
	n := len(m.hashes)
	switch op := w.rnd.IntN(20); {
	case op < 3:
		b, err := w.store.Create(m.digest, m.size())
		fits := m.exists || w.makeRoom(m.size())
		if fits != (err == nil) || err != nil && !errors.Is(err, ErrFull) {
			w.t.Fatalf("create: fits %v, error %v", fits, err)
		}
		if fits {
			m.exists = true
			m.pieces = orNew(m.pieces)
			w.touch(m)
			_ = b.Close()
		}
	case op < 11:
		if b := w.get(m); b != nil {
			defer b.Close()
			w.put(m, b, w.rnd.IntN(n), w.rnd.IntN(8) == 0)
		}
	case op < 13:
		if b := w.get(m); b != nil {
			defer b.Close()
			if err := b.AddProof(m.signedMap(w.t), nil); err != nil {
				w.t.Fatal(err)
			}
			m.signed = true
			for i, right := range m.pieces {
				if !right {
					delete(m.pieces, i)
				}
			}
		}
	case op < 16:
		if b := w.get(m); b != nil {
			defer b.Close()
			w.commit(m, b)
		}
	case op < 17:
		err := w.store.Delete(m.digest)
		if m.exists != (err == nil) {
			w.t.Fatalf("delete: exists %v, error %v", m.exists, err)
		}
		m.forget()
	case op < 18:
		until := w.at.at.Add(time.Duration(w.rnd.IntN(60)) * time.Second)
		if err := w.store.Lease(m.digest, until); m.exists != (err == nil) {
			w.t.Fatalf("lease: exists %v, error %v", m.exists, err)
		}
		if m.exists && until.After(m.lease) {
			m.lease = until
		}
	case op < 19: // restart
		if err := w.store.Close(); err != nil {
			w.t.Fatal(err)
		}
		w.open()
	}
}

func orNew(m map[int]bool) map[int]bool {
	if m == nil {
		m = make(map[int]bool)
	}
	return m
}

func (w *world) put(m *toy, b *Blob, i int, lie bool) {
	data := m.piece(i)
	if lie {
		data = bytes.Clone(data)
		data[0] ^= 1
	}
	_, there := m.pieces[i]
	_, err := b.PutPiece(i, bytes.NewReader(data), nil)
	refused := lie && m.signed && !there && !m.complete
	if refused != errors.Is(err, ErrPieceMismatch) || !refused && err != nil {
		w.t.Fatalf("put: lie %v, signed %v, error %v", lie, m.signed, err)
	}
	if err == nil && !there && !m.complete {
		m.pieces[i] = !lie
	}
}

func (w *world) commit(m *toy, b *Blob) {
	err := b.Commit(context.Background())
	switch {
	case m.complete || m.right():
		if err != nil {
			w.t.Fatalf("commit of a right blob: %v", err)
		}
		m.complete = true
	case len(m.pieces) < len(m.hashes):
		wantErr(w.t, err, ErrIncomplete)
	default:
		wantErr(w.t, err, ErrDigestMismatch)
		m.forget()
	}
}

// check compares everything that can be seen of one blob.
func (w *world) check(m *toy) {
	b := w.get(m)
	if b == nil {
		return
	}
	defer b.Close()
	if b.Complete() != m.complete {
		w.t.Fatalf("complete %v, want %v", b.Complete(), m.complete)
	}
	await(w.t, "the recorded pieces", func() (bool, <-chan struct{}) {
		b.c.mu.Lock()
		defer b.c.mu.Unlock()
		return m.complete || b.c.suspect.Count() == 0, b.c.stepped.wait()
	})
	have, _ := b.Progress()
	missing := b.Missing()
	for i := range m.hashes {
		right, there := m.pieces[i]
		if missing.Has(i) == (there || m.complete) {
			w.t.Fatalf("piece %d: missing %v, want %v", i, missing.Has(i), !there)
		}
		if have.Has(i) != (m.complete || m.signed && right) {
			w.t.Fatalf("piece %d: may be served %v; signed %v, right %v", i, have.Has(i), m.signed, right)
		}
		r := blob.PieceRange(m.size(), i)
		got := make([]byte, r.Len())
		if _, err := b.ReadAt(got, r.Start); have.Has(i) && (err != nil || !bytes.Equal(got, m.piece(i))) {
			w.t.Fatalf("piece %d was served wrong: %v", i, err)
		}
	}
	if m.complete {
		from := w.rnd.Int64N(m.size())
		to := from + w.rnd.Int64N(m.size()-from)
		r := b.NewReader(w.t.Context(), blob.Range{Start: from, End: to})
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, m.data[from:to]) {
			w.t.Fatalf("read [%d,%d): %d bytes, %v", from, to, len(got), err)
		}
	}
}

func (w *world) checkAll() {
	used, listed := int64(0), 0
	for _, m := range w.toys {
		if m.exists {
			used += m.size()
			listed++
		}
	}
	if st := w.store.Stats(); st.Bytes != used || st.Complete+st.Partial != listed || st.Bytes > w.max {
		w.t.Fatalf("stats %+v; %d bytes in %d blobs wanted", st, used, listed)
	}
	if got := len(w.store.List()); got != listed {
		w.t.Fatalf("%d blobs are listed, want %d", got, listed)
	}
}

func TestAgainstAModel(t *testing.T) {
	seeds, steps := 6, 150
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &world{
				t: t, dir: t.TempDir(), at: &clock{time.Unix(1e9, 0)}, max: 6 * plen,
				rnd: rand.New(rand.NewPCG(uint64(seed), 4)),
			}
			for i, size := range []int{1, plen, plen + 1, 2 * plen, 3*plen - 5, 700 << 10} {
				w.toys = append(w.toys, &toy{sample: newSample(size, uint64(10*seed+i))})
			}
			w.open()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			for range steps {
				w.step()
				w.check(w.toys[w.rnd.IntN(len(w.toys))])
				w.checkAll()
			}
		})
	}
}
