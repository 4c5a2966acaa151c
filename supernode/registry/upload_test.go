package registry_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

func sha512Of(data []byte) blob.Digest {
	sum := sha512.Sum512(data)
	return blob.Digest("sha512:" + hex.EncodeToString(sum[:]))
}

// checkContent pulls a blob by HTTP and by the swarm's interface.
func (f *fixture) checkContent(repo string, d blob.Digest, want []byte) {
	f.t.Helper()
	got := f.do("GET", "/v2/"+repo+"/blobs/"+string(d), nil).want(http.StatusOK)
	if !bytes.Equal(got.Body.Bytes(), want) {
		f.t.Fatalf("pulled %d bytes that differ from the %d pushed", got.Body.Len(), len(want))
	}
	c, err := f.Content(f.t.Context(), d)
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	m, _, _ := c.Proof()
	if m == nil {
		f.t.Fatal("no piece map")
	}
	if err := m.Check(verify); err != nil {
		f.t.Fatal(err)
	}
	pieces := blob.NewMapWriter(int64(len(want)))
	pieces.Write(want)
	if have, _ := c.Progress(); !have.Full() || have.Len() != len(pieces.Hashes()) || m.Size != c.Size() {
		f.t.Errorf("progress %d of %d pieces", have.Count(), have.Len())
	}
	for i, h := range pieces.Hashes() {
		if m.Hashes[i] != h {
			f.t.Errorf("the map is wrong about piece %d", i)
		}
	}
}

func TestPushForms(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // three pieces
	for _, d := range []blob.Digest{digest.FromBytes(data), sha512Of(data)} {
		forms := map[string]func(*fixture) answer{
			"post and put": func(f *fixture) answer {
				location := f.do("POST", "/v2/a/b/blobs/uploads/", nil).want(http.StatusAccepted).location()
				return f.do("PUT", withDigest(location, d), bytes.NewReader(data))
			},
			"post alone": func(f *fixture) answer {
				return f.do("POST", "/v2/a/b/blobs/uploads/?digest="+string(d), bytes.NewReader(data))
			},
			"stream": func(f *fixture) answer {
				location := f.do("POST", "/v2/a/b/blobs/uploads/", nil).want(http.StatusAccepted).location()
				location = f.do("PATCH", location, io.MultiReader(bytes.NewReader(data))).want(http.StatusAccepted).location()
				return f.do("PUT", withDigest(location, d), nil)
			},
			"chunks, the last with PUT, algorithm announced": func(f *fixture) answer {
				a := f.do("POST", "/v2/a/b/blobs/uploads/?digest-algorithm="+d.Algorithm().String(), nil).want(http.StatusAccepted)
				a = f.do("PATCH", a.location(), bytes.NewReader(data[:1000]), "Content-Range: 0-999").want(http.StatusAccepted)
				if a.Header().Get("Range") != "0-999" {
					t.Errorf("Range %q", a.Header().Get("Range"))
				}
				return f.do("PUT", withDigest(a.location(), d), bytes.NewReader(data[1000:]), "Content-Range: 1000-639999")
			},
		}
		for name, push := range forms {
			t.Run(name+" "+d.Algorithm().String(), func(t *testing.T) {
				f := newFixture(t, nil)
				a := push(f).want(http.StatusCreated)
				if a.location() != "/v2/a/b/blobs/"+string(d) || a.Header().Get("Docker-Content-Digest") != string(d) {
					t.Errorf("headers %v", a.Header())
				}
				f.checkContent("a/b", d, data)
				if infos, _ := f.objects.Uploads(t.Context()); len(infos) > 0 {
					t.Errorf("uploads left: %v", infos)
				}
				if left, _ := f.meta.List(t.Context(), "upload/", "", 0); len(left) > 0 {
					t.Errorf("sessions left: %v", left)
				}
			})
		}
	}
}

// TestPushTwice keeps one object for one digest.
func TestPushTwice(t *testing.T) {
	f := newFixture(t, nil)
	for _, repo := range []string{"a", "a", "b"} {
		f.pushBlob(repo, []byte("same"))
	}
	infos, err := f.objects.List(t.Context(), "", 10)
	if err != nil || len(infos) != 1 {
		t.Errorf("%d objects, %v; want 1", len(infos), err)
	}
}

