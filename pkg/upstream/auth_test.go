package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

// authRegistry wants a Bearer token; "public" repositories give one to
// anybody, others to user "u" with password "p".
type authRegistry struct {
	*httptest.Server
	logins atomic.Int32 // token requests
	heads  atomic.Int32
}

func newAuthRegistry(t *testing.T) *authRegistry {
	a := &authRegistry{}
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		a.logins.Add(1)
		user, pass, basic := r.BasicAuth()
		repo := strings.TrimSuffix(strings.TrimPrefix(r.FormValue("scope"), "repository:"), ":pull")
		switch {
		case r.FormValue("service") != "test":
			t.Errorf("service %q", r.FormValue("service"))
		case basic && (user != "u" || pass != "p" || r.FormValue("account") != "u"):
			w.WriteHeader(http.StatusUnauthorized)
			return
		case r.Method == http.MethodPost && r.PostFormValue("refresh_token") != "identity":
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		who := "anonymous"
		if basic || r.Method == http.MethodPost {
			who = "u"
		}
		fmt.Fprintf(w, `{"access_token":"%s:%s","expires_in":300}`, who, repo)
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		a.heads.Add(1)
		repo := strings.TrimPrefix(r.URL.Path, "/v2/")
		for _, mark := range []string{"/manifests/", "/blobs/"} {
			repo, _, _ = strings.Cut(repo, mark)
		}
		got := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if got != "u:"+repo && (got != "anonymous:"+repo || !strings.HasPrefix(repo, "public/")) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+a.URL+`/token",service="test",scope="repository:`+repo+`:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifestBody).String())
		w.Header().Set("Content-Type", ociManifest)
		w.Header().Set("Content-Length", fmt.Sprint(len(manifestBody)))
		w.Write(manifestBody)
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func own(pass string) Registry {
	return Registry{Username: "u", Password: func() (string, error) { return pass, nil }}
}

func TestBearerLogin(t *testing.T) {
	a := newAuthRegistry(t)
	cfg := own("p")
	cfg.URL = a.URL
	c := client(t, cfg)
	for range 3 {
		if _, _, err := c.Manifest(t.Context(), ref, "latest", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.logins.Load(); n != 1 {
		t.Errorf("%d logins for three requests of one repository", n)
	}
	if _, _, err := c.Manifest(t.Context(), blob.Ref{Registry: "reg", Repository: "other/app"}, "latest", "", nil); err != nil {
		t.Fatal(err)
	}
	if n := a.logins.Load(); n != 2 {
		t.Errorf("%d logins for two repositories", n)
	}
	cfg = own("wrong")
	cfg.URL = a.URL
	_, _, err := client(t, cfg).Manifest(t.Context(), ref, "latest", "", nil)
	wantErr(t, err, ErrUnauthorized)
}

func TestIdentityToken(t *testing.T) {
	a := newAuthRegistry(t)
	got, err := client(t, Registry{URL: a.URL}).Token(t.Context(), ref, "<token>", "identity")
	if err != nil || got != "u:team/app" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReadersToken(t *testing.T) {
	a := newAuthRegistry(t)
	c := client(t, Registry{URL: a.URL})
	tok, err := c.Token(t.Context(), ref, "u", "p")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Manifest(t.Context(), ref, "latest", tok, nil); err != nil {
		t.Error(err)
	}
	// The reader's token is for this call only: the next one has none.
	_, _, err = c.Manifest(t.Context(), ref, "latest", "", nil)
	wantErr(t, err, ErrUnauthorized)
	_, _, err = c.Manifest(t.Context(), ref, "latest", "forged", nil)
	wantErr(t, err, ErrUnauthorized)
	_, err = c.Token(t.Context(), ref, "u", "wrong")
	wantErr(t, err, ErrUnauthorized)
}

func TestAnonymous(t *testing.T) {
	a := newAuthRegistry(t)
	cfg := own("p") // the client's own login must not vouch for others
	cfg.URL = a.URL
	now := time.Now()
	c, err := New(Config{Registries: map[string]Registry{"reg": cfg}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Manifest(t.Context(), ref, "latest", "", nil); err != nil {
		t.Fatal(err)
	}
	ask := func(repo string, want bool) {
		t.Helper()
		got, err := c.Anonymous(t.Context(), blob.Ref{Registry: "reg", Repository: repo}, "latest")
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", repo, got, err)
		}
	}
	ask("team/app", false)
	ask("public/app", true)
	before := a.heads.Load()
	ask("team/app", false)
	ask("public/app", true)
	if a.heads.Load() != before {
		t.Error("an answer was not kept")
	}
	now = now.Add(readableNo + time.Second)
	ask("public/app", true)
	if a.heads.Load() != before {
		t.Error("a yes was not kept for a minute")
	}
	ask("team/app", false)
	if a.heads.Load() == before {
		t.Error("a no was kept too long")
	}
	before = a.heads.Load()
	now = now.Add(readableYes)
	ask("public/app", true)
	if a.heads.Load() == before {
		t.Error("a yes was kept too long")
	}
	d := digest.FromString("x").String()
	if ok, err := c.Readable(t.Context(), ref, d, false, ""); ok || err != nil {
		t.Errorf("blob of a private repository: %v, %v", ok, err)
	}
	if ok, err := c.Readable(t.Context(), ref, d, false, "u:team/app"); !ok || err != nil {
		t.Errorf("with the reader's token: %v, %v", ok, err)
	}
	a.Close()
	if _, err := c.Anonymous(t.Context(), blob.Ref{Registry: "reg", Repository: "public/new"}, "latest"); err == nil {
		t.Error("no answer became an answer")
	}
}

func TestBasicOnly(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "u" || p != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", ociManifest)
		w.Write(manifestBody)
	})
	cfg := own("p")
	cfg.URL = s.URL
	c := client(t, cfg)
	for range 2 {
		if _, _, err := c.Manifest(t.Context(), ref, "latest", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Token(t.Context(), ref, "u", "p")
	wantErr(t, err, ErrNoToken)
	_, _, err = client(t, Registry{URL: s.URL}).Manifest(t.Context(), ref, "latest", "", nil)
	wantErr(t, err, ErrUnauthorized)
}

func TestTokenAnswers(t *testing.T) {
	now := time.Now()
	for raw, want := range map[string]time.Duration{
		`{"token":"t"}`:                        minTokenLife,
		`{"access_token":"t","expires_in":1}`:  minTokenLife,
		`{"token":"t","expires_in":600}`:       600 * time.Second,
		`{"token":"t","expires_in":1e300}`:     maxTokenLife,
		`{"token":"t","expires_in":-5}`:        minTokenLife,
		`{}`:                                   0,
		`[]`:                                   0,
		`{"token":"a b"}`:                      0,
		"{\"token\":\"a\\r\\nX-Evil: 1\"}":     0,
		`{"token":"` + "\u00e9" + `"}`:         0,
		`{"token":"t","expires_in":"forever"}`: 0,
	} {
		got, err := parseToken([]byte(raw), now)
		if want == 0 {
			wantErr(t, err, ErrMalformed)
			continue
		}
		if err != nil || got.expires.Sub(now) != want-tokenMargin {
			t.Errorf("%s: %v, %v", raw, got.expires.Sub(now), err)
		}
	}
}

func TestTokenAnswerIsBounded(t *testing.T) {
	var a *httptest.Server
	a = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			json.NewEncoder(w).Encode(map[string]string{"token": strings.Repeat("x", maxAnswer)})
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+a.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, err := client(t, Registry{URL: a.URL}).Token(t.Context(), ref, "u", "p")
	wantErr(t, err, ErrTooLarge)
}

func TestChallenges(t *testing.T) {
	for line, want := range map[string]*challenge{
		`Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"`: {"bearer", "https://a/t", "s", "repository:x:pull,push"},
		`bearer  realm = "https://a/t" , service=s`:                             {"bearer", "https://a/t", "s", ""},
		`Basic realm="x", Bearer realm="https://a/t"`:                           {"bearer", "https://a/t", "", ""},
		`Basic realm="a \"quoted\" name"`:                                       {"basic", `a "quoted" name`, "", ""},
		`Bearer realm=https://a/t,service=s`:                                    {"bearer", "https://a/t", "s", ""},
		`Negotiate, Basic realm="x"`:                                            {"basic", "x", "", ""},
		`Bearer`:                                                                nil,
		`Bearer realm="unfinished`:                                              nil,
		``:                                                                      nil,
		`,,,===`:                                                                nil,
		`Digest realm="x", nonce="y"`:                                           nil,
		`Bearer ` + strings.Repeat("x", maxChallenge):                           nil,
	} {
		got, err := chooseChallenge(http.Header{"Www-Authenticate": {line}})
		if want == nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%q: %+v, %v", line, got, err)
			}
			continue
		}
		if err != nil || *got != *want {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a/t",service="s",scope="x"`)
	f.Add(`Basic realm="\"`)
	f.Add(`a=b, c d=e`)
	f.Fuzz(func(t *testing.T, line string) {
		if got := parseChallenges(line); len(got) > len(line) {
			t.Errorf("%d challenges in %d bytes", len(got), len(line))
		}
	})
}

func TestFullTokenCacheDropsOnlyTheOldest(t *testing.T) {
	c, err := New(Config{Registries: map[string]Registry{"registry.example.com": {}}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, r := range c.registries {
		for i := range maxCachedTokens + 1 {
			r.keep(strconv.Itoa(i), "ann", cachedToken{token: "t", expires: now.Add(time.Minute)})
		}
		if r.cached("1", "ann", now) == "" {
			t.Error("a token that still had room was dropped")
		}
		if r.cached("0", "ann", now) != "" {
			t.Error("more tokens are kept than the bound allows")
		}
	}
}
