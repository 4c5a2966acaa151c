package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"encoding/json"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
)

// world is everything a Gate asks: a supernode, an upstream, a clock. One
// goroutine uses it.
type world struct {
	t    *testing.T
	gate *Gate
	now  time.Time
	down bool // nobody answers

	tokens   map[string]token.Claims // the supernode's
	asked    int                     // questions to a registry
	readable map[string]bool         // "registry|repository|reference|upstream token"
	seen     []string                // passwords that reached an upstream or the supernode
	password string                  // of user "ann" at the supernode
	granted  map[string]bool         // projects of this node
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), password: "right",
		tokens: map[string]token.Claims{}, readable: map[string]bool{}, granted: map[string]bool{}}
	w.gate = NewGate(GateConfig{
		Verifier: w, Prover: w, Tokens: supernode{w}, Upstreams: upstreams{w},
		Own:          func(string) bool { return false },
		Upstream:     func(n string) bool { return n == "docker.io" || n == "ghcr.io" },
		NodeMay:      func(p string) bool { return w.granted[p] },
		OfflineGrace: time.Hour,
		Now:          func() time.Time { return w.now },
	})
	return w
}

func (w *world) Verify(raw string) (token.Claims, error) {
	c, ok := w.tokens[raw]
	if !ok || !w.now.Before(c.ExpiresAt) {
		return token.Claims{}, token.ErrBadToken
	}
	return c, nil
}

func (w *world) Readable(_ context.Context, ref blob.Ref, reference string, _ bool, g Grant) (bool, error) {
	w.asked++
	if w.down {
		return false, errors.New("no route to host")
	}
	return w.readable[strings.Join([]string{ref.Registry, ref.Repository, reference, g.Token}, "|")], nil
}

type supernode struct{ *world }

func (s supernode) Token(_ context.Context, r TokenRequest) (TokenAnswer, error) {
	s.seen = append(s.seen, "supernode "+r.Password)
	switch {
	case s.down:
		return TokenAnswer{}, fmt.Errorf("%w: dial", ErrUnavailable)
	case r.RefreshToken != "" && r.RefreshToken != "refresh", r.RefreshToken == "" && (r.User != "ann" || r.Password != s.password):
		return TokenAnswer{}, ErrUnauthorized
	}
	raw := fmt.Sprintf("jwt-%d", len(s.tokens))
	s.tokens[raw] = token.Claims{Subject: "ann", Access: r.Scopes, ExpiresAt: s.now.Add(5 * time.Minute)}
	return TokenAnswer{Token: raw, ExpiresIn: 5 * time.Minute}, nil
}

type upstreams struct{ *world }

func (u upstreams) Token(_ context.Context, ref blob.Ref, user, pass string) (string, error) {
	u.seen = append(u.seen, ref.Registry+" "+pass)
	switch {
	case u.down:
		return "", httpStatus(503)
	case user != "bob" || pass != "secret":
		return "", httpStatus(401)
	}
	return "pull:" + ref.Repository, nil
}

var (
	d1 = digest.FromString("one")
	d2 = digest.FromString("two")
)

func (w *world) authorize(registry, repository, reference, authorization string) error {
	w.t.Helper()
	d, err := blob.ParseDigest(reference)
	if err != nil {
		d = ""
	}
	_, err = w.gate.Authorize(w.t.Context(), Request{Ref: blob.Ref{Registry: registry, Repository: repository},
		Reference: reference, Digest: d, Manifest: true, Authorization: authorization})
	return err
}

func (w *world) want(kind error, registry, repository, reference, authorization string) {
	w.t.Helper()
	if err := w.authorize(registry, repository, reference, authorization); !errors.Is(err, kind) {
		w.t.Errorf("%s/%s %.16s with %q: %v, want %v", registry, repository, reference, authorization, err, kind)
	}
}

// login asks /token and returns the bearer header.
func (w *world) login(method, query, form, user, pass string) (status int, authorization string) {
	w.t.Helper()
	r := httptest.NewRequestWithContext(w.t.Context(), method, "http://127.0.0.1:65001/token?"+query, strings.NewReader(form))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if user != "" {
		r.SetBasicAuth(user, pass)
	}
	rec := httptest.NewRecorder()
	w.gate.ServeHTTP(rec, r)
	var answer struct {
		Token       string    `json:"token"`
		AccessToken string    `json:"access_token"`
		ExpiresIn   int       `json:"expires_in"`
		IssuedAt    time.Time `json:"issued_at"`
	}
	if rec.Code != http.StatusOK {
		return rec.Code, ""
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
		w.t.Fatal(err)
	}
	if answer.Token == "" || answer.Token != answer.AccessToken || answer.ExpiresIn < 60 || !answer.IssuedAt.Equal(w.now) {
		w.t.Errorf("token answer %s", rec.Body)
	}
	return rec.Code, "Bearer " + answer.Token
}

