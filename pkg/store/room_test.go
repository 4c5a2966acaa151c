package store

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const room = 1000

// smallStore has room for ten samples of 100 bytes.
func smallStore(t *testing.T, dir string, at *clock) *Store {
	t.Helper()
	return openStore(t, dir, Options{MaxBytes: room, Now: at.now})
}

func hundred(seed uint64) sample { return newSample(100, seed) }

func held(s *Store, samples ...sample) []int {
	out := []int{}
	for i, x := range samples {
		if slices.ContainsFunc(s.List(), func(info Info) bool { return info.Digest == x.digest }) {
			out = append(out, i)
		}
	}
	return out
}

func TestEvictionOrder(t *testing.T) {
	dir, at := t.TempDir(), &clock{time.Unix(1e9, 0)}
	s := smallStore(t, dir, at)
	var x []sample
	for i := range 10 {
		x = append(x, hundred(uint64(i)))
		at.at = at.at.Add(time.Hour)
		if i == 3 { // a partial one that nobody has open
			b := create(t, s, x[i])
			_ = b.Close()
			continue
		}
		fill(t, s, x[i])
	}
	at.at = at.at.Add(time.Hour)
	wantContent(t, s, x[0]) // the oldest was accessed again
	if err := s.Lease(x[1].digest, at.at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	b, err := s.Get(x[2].digest) // open, and oldest apart from that
	if err != nil {
		t.Fatal(err)
	}
	b.c.store.mu.Lock()
	s.entries[x[2].digest].access = time.Unix(1, 0)
	b.c.store.mu.Unlock()
	s = func() *Store { // what was accessed when survives a restart
		_ = b.Close()
		s := reopen(t, s, dir, Options{MaxBytes: room, Now: at.now})
		b, err = s.Get(x[2].digest)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}()
	defer b.Close()
	at.at = at.at.Add(time.Minute)
	big := newSample(250, 99)
	fill(t, s, big)
	if got := held(s, x...); !slices.Equal(got, []int{0, 1, 2, 6, 7, 8, 9}) {
		t.Errorf("left are %v; 3, 4 and 5 should have gone", got)
	}
	if st := s.Stats(); st.Evicted != 3 || st.Bytes != 950 {
		t.Errorf("stats %+v", st)
	}
	at.at = at.at.Add(2 * time.Hour) // the lease is over
	_ = b.Close()
	fill(t, s, newSample(room-250, 98))
	if got := held(s, append(x, big)...); !slices.Equal(got, []int{10}) {
		t.Errorf("left are %v", got)
	}
}

func TestNoRoomEvictsNothing(t *testing.T) {
	at := &clock{time.Unix(1e9, 0)}
	s := smallStore(t, t.TempDir(), at)
	old, growing, leased := hundred(1), newSample(500, 2), newSample(300, 3)
	fill(t, s, old)
	b := create(t, s, growing)
	fill(t, s, leased)
	if err := s.Lease(leased.digest, at.at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Create(newSample(201, 4).digest, 201) // 100 free, 100 evictable
	wantErr(t, err, ErrFull)
	if got := held(s, old, growing, leased); len(got) != 3 {
		t.Errorf("left are %v", got)
	}
	growing.putAll(t, b)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Lease(leased.digest, time.Time{}); err != nil { // given back
		t.Fatal(err)
	}
	fill(t, s, newSample(201, 4))
}

func TestSmallerLimitAtOpen(t *testing.T) {
	dir, at := t.TempDir(), &clock{time.Unix(1e9, 0)}
	s := smallStore(t, dir, at)
	var x []sample
	for i := range 5 {
		at.at = at.at.Add(time.Minute)
		x = append(x, hundred(uint64(i)))
		fill(t, s, x[i])
	}
	s = reopen(t, s, dir, Options{MaxBytes: 250, Now: at.now})
	if got := held(s, x...); !slices.Equal(got, []int{3, 4}) {
		t.Errorf("left are %v", got)
	}
	s = reopen(t, s, dir, Options{Now: at.now})
	wantContent(t, s, x[4])
}

func TestEvictionOfAPartialEndsNobody(t *testing.T) {
	at := &clock{time.Unix(1e9, 0)}
	s := smallStore(t, t.TempDir(), at)
	x := newSample(600, 1)
	b := create(t, s, x)
	r := b.NewReader(t.Context(), blob.Range{End: x.size()})
	_ = b.Close() // the reader still has it open
	_, err := s.Create(newSample(500, 2).digest, 500)
	wantErr(t, err, ErrFull)
	_ = r.Close()
	fill(t, s, newSample(500, 2))
	if got := held(s, x); len(got) != 0 {
		t.Error("the partial blob that nobody has open should have gone")
	}
	if _, err := b.PutPiece(0, bytes.NewReader(x.data), nil); err == nil {
		t.Error("a piece was put into a blob that is gone")
	}
}
