package registry_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

func (f *fixture) collect() registry.GCReport {
	f.t.Helper()
	report, err := f.GC(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return report
}

func (f *fixture) status(method, repo string, d blob.Digest) int {
	f.t.Helper()
	return f.do(method, "/v2/"+repo+"/blobs/"+string(d), nil).Code
}

func TestGCTakesWhatNothingNames(t *testing.T) {
	f := newFixture(t, nil)
	f.pushImage("a", "v1", "named")
	spare, asked, mounted := f.pushBlob("a", []byte("spare")), f.pushBlob("a", []byte("asked")), f.pushBlob("a", []byte("mounted"))
	f.collect()
	f.pass(23 * time.Hour)
	f.collect() // leases still run
	for _, d := range []blob.Descriptor{spare, asked, mounted} {
		if got := f.status("GET", "a", d.Digest); got != http.StatusOK {
			t.Fatalf("a leased blob: status %d", got)
		}
	}
	f.status("HEAD", "a", asked.Digest)
	f.do("POST", "/v2/b/blobs/uploads/?from=a&mount="+string(mounted.Digest), nil).want(http.StatusCreated)
	f.pass(2 * time.Hour)
	if report := f.collect(); report.Links != 2 || report.Blobs != 1 || report.Objects != 0 {
		t.Errorf("report %+v; want 2 links, 1 blob, 0 objects", report)
	}
	wants := map[string]int{"a spare": 404, "a asked": 200, "a mounted": 404, "b mounted": 200, "a named": 200, "a {}": 200}
	for where, want := range wants {
		if got := f.status("GET", where[:1], digest.FromString(where[2:])); got != want {
			t.Errorf("%s: status %d; want %d", where, got, want)
		}
	}
	f.pass(2 * time.Hour)
	if report := f.collect(); report.Objects != 1 {
		t.Errorf("report %+v; want 1 object deleted after the delay", report)
	}
	f.verifyClean()
	f.log()
}

func TestGCLeavesOpenReadersAlone(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.DeleteDelay = 1 })
	d := f.pushBlob("a", []byte("being read")).Digest
	c, err := f.Content(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.do("DELETE", "/v2/a/blobs/"+string(d), nil).want(http.StatusAccepted)
	f.collect()
	f.pass(time.Second)
	f.collect()
	if infos, _ := f.objects.List(t.Context(), "", 1); len(infos) > 0 {
		t.Errorf("objects left: %v", infos)
	}
	got := make([]byte, c.Size())
	if _, err := c.ReadAt(got, 0); err != nil || string(got) != "being read" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := f.Content(t.Context(), d); err == nil {
		t.Error("a deleted blob opens")
	}
	f.pushBlob("a", []byte("being read"))
	f.checkContent("a", d, []byte("being read"))
}

func TestGCReapsUploadsAndOrphans(t *testing.T) {
	f := newFixture(t, nil)
	f.pass(time.Since(f.clock())) // the object store goes by the wall clock
	resting := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	f.do("PATCH", resting, bytes.NewReader([]byte("x"))).want(http.StatusAccepted)
	for _, commit := range []bool{true, false} { // a crash on either side of the commit
		w, err := f.objects.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !commit {
			w.Close()
		} else if _, err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.pushImage("a", "v1", "layer")
	f.pass(23 * time.Hour)
	if report := f.collect(); report.Objects+report.Uploads > 0 {
		t.Errorf("report %+v; want nothing as young as this", report)
	}
	f.pass(2 * time.Hour)
	if report := f.collect(); report.Objects != 1 || report.Uploads != 2 {
		t.Errorf("report %+v; want 1 orphan and 2 uploads", report)
	}
	f.do("GET", resting, nil).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	if infos, _ := f.objects.Uploads(t.Context()); len(infos) > 0 {
		t.Errorf("uploads left: %v", infos)
	}
	f.verifyClean()
}

func TestGCOfUntaggedManifests(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.UntaggedTTL = 7 * 24 * time.Hour })
	old := f.pushImage("a", "v1", "old")
	child := f.pushImage("a", "", "child")
	reused := f.pushImage("a", "", "reused")
	kept := f.pushImage("a", "v1", "kept")
	a, index := f.putManifest("a", "index", map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{child}})
	a.want(http.StatusCreated)
	signature := imageOf(f.pushBlob("a", []byte("{}")))
	signature["subject"] = kept
	a, signed := f.putManifest("a", "", signature)
	a.want(http.StatusCreated)
	f.pass(8 * 24 * time.Hour)
	// An index that is pushed now keeps what was not tagged for long.
	a, _ = f.putManifest("a", "late", map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{reused}})
	a.want(http.StatusCreated)
	if report := f.collect(); report.Manifests != 1 {
		t.Errorf("report %+v; want 1 manifest", report)
	}
	for _, m := range []blob.Descriptor{child, kept, index, signed, reused} {
		f.do("GET", "/v2/a/manifests/"+string(m.Digest), nil).want(http.StatusOK)
	}
	f.do("GET", "/v2/a/manifests/"+string(old.Digest), nil).want(http.StatusNotFound)
	f.verifyClean()
}

func TestLogRetention(t *testing.T) {
	f := newFixture(t, nil)
	for i := range 120 {
		f.pushBlob("a", fmt.Append(nil, i))
	}
	f.pass(29 * 24 * time.Hour)
	f.pushBlob("a", []byte("late"))
	f.pass(2 * 24 * time.Hour)
	if report := f.collect(); report.Entries != 120 {
		t.Errorf("report %+v; want 120 entries", report)
	}
	if entries := f.log(); entries[0].Digest != digest.FromString("late") {
		t.Errorf("the log begins with %+v", entries[0])
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := t.TempDir()
	files, err := objects.OpenFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *registry.Config) { c.Objects = files })
	f.pushImage("a", "v1", "a layer")
	f.pushBlob("b", []byte("another"))
	var seen registry.VerifyProgress
	if _, err := f.Verify(t.Context(), func(p registry.VerifyProgress) { seen = p }); err != nil || seen.Blobs != 4 {
		t.Fatalf("progress %+v, %v", seen, err)
	}
	f.verifyClean()
	infos, err := files.List(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos { // one byte of each
		flip(t, dir+"/data/"+info.Key[:2]+"/"+info.Key)
	}
	for _, key := range []string{"held/" + string(digest.FromString("{}")) + "/b/a", "link/a/_/" + string(digest.FromString("a layer"))} {
		if _, err := f.meta.Commit(t.Context(), nil, []meta.Op{meta.Delete(key)}); err != nil {
			t.Fatal(err)
		}
	}
	report, err := f.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string]int{}
	for _, p := range report.Problems {
		broken[p.Repository]++
	}
	if broken[""] != 4 || broken["a"] != 3 {
		t.Errorf("problems %v", report.Problems)
	}
	// A push heals an object that is gone.
	for _, info := range infos {
		if err := files.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
	}
	f.do("GET", "/v2/b/blobs/"+string(digest.FromString("another")), nil).fails(http.StatusNotFound, "BLOB_UNKNOWN")
	f.pushBlob("b", []byte("another"))
	f.checkContent("b", digest.FromString("another"), []byte("another"))
}

func flip(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
