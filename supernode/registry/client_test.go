package registry_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestRealClient pushes and pulls with go-containerregistry.
func TestRealClient(t *testing.T) {
	f := newFixture(t, nil)
	server := httptest.NewServer(f)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref := func(s string) name.Reference {
		r, err := name.ParseReference(host + "/" + s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	options := []remote.Option{remote.WithContext(t.Context())}
	index, err := random.Index(100_000, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref("lib/app:v1"), index, options...); err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Index(ref("lib/app:v1"), options...)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
	// From one repository to another: by mount.
	before, err := f.objects.List(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref("other/app:v2"), pulled, options...); err != nil {
		t.Fatal(err)
	}
	after, err := f.objects.List(t.Context(), "", 1000)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d objects after a copy, %v; want the %d there were", len(after), err, len(before))
	}
	tags, err := remote.List(ref("other/app:v2").Context(), options...)
	if err != nil || !slices.Equal(tags, []string{"v2"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	if err := remote.Delete(ref("lib/app:v1"), options...); err != nil {
		t.Error(err)
	}
	if _, err := remote.Index(ref("lib/app:v1"), options...); err == nil {
		t.Error("a deleted tag is pulled")
	}
	f.verifyClean()
}

// TestLargeMap keeps a piece map in an object, and takes it away with its blob.
func TestLargeMap(t *testing.T) {
	f := newFixture(t, nil)
	f.SetInlineMap(100)
	d := f.pushBlob("a", []byte("as if it were large")).Digest
	f.checkContent("a", d, []byte("as if it were large"))
	if !f.gone(t.Context(), "map/"+string(d)) {
		t.Error("the map stands in the metadata")
	}
	f.verifyClean()
	f.do("DELETE", "/v2/a/blobs/"+string(d), nil).want(http.StatusAccepted)
	f.collect()
	f.pass(2 * time.Hour)
	if report := f.collect(); report.Objects != 2 {
		t.Errorf("report %+v; want 2 objects", report)
	}
}
