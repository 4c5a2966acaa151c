package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/supernode/registry"
)

// policy is the same for every project.
type policy struct {
	quota     int64
	immutable string
}

func (p policy) Quota(context.Context, string) (int64, error) { return p.quota, nil }

func (p policy) Immutable(_ context.Context, _, tag string) (bool, error) {
	return path.Match(p.immutable, tag)
}

func withPolicy(p policy) func(*registry.Config) {
	return func(c *registry.Config) { c.Policy = p }
}

func (f *fixture) uses(project string, want int64) {
	f.t.Helper()
	if got, err := f.Usage(f.t.Context(), project); err != nil || got != want {
		f.t.Errorf("%s holds %d, %v; want %d", project, got, err, want)
	}
}

// tryBlob pushes a blob in one request.
func (f *fixture) tryBlob(repository string, data []byte) answer {
	return f.do("POST", "/v2/"+repository+"/blobs/uploads/?digest="+string(digest.FromBytes(data)), bytes.NewReader(data))
}

func TestQuota(t *testing.T) {
	f := newFixture(t, withPolicy(policy{quota: 1000}))
	ten, rest := bytes.Repeat([]byte("a"), 10), bytes.Repeat([]byte("b"), 990)
	f.tryBlob("p/a", ten).want(http.StatusCreated)
	f.uses("p", 10)
	// The same digest counts once for the project, wherever in it, and again
	// for another.
	f.tryBlob("p/a", ten).want(http.StatusCreated)
	f.tryBlob("p/b", ten).want(http.StatusCreated)
	f.tryBlob("p", ten).want(http.StatusCreated)
	f.do("POST", "/v2/p/c/blobs/uploads/?from=p/a&mount="+string(digest.FromBytes(ten)), nil).want(http.StatusCreated)
	f.uses("p", 10)
	f.tryBlob("pp/a", ten).want(http.StatusCreated)
	f.uses("pp", 10)
	f.tryBlob("p/a", rest).want(http.StatusCreated)
	f.uses("p", 1000)

	refused := f.tryBlob("p/a", []byte("x"))
	refused.fails(http.StatusForbidden, "DENIED")
	for _, number := range []string{`"used":1000`, `"quota":1000`, `"asked":1`, "1000 of its 1000 bytes"} {
		if !strings.Contains(refused.Body.String(), number) {
			t.Errorf("the refusal does not say %s: %s", number, refused.Body)
		}
	}
	f.do("GET", "/v2/p/a/blobs/"+string(digest.FromString("x")), nil).want(http.StatusNotFound)
	f.tryBlob("pp/a", []byte("x")).want(http.StatusCreated)
	// By mount, by chunks, and as a manifest it does not fit either.
	f.do("POST", "/v2/p/a/blobs/uploads/?from=pp/a&mount="+string(digest.FromString("x")), nil).fails(http.StatusForbidden, "DENIED")
	session := f.do("POST", "/v2/p/a/blobs/uploads/", nil).want(http.StatusAccepted).Header().Get("Location")
	f.do("PUT", withDigest(session, digest.FromString("y")), strings.NewReader("y")).fails(http.StatusForbidden, "DENIED")
	index := `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`
	f.do("PUT", "/v2/p/a/manifests/v1", strings.NewReader(index), "Content-Type: "+indexType).fails(http.StatusForbidden, "DENIED")

	// What goes makes room: from the last repository that holds it.
	for _, repository := range []string{"p/a", "p/b", "p"} {
		f.do("DELETE", "/v2/"+repository+"/blobs/"+string(digest.FromBytes(ten)), nil).want(http.StatusAccepted)
		f.uses("p", 1000)
	}
	f.do("DELETE", "/v2/p/c/blobs/"+string(digest.FromBytes(ten)), nil).want(http.StatusAccepted)
	f.uses("p", 990)
	f.tryBlob("p/a", []byte("x")).want(http.StatusCreated)
	f.verifyClean()
}

// A blob that is larger than all that its project may hold is refused while it
// comes.
func TestQuotaEndsAnUploadThatCannotFit(t *testing.T) {
	f := newFixture(t, withPolicy(policy{quota: 1000}))
	location := f.do("POST", "/v2/p/a/blobs/uploads/", nil).want(http.StatusAccepted).Header().Get("Location")
	f.do("PATCH", location, bytes.NewReader(make([]byte, 1000))).want(http.StatusAccepted)
	endless := &endless{}
	f.do("PATCH", location, endless).fails(http.StatusForbidden, "DENIED")
	if endless.read > 1<<20 {
		t.Errorf("%d bytes were taken", endless.read)
	}
	f.uses("p", 0)
}

type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

// Many at once do not pass a quota together.
func TestQuotaHoldsAgainstManyAtOnce(t *testing.T) {
	f := newFixture(t, withPolicy(policy{quota: 100}))
	var wait sync.WaitGroup
	codes := make(chan int, 40)
	for i := range 40 {
		wait.Go(func() { codes <- f.tryBlob(fmt.Sprintf("p/%d", i%4), fmt.Appendf(nil, "ten bytes%1d", i/4)).Code })
	}
	wait.Wait()
	close(codes)
	for code := range codes {
		if code != http.StatusCreated {
			t.Errorf("status %d: ten digests of ten bytes fit", code)
		}
	}
	f.uses("p", 100)
	f.tryBlob("p/0", []byte("more")).want(http.StatusForbidden)
	f.verifyClean()
}

