package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// spy is a Fetcher and an Authorizer that count.
type spy struct {
	blobs     map[blob.Digest][]byte
	manifest  Manifest
	fetched   atomic.Int32 // calls of the Fetcher
	asked     atomic.Int32 // calls of the Authorizer
	refs      chan blob.Ref
	refuse    error
	fail      error                 // every Fetcher call fails with it
	failAfter int                   // bytes after which a reader fails; 0: never
	short     bool                  // ends early instead, without an error
	hold      func(context.Context) // in Open
}

func (s *spy) Guard(ctx context.Context, _ Request, _ Grant) (context.Context, func()) {
	return ctx, func() {}
}

func (s *spy) Authorize(_ context.Context, r Request) (Grant, error) {
	s.asked.Add(1)
	if s.refs != nil {
		s.refs <- r.Ref
	}
	return Grant{Subject: "somebody"}, s.refuse
}
func (s *spy) Login(context.Context, string) error { return s.refuse }
func (s *spy) Learn(blob.Ref, Manifest)            {}

func (s *spy) Manifest(_ context.Context, _ blob.Ref, reference string, _ Grant) (Manifest, error) {
	s.fetched.Add(1)
	if s.fail != nil {
		return Manifest{}, s.fail
	}
	if d := s.manifest.Descriptor.Digest; strings.Contains(reference, ":") && reference != d.String() {
		return Manifest{}, fmt.Errorf("%w: %s", ErrNotFound, reference)
	}
	return s.manifest, nil
}

func (s *spy) Stat(_ context.Context, _ blob.Ref, d blob.Digest, _ Grant) (int64, error) {
	s.fetched.Add(1)
	if s.fail != nil {
		return 0, s.fail
	}
	data, ok := s.blobs[d]
	if !ok {
		return 0, fmt.Errorf("%w: %s", ErrNotFound, d)
	}
	return int64(len(data)), nil
}

func (s *spy) Open(ctx context.Context, ref blob.Ref, d blob.Digest, rng blob.Range, g Grant) (Reader, error) {
	size, err := s.Stat(ctx, ref, d, g)
	if err != nil {
		return nil, err
	}
	if s.hold != nil {
		s.hold(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if rng.End < 0 {
		rng.End = size
	}
	if err := rng.Check(size); err != nil {
		return nil, err
	}
	data := s.blobs[d][rng.Start:rng.End]
	var r io.Reader = bytes.NewReader(data)
	if s.failAfter > 0 {
		r = io.LimitReader(r, int64(s.failAfter))
		if !s.short {
			r = io.MultiReader(r, failing{})
		}
	}
	return &spyReader{Reader: r, size: size}, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is on fire") }

type spyReader struct {
	io.Reader
	size int64
}

func (r *spyReader) Size() int64  { return r.size }
func (r *spyReader) Close() error { return nil }

var layer = bytes.Repeat([]byte("0123456789"), 1000)

func newSpy() *spy {
	body := []byte(`{"schemaVersion":2}`)
	return &spy{
		blobs: map[blob.Digest][]byte{digest.FromBytes(layer): layer, digest.FromBytes(nil): {}},
		manifest: Manifest{
			Descriptor: blob.Descriptor{MediaType: indexType, Digest: digest.FromBytes(body), Size: int64(len(body))},
			Body:       body,
		},
	}
}

func start(t *testing.T, s *spy, change func(*Config)) *httptest.Server {
	t.Helper()
	cfg := Config{
		Fetcher:  s,
		Auth:     s,
		Own:      func(n string) bool { return n == "hub.corp:8001" },
		Upstream: func(n string) bool { return n == "docker.io" || n == "127.0.0.1:5000" },
		Service:  "shoal",
		PushTo:   "https://hub.corp:8001",
		Token:    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "token") }),
	}
	if change != nil {
		change(&cfg)
	}
	server := httptest.NewServer(New(cfg))
	t.Cleanup(server.Close)
	return server
}

