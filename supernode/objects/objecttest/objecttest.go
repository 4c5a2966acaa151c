// Package objecttest is the conformance suite of objects.Store: what every
// engine has to pass, the in-memory twin included.
package objecttest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/shoalproject/shoal/supernode/objects"
)

// Run runs the suite. open makes an empty store.
func Run(t *testing.T, open func(t *testing.T) objects.Store) {
	tests := map[string]func(*testing.T, objects.Store){
		"CommitOpenDelete": testCommitOpenDelete,
		"Empty":            testEmpty,
		"Abort":            testAbort,
		"Resume":           testResume,
		"ResumeDropsTail":  testResumeDropsTail,
		"Busy":             testBusy,
		"Unknown":          testUnknown,
		"List":             testList,
		"OpenOutlivesName": testOpenOutlivesName,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func create(t *testing.T, s objects.Store) objects.Writer {
	t.Helper()
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return w
}

func write(t *testing.T, w objects.Writer, data string) {
	t.Helper()
	if n, err := io.WriteString(w, data); err != nil || n != len(data) {
		t.Fatalf("write %d bytes: %d, %v", len(data), n, err)
	}
}

func commit(t *testing.T, w objects.Writer) string {
	t.Helper()
	key, err := w.Commit(t.Context())
	if err != nil || key == "" {
		t.Fatalf("commit = %q, %v", key, err)
	}
	return key
}

func put(t *testing.T, s objects.Store, data string) string {
	t.Helper()
	w := create(t, s)
	write(t, w, data)
	return commit(t, w)
}

func read(t *testing.T, s objects.Store, key string) string {
	t.Helper()
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer o.Close()
	raw, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()+1))
	if err != nil || int64(len(raw)) != o.Size() {
		t.Fatalf("read %d of %d bytes: %v", len(raw), o.Size(), err)
	}
	return string(raw)
}

func testCommitOpenDelete(t *testing.T, s objects.Store) {
	w := create(t, s)
	write(t, w, "hello ")
	write(t, w, "world")
	if w.Offset() != 11 {
		t.Errorf("offset %d; want 11", w.Offset())
	}
	key := commit(t, w)
	if got := read(t, s, key); got != "hello world" {
		t.Errorf("read %q", got)
	}
	if err := errors.Join(w.Abort(t.Context()), w.Close()); err != nil {
		t.Errorf("abort and close after commit: %v", err)
	}
	if got := read(t, s, key); got != "hello world" {
		t.Errorf("abort after commit took the object: %q", got)
	}
	if _, err := w.Commit(t.Context()); err == nil {
		t.Error("a second commit passed")
	}
	other := put(t, s, "hello world")
	if other == key {
		t.Error("two objects have one key")
	}
	for range 2 { // deleting again is no error
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	if _, err := s.Open(t.Context(), key); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("open after delete: %v; want ErrNotFound", err)
	}
	if got := read(t, s, other); got != "hello world" {
		t.Errorf("the other object reads %q", got)
	}
}

func testEmpty(t *testing.T, s objects.Store) {
	if got := read(t, s, put(t, s, "")); got != "" {
		t.Errorf("read %q", got)
	}
}

func uploads(t *testing.T, s objects.Store) []string {
	t.Helper()
	infos, err := s.Uploads(t.Context())
	if err != nil {
		t.Fatalf("uploads: %v", err)
	}
	var ids []string
	for _, info := range infos {
		ids = append(ids, info.Key)
	}
	return ids
}

func testAbort(t *testing.T, s objects.Store) {
	w := create(t, s)
	write(t, w, "x")
	if got := uploads(t, s); !slices.Equal(got, []string{w.ID()}) {
		t.Errorf("uploads %v; want %s", got, w.ID())
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatalf("abort: %v", err)
	}
	if _, err := s.Resume(t.Context(), w.ID(), 0); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("resume after abort: %v; want ErrNotFound", err)
	}
	if got := uploads(t, s); len(got) > 0 {
		t.Errorf("uploads after abort: %v", got)
	}
}

