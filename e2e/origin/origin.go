// Package origin is a registry that only gives: it serves the images of an
// OCI layout folder, under any repository name, without a login. It stands
// for "the registry out there" in the end-to-end tests and for the direct
// pull in the benchmark, and it misbehaves on request.
package origin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	route = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)
	sha   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Registry serves one layout folder.
type Registry struct {
	dir  string
	tags map[string]ocispec.Descriptor
	// Misbehave, when set, sees each request first; true means that it has
	// answered. Set it before serving.
	Misbehave func(w http.ResponseWriter, r *http.Request) bool

	Manifests, Blobs atomic.Int64 // requests answered
}

// New reads the layout's index; tags are its ref names.
func New(dir string) (*Registry, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("origin: %s: %w", dir, err)
	}
	r := &Registry{dir: dir, tags: map[string]ocispec.Descriptor{}}
	for _, d := range index.Manifests {
		if tag := d.Annotations[ocispec.AnnotationRefName]; tag != "" {
			r.tags[tag] = d
		}
	}
	return r, nil
}

func (s *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Misbehave == nil || !s.Misbehave(w, r) {
		s.Serve(w, r)
	}
}

// Serve answers as a good registry does.
func (s *Registry) Serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		w.WriteHeader(http.StatusOK)
		return
	}
	m := route.FindStringSubmatch(r.URL.Path)
	if m == nil {
		http.Error(w, `{"errors":[{"code":"UNSUPPORTED"}]}`, http.StatusNotFound)
		return
	}
	digest, mediaType := m[3], "application/octet-stream"
	if d, tagged := s.tags[digest]; tagged && m[2] == "manifests" {
		digest = d.Digest.String()
	}
	if !sha.MatchString(digest) {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	path := filepath.Join(s.dir, "blobs", "sha256", digest[len("sha256:"):])
	if m[2] == "manifests" {
		var err error
		if mediaType, err = mediaTypeOf(path); err != nil {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		s.Manifests.Add(1)
	} else {
		s.Blobs.Add(1)
	}
	f, err := os.Open(path)
	if err != nil {
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// mediaTypeOf reads what kind of manifest a file says it is.
func mediaTypeOf(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", err
	}
	return m.MediaType, nil
}
