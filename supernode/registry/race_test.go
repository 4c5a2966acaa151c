package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/registry"
)

// interposed runs something once, at the worst moment for a decision that was
// made before: right before a commit, or right before something is read for it.
type interposed struct {
	meta.Store
	mu   sync.Mutex
	read string             // at the reading of a key with this prefix
	at   func(meta.Op) bool // or, without one, at the commit of such an op
	run  func()             // guarded by mu; nil when it ran
}

func (s *interposed) fire(now bool) {
	s.mu.Lock()
	run := s.run
	if now && run != nil {
		s.run = nil
	}
	s.mu.Unlock()
	if now && run != nil {
		run()
	}
}

func (s *interposed) Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	s.fire(s.read == "" && slices.ContainsFunc(ops, s.at))
	return s.Store.Commit(ctx, compares, ops)
}

func (s *interposed) Get(ctx context.Context, key string) (meta.Value, error) {
	s.fire(s.read != "" && strings.HasPrefix(key, s.read))
	return s.Store.Get(ctx, key)
}

func deleting(prefix string) func(meta.Op) bool {
	return func(op meta.Op) bool { return op.Delete && strings.HasPrefix(op.Key, prefix) }
}

func putting(prefix string) func(meta.Op) bool {
	return func(op meta.Op) bool { return !op.Delete && strings.HasPrefix(op.Key, prefix) }
}

// twin is another supernode on the same stores.
func (f *fixture) twin() *fixture {
	f.t.Helper()
	return newFixture(f.t, func(c *registry.Config) { c.Meta, c.Objects, c.Now = f.meta, f.objects, f.clock })
}

// TestOvertaken puts a client's request between a decision to delete and its
// commit. Whatever the client was promised must hold.
func TestOvertaken(t *testing.T) {
	const content = "contested"
	type race struct {
		prefix string // of the key whose deletion is interposed
		client func(f *fixture, digest string)
		delete func(f *fixture, digest string)
		want   string // must be there afterwards
	}
	collect := func(f *fixture, _ string) { f.collect() }
	races := map[string]race{
		"HEAD before unlink": {"link/", func(f *fixture, d string) { f.do("HEAD", "/v2/a/blobs/"+d, nil).want(200) }, collect, "a/blobs/"},
		"push before unlink": {"link/", func(f *fixture, _ string) { f.pushBlob("a", []byte(content)) }, collect, "a/blobs/"},
		"mount before unlink": {"link/", func(f *fixture, d string) {
			f.do("POST", "/v2/b/blobs/uploads/?mount="+d, nil).want(http.StatusCreated)
		}, collect, "b/blobs/"},
		"image before unlink": {"link/", func(f *fixture, _ string) { f.pushImage("a", "v1", content) }, collect, "a/blobs/"},
		"push before the blob goes": {"blob/", func(f *fixture, _ string) { f.pushBlob("b", []byte(content)) },
			func(f *fixture, d string) {
				f.do("DELETE", "/v2/a/blobs/"+d, nil).want(http.StatusAccepted)
				f.collect()
			}, "b/blobs/"},
	}
	for name, race := range races {
		for _, read := range []string{"", "logstate"} {
			t.Run(fmt.Sprintf("%s, at %q", name, read), func(t *testing.T) {
				store := &interposed{Store: meta.NewMemory(), read: read, at: deleting(race.prefix)}
				f := newFixture(t, func(c *registry.Config) { c.Meta = store })
				client := f.twin()
				d := string(f.pushBlob("a", []byte(content)).Digest)
				f.pass(25 * time.Hour)
				ran := false
				store.run = func() { ran = true; race.client(client, d) }
				race.delete(f, d)
				if !ran {
					t.Fatal("nothing was deleted")
				}
				for range 2 { // what follows from it must not take it either
					f.do("GET", "/v2/"+race.want+d, nil).want(http.StatusOK)
					f.pass(2 * time.Hour)
					f.collect()
				}
				f.verifyClean()
			})
		}
	}
}

// TestHeldUpCollection has a machine sleep for longer than leases run, in the
// middle of a collection that has looked at the manifests, and right after an
// image was pushed that it has not seen.
func TestHeldUpCollection(t *testing.T) {
	store := &interposed{Store: meta.NewMemory(), read: "lease/"}
	f := newFixture(t, func(c *registry.Config) { c.Meta = store })
	client := f.twin()
	for _, content := range []string{"a layer", "another"} {
		f.pushBlob("a", []byte(content))
	}
	f.pass(25 * time.Hour)
	store.run = func() {
		client.pushImage("a", "v1", "a layer", "another")
		f.pass(30 * time.Hour)
		client.collect() // another supernode takes the leases that ran out
	}
	if f.collect(); store.run != nil {
		t.Fatal("nothing was to be collected")
	}
	f.collect()
	for _, content := range []string{"a layer", "another"} {
		f.do("GET", "/v2/a/blobs/"+string(digest.FromString(content)), nil).want(http.StatusOK)
	}
	f.verifyClean()
}

// TestTagBeforeManifestGoes sets a tag while the manifest is being deleted:
// the tag is deleted too, or the manifest stays.
func TestTagBeforeManifestGoes(t *testing.T) {
	for _, read := range []string{"", "logstate"} {
		store := &interposed{Store: meta.NewMemory(), read: read, at: deleting("manifest/")}
		f := newFixture(t, func(c *registry.Config) { c.Meta = store })
		image := f.pushImage("a", "v1", "layer")
		store.run = func() { f.twin().pushImage("a", "v2", "layer") }
		f.do("DELETE", "/v2/a/manifests/"+string(image.Digest), nil).want(http.StatusAccepted)
		f.do("GET", "/v2/a/manifests/v2", nil).want(http.StatusNotFound)
		f.verifyClean()
	}
}

// TestBlobGoesBeforeManifest deletes a blob while the image that names it is
// pushed: the image is refused rather than broken.
func TestBlobGoesBeforeManifest(t *testing.T) {
	for _, read := range []string{"", "logstate"} {
		store := &interposed{Store: meta.NewMemory(), read: read, at: putting("manifest/")}
		f := newFixture(t, func(c *registry.Config) { c.Meta = store })
		config, layer := f.pushBlob("a", []byte("{}")), f.pushBlob("a", []byte("layer"))
		store.run = func() { f.twin().do("DELETE", "/v2/a/blobs/"+string(layer.Digest), nil).want(http.StatusAccepted) }
		a, _ := f.putManifest("a", "v1", imageOf(config, layer))
		a.fails(http.StatusConflict, "MANIFEST_BLOB_UNKNOWN")
		f.verifyClean()
	}
}

// TestTagsOfTwoPushers sets one tag from two sides at once: both are in the
// log, the later one has seen the earlier.
func TestTagsOfTwoPushers(t *testing.T) {
	store := &interposed{Store: meta.NewMemory(), read: "logstate"}
	f := newFixture(t, func(c *registry.Config) { c.Meta = store })
	config := f.pushBlob("a", []byte("{}"))
	twin := f.twin()
	store.run = func() { twin.pushImage("a", "v1", "theirs") }
	a, ours := f.putManifest("a", "v1", imageOf(config))
	a.want(http.StatusCreated)
	var sets []registry.Entry
	for _, e := range f.log() {
		if e.Kind == registry.TagSet {
			sets = append(sets, e)
		}
	}
	if len(sets) != 2 || sets[1].Digest != ours.Digest || sets[1].Seen[sets[0].Origin] != sets[0].Clock {
		t.Errorf("tag writes %+v", sets)
	}
}
