package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/meta"
)

var _ Store = meta.Store(nil)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// gate is an Auth with cheap passwords, a clock to set and a log to read.
type gate struct {
	*Auth
	t      testing.TB
	store  meta.Store
	offset atomic.Int64
	log    bytes.Buffer
	told   []string // by OnRevoke
}

func (g *gate) now() time.Time          { return noon.Add(time.Duration(g.offset.Load())) }
func (g *gate) advance(d time.Duration) { g.offset.Add(int64(d)) }

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRing(t testing.TB) *token.Ring {
	t.Helper()
	ring, err := token.NewRing(token.SigningKey{Private: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func (g *gate) config() Config {
	return Config{
		Meta: g.store, TokenKeys: newRing(g.t), MemberKey: newKey(g.t), IDC: "fra1", Issuer: "shoal fra1", Service: "shoal",
		ExternalURL: "https://shoal.example.com:8001", PublicNames: []string{"registry.example.com", "10.0.0.1:8001"},
		OnRevoke: func(ids ...string) { g.told = append(g.told, ids...) },
		Now:      g.now, Log: slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// newGate has an admin "root", projects "shop" and "a", and a user "ann", who
// is a developer of both.
func newGate(t testing.TB) *gate {
	t.Helper()
	g := &gate{t: t, store: meta.NewMemory()}
	var err error
	if g.Auth, err = New(t.Context(), g.config()); err != nil {
		t.Fatal(err)
	}
	g.passwords = newPasswords(cost{memory: 8, time: 1, threads: 1})
	err = errors.Join(
		g.createUser(t.Context(), "root", "root's password", true, false),
		g.createUser(t.Context(), "ann", "ann's password", false, false))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shop", "a"} {
		g.project(name, Settings{})
		g.seat(name, "ann", RoleDeveloper)
	}
	return g
}

// root is the system administrator.
var root = User{Name: "root", Admin: true}

func (g *gate) project(name string, s Settings) {
	g.t.Helper()
	_, err := g.CreateProject(g.t.Context(), root, name, s)
	must(g.t, err)
}

func (g *gate) seat(project, user string, role Role) {
	g.t.Helper()
	must(g.t, g.SetMember(g.t.Context(), root, project, user, role))
}

const (
	rootPassword = "root's password"
	annPassword  = "ann's password"
)

func (g *gate) request(method, target string, form url.Values) *http.Request {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(g.t.Context(), method, target, body)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func (g *gate) as(user, password string) *http.Request {
	r := g.request("GET", "https://shoal.example.com:8001/v2/", nil)
	r.SetBasicAuth(user, password)
	return r
}

// ask sends a request to /token.
func (g *gate) ask(r *http.Request) (*httptest.ResponseRecorder, tokenAnswer) {
	g.t.Helper()
	w := httptest.NewRecorder()
	g.ServeToken(w, r)
	var answer tokenAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		g.t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	return w, answer
}

// get asks for a token as Docker does.
func (g *gate) get(user, password string, q url.Values) (*httptest.ResponseRecorder, tokenAnswer) {
	r := g.request("GET", "https://shoal.example.com:8001/token?"+q.Encode(), nil)
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	return g.ask(r)
}

func (g *gate) post(form url.Values) (*httptest.ResponseRecorder, tokenAnswer) {
	return g.ask(g.request("POST", "https://shoal.example.com:8001/token", form))
}

func (g *gate) bearing(raw string) *http.Request {
	r := g.request("GET", "https://shoal.example.com:8001/v2/", nil)
	r.Header.Set("Authorization", "Bearer "+raw)
	return r
}

func challengeOf(err error) string {
	var c *ChallengeError
	if errors.As(err, &c) {
		return c.Challenge()
	}
	return ""
}

func TestTokenByGet(t *testing.T) {
	g := newGate(t)
	w, answer := g.get("ann", annPassword, url.Values{
		"service": {"shoal"}, "account": {"ann"}, "client_id": {"docker"}, "offline_token": {"true"},
		"scope": {"repository:shop/app:pull,push,delete", "repository:shop/base:pull registry:catalog:*"},
	})
	if w.Code != 200 || answer.Token == "" || answer.Token != answer.AccessToken || answer.ExpiresIn < 60 || answer.RefreshToken == "" {
		t.Fatalf("%d %+v", w.Code, answer)
	}
	if answer.IssuedAt != noon.Format(time.RFC3339) || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("%q %v", answer.IssuedAt, w.Header())
	}
	v, err := token.NewVerifier(g.JWKS(), "shoal fra1", "shoal", g.now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Verify(answer.Token)
	if err != nil || c.Subject != "ann" {
		t.Fatalf("%+v %v", c, err)
	}
	if !c.Allows("repository", "shop/app", "pull", "push") || !c.Allows("repository", "shop/base", "pull") || !c.Allows("registry", "catalog", "*") {
		t.Fatalf("too little: %+v", c.Access)
	}
	// Threat 16: DELETE needs delete, which ann may not.
	if c.Allows("repository", "shop/app", "delete") || c.Allows("repository", "shop/base", "push") {
		t.Fatalf("too much: %+v", c.Access)
	}
}

func TestTokenByPost(t *testing.T) {
	g := newGate(t)
	w, first := g.post(url.Values{
		"grant_type": {"password"}, "username": {"ann"}, "password": {annPassword}, "service": {"shoal"},
		"client_id": {"containerd-client"}, "access_type": {"offline"}, "scope": {"repository:shop/app:pull"},
	})
	if w.Code != 200 || first.AccessToken == "" || first.RefreshToken == "" || first.Scope != "repository:shop/app:pull" {
		t.Fatalf("%d %+v", w.Code, first)
	}
	w, second := g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}, "service": {"shoal"}, "scope": {"repository:shop/app:push"}})
	if w.Code != 200 || second.AccessToken == first.AccessToken || second.RefreshToken != first.RefreshToken {
		t.Fatalf("%d %+v", w.Code, second)
	}
	if who, err := g.Authorize(g.bearing(second.Token), "shop/app", "push"); err != nil || who != "ann" {
		t.Fatalf("%q %v", who, err)
	}
	if _, third := g.post(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {annPassword}}); third.RefreshToken != "" {
		t.Fatal("a refresh token that nobody asked for")
	}
}

func TestTokenRefused(t *testing.T) {
	g := newGate(t)
	password := func(change func(url.Values)) url.Values {
		f := url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {annPassword}}
		change(f)
		return f
	}
	inURL := g.request("POST", "https://x/token?grant_type=password&username=ann&password="+url.QueryEscape(annPassword), url.Values{})
	long := g.request("POST", "https://x/token", password(func(f url.Values) { f.Set("pad", strings.Repeat("x", maxForm)) }))
	basic := func(q string) *http.Request {
		r := g.request("GET", "https://x/token?"+q, nil)
		r.SetBasicAuth("ann", annPassword)
		return r
	}
	for name, c := range map[string]struct {
		r    *http.Request
		code int
	}{
		"nobody":               {g.request("GET", "https://x/token?scope=repository:a:pull", nil), 401},
		"nobody, no scope":     {g.request("GET", "https://x/token", nil), 401},
		"another service":      {basic("service=evil"), 400},
		"a scope that is none": {basic("scope=repository"), 400},
		"no grant":             {g.request("POST", "https://x/token", url.Values{}), 400},
		"another grant":        {g.request("POST", "https://x/token", password(func(f url.Values) { f.Set("grant_type", "client_credentials") })), 400},
		"wrong password":       {g.request("POST", "https://x/token", password(func(f url.Values) { f.Set("password", "no") })), 401},
		"password in the URL":  {inURL, 400},
		"a form too long":      {long, 400},
		"no refresh token":     {g.request("POST", "https://x/token", url.Values{"grant_type": {"refresh_token"}}), 401},
		"another method":       {g.request("PUT", "https://x/token", nil), 405},
	} {
		w := httptest.NewRecorder()
		g.ServeToken(w, c.r)
		var body struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != c.code || len(body.Errors) != 1 || body.Errors[0].Code == "" || body.Errors[0].Message == "" {
			t.Errorf("%s: %d %q, want %d and an OCI error", name, w.Code, w.Body, c.code)
		}
		if c.code == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: no challenge", name)
		}
	}
}