func (w *world) basic(ns, repo, user, pass string) (int, string) {
	w.t.Helper()
	q := url.Values{"service": {"shoal"}, "account": {user}}
	if repo != "" {
		q.Set("scope", "repository:"+repo+":pull")
	}
	if ns != "" {
		q.Set("ns", ns)
	}
	return w.login(http.MethodGet, q.Encode(), "", user, pass)
}

func TestOwnRegistryWantsALogin(t *testing.T) {
	w := newWorld(t)
	w.want(ErrUnauthorized, "", "team/app", "latest", "")
	w.want(ErrUnauthorized, "", "team/app", "latest", "Bearer forged")
	w.want(ErrUnauthorized, "", "team/app", "latest", "Basic YW5uOnJpZ2h0")
	w.want(ErrUnauthorized, "", "team/app", "latest", "Bearer")
	status, auth := w.basic("", "team/app", "ann", "right")
	if status != 200 {
		t.Fatal(status)
	}
	w.want(nil, "", "team/app", "latest", auth)
	w.want(ErrUnauthorized, "", "team/other", "latest", auth)
	w.want(ErrUnauthorized, "docker.io", "team/app", "latest", auth)
	if err := w.gate.Login(t.Context(), auth); err != nil {
		t.Error(err)
	}
	if err := w.gate.Login(t.Context(), ""); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	w.now = w.now.Add(6 * time.Minute)
	w.want(ErrUnauthorized, "", "team/app", "latest", auth)
}

func TestThreat11KnowingADigestIsNoRight(t *testing.T) {
	w := newWorld(t)
	_, auth := w.basic("", "mine/app", "ann", "right")
	w.readable["|mine/app|"+d1.String()+"|"] = true
	w.want(nil, "", "mine/app", d1.String(), auth)
	w.want(ErrNotFound, "", "mine/app", d2.String(), auth) // another project's
	w.granted["free"] = true
	w.want(nil, "", "free/app", "latest", "")
	w.want(ErrNotFound, "", "free/app", d1.String(), "")
	// Naming it in an index of one's own opens nothing.
	index := fmt.Sprintf(`{"manifests":[{"digest":"%s"}]}`, d2)
	w.gate.Learn(blob.Ref{Repository: "mine/app"}, Manifest{Descriptor: blob.Descriptor{Digest: digest.FromString(index)}, Body: []byte(index)})
	w.want(nil, "", "mine/app", digest.FromString(index).String(), auth)
	w.want(ErrNotFound, "", "mine/app", d2.String(), auth)
	// Nor does a layer that lies elsewhere.
	image := fmt.Sprintf(`{"layers":[{"digest":"%s","urls":["https://x"]},{"digest":"%s","mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar"}]}`, d2, d2)
	w.gate.Learn(blob.Ref{Repository: "mine/app"}, Manifest{Body: []byte(image)})
	w.want(ErrNotFound, "", "mine/app", d2.String(), auth)
	// What an accepted image is made of is linked, in that repository only.
	image = fmt.Sprintf(`{"config":{"digest":"%s"}}`, d2)
	w.gate.Learn(blob.Ref{Repository: "mine/app"}, Manifest{Body: []byte(image)})
	w.want(nil, "", "mine/app", d2.String(), auth)
	w.want(ErrNotFound, "", "free/app", d2.String(), "")
	w.now = w.now.Add(2 * time.Hour)
	w.granted["mine"] = true
	w.want(ErrNotFound, "", "mine/app", d2.String(), "")
}

func TestSuppliedCredentialsDecideAlone(t *testing.T) {
	w := newWorld(t)
	w.granted["free"] = true
	w.want(nil, "", "free/app", "latest", "")
	w.want(ErrUnauthorized, "", "free/app", "latest", "Bearer forged")
	_, auth := w.basic("", "other/app", "ann", "right")
	w.want(ErrUnauthorized, "", "free/app", "latest", auth)
}

