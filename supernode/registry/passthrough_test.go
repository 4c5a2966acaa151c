package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

// upstream is a PullThrough of the registry "up", which has one manifest and
// one blob, breaks off the blob "broken", and lets ann read only.
type upstream struct{}

const upManifest, upBlob, upBroken = `{"a":"manifest"}`, "0123456789", "broken"

func (upstream) check(subject string, ref blob.Ref) error {
	switch {
	case ref.Registry != "up":
		return fmt.Errorf("read %s: %w", ref, registry.ErrUnknownUpstream)
	case subject != "ann":
		return registry.ErrUpstreamDenied
	case ref.Repository == "limited":
		return errors.New("429")
	}
	return nil
}

func (u upstream) Manifest(_ context.Context, subject string, ref blob.Ref, reference string) (registry.ForeignManifest, error) {
	m := registry.ForeignManifest{Body: []byte(upManifest),
		Descriptor: blob.Descriptor{MediaType: imageType, Digest: digest.FromString(upManifest), Size: int64(len(upManifest))}}
	if err := u.check(subject, ref); err != nil {
		return m, err
	}
	if reference == "lie" {
		m.Body = []byte(`{"another":"manifest"}`)
	} else if reference != "latest" && reference != string(m.Descriptor.Digest) {
		return m, registry.ErrUpstreamNotFound
	}
	return m, nil
}

func (u upstream) Stat(_ context.Context, subject string, ref blob.Ref, d blob.Digest) (int64, error) {
	if err := u.check(subject, ref); err != nil {
		return 0, err
	}
	switch d {
	case digest.FromString(upBlob), digest.FromString(upBroken):
		return int64(len(upBlob)), nil
	}
	return 0, registry.ErrUpstreamNotFound
}

func (u upstream) Blob(_ context.Context, _ string, _ blob.Ref, d blob.Digest, part blob.Range) (io.ReadCloser, error) {
	if d == digest.FromString(upBroken) {
		return io.NopCloser(strings.NewReader("01234")), nil
	}
	return io.NopCloser(strings.NewReader(upBlob[part.Start:part.End])), nil
}

func TestPullThrough(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) {
		c.Auth, c.PullThrough, c.PublicNames = rights{"ann own": "push pull"}, upstream{}, []string{"shoal.example:8001"}
	})
	f.user = "ann"
	d, blobAt := string(digest.FromString(upManifest)), "/v2/lib/app/blobs/"+string(digest.FromString(upBlob))
	for _, reference := range []string{"latest", d} {
		for _, method := range []string{"GET", "HEAD"} {
			a := f.do(method, "/v2/lib/app/manifests/"+reference+"?ns=up", nil).want(http.StatusOK)
			if h := a.Header(); h.Get("Docker-Content-Digest") != d || h.Get("Content-Type") != imageType || h.Get("Content-Length") != "16" {
				t.Errorf("%s %s: %v", method, reference, h)
			}
		}
	}
	if a := f.do("GET", blobAt+"?ns=up", nil, "Range: bytes=3-5").want(http.StatusPartialContent); a.Body.String() != "345" {
		t.Errorf("range: %q", a.Body)
	}
	f.do("GET", "/v2/lib/app/manifests/lie?ns=up", nil).fails(http.StatusBadGateway, "UNKNOWN")
	f.do("GET", "/v2/limited/manifests/latest?ns=up", nil).fails(http.StatusBadGateway, "UNKNOWN")
	f.do("GET", "/v2/lib/app/manifests/none?ns=up", nil).want(http.StatusNotFound)
	f.do("GET", "/v2/lib/app/tags/list?ns=up", nil).fails(http.StatusNotFound, "UNSUPPORTED")
	for _, ns := range []string{"other", "169.254.169.254", "user@up", "up/../x"} {
		f.do("GET", "/v2/lib/app/manifests/latest?ns="+ns, nil).fails(http.StatusNotFound, "NAME_UNKNOWN")
	}
	f.do("PUT", "/v2/lib/app/manifests/latest?ns=up", strings.NewReader("{}")).fails(http.StatusMethodNotAllowed, "UNSUPPORTED")
	f.do("POST", "/v2/lib/app/blobs/uploads/?ns=up", nil).fails(http.StatusMethodNotAllowed, "UNSUPPORTED")
	f.do("GET", "/v2/own/manifests/latest?ns=shoal.example:8001", nil).fails(http.StatusNotFound, "MANIFEST_UNKNOWN")
	f.user = "eve"
	f.do("GET", blobAt+"?ns=up", nil).want(http.StatusUnauthorized)
	f.user = ""
	f.do("GET", blobAt+"?ns=up", nil).fails(http.StatusUnauthorized, "UNAUTHORIZED")
	f.do("GET", blobAt+"?ns=unknown", nil).fails(http.StatusUnauthorized, "UNAUTHORIZED")

	f = newFixture(t, nil)
	f.do("GET", blobAt+"?ns=up", nil).fails(http.StatusNotFound, "NAME_UNKNOWN")
}

