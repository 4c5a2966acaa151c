package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

var manifestBody = []byte(`{"schemaVersion":2,"mediaType":"` + ociManifest + `"}`)

// client makes a client whose only upstream is "reg", at url.
func client(t *testing.T, r Registry) *Client {
	t.Helper()
	c, err := New(Config{Registries: map[string]Registry{"reg": r}, Attempts: 2, IdleTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

var ref = blob.Ref{Registry: "reg", Repository: "team/app"}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestThreat1OnlyConfiguredNames(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	c := client(t, Registry{URL: s.URL})
	host := strings.TrimPrefix(s.URL, "http://")
	for _, name := range []string{"169.254.169.254", "[::1]", "::1", "2130706433", "0x7f000001", "user@reg", "reg@evil.test",
		host, "REG", "reg/", "reg:443", "", "reg?", "http://reg", "127.0.0.1", "localhost"} {
		if c.Known(name) {
			t.Errorf("Known(%q)", name)
		}
		_, _, err := c.Manifest(t.Context(), blob.Ref{Registry: name, Repository: "app"}, "latest", "", nil)
		wantErr(t, err, ErrUnknownRegistry)
		_, err = c.Token(t.Context(), blob.Ref{Registry: name, Repository: "app"}, "u", "p")
		wantErr(t, err, ErrUnknownRegistry)
		_, err = c.Anonymous(t.Context(), blob.Ref{Registry: name, Repository: "app"}, "latest")
		wantErr(t, err, ErrUnknownRegistry)
	}
	for _, repo := range []string{"../x", "a/../../v1", "a b", "A", "a?x", "a#", ""} {
		_, _, err := c.Manifest(t.Context(), blob.Ref{Registry: "reg", Repository: repo}, "latest", "", nil)
		wantErr(t, err, blob.ErrInvalidName)
	}
	for _, reference := range []string{"../x", "", "a/b", "sha256:abc", "a?b"} {
		_, _, err := c.Manifest(t.Context(), ref, reference, "", nil)
		wantErr(t, err, blob.ErrInvalidName)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests left for names that are not configured", n)
	}
}

func TestConfigurationNames(t *testing.T) {
	for _, name := range []string{"user@host", "http://host", "host/path", "", "Host", "host:1:2", "a b", "host?x"} {
		if _, err := New(Config{Registries: map[string]Registry{name: {}}}); err == nil {
			t.Errorf("name %q is taken", name)
		}
	}
	for _, u := range []string{"ftp://h", "https://u:p@h", "https://h/path", "https://h?x", "https://", "h", "https://h#f"} {
		if _, err := New(Config{Registries: map[string]Registry{"reg": {URL: u}}}); err == nil {
			t.Errorf("url %q is taken", u)
		}
	}
}

func TestThreat2AddressCheckedAtDial(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// The name is configured, but not by URL: it must not lead inside.
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.1.2.3", "192.168.0.1",
		"172.16.0.9", "100.64.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1"} {
		name := host + ":" + port
		c, err := New(Config{Registries: map[string]Registry{name: {}}, Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = c.Manifest(t.Context(), blob.Ref{Registry: name, Repository: "app"}, "latest", "", nil)
		wantErr(t, err, ErrForbiddenAddress)
	}
	if asked.Load() != 0 {
		t.Error("a request arrived")
	}
}

func TestCheckAddress(t *testing.T) {
	for _, c := range []struct {
		host, addr string
		named, ok  bool
	}{
		{"a.test", "93.184.216.34:443", false, true},
		{"a.test", "[2606:2800:220:1::1]:443", false, true},
		{"a.test", "10.0.0.1:443", false, false},
		{"a.test", "10.0.0.1:443", true, true},
		{"a.test", "100.100.1.1:443", true, true},
		{"a.test", "127.0.0.1:443", true, true},
		{"a.test", "169.254.169.254:80", true, false},
		{"169.254.169.254", "169.254.169.254:80", true, true},
		{"169.254.169.254", "169.254.169.254:80", false, false},
		{"a.test", "0.0.0.0:80", true, false},
		{"0.0.0.0", "0.0.0.0:80", true, false},
		{"a.test", "[ff02::1]:80", true, false},
		{"a.test", "[::ffff:10.0.0.1]:80", false, false},
		{"a.test", "[::ffff:169.254.169.254]:80", true, false},
		{"a.test", "[64:ff9b::a00:1]:80", false, false},
		{"a.test", "[64:ff9b::808:808]:80", false, true},
		{"a.test", "[2002:a00:1::]:80", false, false},
		{"a.test", "[2001:db8::1]:80", false, false},
		{"a.test", "192.0.2.1:80", false, false},
		{"a.test", "198.19.0.1:80", false, false},
		{"a.test", "255.255.255.255:80", true, false},
		{"a.test", "nonsense", true, false},
	} {
		if err := checkAddress(c.host, c.addr, c.named); (err == nil) != c.ok {
			t.Errorf("checkAddress(%s, %s, %v) = %v", c.host, c.addr, c.named, err)
		}
	}
}

func TestThreat2RedirectInside(t *testing.T) {
	var reached atomic.Int32
	inside := serve(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	for _, target := range []string{
		inside.URL, // another port of the very host that was named
		strings.Replace(inside.URL, "127.0.0.1", "localhost", 1),
		strings.Replace(inside.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1),
		strings.Replace(inside.URL, "127.0.0.1", "user@127.0.0.1", 1),
		"http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "gopher://x/", "", "//10.0.0.1/x", "http://",
	} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", target)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		c := client(t, Registry{URL: s.URL})
		_, _, err := c.Blob(t.Context(), ref, digest.FromString("x"), blob.Range{End: -1}, "")
		if !errors.Is(err, ErrForbiddenAddress) && !errors.Is(err, ErrMalformed) {
			t.Errorf("redirect to %q: %v", target, err)
		}
	}
	if reached.Load() != 0 {
		t.Error("a redirect reached an address inside")
	}
}

func TestRedirectTargets(t *testing.T) {
	for _, c := range []struct {
		base, location, want string // want "": refused
	}{
		{"https://r.test", "https://cdn.test/x", "https://cdn.test/x"},
		{"https://r.test", "/other", "https://r.test/other"},
		{"https://r.test", "//cdn.test/x", "https://cdn.test/x"},
		{"https://r.test", "http://cdn.test/x", ""},
		{"https://r.test", "https://user@cdn.test/x", ""},
		{"https://r.test", "https://r.test@cdn.test/x", ""},
		{"https://r.test", "https:///x", ""},
		{"https://r.test", "ftp://cdn.test/x", ""},
		{"https://r.test", "", ""},
		{"http://r.test", "http://cdn.test/x", "http://cdn.test/x"},
		{"http://r.test", "https://cdn.test/x", "https://cdn.test/x"},
	} {
		r, err := newRegistry("reg", Registry{URL: c.base}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.next(*r.base, c.location)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("%s to %q: %s, %v", c.base, c.location, got.String(), err)
		}
	}
}

func TestRedirectsAreCounted(t *testing.T) {
	var hops atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hops.Add(1)
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	})
	_, _, err := client(t, Registry{URL: s.URL}).Manifest(t.Context(), ref, "latest", "", nil)
	wantErr(t, err, ErrMalformed)
	if n := hops.Load(); n != maxRedirects+1 {
		t.Errorf("%d requests, want %d", n, maxRedirects+1)
	}
}

func TestThreat3Realm(t *testing.T) {
	r, err := newRegistry("registry.example.com", Registry{TokenHosts: []string{"Tokens.corp", "sso.corp:8443"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := newRegistry("reg", Registry{URL: "http://10.0.0.5:5000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r     *registry
		realm string
		ok    bool
	}{
		{r, "https://registry.example.com/token", true},
		{r, "https://registry.example.com:8443/token", true},
		{r, "https://auth.example.com/token", true},
		{r, "https://tokens.corp/t", true},
		{r, "https://sso.corp:8443/t", true},
		{r, "https://sso.corp/t", false},
		{r, "http://registry.example.com/token", false},
		{r, "https://evil.com/token", false},
		{r, "https://registry.example.com.evil.com/token", false},
		{r, "https://evilexample.com/token", false},
		{r, "https://user@registry.example.com/token", false},
		{r, "https://registry.example.com@evil.com/token", false},
		{r, "/token", false},
		{r, "https:///token", false},
		{r, "ftp://registry.example.com/", false},
		{plain, "http://10.0.0.5:5001/token", true},
		{plain, "https://10.0.0.5/token", true},
		{plain, "http://10.0.0.6/token", false},
		{plain, "http://169.254.169.254/", false},
	} {
		u, err := r.base.Parse(c.realm)
		if c.realm != "/token" && err != nil {
			t.Fatal(err)
		}
		if c.realm == "/token" {
			u.Host, u.Scheme = "", ""
		}
		if err := c.r.realmAllowed(u); (err == nil) != c.ok {
			t.Errorf("%s names %s: %v", c.r.name, c.realm, err)
		}
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{{"a.github.io", "b.github.io", false}, {"auth.docker.io", "registry-1.docker.io", true}, {"localhost", "localhost2", false}, {"10.0.0.1", "10.0.0.2", false}} {
		if sameDomain(c.a, c.b) != c.same {
			t.Errorf("sameDomain(%s, %s) = %v", c.a, c.b, !c.same)
		}
	}
}

func TestThreat3CredentialsStayHome(t *testing.T) {
	var thief atomic.Int32
	evil := serve(t, func(http.ResponseWriter, *http.Request) { thief.Add(1) })
	realm := strings.Replace(evil.URL, "127.0.0.1", "localhost", 1) // another host by name
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	c := client(t, Registry{URL: s.URL, Username: "u", Password: func() (string, error) { return "p", nil }})
	_, _, err := c.Manifest(t.Context(), ref, "latest", "", nil)
	wantErr(t, err, ErrForbiddenAddress)
	_, err = c.Token(t.Context(), ref, "u", "p")
	wantErr(t, err, ErrForbiddenAddress)
	if thief.Load() != 0 {
		t.Error("a foreign token service was asked")
	}
}

func TestThreat4AuthorizationDroppedAcrossHosts(t *testing.T) {
	data := []byte("some bytes of a blob")
	storage := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for _, k := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
			if v := r.Header.Get(k); v != "" {
				t.Errorf("%s travelled along: %q", k, v)
			}
		}
		w.Write(data)
	})
	host := strings.Replace(strings.TrimPrefix(storage.URL, "http://"), "127.0.0.1", "localhost", 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Error("the registry itself got no token")
		}
		http.Redirect(w, r, "http://"+host+"/data", http.StatusTemporaryRedirect)
	})
	c := client(t, Registry{URL: s.URL, RedirectHosts: []string{host}})
	rc, _, err := c.Blob(t.Context(), ref, digest.FromBytes(data), blob.Range{End: -1}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestThreat4ChallengeFromElsewhere(t *testing.T) {
	var tokens atomic.Int32
	storage := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	host := strings.Replace(strings.TrimPrefix(storage.URL, "http://"), "127.0.0.1", "localhost", 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			tokens.Add(1)
		}
		http.Redirect(w, r, "http://"+host+"/data", http.StatusTemporaryRedirect)
	})
	c := client(t, Registry{URL: s.URL, RedirectHosts: []string{host}, Username: "u", Password: func() (string, error) { return "p", nil }})
	_, _, err := c.Blob(t.Context(), ref, digest.FromString("x"), blob.Range{End: -1}, "")
	wantErr(t, err, ErrDenied)
	if tokens.Load() != 0 {
		t.Error("a stranger's challenge was answered")
	}
}

func TestThreat5CertificatesAreVerified(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ociManifest)
		w.Write(manifestBody)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	_, _, err := client(t, Registry{URL: s.URL}).Manifest(t.Context(), ref, "latest", "", nil)
	var verification *tls.CertificateVerificationError
	if !errors.As(err, &verification) {
		t.Errorf("an unknown authority: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if _, _, err = client(t, Registry{URL: s.URL, CAPEM: ca}).Manifest(t.Context(), ref, "latest", "", nil); err != nil {
		t.Errorf("with its own authority: %v", err)
	}
	other := strings.Replace(s.URL, "127.0.0.1", "localhost", 1) // not in the certificate
	_, _, err = client(t, Registry{URL: other, CAPEM: ca}).Manifest(t.Context(), ref, "latest", "", nil)
	if !errors.As(err, &verification) {
		t.Errorf("another name: %v", err)
	}
	if _, err := New(Config{Registries: map[string]Registry{"reg": {CAPEM: []byte("no pem")}}}); err == nil {
		t.Error("a ca_file without a certificate is taken")
	}
}

func TestThreat8ManifestIsHashed(t *testing.T) {
	right := digest.FromBytes(manifestBody)
	for _, c := range []struct {
		name, reference, header, contentType string
		body                                 []byte
		want                                 error
	}{
		{"by digest", right.String(), "", ociManifest, manifestBody, nil},
		{"by tag", "latest", right.String(), ociManifest, manifestBody, nil},
		{"by tag without digest", "latest", "", ociManifest, manifestBody, nil},
		{"type from the body", "latest", "", "application/json", manifestBody, nil},
		{"lie by digest", right.String(), "", ociManifest, append([]byte(" "), manifestBody...), ErrDigestMismatch},
		{"lie with the right header", right.String(), right.String(), ociManifest, []byte(`{"x":1}`), ErrDigestMismatch},
		{"lie by tag", "latest", right.String(), ociManifest, []byte(`{"x":1}`), ErrDigestMismatch},
		{"another digest named", right.String(), digest.FromString("x").String(), ociManifest, manifestBody, ErrDigestMismatch},
		{"garbage digest", "latest", "sha256:../../x", ociManifest, manifestBody, ErrMalformed},
		{"types disagree", "latest", "", "application/vnd.oci.image.index.v1+json", manifestBody, ErrMalformed},
		{"no type at all", "latest", "", "text/plain", []byte(`{}`), ErrMalformed},
		{"not JSON", "latest", "", ociManifest, []byte(`<html>`), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.header != "" {
					w.Header().Set("Docker-Content-Digest", c.header)
				}
				w.Header().Set("Content-Type", c.contentType)
				w.Write(c.body)
			})
			desc, body, err := client(t, Registry{URL: s.URL}).Manifest(t.Context(), ref, c.reference, "", nil)
			if c.want != nil {
				wantErr(t, err, c.want)
				return
			}
			if err != nil || desc.Digest != right || desc.Size != int64(len(body)) || desc.MediaType != ociManifest {
				t.Errorf("%+v, %v", desc, err)
			}
		})
	}
}