func TestThreat13UpstreamIsAskedForEachReader(t *testing.T) {
	w := newWorld(t)
	w.readable["docker.io|library/alpine|latest|"] = true
	w.readable["docker.io|library/alpine|"+d1.String()+"|"] = true
	w.want(nil, "docker.io", "library/alpine", "latest", "")
	w.want(nil, "docker.io", "library/alpine", d1.String(), "")
	asked := w.asked
	w.want(nil, "docker.io", "library/alpine", d1.String(), "")
	w.want(nil, "docker.io", "library/alpine", "latest", "")
	if w.asked != asked {
		t.Error("asked again within a minute")
	}
	w.want(ErrNotFound, "docker.io", "library/alpine", d2.String(), "") // in the store perhaps, not in this repository
	w.want(ErrUnauthorized, "ghcr.io", "library/alpine", d1.String(), "")

	// A private repository: who logs in may, others may not, before and after.
	w.readable["docker.io|corp/app|latest|pull:corp/app"] = true
	w.readable["docker.io|corp/app|"+d1.String()+"|pull:corp/app"] = true
	w.want(ErrUnauthorized, "docker.io", "corp/app", "latest", "")
	status, auth := w.basic("docker.io", "corp/app", "bob", "secret")
	if status != 200 {
		t.Fatal(status)
	}
	w.want(nil, "docker.io", "corp/app", "latest", auth)
	w.want(nil, "docker.io", "corp/app", d1.String(), auth)
	w.want(ErrUnauthorized, "docker.io", "corp/app", "latest", "")
	w.want(ErrUnauthorized, "docker.io", "corp/app", d1.String(), "")
	w.want(ErrUnauthorized, "docker.io", "corp/other", "latest", auth)
	w.want(ErrUnauthorized, "ghcr.io", "corp/app", "latest", auth)
	w.want(ErrUnauthorized, "", "corp/app", "latest", auth)

	// A registry that gives a token to anybody still has to serve with it.
	w.readable = map[string]bool{}
	w.now = w.now.Add(2 * time.Minute)
	w.want(ErrUnauthorized, "docker.io", "corp/app", "latest", auth)
	w.now = w.now.Add(handleLife)
	w.want(ErrUnauthorized, "docker.io", "corp/app", "latest", auth)
}

