package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

func FuzzParseManifest(f *testing.F) {
	digest := "sha256:" + strings.Repeat("a", 64)
	f.Add(typeOCIManifest, []byte(`{"schemaVersion":2,"config":{"digest":"`+digest+`","size":1},"layers":[],"subject":{"digest":"`+digest+`"}}`))
	f.Add(typeOCIIndex+"; charset=utf-8", []byte(`{"schemaVersion":2,"manifests":[{"digest":"`+digest+`","size":1}]}`))
	f.Add(typeDockerList, []byte(`{"schemaVersion":2,"mediaType":"`+typeDockerList+`","manifests":null}`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		m, err := parseManifest(contentType, body)
		if err != nil {
			var answer *Error
			if !errors.As(err, &answer) || answer.Status != 400 || answer.Message == "" {
				t.Fatalf("an error that is no answer: %v", err)
			}
			return
		}
		if len(m.children) > maxChildren+1 {
			t.Fatalf("%d children", len(m.children))
		}
		for _, d := range append(m.children, m.optional()...) {
			if _, err := blob.ParseDigest(string(d)); err != nil {
				t.Fatal(err)
			}
		}
		for _, part := range m.required {
			if _, err := blob.ParseDigest(string(part.Digest)); err != nil || part.Size < 0 {
				t.Fatalf("part %+v", part)
			}
		}
		if again, err := parseManifest(m.mediaType, body); err != nil || again.mediaType != m.mediaType {
			t.Fatalf("taken as %s, then refused: %v", m.mediaType, err)
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"", "bytes=0-0", "bytes=5-", "bytes=-5", "bytes=9-1", "bytes=1-2,3-4", "bytes=9223372036854775807-9223372036854775807"} {
		f.Add(seed, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		r, ok, err := parseRange(header, size)
		if ok && (err != nil || r.Check(size) != nil || r.Len() == 0) {
			t.Fatalf("range %+v of %d bytes, %v", r, size, err)
		}
	})
}

func FuzzParseChunk(f *testing.F) {
	for _, seed := range []string{"", "0-0", "5-", "-5", "9-1", "0-9223372036854775807", "00-1", "+1-2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r, err := parseChunk(header)
		if err == nil && (r.Start < 0 || r.Len() <= 0) {
			t.Fatalf("chunk %+v", r)
		}
	})
}

func FuzzParseRoute(f *testing.F) {
	for _, seed := range []string{"/v2/", "/v2", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/manifests/latest", "/v2/a/blobs/uploads/",
		"/v2/a/blobs/uploads/x", "/v2/a/blobs/sha256:" + strings.Repeat("0", 64), "/v2/blobs/blobs/uploads/", "/v2/a/_/manifests/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, err := parseRoute(path)
		if err != nil {
			var answer *Error
			if !errors.As(err, &answer) || answer.Status < 400 || answer.Status > 499 {
				t.Fatalf("an error that is no answer: %v", err)
			}
			return
		}
		if r.kind == kindPing || r.kind == kindCatalog {
			return
		}
		if CheckRepository(r.repository) != nil || strings.Contains(r.repository+"/", within) || len(methods[r.kind]) == 0 {
			t.Fatalf("route %+v", r)
		}
		if r.tag != "" && (CheckTag(r.tag) != nil || strings.ContainsAny(r.tag, "/:")) || r.tag != "" && r.digest != "" {
			t.Fatalf("route %+v", r)
		}
		if repo, name := splitWithin(keyTag(r.repository, r.tag)); repo != r.repository || name != r.tag {
			t.Fatalf("the key of %q %q reads as %q %q", r.repository, r.tag, repo, name)
		}
	})
}

func FuzzDecodeUpload(f *testing.F) {
	h, err := newHasher(sha512Name)
	if err != nil {
		f.Fatal(err)
	}
	fmt.Fprint(h, "some bytes")
	state, err := h.save()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := json.Marshal(uploadRecord{Repository: "a", Object: "x", Offset: 10, Hashes: state})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"offset":-1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		rec, err := decodeUpload(raw)
		if err != nil {
			return
		}
		h, err := restore(rec.Hashes, rec.Offset)
		if err != nil {
			return
		}
		if _, err := io.WriteString(h, "more"); err != nil || h.tree.Size() != rec.Offset+4 {
			t.Fatalf("restored at %d, stands at %d, %v", rec.Offset, h.tree.Size(), err)
		}
		if _, err := blob.ParseDigest(string(digestOf(h.algorithm, h.flat))); err != nil {
			t.Fatal(err)
		}
	})
}
