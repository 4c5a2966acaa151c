package registry_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/supernode/registry"
)

func TestBlobRanges(t *testing.T) {
	f := newFixture(t, nil)
	address := "/v2/a/blobs/" + string(f.pushBlob("a", []byte("0123456789")).Digest)
	tests := []struct {
		header, want, contentRange string
		status                     int
	}{
		{"", "0123456789", "", 200},
		{"bytes=2-4", "234", "bytes 2-4/10", 206},
		{"bytes=7-", "789", "bytes 7-9/10", 206},
		{"bytes=7-99", "789", "bytes 7-9/10", 206},
		{"bytes=-3", "789", "bytes 7-9/10", 206},
		{"bytes=-30", "0123456789", "bytes 0-9/10", 206},
		{"bytes=0-0", "0", "bytes 0-0/10", 206},
		{"bytes=10-", "", "bytes */10", 416},
		{"bytes=5-2", "", "bytes */10", 416},
		{"bytes=-0", "", "bytes */10", 416},
		{"bytes=x-", "", "bytes */10", 416},
		{"bytes=99999999999999999999-", "", "bytes */10", 416},
		{"bytes=0-1,3-4", "0123456789", "", 200},
		{"lines=1-2", "0123456789", "", 200},
	}
	for _, test := range tests {
		a := f.do("GET", address, nil, "Range: "+test.header, "Accept-Encoding: gzip, zstd").want(test.status)
		if got := a.Header().Get("Content-Range"); got != test.contentRange {
			t.Errorf("%s: Content-Range %q; want %q", test.header, got, test.contentRange)
		}
		if test.status < 300 && a.Body.String() != test.want {
			t.Errorf("%s: %q; want %q", test.header, a.Body, test.want)
		}
		if a.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: compressed", test.header)
		}
	}
	empty := "/v2/a/blobs/" + string(f.pushBlob("a", nil).Digest)
	for _, header := range []string{"bytes=0-", "bytes=0-99", "bytes=-1"} { // some clients send one with every request
		f.do("GET", empty, nil, "Range: "+header).want(200)
	}
	a := f.do("HEAD", address, nil).want(200)
	if a.Header().Get("Content-Length") != "10" || a.Body.Len() != 0 || a.Header().Get("Docker-Content-Digest") == "" {
		t.Errorf("HEAD: %v", a.Header())
	}
	f.do("GET", address, nil, "If-None-Match: "+a.Header().Get("Etag")).want(http.StatusNotModified)
	f.do("GET", address, nil, "Range: bytes=1-2", `If-Range: "other"`).want(200)
	f.do("GET", address, nil, "Range: bytes=1-2", "If-Range: "+a.Header().Get("Etag")).want(206)
}

func TestDeleteBlob(t *testing.T) {
	f := newFixture(t, nil)
	address := "/v2/a/blobs/" + string(f.pushBlob("a", []byte("x")).Digest)
	other := "/v2/b/blobs/" + string(f.pushBlob("b", []byte("x")).Digest)
	f.do("DELETE", address, nil).want(http.StatusAccepted)
	f.do("HEAD", address, nil).want(http.StatusNotFound)
	f.do("DELETE", address, nil).fails(http.StatusNotFound, "BLOB_UNKNOWN")
	f.do("GET", other, nil).want(200)
}

// TestNoLeak asks for what is there and for what is not, without the right:
// the answers must be the same.
func TestNoLeak(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.Auth = rights{"ann a": "push pull delete", "ann ": "catalog"} })
	f.user = "ann"
	image := f.pushImage("a", "latest", "layer")
	absent := string(digest.FromString("absent"))
	layer := string(digest.FromString("layer"))
	pairs := [][2]string{
		{"GET /v2/a/blobs/" + layer, "GET /v2/a/blobs/" + absent},
		{"DELETE /v2/a/blobs/" + layer, "DELETE /v2/a/blobs/" + absent},
		{"GET /v2/a/manifests/latest", "GET /v2/a/manifests/absent"},
		{"HEAD /v2/a/manifests/latest", "HEAD /v2/nowhere/manifests/latest"},
		{"PUT /v2/a/manifests/latest", "PUT /v2/a/manifests/absent"},
		{"DELETE /v2/a/manifests/" + string(image.Digest), "DELETE /v2/a/manifests/" + absent},
		{"GET /v2/a/tags/list", "GET /v2/nowhere/tags/list"},
		{"GET /v2/a/referrers/" + string(image.Digest), "GET /v2/nowhere/referrers/" + absent},
		{"POST /v2/a/blobs/uploads/", "POST /v2/nowhere/blobs/uploads/"},
		{"GET /v2/_catalog", "GET /v2/_catalog"},
	}
	for _, user := range []string{"", "eve"} {
		f.user = user
		for _, pair := range pairs {
			var answers [2]answer
			for i, line := range pair {
				method, target, _ := strings.Cut(line, " ")
				answers[i] = f.do(method, target, nil)
			}
			if answers[0].Code != answers[1].Code || answers[0].Body.String() != answers[1].Body.String() {
				t.Errorf("%q gives %s and %s different answers: %d %s, %d %s", user, pair[0], pair[1],
					answers[0].Code, answers[0].Body, answers[1].Code, answers[1].Body)
			}
			if want := map[string]int{"": 401, "eve": 403}[user]; answers[0].Code != want {
				t.Errorf("%q: %s: status %d; want %d", user, pair[0], answers[0].Code, want)
			}
		}
	}
	f.user = ""
	a := f.do("GET", "/v2/", nil)
	a.fails(http.StatusUnauthorized, "UNAUTHORIZED")
	if a.Header().Get("WWW-Authenticate") != (challenge{}).Challenge() {
		t.Errorf("headers %v", a.Header())
	}
	for _, target := range []string{"/v2/a/blobs/sha256:zz", "/v2/UPPER/tags/list", "/v2/x", "/v2/a/tags/other"} {
		f.do("GET", target, nil).want(http.StatusUnauthorized)
	}
}

func TestRoutes(t *testing.T) {
	f := newFixture(t, nil)
	long := strings.Repeat("a", 201)
	tests := []struct {
		method, target string
		status         int
		code           string
	}{
		{"GET", "/v2/x", 404, "UNSUPPORTED"},
		{"GET", "/v3/", 404, "UNSUPPORTED"},
		{"GET", "/v2/a/unknown/b", 404, "UNSUPPORTED"},
		{"GET", "/v2/A/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/a//b/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/../tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/a_/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/" + long + "/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/a/blobs/sha256:12", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/referrers/latest", 400, "DIGEST_INVALID"},
		{"PUT", "/v2/a/manifests/" + strings.Repeat("a", 64), 400, "TAG_INVALID"},
		{"PUT", "/v2/a/manifests/-x", 400, "TAG_INVALID"},
		{"GET", "/v2/a/manifests/" + strings.Repeat("t", 129), 400, "TAG_INVALID"},
		{"POST", "/v2/a/tags/list", 405, "UNSUPPORTED"},
		{"PUT", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"},
		{"GET", "/v2/a/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/a/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/a/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/a/blobs/uploads/../../etc", 404, "UNSUPPORTED"},
		{"POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", 400, "DIGEST_INVALID"},
	}
	for _, test := range tests {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			f.t = t
			f.do(test.method, test.target, nil).fails(test.status, test.code)
		})
	}
	f.do("GET", "/v2/", nil).want(200)
	f.do("HEAD", "/v2/", nil).want(200)
	if a := f.do("DELETE", "/v2/", nil).want(405); a.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("Allow %q", a.Header().Get("Allow"))
	}
}
