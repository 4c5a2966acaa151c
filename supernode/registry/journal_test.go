package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/registry"
)

// log reads the replication log and checks that it has no holes and that its
// clock grows.
func (f *fixture) log() []registry.Entry {
	f.t.Helper()
	var out []registry.Entry
	var epoch, last uint64
	for v, err := range meta.Scan(f.t.Context(), f.meta, "log/") {
		if err != nil {
			f.t.Fatal(err)
		}
		var e registry.Entry
		if err := json.Unmarshal(v.Data, &e); err != nil {
			f.t.Fatal(err)
		}
		var inEpoch, sequence uint64
		if _, err := fmt.Sscanf(v.Key, "log/%d/%d", &inEpoch, &sequence); err != nil {
			f.t.Fatal(err)
		}
		if len(out) > 0 && (inEpoch != epoch || sequence != last+1 || e.Clock <= out[len(out)-1].Clock) {
			f.t.Fatalf("%s follows sequence %d; clock %d after %d", v.Key, last, e.Clock, out[len(out)-1].Clock)
		}
		epoch, last = inEpoch, sequence
		out = append(out, e)
	}
	return out
}

func TestEveryChangeIsLogged(t *testing.T) {
	f := newFixture(t, nil)
	first := f.pushImage("a", "v1", "layer")
	f.pushImage("a", "v1", "layer") // nothing new
	f.pass(-time.Hour)              // the clock is set back
	second := f.pushImage("a", "v1")
	f.do("DELETE", "/v2/a/manifests/v1", nil).want(http.StatusAccepted)
	third := f.pushImage("a", "v1", "layer")
	f.do("DELETE", "/v2/a/manifests/"+string(third.Digest), nil).want(http.StatusAccepted)
	f.do("DELETE", "/v2/a/blobs/"+string(digest.FromString("layer")), nil).want(http.StatusAccepted)
	want := []string{
		"blob-linked  " + string(digest.FromString("{}")),
		"blob-linked  " + string(digest.FromString("layer")),
		"manifest-put  " + string(first.Digest),
		"tag-set v1 " + string(first.Digest),
		"manifest-put  " + string(second.Digest),
		"tag-set v1 " + string(second.Digest),
		"tag-deleted v1 " + string(second.Digest),
		"tag-set v1 " + string(third.Digest),
		"tag-deleted v1 " + string(third.Digest),
		"manifest-deleted  " + string(third.Digest),
		"blob-unlinked  " + string(digest.FromString("layer")),
	}
	var got []string
	seen := registry.Clock(0) // the version of v1 that the next change must have seen
	for _, e := range f.log() {
		got = append(got, fmt.Sprintf("%s %s %s", e.Kind, e.Tag, e.Digest))
		if e.Origin != "here" || e.Repository != "a" {
			t.Errorf("entry %+v", e)
		}
		if e.Tag != "" {
			if e.Seen["here"] != seen {
				t.Errorf("%s of %s has seen %d; want %d", e.Kind, e.Digest, e.Seen["here"], seen)
			}
			seen = e.Clock
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLogUnderContention has two supernodes on one metadata store push at once.
func TestLogUnderContention(t *testing.T) {
	store := meta.NewMemory()
	f := newFixture(t, func(c *registry.Config) { c.Meta = store })
	other := newFixture(t, func(c *registry.Config) { c.Meta, c.Objects = store, f.objects })
	var wg sync.WaitGroup
	const each = 15
	for i, node := range []*fixture{f, other, f, other} {
		wg.Go(func() {
			for j := range each {
				node.pushImage("shared", "latest", fmt.Sprint(i, j))
			}
		})
	}
	wg.Wait()
	tags := 0
	for _, e := range f.log() {
		if e.Kind == registry.TagSet {
			tags++
		}
	}
	if tags != 4*each {
		t.Errorf("%d tag writes in the log; want %d", tags, 4*each)
	}
	f.verifyClean()
}

// verifyClean runs Verify and wants no problem.
func (f *fixture) verifyClean() {
	f.t.Helper()
	report, err := f.Verify(f.t.Context(), nil)
	if err != nil || len(report.Problems) > 0 || report.Blobs == 0 {
		f.t.Errorf("verify: %d blobs, %v, problems %v", report.Blobs, err, report.Problems)
	}
}

var errInjected = errors.New("injected fault")

// faulty fails commits before or after they take effect.
type faulty struct {
	meta.Store
	mu    sync.Mutex
	after bool // guarded by mu
	in    int  // guarded by mu: commits until the fault; < 0 is never
}

func (s *faulty) arm(in int, after bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in, s.after = in, after
}

func (s *faulty) Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	s.mu.Lock()
	fault, after := s.in == 0, s.after
	s.in--
	s.mu.Unlock()
	if fault && !after {
		return 0, fmt.Errorf("%w: %w", errInjected, syscall.ENOSPC)
	}
	revision, err := s.Store.Commit(ctx, compares, ops)
	if fault {
		return 0, errInjected
	}
	return revision, err
}

// TestFaultsOfTheStore fails each commit of a push in turn, before and after
// it takes effect: a push that is repeated succeeds, and nothing that was
// acknowledged or is visible is missing.
func TestFaultsOfTheStore(t *testing.T) {
	for _, after := range []bool{false, true} {
		for in := range 5 {
			t.Run(fmt.Sprintf("commit %d, applied %v", in, after), func(t *testing.T) {
				store := &faulty{Store: meta.NewMemory(), in: -1}
				f := newFixture(t, func(c *registry.Config) { c.Meta = store })
				store.arm(in, after)
				if !f.tryPush() {
					t.Fatal("the fault did not hit")
				}
				store.arm(-1, false)
				f.verifyMaybeEmpty()
				f.pushImage("a", "v1", "layer")
				f.verifyClean()
				f.log()
				f.pass(100 * 24 * time.Hour)
				if _, err := f.GC(t.Context()); err != nil {
					t.Fatal(err)
				}
				f.verifyClean()
				f.do("GET", "/v2/a/blobs/"+string(digest.FromString("layer")), nil).want(http.StatusOK)
			})
		}
	}
}

// TestHeadWithoutLease reads from a store that takes no writes any more.
func TestHeadWithoutLease(t *testing.T) {
	store := &faulty{Store: meta.NewMemory(), in: -1}
	f := newFixture(t, func(c *registry.Config) { c.Meta = store })
	d := f.pushBlob("a", []byte("12345")).Digest
	f.pass(25 * time.Hour)
	store.arm(0, false)
	if a := f.do("HEAD", "/v2/a/blobs/"+string(d), nil).want(http.StatusOK); a.Header().Get("Content-Length") != "5" {
		t.Errorf("headers %v", a.Header())
	}
	store.arm(0, false)
	f.do("POST", "/v2/a/blobs/uploads/", nil).fails(http.StatusInsufficientStorage, "UNKNOWN")
}

// tryPush pushes an image as far as it goes, and reports whether something
// failed.
func (f *fixture) tryPush() bool {
	failed := false
	var parts []blob.Descriptor
	for _, content := range []string{"{}", "layer"} {
		d := digest.FromString(content)
		parts = append(parts, blob.Descriptor{MediaType: "x/y", Digest: d, Size: int64(len(content))})
		a := f.do("POST", "/v2/a/blobs/uploads/", nil)
		if a.Code == http.StatusAccepted {
			a = f.do("PUT", withDigest(a.location(), d), strings.NewReader(content))
		}
		failed = failed || a.Code >= 400
	}
	a, _ := f.putManifest("a", "v1", imageOf(parts[0], parts[1]))
	return failed || a.Code >= 400
}

func (f *fixture) verifyMaybeEmpty() {
	f.t.Helper()
	report, err := f.Verify(f.t.Context(), nil)
	if err != nil || len(report.Problems) > 0 {
		f.t.Errorf("verify: %v, problems %v", err, report.Problems)
	}
}
