package runtimetest

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime"
)

// Content is what a runtime's content store offers to the agent.
type Content interface {
	Has(ctx context.Context, d blob.Digest) (bool, error)
	OpenLocal(d blob.Digest) (*os.File, error)
	List(ctx context.Context) ([]runtime.Content, error)
	Lease(ctx context.Context, d blob.Digest, ttl time.Duration) error
	Watch(ctx context.Context) <-chan runtime.Event
}

// Subject is a runtime under test and the hands that change it.
type Subject struct {
	Content Content
	// Add brings one image into the runtime and names its blobs, with their
	// bytes.
	Add func(t *testing.T) map[blob.Digest][]byte
	// Clear removes every image and runs the garbage collector to its end.
	Clear func(t *testing.T)
}

const patience = 60 * time.Second

// Run is the suite. Each part gets a Subject of its own, which is empty.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	for name, part := range map[string]func(*testing.T, Subject){
		"an unknown digest is not held":      unknown,
		"blobs are listed and can be read":   read,
		"an open file outlives collection":   outlive,
		"a lease keeps a blob":               lease,
		"a watch tells what comes and goes":  watch,
		"a watch begins with what is there":  watchPresent,
		"what is no digest opens nothing":    traversal,
		"a watch ends with its context":      watchEnds,
		"a lease on nothing is refused":      leaseNothing,
		"a lease can be renewed many times":  leaseRenewed,
		"an empty store lists and tells nil": empty,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { part(t, subject(t)) })
	}
}

func unknown(t *testing.T, s Subject) {
	d := digest.FromString("nobody has this")
	if held, err := s.Content.Has(t.Context(), d); err != nil || held {
		t.Errorf("Has = %v, %v", held, err)
	}
	if f, err := s.Content.OpenLocal(d); !errors.Is(err, blob.ErrNotHeld) {
		t.Errorf("OpenLocal = %v, %v, want %v", f, err, blob.ErrNotHeld)
	}
}

func traversal(t *testing.T, s Subject) {
	for _, d := range []blob.Digest{"", "sha256:../../../etc/passwd", "sha256:", "../x:y"} {
		if f, err := s.Content.OpenLocal(d); err == nil {
			t.Errorf("OpenLocal(%q) opened %s", d, f.Name())
		}
	}
}

func empty(t *testing.T, s Subject) {
	if list, err := s.Content.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v", list, err)
	}
}

func read(t *testing.T, s Subject) {
	blobs := s.Add(t)
	list, err := s.Content.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[blob.Digest]int64{}
	for _, c := range list {
		sizes[c.Digest] = c.Size
	}
	for d, want := range blobs {
		if sizes[d] != int64(len(want)) {
			t.Errorf("%s is listed with %d bytes, want %d", d, sizes[d], len(want))
		}
		if held, err := s.Content.Has(t.Context(), d); err != nil || !held {
			t.Errorf("Has(%s) = %v, %v", d, held, err)
		}
		f, err := s.Content.OpenLocal(d)
		if err != nil {
			t.Error(err)
			continue
		}
		expect(t, f, want)
	}
}

func expect(t *testing.T, f *os.File, want []byte) {
	t.Helper()
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || string(got) != string(want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func outlive(t *testing.T, s Subject) {
	for d, want := range s.Add(t) {
		f, err := s.Content.OpenLocal(d)
		if err != nil {
			t.Fatal(err)
		}
		s.Clear(t)
		if f, err := s.Content.OpenLocal(d); !errors.Is(err, blob.ErrNotHeld) {
			t.Errorf("after collection: %v, %v, want %v", f, err, blob.ErrNotHeld)
		}
		expect(t, f, want)
		return
	}
}

func lease(t *testing.T, s Subject) {
	blobs := s.Add(t)
	kept := biggest(blobs)
	if err := s.Content.Lease(t.Context(), kept, time.Hour); err != nil {
		t.Fatal(err)
	}
	s.Clear(t)
	for d, want := range blobs {
		f, err := s.Content.OpenLocal(d)
		if (err == nil) != (d == kept) {
			t.Errorf("after collection %s: %v, leased is %s", d, err, kept)
		}
		if err == nil {
			expect(t, f, want)
		}
	}
}

func leaseRenewed(t *testing.T, s Subject) {
	kept := biggest(s.Add(t))
	for range 5 {
		if err := s.Content.Lease(t.Context(), kept, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	s.Clear(t)
	if held, err := s.Content.Has(t.Context(), kept); err != nil || !held {
		t.Errorf("Has = %v, %v after renewals", held, err)
	}
}

func leaseNothing(t *testing.T, s Subject) {
	if err := s.Content.Lease(t.Context(), digest.FromString("nothing"), time.Hour); !errors.Is(err, blob.ErrNotHeld) {
		t.Errorf("Lease = %v, want %v", err, blob.ErrNotHeld)
	}
}

// biggest is the layer: nothing else of the image is kept by keeping it.
func biggest(blobs map[blob.Digest][]byte) (found blob.Digest) {
	for d, data := range blobs {
		if len(data) > len(blobs[found]) {
			found = d
		}
	}
	return found
}

func watch(t *testing.T, s Subject) {
	events := s.Content.Watch(t.Context())
	blobs := s.Add(t)
	await(t, events, blobs, false)
	s.Clear(t)
	await(t, events, blobs, true)
}

func watchPresent(t *testing.T, s Subject) {
	blobs := s.Add(t)
	await(t, s.Content.Watch(t.Context()), blobs, false)
}

func watchEnds(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	events := s.Content.Watch(ctx)
	cancel()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the channel of an ended watch stays open")
		}
	}
}

// await reads events until each blob was told of once.
func await(t *testing.T, events <-chan runtime.Event, blobs map[blob.Digest][]byte, gone bool) {
	t.Helper()
	missing := map[blob.Digest]bool{}
	for d := range blobs {
		missing[d] = true
	}
	deadline := time.After(patience)
	for len(missing) > 0 {
		select {
		case e, open := <-events:
			if !open {
				t.Fatal("the watch ended")
			}
			if e.Gone == gone && missing[e.Digest] {
				delete(missing, e.Digest)
				if !gone && e.Size != int64(len(blobs[e.Digest])) {
					t.Errorf("%s was told with %d bytes, want %d", e.Digest, e.Size, len(blobs[e.Digest]))
				}
			}
		case <-deadline:
			t.Fatalf("was not told (gone=%v) of %v", gone, missing)
		}
	}
}
