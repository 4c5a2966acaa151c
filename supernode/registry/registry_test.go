package registry_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

var testKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func sign(message []byte) (string, []byte, error) {
	return "signer", ed25519.Sign(testKey, message), nil
}

func verify(signer string, message, signature []byte) error {
	if signer != "signer" || !ed25519.Verify(testKey.Public().(ed25519.PublicKey), message, signature) {
		return errors.New("bad signature")
	}
	return nil
}

// rights is an Authorizer: the user of Basic auth has the actions that are
// listed under "user repository". Nobody known is 401.
type rights map[string]string

type challenge struct{}

func (challenge) Error() string     { return "who are you?" }
func (challenge) Challenge() string { return `Bearer realm="/token"` }

type refusal struct{ error }

func (refusal) Denied() bool { return true }

func (a rights) Authorize(r *http.Request, repository string, actions ...string) (string, error) {
	user, _, ok := r.BasicAuth()
	if !ok {
		return "", challenge{}
	}
	for _, action := range actions {
		if !strings.Contains(a[user+" "+repository], action) {
			return "", refusal{fmt.Errorf("%s may not %s %s", user, action, repository)}
		}
	}
	return user, nil
}

func (a rights) Readable(_ context.Context, user string) (func(string) (bool, error), error) {
	return func(repository string) (bool, error) { return strings.Contains(a[user+" "+repository], "pull"), nil }, nil
}

// anyone lets everybody do everything, as one subject.
type anyone struct{}

func (anyone) Authorize(*http.Request, string, ...string) (string, error) { return "anyone", nil }

func (anyone) Readable(context.Context, string) (func(string) (bool, error), error) {
	return func(string) (bool, error) { return true, nil }, nil
}

// fixture is a registry on in-memory stores, with a clock of its own.
type fixture struct {
	*registry.Registry
	t       *testing.T
	meta    meta.Store
	objects objects.Store
	user    string

	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newFixture(t *testing.T, change func(*registry.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, meta: meta.NewMemory(), objects: objects.NewMemory(), now: time.Unix(1_800_000_000, 0)}
	c := registry.Config{Meta: f.meta, Objects: f.objects, Auth: anyone{}, Sign: sign, Origin: "here", Now: f.clock}
	if change != nil {
		change(&c)
	}
	f.meta, f.objects = c.Meta, c.Objects
	var err error
	if f.Registry, err = registry.New(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

type answer struct {
	*httptest.ResponseRecorder
	t *testing.T
}

// do sends a request; headers are "Key: value".
func (f *fixture) do(method, target string, body io.Reader, headers ...string) answer {
	f.t.Helper()
	r := httptest.NewRequestWithContext(f.t.Context(), method, target, body)
	if f.user != "" {
		r.SetBasicAuth(f.user, "")
	}
	for _, header := range headers {
		key, value, _ := strings.Cut(header, ": ")
		r.Header.Add(key, value)
	}
	a := answer{httptest.NewRecorder(), f.t}
	f.ServeHTTP(a.ResponseRecorder, r)
	return a
}

// want checks the status and returns the answer.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.Code != status {
		a.t.Fatalf("status %d; want %d\n%s", a.Code, status, a.Body)
	}
	return a
}

// fails checks the status and the code of an error.
func (a answer) fails(status int, code string) {
	a.t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.want(status).Body.Bytes(), &body); err != nil || len(body.Errors) != 1 {
		a.t.Fatalf("no OCI error (%v): %s", err, a.Body)
	}
	if body.Errors[0].Code != code || body.Errors[0].Message == "" {
		a.t.Fatalf("error %+v; want %s", body.Errors[0], code)
	}
}

func (a answer) location() string { return a.Header().Get("Location") }

// withDigest adds ?digest= to an upload's location.
func withDigest(location string, d blob.Digest) string { return location + "?digest=" + string(d) }

func (f *fixture) pushBlob(repo string, data []byte) blob.Descriptor {
	f.t.Helper()
	d := digest.FromBytes(data)
	location := f.do("POST", "/v2/"+repo+"/blobs/uploads/", nil).want(http.StatusAccepted).location()
	f.do("PUT", withDigest(location, d), bytes.NewReader(data)).want(http.StatusCreated)
	return blob.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))}
}

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	indexType = "application/vnd.oci.image.index.v1+json"
)

func imageOf(config blob.Descriptor, layers ...blob.Descriptor) map[string]any {
	if layers == nil {
		layers = []blob.Descriptor{}
	}
	return map[string]any{"schemaVersion": 2, "mediaType": imageType, "config": config, "layers": layers}
}

func (f *fixture) putManifest(repo, reference string, m map[string]any) (answer, blob.Descriptor) {
	f.t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		f.t.Fatal(err)
	}
	mediaType := m["mediaType"].(string)
	desc := blob.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if reference == "" {
		reference = string(desc.Digest)
	}
	return f.do("PUT", "/v2/"+repo+"/manifests/"+reference, bytes.NewReader(body), "Content-Type: "+mediaType), desc
}

// pushImage pushes an image of one config and layers of the given contents.
func (f *fixture) pushImage(repo, tag string, contents ...string) blob.Descriptor {
	f.t.Helper()
	config := f.pushBlob(repo, []byte("{}"))
	var layers []blob.Descriptor
	for _, content := range contents {
		layers = append(layers, f.pushBlob(repo, []byte(content)))
	}
	a, desc := f.putManifest(repo, tag, imageOf(config, layers...))
	a.want(http.StatusCreated)
	return desc
}

func (f *fixture) gone(ctx context.Context, key string) bool {
	f.t.Helper()
	_, err := f.meta.Get(ctx, key)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		f.t.Fatal(err)
	}
	return err != nil
}