func TestRefreshTokenEnds(t *testing.T) {
	refresh := func(g *gate, raw, service string) int {
		w, _ := g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {raw}, "service": {service}})
		return w.Code
	}
	for name, c := range map[string]struct {
		end  func(t *testing.T, g *gate, raw string)
		code int
	}{
		"not at all":         {func(*testing.T, *gate, string) {}, 200},
		"just before":        {func(_ *testing.T, g *gate, _ string) { g.advance(refreshLife - time.Second) }, 200},
		"by time":            {func(_ *testing.T, g *gate, _ string) { g.advance(refreshLife) }, 401},
		"by sweeping others": {func(t *testing.T, g *gate, _ string) { must(t, g.Sweep(t.Context())) }, 200},
		"by revocation": {func(t *testing.T, g *gate, raw string) {
			must(t, g.RevokeSession(g.as("", ""), g.user("ann"), sessionID(hashed(raw))))
		}, 401},
		"by a new password": {func(t *testing.T, g *gate, _ string) { must(t, g.SetPassword(t.Context(), "ann", "another one")) }, 401},
		"with its user":     {func(t *testing.T, g *gate, _ string) { must(t, g.RemoveUser(t.Context(), "ann")) }, 401},
		"with a namesake": {func(t *testing.T, g *gate, _ string) {
			must(t, errors.Join(g.RemoveUser(t.Context(), "ann"), g.CreateUser(t.Context(), "ann", annPassword, true)))
		}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t)
			_, answer := g.get("ann", annPassword, url.Values{"offline_token": {"true"}})
			c.end(t, g, answer.RefreshToken)
			if code := refresh(g, answer.RefreshToken, "shoal"); code != c.code {
				t.Fatalf("%d, want %d", code, c.code)
			}
			// Threat 19: what was made for the registry opens no API.
			if code := refresh(g, answer.RefreshToken, APIService); code != 401 {
				t.Fatalf("for the API: %d", code)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJWKSIsServed(t *testing.T) {
	g := newGate(t)
	w := httptest.NewRecorder()
	g.ServeJWKS(w, g.request("GET", "https://x/.well-known/jwks.json", nil))
	if !bytes.Equal(w.Body.Bytes(), g.JWKS()) || !strings.Contains(w.Body.String(), `"Ed25519"`) || strings.Contains(w.Body.String(), `"d"`) {
		t.Fatalf("%s", w.Body)
	}
}

func TestConfigIsChecked(t *testing.T) {
	g := &gate{t: t, store: meta.NewMemory()}
	for name, change := range map[string]func(*Config){
		"no store": func(c *Config) { c.Meta = nil }, "no member key": func(c *Config) { c.MemberKey = nil }, "no token key": func(c *Config) { c.TokenKeys = nil },
		"no IDC": func(c *Config) { c.IDC = "" }, "no URL": func(c *Config) { c.ExternalURL = "" }, "URL without scheme": func(c *Config) { c.ExternalURL = "shoal:8001" },
		"one audience for both": func(c *Config) { c.Service = APIService }, "no service": func(c *Config) { c.Service = "" },
	} {
		cfg := g.config()
		change(&cfg)
		if _, err := New(t.Context(), cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Threat 35: what is stored, logged and answered holds no secret.
func TestThreat35NoSecretIsKeptOrLogged(t *testing.T) {
	g := newGate(t)
	secrets := []string{annPassword, "a password typed as a name", "mistyped"}
	_, answer := g.get("ann", annPassword, url.Values{"offline_token": {"true"}, "scope": {"repository:a:pull"}})
	join, _, err := g.CreateJoin(t.Context(), time.Hour, "core", 1)
	must(t, err)
	parsed, err := token.ParseJoin(join)
	must(t, err)
	secrets = append(secrets, answer.Token, answer.RefreshToken, parsed.Secret)
	var answers strings.Builder
	for _, c := range [][2]string{{"a password typed as a name", "x"}, {"ann", "mistyped"}} {
		w, _ := g.get(c[0], c[1], nil)
		answers.WriteString(w.Body.String())
	}
	_, err = g.Redeem(t.Context(), parsed.ID, parsed.Secret+"x", "peer")
	answers.WriteString(err.Error())
	_, err = g.Authorize(g.bearing(answer.Token+"x"), "a", "pull")
	answers.WriteString(err.Error() + challengeOf(err))
	list, err := g.store.List(t.Context(), "", "", 0)
	must(t, err)
	for _, v := range list {
		answers.WriteString(v.Key + string(v.Data))
	}
	for _, s := range secrets {
		if strings.Contains(g.log.String(), s) || strings.Contains(answers.String(), s) {
			t.Errorf("%q is in a log, an answer or the store", s)
		}
	}
	if strings.Contains(g.log.String(), "argon2id") {
		t.Error("a password's hash is in the log")
	}
	if !strings.Contains(g.log.String(), "login failed") {
		t.Error("a failed login is not logged")
	}
}

func TestSweep(t *testing.T) {
	g := newGate(t)
	for range meta.MaxOps + 5 {
		_, err := g.newRefresh(t.Context(), User{Name: "ann"}, "shoal", Begun{})
		must(t, err)
	}
	g.advance(time.Hour)
	_, err := g.newRefresh(t.Context(), User{Name: "ann"}, "shoal", Begun{})
	must(t, err)
	_, _, err = g.CreateJoin(t.Context(), time.Hour, "", 1)
	must(t, err)
	g.advance(refreshLife - time.Hour)
	must(t, g.Sweep(t.Context()))
	left, err := g.store.List(t.Context(), "auth/", "", 0)
	must(t, err)
	if len(left) != 8 { // two users, two projects with a member each, the last change, and the young refresh token
		t.Fatalf("%d are left", len(left))
	}
}