func TestImmutableTags(t *testing.T) {
	f := newFixture(t, withPolicy(policy{immutable: "v*"}))
	one := f.pushImage("p/a", "v1", "one")
	f.pushImage("p/a", "v1", "one") // the same again changes nothing
	index := `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`
	put := func(reference string) answer {
		return f.do("PUT", "/v2/p/a/manifests/"+reference, strings.NewReader(index), "Content-Type: "+indexType)
	}
	put("v1").fails(http.StatusConflict, "DENIED")
	put(string(digest.FromString(index))+"?tag=latest&tag=v1").fails(http.StatusConflict, "DENIED")
	f.do("GET", "/v2/p/a/manifests/latest", nil).want(http.StatusNotFound)
	f.do("DELETE", "/v2/p/a/manifests/v1", nil).fails(http.StatusConflict, "DENIED")
	f.do("DELETE", "/v2/p/a/manifests/"+string(one.Digest), nil).fails(http.StatusConflict, "DENIED")
	if got := f.do("GET", "/v2/p/a/manifests/v1", nil).want(http.StatusOK).Header().Get("Docker-Content-Digest"); got != string(one.Digest) {
		t.Errorf("v1 is %s", got)
	}
	put("latest").want(http.StatusCreated)
	f.do("DELETE", "/v2/p/a/manifests/latest", nil).want(http.StatusAccepted)
	put("v2").want(http.StatusCreated)
	f.verifyClean()
}

func TestVacate(t *testing.T) {
	f := newFixture(t, nil)
	image := f.pushImage("p/a", "v1", "one")
	f.pushBlob("p/b", []byte("left over"))
	f.pushImage("p-b/a", "v1", "one")
	vacate := func(want int) {
		t.Helper()
		if holding, err := f.Vacate(t.Context(), "p"); err != nil || holding != want {
			t.Fatalf("%d, %v; want %d", holding, err, want)
		}
	}
	vacate(1)
	f.do("GET", "/v2/p/b/blobs/"+string(digest.FromString("left over")), nil).want(http.StatusOK)
	f.do("DELETE", "/v2/p/a/manifests/"+string(image.Digest), nil).want(http.StatusAccepted)
	vacate(0)
	f.uses("p", 0)
	if got := f.do("GET", "/v2/_catalog", nil).Body.String(); got != `{"repositories":["p-b/a"]}` {
		t.Errorf("catalogue: %s", got)
	}
	// Threat 17: nothing of it can be read by whoever has the name next.
	for _, data := range []string{"left over", "one"} {
		for _, repository := range []string{"p/a", "p/b"} {
			f.do("GET", "/v2/"+repository+"/blobs/"+string(digest.FromString(data)), nil).want(http.StatusNotFound)
		}
	}
	f.verifyClean()
}

// The catalogue steps over what its reader may not pull, and its pages do not
// tell that there is more.
func TestCatalogOfOneReader(t *testing.T) {
	all := []string{"a", "a/b", "a/c", "a-x/1", "b/a", "b/b", "c", "c/a", "d/a/b"}
	f := newFixture(t, func(c *registry.Config) { c.Auth = anyone{} })
	for _, repository := range all {
		f.pushBlob(repository, []byte("x"))
	}
	for _, mine := range []string{"", "a", "b", "a c", "a a-x", "d", "a a-x b c d"} {
		readable := rights{"ann ": "catalog"}
		var want []string
		for _, repository := range all {
			project, _, _ := strings.Cut(repository, "/")
			for name := range strings.FieldsSeq(mine) {
				if name == project {
					readable["ann "+repository] = "pull"
					want = append(want, repository)
				}
			}
		}
		g, err := registry.New(t.Context(), registry.Config{Meta: f.meta, Objects: f.objects, Auth: readable, Sign: sign})
		if err != nil {
			t.Fatal(err)
		}
		h := &fixture{Registry: g, t: t, user: "ann"}
		for n := 1; n <= 4; n++ {
			var got []string
			for next := fmt.Sprintf("/v2/_catalog?n=%d", n); next != ""; {
				a := h.do("GET", next, nil).want(http.StatusOK)
				listed := strings.Trim(strings.TrimPrefix(a.Body.String(), `{"repositories":`), "[]}")
				if listed != "" {
					got = append(got, strings.Split(strings.ReplaceAll(listed, `"`, ""), ",")...)
				}
				_, link, _ := strings.Cut(a.Header().Get("Link"), "<")
				next, _, _ = strings.Cut(link, ">")
				if next != "" && listed == "" {
					t.Fatalf("an empty page that has a next: %s", a.Header())
				}
			}
			if strings.Join(got, " ") != strings.Join(slices.Sorted(slices.Values(want)), " ") {
				t.Errorf("who may pull from %q lists %v by %d, want %v", mine, got, n, want)
			}
		}
	}
}