func TestThreat27ManifestIsBounded(t *testing.T) {
	for _, announced := range []bool{true, false} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if announced {
				w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
				w.WriteHeader(http.StatusOK)
				return
			}
			w.(http.Flusher).Flush()
			chunk := bytes.Repeat([]byte("x"), 64<<10)
			for range MaxManifest/len(chunk) + 2 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})
		_, _, err := client(t, Registry{URL: s.URL}).Manifest(t.Context(), ref, "latest", "", nil)
		wantErr(t, err, ErrTooLarge)
	}
}

func TestStatuses(t *testing.T) {
	for status, want := range map[int]error{
		404: ErrNotFound, 401: ErrUnauthorized, 403: ErrDenied, 418: ErrMalformed,
		429: ErrUnavailable, 500: ErrUnavailable, 503: ErrUnavailable,
	} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		_, err := client(t, Registry{URL: s.URL}).Head(t.Context(), ref, "latest", "", nil)
		wantErr(t, err, want)
	}
}

func TestHeadFallsBackToGet(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ociManifest)
		if r.Method == http.MethodGet {
			w.Write(manifestBody)
		}
	})
	desc, err := client(t, Registry{URL: s.URL}).Head(t.Context(), ref, "latest", "", nil)
	if err != nil || desc.Digest != digest.FromBytes(manifestBody) {
		t.Errorf("%+v, %v", desc, err)
	}
}

func TestDockerHub(t *testing.T) {
	c, err := New(Config{Registries: map[string]Registry{DockerHub: {}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.registries[DockerHub].base.String(); got != "https://registry-1.docker.io" {
		t.Error(got)
	}
	for in, want := range map[string]string{"alpine": "library/alpine", "a/b": "a/b"} {
		if got := repository(blob.Ref{Registry: DockerHub, Repository: in}); got != want {
			t.Errorf("%s is %s", in, got)
		}
	}
}

func TestContextEnds(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := client(t, Registry{URL: s.URL}).Manifest(ctx, ref, "latest", "", nil)
	wantErr(t, err, context.Canceled)
}