// TestBrokenOff has an upstream blob end early: the client must notice.
func TestBrokenOff(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.Auth, c.PullThrough = rights{}, upstream{} })
	server := httptest.NewServer(f)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/v2/a/blobs/"+string(digest.FromString(upBroken))+"?ns=up", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("ann", "")
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v; want an unexpected end", got, err)
	}
}

// TestFilesOverHTTP pulls from files through a real connection, where sendfile
// is used.
func TestFilesOverHTTP(t *testing.T) {
	files, err := objects.OpenFiles(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *registry.Config) { c.Objects = files })
	data := bytes.Repeat([]byte("0123456789"), 300_000)
	d := f.pushBlob("a", data).Digest
	server := httptest.NewServer(f)
	defer server.Close()
	for header, want := range map[string][]byte{"": data, "bytes=1000001-2000000": data[1000001:2000001], "bytes=-7": data[len(data)-7:]} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/v2/a/blobs/"+string(d), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Range", header)
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, %v; want %d", header, len(got), err, len(want))
		}
		resp.Body.Close()
	}
}

// full is an object store whose disk has room for some bytes only.
type full struct {
	objects.Store
	room int
}

func (s *full) Create(ctx context.Context) (objects.Writer, error) {
	w, err := s.Store.Create(ctx)
	return &fullWriter{w, s}, err
}

func (s *full) Resume(ctx context.Context, id string, offset int64) (objects.Writer, error) {
	w, err := s.Store.Resume(ctx, id, offset)
	return &fullWriter{w, s}, err
}

type fullWriter struct {
	objects.Writer
	store *full
}

func (w *fullWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p[:min(len(p), w.store.room)])
	w.store.room -= n
	if err == nil && n < len(p) {
		err = fmt.Errorf("write: %w", objects.ErrFull)
	}
	return n, err
}

// TestDiskFull keeps what had room, and goes on once there is more.
func TestDiskFull(t *testing.T) {
	store := &full{objects.NewMemory(), 10}
	f := newFixture(t, func(c *registry.Config) { c.Objects = store })
	f.do("POST", "/v2/a/blobs/uploads/?digest="+string(digest.FromString("eleven bytes")), strings.NewReader("eleven bytes")).
		fails(http.StatusInsufficientStorage, "UNKNOWN")
	store.room = 6
	location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	f.do("PATCH", location, strings.NewReader("first, second")).fails(http.StatusInsufficientStorage, "UNKNOWN")
	if a := f.do("GET", location, nil).want(http.StatusNoContent); a.Header().Get("Range") != "0-5" {
		t.Fatalf("Range %s; want 0-5", a.Header().Get("Range"))
	}
	store.room = 100
	d := digest.FromString("first, second")
	f.do("PUT", withDigest(location, d), strings.NewReader(" second"), "Content-Range: 6-12").want(http.StatusCreated)
	f.checkContent("a", d, []byte("first, second"))
}
