// Package metatest is the conformance suite of meta.Store: what every engine
// has to pass, the in-memory twin included.
package metatest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shoalproject/shoal/supernode/meta"
)

// Run runs the suite. open makes an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) meta.Store) {
	tests := map[string]func(*testing.T, meta.Store){
		"PutGetDelete":   testPutGetDelete,
		"Compare":        testCompare,
		"Limits":         testLimits,
		"List":           testList,
		"ListBytes":      testListBytes,
		"Scan":           testScan,
		"Counter":        testCounter,
		"Watch":          testWatch,
		"WatchCompacted": testWatchCompacted,
		"WatchClosed":    testWatchClosed,
		"Ownership":      testOwnership,
		"Model":          testModel,
		"Closed":         testClosed,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(t, s)
		})
	}
}

func commit(t *testing.T, s meta.Store, ops ...meta.Op) meta.Revision {
	t.Helper()
	revision, err := s.Commit(t.Context(), nil, ops)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return revision
}

func testPutGetDelete(t *testing.T, s meta.Store) {
	first := commit(t, s, meta.Put("a", []byte("1")), meta.Put("b", nil))
	if first == 0 {
		t.Fatal("the first commit has revision 0")
	}
	v, err := s.Get(t.Context(), "a")
	if err != nil || string(v.Data) != "1" || v.Key != "a" || v.Revision != first {
		t.Fatalf("get a = %+v, %v; want 1 at %d", v, err, first)
	}
	if v, err := s.Get(t.Context(), "b"); err != nil || len(v.Data) != 0 {
		t.Fatalf("get b = %+v, %v; want an empty value", v, err)
	}
	second := commit(t, s, meta.Put("a", []byte("2")))
	if v, _ := s.Get(t.Context(), "a"); second <= first || v.Revision != second || string(v.Data) != "2" {
		t.Fatalf("get a = %+v; want 2 at %d", v, second)
	}
	if v, _ := s.Get(t.Context(), "b"); v.Revision != first {
		t.Fatalf("b moved to revision %d without a write", v.Revision)
	}
	third := commit(t, s, meta.Delete("a"))
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, meta.ErrNotFound) {
		t.Fatalf("get after delete: %v; want ErrNotFound", err)
	}
	if again := commit(t, s, meta.Delete("a")); again != third {
		t.Fatalf("a commit that changed nothing moved the revision from %d to %d", third, again)
	}
	if now, err := s.Revision(t.Context()); err != nil || now != third {
		t.Fatalf("revision = %d, %v; want %d", now, err, third)
	}
}

func testCompare(t *testing.T, s meta.Store) {
	absent := []meta.Compare{{Key: "k"}}
	first, err := s.Commit(t.Context(), absent, []meta.Op{meta.Put("k", []byte("1"))})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if _, err := s.Commit(t.Context(), absent, []meta.Op{meta.Put("k", []byte("2"))}); !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("create twice: %v; want ErrConflict", err)
	}
	mixed := []meta.Compare{{Key: "k", Revision: first}, {Key: "other", Revision: 7}}
	if _, err := s.Commit(t.Context(), mixed, []meta.Op{meta.Delete("k"), meta.Put("z", nil)}); !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("one compare of two fails: %v; want ErrConflict", err)
	}
	if _, err := s.Get(t.Context(), "z"); !errors.Is(err, meta.ErrNotFound) {
		t.Fatalf("a conflict wrote something: %v", err)
	}
	if _, err := s.Commit(t.Context(), []meta.Compare{{Key: "k", Revision: first}}, []meta.Op{meta.Delete("k")}); err != nil {
		t.Fatalf("compare and delete: %v", err)
	}
	commit(t, s, meta.Put("k", []byte("3")))
	if _, err := s.Commit(t.Context(), []meta.Compare{{Key: "k", Revision: first}}, []meta.Op{meta.Delete("k")}); !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("compare with the revision of an earlier life: %v; want ErrConflict", err)
	}
}

func testLimits(t *testing.T, s meta.Store) {
	many := make([]meta.Op, meta.MaxOps)
	for i := range many {
		many[i] = meta.Put(fmt.Sprintf("k%d", i), nil)
	}
	commit(t, s, many...)
	commit(t, s, meta.Put("big", make([]byte, meta.MaxCommitBytes-3)))
	compares := make([]meta.Compare, meta.MaxOps+1)
	for i := range compares {
		compares[i].Key = fmt.Sprintf("absent%d", i)
	}
	bad := map[string]struct {
		compares []meta.Compare
		ops      []meta.Op
	}{
		"too many ops":       {ops: append(many, meta.Put("one more", nil))},
		"too many compares":  {compares: compares},
		"too many bytes":     {ops: []meta.Op{meta.Put("big", make([]byte, meta.MaxCommitBytes-2))}},
		"empty key":          {ops: []meta.Op{meta.Put("", nil)}},
		"long key":           {ops: []meta.Op{meta.Delete(strings.Repeat("k", meta.MaxKeyBytes+1))}},
		"a key twice":        {ops: []meta.Op{meta.Put("k", nil), meta.Delete("k")}},
		"empty compared key": {compares: []meta.Compare{{}}},
	}
	for name, c := range bad {
		if _, err := s.Commit(t.Context(), c.compares, c.ops); !errors.Is(err, meta.ErrInvalid) {
			t.Errorf("%s: %v; want ErrInvalid", name, err)
		}
	}
	if _, err := s.Get(t.Context(), ""); !errors.Is(err, meta.ErrInvalid) {
		t.Errorf("get of an empty key: %v; want ErrInvalid", err)
	}
}