func TestGrantCarriesTheRightToken(t *testing.T) {
	w := newWorld(t)
	w.readable["docker.io|corp/app|latest|pull:corp/app"] = true
	_, auth := w.basic("docker.io", "corp/app", "bob", "secret")
	g, err := w.gate.Authorize(t.Context(), Request{Ref: blob.Ref{Registry: "docker.io", Repository: "corp/app"}, Reference: "latest", Manifest: true, Authorization: auth})
	if err != nil || g.Token != "pull:corp/app" || g.Login != "" {
		t.Errorf("%+v, %v", g, err)
	}
	_, auth = w.basic("", "team/app", "ann", "right")
	g, err = w.gate.Authorize(t.Context(), Request{Ref: blob.Ref{Repository: "team/app"}, Reference: "latest", Manifest: true, Authorization: auth})
	if err != nil || g.Login != strings.TrimPrefix(auth, "Bearer ") || g.Token != "" || g.Subject != "ann" {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestUpstreamPasswordsStayHere(t *testing.T) {
	w := newWorld(t)
	if status, _ := w.basic("docker.io", "corp/app", "bob", "wrong-but-private"); status != 401 {
		t.Error(status)
	}
	if status, _ := w.basic("evil.test", "corp/app", "bob", "secret"); status != 404 {
		t.Error(status)
	}
	for _, s := range w.seen {
		if !strings.HasPrefix(s, "docker.io ") {
			t.Errorf("a password for docker.io went to %s", s)
		}
	}
}

func TestGraceWhenNobodyAnswers(t *testing.T) {
	w := newWorld(t)
	w.readable["docker.io|library/alpine|latest|"] = true
	w.want(nil, "docker.io", "library/alpine", "latest", "")
	index := fmt.Sprintf(`{"manifests":[{"digest":"%s"}]}`, d1)
	w.gate.Learn(blob.Ref{Registry: "docker.io", Repository: "library/alpine"}, Manifest{Descriptor: blob.Descriptor{Digest: digest.FromString(index)}, Body: []byte(index)})
	w.down = true
	w.now = w.now.Add(30 * time.Minute)
	w.want(nil, "docker.io", "library/alpine", "latest", "")
	w.want(nil, "docker.io", "library/alpine", d1.String(), "")
	w.want(ErrUnavailable, "docker.io", "library/alpine", d2.String(), "")
	w.want(ErrUnavailable, "docker.io", "library/other", "latest", "")
	w.now = w.now.Add(31 * time.Minute)
	w.want(ErrUnavailable, "docker.io", "library/alpine", "latest", "")

	w = newWorld(t)
	w.gate.cfg.OfflineGrace = 0
	w.readable["docker.io|library/alpine|latest|"] = true
	w.want(nil, "docker.io", "library/alpine", "latest", "")
	w.down = true
	w.now = w.now.Add(2 * time.Minute)
	w.want(ErrUnavailable, "docker.io", "library/alpine", "latest", "")
}

func TestTokenForms(t *testing.T) {
	for _, c := range []struct {
		name, method, query, form, user, pass string
		status                                int
	}{
		{"basic", "GET", "service=shoal&scope=repository:a/b:pull", "", "ann", "right", 200},
		{"wrong password", "GET", "scope=repository:a/b:pull", "", "ann", "wrong", 401},
		{"no scope (docker login)", "GET", "service=shoal&offline_token=true", "", "ann", "right", 200},
		{"anonymous", "GET", "scope=repository:a/b:pull", "", "", "", 401},
		{"anonymous, granted project", "GET", "scope=repository:free/b:pull", "", "", "", 200},
		{"password form", "POST", "", "grant_type=password&username=ann&password=right&scope=repository:a/b:pull&service=shoal", "", "", 200},
		{"wrong password form", "POST", "", "grant_type=password&username=ann&password=x", "", "", 401},
		{"refresh form", "POST", "", "grant_type=refresh_token&refresh_token=refresh&scope=repository:a/b:pull", "", "", 200},
		{"wrong refresh", "POST", "", "grant_type=refresh_token&refresh_token=x", "", "", 401},
		{"empty refresh", "POST", "", "grant_type=refresh_token", "", "", 400},
		{"no grant type", "POST", "", "username=ann&password=right", "", "", 400},
		{"password in the query", "POST", "grant_type=password&username=ann&password=right", "", "", "", 400},
		{"bad scope", "GET", "scope=%00", "", "ann", "right", 400},
		{"bad query", "GET", "%zz", "", "ann", "right", 400},
		{"two registries", "GET", "ns=docker.io&ns=ghcr.io", "", "ann", "right", 404},
		{"long password", "GET", "", "", "ann", strings.Repeat("x", maxPassword+1), 400},
		{"long form", "POST", "", "grant_type=password&password=" + strings.Repeat("x", maxForm), "", "", 400},
		{"delete", "DELETE", "", "", "ann", "right", 405},
		{"upstream", "GET", "ns=docker.io&scope=repository:a/b:pull", "", "bob", "secret", 200},
		{"upstream form", "POST", "ns=docker.io", "grant_type=password&username=bob&password=secret&scope=repository:a/b:pull", "", "", 200},
		{"upstream without scope", "GET", "ns=docker.io", "", "bob", "secret", 403},
		{"upstream anonymous", "GET", "ns=docker.io&scope=repository:a/b:pull", "", "", "", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.granted["free"] = true
			if status, _ := w.login(c.method, c.query, c.form, c.user, c.pass); status != c.status {
				t.Errorf("%d, want %d", status, c.status)
			}
		})
	}
}

func TestAnonymousTokenIsForGrantedProjectsOnly(t *testing.T) {
	w := newWorld(t)
	w.granted["free"] = true
	_, auth := w.login("GET", "scope=repository:free/b:pull,push&scope=repository:a/b:pull", "", "", "")
	w.want(nil, "", "free/b", "latest", auth)
	w.want(ErrUnauthorized, "", "a/b", "latest", auth)
}

func TestLoginWithoutASupernode(t *testing.T) {
	w := newWorld(t)
	if status, _ := w.basic("", "team/app", "ann", "right"); status != 200 {
		t.Fatal(status)
	}
	w.down = true
	w.now = w.now.Add(30 * time.Minute)
	status, auth := w.basic("", "team/app", "ann", "right")
	if status != 200 {
		t.Fatal(status)
	}
	w.want(nil, "", "team/app", "latest", auth)
	if err := w.gate.Login(t.Context(), auth); err != nil {
		t.Error(err)
	}
	// What was not allowed while the supernode could be asked is not allowed now.
	_, auth = w.basic("", "team/secret", "ann", "right")
	w.want(ErrUnauthorized, "", "team/secret", "latest", auth)
	for _, c := range [][2]string{{"ann", "wrong"}, {"eve", "right"}, {"eve", ""}} {
		if status, _ := w.basic("", "team/app", c[0], c[1]); status == 200 {
			t.Errorf("%v got in", c)
		}
	}
	w.now = w.now.Add(31 * time.Minute)
	if status, _ := w.basic("", "team/app", "ann", "right"); status == 200 {
		t.Error("the grace does not end")
	}
}

func TestARefusedUserLosesTheOfflineLogin(t *testing.T) {
	w := newWorld(t)
	w.basic("", "team/app", "ann", "right")
	w.basic("", "team/app", "ann", "a wrong guess")
	w.down = true
	if status, _ := w.basic("", "team/app", "ann", "right"); status != 200 {
		t.Error("somebody's wrong guess cost ann her offline login")
	}
	w.down, w.password = false, "changed"
	w.basic("", "team/app", "ann", "right")
	w.down = true
	if status, _ := w.basic("", "team/app", "ann", "right"); status == 200 {
		t.Error("a password that was changed still works offline")
	}
}

func TestThreat21AttemptsAreLimited(t *testing.T) {
	for _, down := range []bool{false, true} {
		w := newWorld(t)
		w.basic("", "team/app", "ann", "right")
		w.down = down
		for range freeFailures {
			if status, _ := w.basic("", "team/app", "ann", "guess"); status == 200 || status == 429 {
				t.Fatal(status)
			}
		}
		seen := len(w.seen)
		if status, _ := w.basic("", "team/app", "ann", "right"); status != 429 {
			t.Errorf("after %d failures: %d", freeFailures, status)
		}
		if len(w.seen) != seen {
			t.Error("a limited attempt reached the supernode")
		}
		w.now = w.now.Add(2 * time.Second)
		if status, _ := w.basic("", "team/app", "ann", "right"); status != 200 {
			t.Errorf("after the wait: %d", status)
		}
	}
	f := failures{count: 1000}
	if f.wait() != longestWait {
		t.Error(f.wait())
	}
}

func TestMemoryIsBounded(t *testing.T) {
	now := time.Now()
	var h handles
	first := h.issue(handle{subject: "first"}, now)
	for i := range 2 * maxHandles {
		h.issue(handle{}, now.Add(time.Duration(i)))
	}
	if len(h.known) > maxHandles {
		t.Errorf("%d handles", len(h.known))
	}
	if _, ok := h.get(first, now); ok {
		t.Error("the oldest handle was not the one to go")
	}
	var l links
	for i := range 3 * maxLinks {
		l.put(blob.Ref{Repository: fmt.Sprint(i)}, d1, proven, now.Add(time.Hour))
	}
	if len(l.young)+len(l.old) > 2*maxLinks {
		t.Errorf("%d links", len(l.young)+len(l.old))
	}
	if l.get(blob.Ref{Repository: fmt.Sprint(3*maxLinks - 1)}, d1, now) != proven {
		t.Error("the newest link is gone")
	}
	var a attempts
	for i := range 2 * maxAttempts {
		a.fail(fmt.Sprint(i), now)
	}
	if len(a.failed) > maxAttempts {
		t.Errorf("%d attempts", len(a.failed))
	}
	w := newWorld(t)
	for i := range 2 * maxProofs {
		w.gate.prove("", blob.Ref{Repository: fmt.Sprint(i)}, now)
	}
	if n := w.gate.proofs.Len(); n != maxProofs {
		t.Errorf("%d proofs are kept, want the newest %d", n, maxProofs)
	}
	if w.gate.lastProof("", blob.Ref{Repository: fmt.Sprint(maxProofs)}).IsZero() {
		t.Error("a proof that still had room was dropped")
	}
}

func FuzzChildren(f *testing.F) {
	f.Add([]byte(`{"layers":[{"digest":"x"}],"manifests":[{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		linked, mentioned := children(body)
		for _, d := range append(linked, mentioned...) {
			if _, err := blob.ParseDigest(d.String()); err != nil {
				t.Error(err)
			}
		}
	})
}