// send makes one request; header is "K: V" lines.
func send(t *testing.T, method, url string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		if k == "Host" {
			req.Host = v
		}
		req.Header.Set(k, v)
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestRequests(t *testing.T) {
	d, m := digest.FromBytes(layer).String(), newSpy().manifest.Descriptor.Digest.String()
	absent, empty := digest.FromString("absent").String(), digest.FromBytes(nil).String()
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
		want               map[string]string // headers
		body               string            // part of it
	}{
		{"ping", "GET", "/v2/", nil, 200, map[string]string{"Docker-Distribution-Api-Version": "registry/2.0"}, "{}"},
		{"ping without slash", "GET", "/v2", nil, 200, nil, "{}"},
		{"tag", "HEAD", "/v2/library/app/manifests/latest?ns=docker.io", nil, 200, map[string]string{
			"Docker-Content-Digest": m, "Content-Type": indexType, "Content-Length": "19"}, ""},
		{"manifest", "GET", "/v2/library/app/manifests/" + m + "?ns=docker.io", []string{"Accept-Encoding: zstd, gzip"}, 200, map[string]string{
			"Docker-Content-Digest": m, "Content-Type": indexType, "Content-Length": "19", "Content-Encoding": ""}, `{"schemaVersion":2}`},
		{"escaped colon", "GET", "/v2/library/app/manifests/" + strings.Replace(m, ":", "%3A", 1), nil, 200, nil, "schema"},
		{"absent manifest", "GET", "/v2/app/manifests/" + absent, nil, 404, nil, "MANIFEST_UNKNOWN"},
		{"blob", "GET", "/v2/app/blobs/" + d + "?ns=docker.io", []string{"Accept-Encoding: zstd"}, 200, map[string]string{
			"Content-Length": "10000", "Accept-Ranges": "bytes", "Docker-Content-Digest": d, "Content-Encoding": "", "Content-Type": "application/octet-stream"}, string(layer)},
		{"blob head", "HEAD", "/v2/app/blobs/" + d, nil, 200, map[string]string{"Content-Length": "10000", "Accept-Ranges": "bytes"}, ""},
		{"head ignores ranges", "HEAD", "/v2/app/blobs/" + d, []string{"Range: bytes=0-1"}, 200, map[string]string{"Content-Length": "10000"}, ""},
		{"absent blob", "GET", "/v2/app/blobs/" + absent, nil, 404, nil, "BLOB_UNKNOWN"},
		{"empty blob", "GET", "/v2/app/blobs/" + empty, nil, 200, map[string]string{"Content-Length": "0"}, ""},
		{"range of an empty blob", "GET", "/v2/app/blobs/" + empty, []string{"Range: bytes=0-"}, 416, nil, "RANGE_INVALID"},
		{"range", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=2-5"}, 206, map[string]string{
			"Content-Range": "bytes 2-5/10000", "Content-Length": "4"}, "2345"},
		{"open range", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=9990-"}, 206, map[string]string{
			"Content-Range": "bytes 9990-9999/10000", "Content-Length": "10"}, "0123456789"},
		{"range from zero", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=0-"}, 206, map[string]string{
			"Content-Range": "bytes 0-9999/10000"}, string(layer)},
		{"suffix", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=-3"}, 206, map[string]string{"Content-Range": "bytes 9997-9999/10000"}, "789"},
		{"long suffix", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=-20000"}, 206, map[string]string{"Content-Range": "bytes 0-9999/10000"}, string(layer)},
		{"range past the end", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=9998-20000"}, 206, map[string]string{"Content-Range": "bytes 9998-9999/10000"}, "89"},
		{"range beyond", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=10000-"}, 416, map[string]string{"Content-Range": "bytes */10000"}, "RANGE_INVALID"},
		{"empty suffix", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=-0"}, 416, nil, "RANGE_INVALID"},
		{"largest offset", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=9223372036854775807-"}, 416, nil, ""},
		{"overflowing offset", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=9223372036854775808-"}, 200, nil, ""},
		{"reversed range", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=5-2"}, 200, nil, ""},
		{"several ranges", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=0-1,4-5"}, 200, map[string]string{"Content-Length": "10000"}, ""},
		{"other unit", "GET", "/v2/app/blobs/" + d, []string{"Range: lines=0-1"}, 200, nil, ""},
		{"signed offset", "GET", "/v2/app/blobs/" + d, []string{"Range: bytes=+1-2"}, 200, nil, ""},
		{"push", "POST", "/v2/app/blobs/uploads/", nil, 405, map[string]string{"Allow": "GET, HEAD"}, "https://hub.corp:8001"},
		{"put", "PUT", "/v2/app/manifests/latest", nil, 405, nil, "UNSUPPORTED"},
		{"delete", "DELETE", "/v2/app/manifests/latest", nil, 405, nil, "UNSUPPORTED"},
		{"tags", "GET", "/v2/app/tags/list", nil, 404, nil, "UNSUPPORTED"},
		{"catalogue", "GET", "/v2/_catalog", nil, 404, nil, "UNSUPPORTED"},
		{"elsewhere", "GET", "/", nil, 404, nil, "UNSUPPORTED"},
		{"blob by tag", "GET", "/v2/app/blobs/latest", nil, 404, nil, "UNSUPPORTED"},
		{"upper-case digest", "GET", "/v2/app/blobs/" + strings.ToUpper(d), nil, 404, nil, "UNSUPPORTED"},
		{"climbing name", "GET", "/v2/..%2f..%2fetc/manifests/x", nil, 404, nil, "UNSUPPORTED"},
		{"token", "GET", "/token", nil, 200, nil, "token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := start(t, newSpy(), nil)
			resp, body, err := send(t, c.method, server.URL+c.path, c.header...)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || !strings.Contains(string(body), c.body) {
				t.Errorf("%d %.200s", resp.StatusCode, body)
			}
			for k, v := range c.want {
				if got := resp.Header.Get(k); got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
			if resp.StatusCode >= 400 && c.method != "HEAD" {
				var e struct {
					Errors []struct{ Code, Message string }
				}
				if err := json.Unmarshal(body, &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
					t.Errorf("not an OCI error: %s", body)
				}
			}
		})
	}
}

func TestThreat1OnlyConfiguredRegistries(t *testing.T) {
	for _, ns := range []string{"169.254.169.254", "[::1]", "::1", "2130706433", "0177.0.0.1", "user@docker.io", "docker.io@evil.test",
		"DOCKER.IO", "docker.io:443", "docker.io/", "docker.io.", "https://docker.io", "localhost", "127.0.0.1", "127.0.0.1:5001", "%00", "a%0ab",
		"docker.io&ns=evil.test", "docker.io;x", "%zz"} {
		s := newSpy()
		server := start(t, s, nil)
		for _, path := range []string{"/v2/app/manifests/latest", "/v2/app/blobs/" + digest.FromBytes(layer).String(), "/v2/"} {
			resp, _, err := send(t, "GET", server.URL+path+"?ns="+ns)
			if err != nil || resp.StatusCode != 404 {
				t.Errorf("ns=%s: %v, %v", ns, resp, err)
			}
		}
		if s.asked.Load()+s.fetched.Load() != 0 {
			t.Errorf("ns=%s went on to the authorizer or the fetcher", ns)
		}
	}
}

func TestRegistryOfARequest(t *testing.T) {
	for _, c := range []struct {
		only, ns string
		want     string
		status   int
	}{
		{"", "", "", 200},
		{"", "?ns=", "", 200},
		{"", "?ns=hub.corp:8001", "", 200},
		{"", "?ns=docker.io", "docker.io", 200},
		{"", "?ns=127.0.0.1:5000", "127.0.0.1:5000", 200},
		{"docker.io", "", "docker.io", 200},
		{"docker.io", "?ns=docker.io", "docker.io", 200},
		{"docker.io", "?ns=hub.corp:8001", "", 404},
		{"docker.io", "?ns=127.0.0.1:5000", "", 404},
	} {
		s := newSpy()
		s.refs = make(chan blob.Ref, 1)
		server := start(t, s, func(cfg *Config) { cfg.OnlyRegistry = c.only })
		resp, _, err := send(t, "HEAD", server.URL+"/v2/team/app/manifests/v1"+c.ns)
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%+v: %v, %v", c, resp, err)
			continue
		}
		if c.status == 200 {
			if got := <-s.refs; got != (blob.Ref{Registry: c.want, Repository: "team/app"}) {
				t.Errorf("%+v: %+v", c, got)
			}
		}
	}
}

func TestRefusedNeverReachesTheStore(t *testing.T) {
	d := digest.FromBytes(layer).String()
	for _, c := range []struct {
		err    error
		only   string
		ns     string
		status int
		want   string // challenge
	}{
		{ErrUnauthorized, "", "", 401, `Bearer realm="http://HOST/token",service="shoal",scope="repository:app:pull"`},
		{ErrUnauthorized, "", "?ns=docker.io", 401, `Bearer realm="http://HOST/token?ns=docker.io",service="shoal",scope="repository:app:pull"`},
		{ErrUnauthorized, "docker.io", "", 401, ""},
		{ErrDenied, "", "", 403, ""},
		{ErrNotFound, "", "", 404, ""},
		{ErrUnavailable, "", "", 502, ""},
		{errors.New("secret detail"), "", "", 500, ""},
		{httpStatus(401), "", "?ns=docker.io", 401, `Bearer realm="http://HOST/token?ns=docker.io",service="shoal",scope="repository:app:pull"`},
		{httpStatus(429), "", "", 502, ""},
	} {
		for _, path := range []string{"/v2/app/manifests/latest", "/v2/app/blobs/" + d} {
			s := newSpy()
			s.refuse = c.err
			server := start(t, s, func(cfg *Config) { cfg.OnlyRegistry = c.only })
			for _, method := range []string{"GET", "HEAD"} {
				resp, body, err := send(t, method, server.URL+path+c.ns)
				if err != nil || resp.StatusCode != c.status || strings.Contains(string(body), "secret") {
					t.Fatalf("%s %s %v: %v %s, %v", method, path, c.err, resp, body, err)
				}
				host := strings.TrimPrefix(server.URL, "http://")
				if got := strings.Replace(resp.Header.Get("WWW-Authenticate"), host, "HOST", 1); got != c.want {
					t.Errorf("challenge %s, want %s", got, c.want)
				}
			}
			if s.fetched.Load() != 0 {
				t.Errorf("%v: the fetcher was called", c.err)
			}
		}
	}
}

type httpStatus int

func (s httpStatus) Error() string   { return fmt.Sprint("status ", int(s)) }
func (s httpStatus) HTTPStatus() int { return int(s) }

func TestErrorBeforeTheFirstByteIsClean(t *testing.T) {
	for err, status := range map[error]int{ErrNotFound: 404, ErrUnavailable: 502, ErrDenied: 403, httpStatus(503): 502} {
		s := newSpy()
		s.fail = fmt.Errorf("wrapped: %w", err)
		server := start(t, s, nil)
		for _, rng := range []string{"", "bytes=0-"} {
			resp, body, got := send(t, "GET", server.URL+"/v2/app/blobs/"+digest.FromBytes(layer).String(), "Range: "+rng)
			if got != nil || resp.StatusCode != status || !json.Valid(body) {
				t.Errorf("%v: %v, %v", err, resp, got)
			}
		}
	}
}

func TestErrorInTheMiddleCutsTheConnection(t *testing.T) {
	for _, short := range []bool{false, true} {
		s := newSpy()
		s.failAfter, s.short = 100, short
		server := start(t, s, nil)
		server.Config.ErrorLog = nil
		resp, body, err := send(t, "GET", server.URL+"/v2/app/blobs/"+digest.FromBytes(layer).String())
		if err == nil {
			t.Errorf("short %v: a clean end after %d bytes of %s", short, len(body), resp.Header.Get("Content-Length"))
		}
	}
}

func TestShortReaderAborts(t *testing.T) {
	s := newSpy()
	s.failAfter, s.short = 100, true
	m := New(Config{Fetcher: s, Auth: s, Own: func(string) bool { return true }, Upstream: func(string) bool { return false }})
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("a body of 100 bytes for %d ended with %v", len(layer), got)
		}
	}()
	m.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET",
		"http://127.0.0.1/v2/app/blobs/"+digest.FromBytes(layer).String(), nil))
}

func TestHostHeader(t *testing.T) {
	s := newSpy()
	server := start(t, s, func(cfg *Config) { cfg.Hosts = []string{"mirror.corp", "10.0.0.7:65001", "[fd00::7]"} })
	for host, status := range map[string]int{
		"127.0.0.1:65001": 200, "127.9.9.9": 200, "localhost": 200, "LOCALHOST:1": 200, "[::1]:65001": 200, "[::ffff:127.0.0.1]": 200,
		"mirror.corp:65001": 200, "10.0.0.7:65001": 200, "[fd00::7]:65001": 200,
		"evil.test": 421, "evil.test:65001": 421, "127.0.0.1.evil.test": 421, "localhost.evil.test": 421, "10.0.0.7": 421, "10.0.0.8:65001": 421, "[fd00::8]": 421,
	} {
		before := s.asked.Load()
		resp, _, err := send(t, "GET", server.URL+"/v2/app/manifests/latest", "Host: "+host)
		if err != nil || resp.StatusCode != status {
			t.Errorf("Host %s: %v, %v", host, resp, err)
		}
		if status != 200 && s.asked.Load() != before {
			t.Errorf("Host %s went on", host)
		}
	}
	for site, status := range map[string]int{"none": 200, "same-origin": 200, "cross-site": 403, "same-site": 403} {
		resp, _, err := send(t, "GET", server.URL+"/v2/app/manifests/latest", "Sec-Fetch-Site: "+site)
		if err != nil || resp.StatusCode != status {
			t.Errorf("Sec-Fetch-Site %s: %v, %v", site, resp, err)
		}
	}
}