func TestWrongDigest(t *testing.T) {
	f := newFixture(t, nil)
	wrong := digest.FromString("something else")
	f.do("POST", "/v2/a/blobs/uploads/?digest="+string(wrong), strings.NewReader("data")).fails(http.StatusBadRequest, "DIGEST_INVALID")
	for _, d := range []blob.Digest{wrong, sha512Of([]byte("else"))} {
		location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
		f.do("PATCH", location, strings.NewReader("data")).want(http.StatusAccepted)
		f.do("PUT", withDigest(location, d), nil).fails(http.StatusBadRequest, "DIGEST_INVALID")
		f.do("GET", location, nil).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
	f.do("GET", "/v2/a/blobs/"+string(wrong), nil).fails(http.StatusNotFound, "BLOB_UNKNOWN")
	stored, _ := f.objects.List(t.Context(), "", 10)
	begun, _ := f.objects.Uploads(t.Context())
	if len(stored)+len(begun) > 0 {
		t.Errorf("left behind: %v %v", stored, begun)
	}
}

func TestChunksOutOfOrder(t *testing.T) {
	f := newFixture(t, nil)
	location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	f.do("PATCH", location, strings.NewReader("abc"), "Content-Range: 0-2").want(http.StatusAccepted)
	for _, r := range []string{"0-2", "4-6", "2-4"} {
		a := f.do("PATCH", location, strings.NewReader("abc"), "Content-Range: "+r)
		a.fails(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
		if a.location() != location || a.Header().Get("Range") != "0-2" {
			t.Errorf("headers %v", a.Header())
		}
	}
	f.do("PATCH", location, strings.NewReader("abc"), "Content-Range: 3-9").fails(http.StatusBadRequest, "SIZE_INVALID")
	f.do("PATCH", location, strings.NewReader("abc"), "Content-Range: bytes 3-5/*").fails(http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
	f.do("PUT", withDigest(location, digest.FromString("abcdef")), strings.NewReader("def"), "Content-Range: 3-5").want(http.StatusCreated)
}

// TestChunkLength has a body of unknown length that breaks the promise of its
// Content-Range.
func TestChunkLength(t *testing.T) {
	for body, kept := range map[string]string{"ab": "0-1", "abcd": "0-2"} {
		f := newFixture(t, nil)
		location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
		f.do("PATCH", location, io.MultiReader(strings.NewReader(body)), "Content-Range: 0-2").fails(http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
		if a := f.do("GET", location, nil).want(http.StatusNoContent); a.Header().Get("Range") != kept {
			t.Errorf("%s: Range %s; want %s", body, a.Header().Get("Range"), kept)
		}
	}
}

// TestBrokenBody keeps what came before the connection broke.
func TestBrokenBody(t *testing.T) {
	f := newFixture(t, nil)
	location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	broken := io.MultiReader(strings.NewReader("first, "), iotest.ErrReader(io.ErrUnexpectedEOF))
	f.do("PATCH", location, broken).fails(http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
	if a := f.do("GET", location, nil).want(http.StatusNoContent); a.Header().Get("Range") != "0-6" {
		t.Fatalf("Range %s; want 0-6", a.Header().Get("Range"))
	}
	f.do("PATCH", location, strings.NewReader("second"), "Content-Range: 7-12").want(http.StatusAccepted)
	d := digest.FromString("first, second")
	f.do("PUT", withDigest(location, d), nil).want(http.StatusCreated)
	f.checkContent("a", d, []byte("first, second"))
}

// TestResumeAfterRestart goes on with an upload in a second supernode on the
// same folders.
func TestResumeAfterRestart(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("restart "), 100_000)
	var location string
	for at, step := 0, 150_001; at < len(data); at += step {
		store, err := meta.OpenBolt(filepath.Join(dir, "meta.db"))
		if err != nil {
			t.Fatal(err)
		}
		files, err := objects.OpenFiles(filepath.Join(dir, "objects"))
		if err != nil {
			t.Fatal(err)
		}
		f := newFixture(t, func(c *registry.Config) { c.Meta, c.Objects = store, files })
		if at == 0 {
			location = f.do("POST", "/v2/a/blobs/uploads/", nil).location()
		}
		f.do("PATCH", location, bytes.NewReader(data[at:min(at+step, len(data))])).want(http.StatusAccepted)
		if at+step >= len(data) {
			f.do("PUT", withDigest(location, digest.FromBytes(data)), nil).want(http.StatusCreated)
			f.checkContent("a", digest.FromBytes(data), data)
		}
		if err := errors.Join(store.Close(), files.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTwoWriters lets one request at a time write to an upload.
func TestTwoWriters(t *testing.T) {
	f := newFixture(t, nil)
	location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	r, w := io.Pipe()
	first := make(chan answer)
	go func() { first <- f.do("PATCH", location, r) }()
	if _, err := io.WriteString(w, "slow"); err != nil { // until the first has the upload open
		t.Fatal(err)
	}
	f.do("PATCH", location, strings.NewReader("other")).want(http.StatusAccepted)
	w.Close()
	(<-first).fails(http.StatusConflict, "BLOB_UPLOAD_INVALID")
	if infos, _ := f.objects.Uploads(t.Context()); len(infos) != 1 {
		t.Errorf("%d uploads; want the one that was first", len(infos))
	}

	r, w = io.Pipe()
	go func() { first <- f.do("PATCH", location, r) }()
	if _, err := io.WriteString(w, " slow"); err != nil {
		t.Fatal(err)
	}
	f.do("PATCH", location, strings.NewReader("busy")).fails(http.StatusConflict, "BLOB_UPLOAD_INVALID")
	f.do("DELETE", location, nil).want(http.StatusNoContent)
	w.Close()
	(<-first).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	if infos, _ := f.objects.Uploads(t.Context()); len(infos) > 0 {
		t.Errorf("uploads left: %v", infos)
	}
}

func TestCancelUpload(t *testing.T) {
	f := newFixture(t, nil)
	location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	f.do("PATCH", location, strings.NewReader("abc")).want(http.StatusAccepted)
	f.do("DELETE", location, nil).want(http.StatusNoContent)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		f.do(method, location, nil).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
	if infos, _ := f.objects.Uploads(t.Context()); len(infos) > 0 {
		t.Errorf("uploads left: %v", infos)
	}
}

func TestUploadBelongsToItsOwner(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) {
		c.Auth = rights{"ann a": "push pull", "bob a": "push pull", "ann b": "push"}
	})
	f.user = "ann"
	location := f.do("POST", "/v2/a/blobs/uploads/", nil).location()
	elsewhere := strings.Replace(location, "/v2/a/", "/v2/b/", 1)
	f.do("GET", elsewhere, nil).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	f.user = "bob"
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		f.do(method, location, nil).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
	f.do("PUT", withDigest(location, digest.FromString("")), nil).fails(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	f.user = "ann"
	f.do("GET", location, nil).want(http.StatusNoContent)
}

func TestMount(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) {
		c.Auth = rights{"ann secret": "push pull", "bob b": "push pull", "bob open": "pull", "ann open": "push pull"}
	})
	f.user = "ann"
	secret, open := f.pushBlob("secret", []byte("secret")), f.pushBlob("open", []byte("open"))
	f.user = "bob"
	target := "/v2/b/blobs/uploads/?mount="
	// What bob may not pull he can't mount, whether he names it or not.
	f.do("POST", target+string(secret.Digest)+"&from=secret", nil).want(http.StatusAccepted)
	f.do("POST", target+string(secret.Digest), nil).want(http.StatusAccepted)
	f.do("GET", "/v2/b/blobs/"+string(secret.Digest), nil).fails(http.StatusNotFound, "BLOB_UNKNOWN")
	f.do("POST", target+string(open.Digest)+"&from=nowhere", nil).want(http.StatusAccepted)
	// What can't be mounted begins an upload, whatever the reason.
	f.do("POST", target+string(open.Digest)+"&from=UPPER", nil).want(http.StatusAccepted)
	f.do("POST", target+"sha256:xyz", nil).want(http.StatusAccepted)
	for range 2 { // the second finds it there
		a := f.do("POST", target+string(open.Digest), nil).want(http.StatusCreated)
		if a.location() != "/v2/b/blobs/"+string(open.Digest) {
			t.Errorf("location %s", a.location())
		}
	}
	f.checkContent("b", open.Digest, []byte("open"))
}

func TestBlobLimit(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.MaxBlobBytes = 3 })
	f.do("POST", "/v2/a/blobs/uploads/?digest="+string(digest.FromString("abcd")), strings.NewReader("abcd")).
		fails(http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	f.pushBlob("a", []byte("abc"))
}