func keysOf(values []meta.Value) string {
	keys := make([]string, len(values))
	for i, v := range values {
		keys[i] = v.Key
	}
	return strings.Join(keys, " ")
}

func testList(t *testing.T, s meta.Store) {
	for _, key := range []string{"b/2", "a", "b/1", "b/1\x00", "b/10", "c", "b", "b0"} {
		commit(t, s, meta.Put(key, []byte(key)))
	}
	tests := []struct {
		prefix, from string
		limit        int
		want         string
	}{
		{"", "", 0, "a b b/1 b/1\x00 b/10 b/2 b0 c"},
		{"b/", "", 0, "b/1 b/1\x00 b/10 b/2"},
		{"b/", "", 2, "b/1 b/1\x00"},
		{"b/", "b/10", 0, "b/10 b/2"},
		{"b/", "a", 1, "b/1"},
		{"b/", "c", 0, ""},
		{"d", "", 0, ""},
		{"", "b0", -1, "b0 c"},
	}
	for _, test := range tests {
		got, err := s.List(t.Context(), test.prefix, test.from, test.limit)
		if err != nil || keysOf(got) != test.want {
			t.Errorf("list %q from %q limit %d = %q, %v; want %q", test.prefix, test.from, test.limit, keysOf(got), err, test.want)
		}
		for _, v := range got {
			if string(v.Data) != v.Key || v.Revision == 0 {
				t.Errorf("list gave %+v", v)
			}
		}
	}
}

// testListBytes has values too large for one list.
func testListBytes(t *testing.T, s meta.Store) {
	const n, size = 10, 400 << 10
	for i := range n {
		commit(t, s, meta.Put(fmt.Sprintf("big/%d", i), make([]byte, size)))
	}
	page, err := s.List(t.Context(), "big/", "", 0)
	if err != nil || len(page) == 0 || len(page) > meta.MaxListBytes/size+1 {
		t.Errorf("list = %d values of %d bytes, %v; want at most %d bytes and one value", len(page), size, err, meta.MaxListBytes)
	}
	seen := 0
	for _, err := range meta.Scan(t.Context(), s, "big/") {
		if err != nil {
			t.Fatal(err)
		}
		seen++
	}
	if seen != n {
		t.Errorf("scan saw %d values; want %d", seen, n)
	}
}

func testScan(t *testing.T, s meta.Store) {
	const n = meta.MaxList + 2
	for i := 0; i < n; i += meta.MaxOps {
		var ops []meta.Op
		for j := i; j < min(n, i+meta.MaxOps); j++ {
			ops = append(ops, meta.Put(fmt.Sprintf("s/%06d", j), nil))
		}
		commit(t, s, ops...)
	}
	if page, err := s.List(t.Context(), "s/", "", n); err != nil || len(page) != meta.MaxList {
		t.Fatalf("list = %d values, %v; want %d", len(page), err, meta.MaxList)
	}
	seen := 0
	for v, err := range meta.Scan(t.Context(), s, "s/") {
		if want := fmt.Sprintf("s/%06d", seen); err != nil || v.Key != want {
			t.Fatalf("scan gave %q, %v; want %q", v.Key, err, want)
		}
		seen++
	}
	if seen != n {
		t.Fatalf("scan saw %d values; want %d", seen, n)
	}
}

// testCounter has many goroutines increment one counter by compare.
func testCounter(t *testing.T, s meta.Store) {
	const goroutines, each = 8, 25
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), s); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	v, err := s.Get(t.Context(), "counter")
	if err != nil || string(v.Data) != fmt.Sprint(goroutines*each) {
		t.Fatalf("counter = %q, %v; want %d", v.Data, err, goroutines*each)
	}
}

func increment(ctx context.Context, s meta.Store) error {
	for {
		v, err := s.Get(ctx, "counter")
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return err
		}
		n := 0
		fmt.Sscan(string(v.Data), &n) //nolint:errcheck // absent is 0
		_, err = s.Commit(ctx, []meta.Compare{{Key: "counter", Revision: v.Revision}},
			[]meta.Op{meta.Put("counter", fmt.Append(nil, n+1))})
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
}