func testResume(t *testing.T, s objects.Store) {
	var want bytes.Buffer
	w := create(t, s)
	id := w.ID()
	for range 5 {
		part := make([]byte, rand.IntN(70_000))
		for i := range part {
			part[i] = byte(rand.Uint32())
		}
		want.Write(part)
		write(t, w, string(part))
		if err := errors.Join(w.Flush(t.Context()), w.Close()); err != nil {
			t.Fatalf("flush and close: %v", err)
		}
		var err error
		if w, err = s.Resume(t.Context(), id, int64(want.Len())); err != nil {
			t.Fatalf("resume at %d: %v", want.Len(), err)
		}
		if w.ID() != id || w.Offset() != int64(want.Len()) {
			t.Fatalf("resumed %s at %d; want %s at %d", w.ID(), w.Offset(), id, want.Len())
		}
	}
	if got := read(t, s, commit(t, w)); got != want.String() {
		t.Error("the object differs from what was written")
	}
	if got := uploads(t, s); len(got) > 0 {
		t.Errorf("uploads after commit: %v", got)
	}
}

func testResumeDropsTail(t *testing.T, s objects.Store) {
	w := create(t, s)
	write(t, w, "kept, dropped")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{-1, 14} {
		if _, err := s.Resume(t.Context(), w.ID(), offset); !errors.Is(err, objects.ErrShort) {
			t.Errorf("resume at %d: %v; want ErrShort", offset, err)
		}
	}
	w, err := s.Resume(t.Context(), w.ID(), 4)
	if err != nil {
		t.Fatalf("resume: %v", err)
	}
	write(t, w, "!")
	if got := read(t, s, commit(t, w)); got != "kept!" {
		t.Errorf("read %q; want kept!", got)
	}
}

func testBusy(t *testing.T, s objects.Store) {
	w := create(t, s)
	if _, err := s.Resume(t.Context(), w.ID(), 0); !errors.Is(err, objects.ErrBusy) {
		t.Errorf("resume while open: %v; want ErrBusy", err)
	}
	if err := s.Discard(t.Context(), w.ID()); !errors.Is(err, objects.ErrBusy) {
		t.Errorf("discard while open: %v; want ErrBusy", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // discarding again is no error
		if err := s.Discard(t.Context(), w.ID()); err != nil {
			t.Errorf("discard: %v", err)
		}
	}
	if _, err := s.Resume(t.Context(), w.ID(), 0); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("resume after discard: %v; want ErrNotFound", err)
	}
}

func testUnknown(t *testing.T, s objects.Store) {
	for _, key := range []string{"", "x", "../../etc/passwd", "0123456789abcdef0123456789abcdef"} {
		if _, err := s.Open(t.Context(), key); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("open %q: %v; want ErrNotFound", key, err)
		}
		if _, err := s.Resume(t.Context(), key, 0); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("resume %q: %v; want ErrNotFound", key, err)
		}
		if err := errors.Join(s.Delete(t.Context(), key), s.Discard(t.Context(), key)); err != nil {
			t.Errorf("delete and discard %q: %v", key, err)
		}
	}
}

func testList(t *testing.T, s objects.Store) {
	var want []string
	for range 30 {
		want = append(want, put(t, s, "12345"))
	}
	slices.Sort(want)
	create(t, s) // an upload is no object
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := s.List(t.Context(), after, 7)
		if err != nil || len(page) > 7 {
			t.Fatalf("list = %d objects, %v", len(page), err)
		}
		for _, info := range page {
			if info.Size != 5 || info.Modified.IsZero() {
				t.Errorf("list gave %+v", info)
			}
			got = append(got, info.Key)
		}
		if len(page) < 7 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("list gave %v; want %v", got, want)
	}
}

func testOpenOutlivesName(t *testing.T, s objects.Store) {
	key := put(t, s, "still here")
	o, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
	if err != nil || string(raw) != "still here" {
		t.Errorf("read after delete: %q, %v", raw, err)
	}
}