func testWatch(t *testing.T, s meta.Store) {
	commit(t, s, meta.Put("w/before", nil))
	start, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan []meta.Event)
	ended := make(chan error, 1)
	go func() {
		for events, err := range s.Watch(ctx, "w/", start) {
			if err != nil {
				ended <- err
				return
			}
			got <- events
		}
	}()
	first := commit(t, s, meta.Put("w/1", []byte("x")), meta.Put("elsewhere", nil), meta.Put("w/2", []byte("y")))
	commit(t, s, meta.Put("elsewhere", nil))
	second := commit(t, s, meta.Delete("w/1"), meta.Delete("w/never was"))
	want := [][]meta.Event{
		{{Key: "w/1", Data: []byte("x"), Revision: first}, {Key: "w/2", Data: []byte("y"), Revision: first}},
		{{Key: "w/1", Deleted: true, Revision: second}},
	}
	for _, w := range want {
		if events := <-got; fmt.Sprint(events) != fmt.Sprint(w) {
			t.Errorf("watch gave %v; want %v", events, w)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v; want context.Canceled", err)
	}
}

// testWatchCompacted writes more than any engine keeps, then asks from the
// beginning.
func testWatchCompacted(t *testing.T, s meta.Store) {
	first := commit(t, s, meta.Put("k", nil))
	big := make([]byte, meta.MaxCommitBytes/2)
	for i := range 40 {
		commit(t, s, meta.Put("k", append(big, byte(i))))
	}
	for _, err := range s.Watch(t.Context(), "", first) {
		if !errors.Is(err, meta.ErrCompacted) {
			t.Errorf("watch from %d: %v; want ErrCompacted", first, err)
		}
		return
	}
	t.Error("watch ended without a word")
}

func testWatchClosed(t *testing.T, s meta.Store) {
	ended := make(chan error, 1)
	start := commit(t, s, meta.Put("k", nil))
	go func() {
		for _, err := range s.Watch(t.Context(), "", start) {
			ended <- err
		}
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, meta.ErrClosed) {
		t.Errorf("watch ended with %v; want ErrClosed", err)
	}
}

func testOwnership(t *testing.T, s meta.Store) {
	data := []byte("mine")
	commit(t, s, meta.Put("k", data))
	data[0] = 'X'
	v, err := s.Get(t.Context(), "k")
	if err != nil || string(v.Data) != "mine" {
		t.Fatalf("get = %q, %v: the store kept the caller's slice", v.Data, err)
	}
	v.Data[0] = 'Y'
	if v, _ := s.Get(t.Context(), "k"); string(v.Data) != "mine" {
		t.Fatalf("get = %q: the store gave its own slice away", v.Data)
	}
}

// testModel runs random commits against a plain map.
func testModel(t *testing.T, s meta.Store) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	model := map[string]meta.Value{}
	key := func() string { return fmt.Sprintf("%c/%d", 'a'+rng.IntN(3), rng.IntN(6)) }
	for range 400 {
		var compares []meta.Compare
		holds := true
		for range rng.IntN(3) {
			c := meta.Compare{Key: key()}
			if rng.IntN(4) > 0 {
				c.Revision = model[c.Key].Revision
			} else {
				c.Revision = meta.Revision(rng.IntN(50))
			}
			holds = holds && model[c.Key].Revision == c.Revision
			compares = append(compares, c)
		}
		ops := map[string]meta.Op{}
		for range rng.IntN(4) {
			k := key()
			if ops[k] = meta.Put(k, fmt.Append(nil, rng.Uint32())); rng.IntN(3) == 0 {
				ops[k] = meta.Delete(k)
			}
		}
		var list []meta.Op
		for _, op := range ops {
			list = append(list, op)
		}
		revision, err := s.Commit(t.Context(), compares, list)
		if holds != (err == nil) || !holds && !errors.Is(err, meta.ErrConflict) {
			t.Fatalf("commit %v = %v; the compares hold: %v", compares, err, holds)
		}
		for _, op := range list {
			if holds && op.Delete {
				delete(model, op.Key)
			} else if holds {
				model[op.Key] = meta.Value{Key: op.Key, Data: op.Data, Revision: revision}
			}
		}
		checkModel(t, s, model, string(rune('a'+rng.IntN(3)))+"/")
	}
}

func checkModel(t *testing.T, s meta.Store, model map[string]meta.Value, prefix string) {
	t.Helper()
	var want []meta.Value
	for k, v := range model {
		if strings.HasPrefix(k, prefix) {
			want = append(want, v)
		}
	}
	slices.SortFunc(want, func(a, b meta.Value) int { return strings.Compare(a.Key, b.Key) })
	got, err := s.List(t.Context(), prefix, "", 0)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("list %q = %v, %v; want %v", prefix, got, err, want)
	}
}

func testClosed(t *testing.T, s meta.Store) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, commitErr := s.Commit(t.Context(), nil, []meta.Op{meta.Put("k", nil)})
	_, getErr := s.Get(t.Context(), "k")
	_, listErr := s.List(t.Context(), "", "", 0)
	_, revisionErr := s.Revision(t.Context())
	for name, err := range map[string]error{"commit": commitErr, "get": getErr, "list": listErr, "revision": revisionErr} {
		if !errors.Is(err, meta.ErrClosed) {
			t.Errorf("%s on a closed store: %v; want ErrClosed", name, err)
		}
	}
}
