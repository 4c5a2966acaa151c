package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
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

func (g *gate) config() Config {
	return Config{
		Meta: g.store, TokenKey: newKey(g.t), MemberKey: newKey(g.t), IDC: "fra1", Issuer: "shoal fra1", Service: "shoal",
		ExternalURL: "https://shoal.example.com:8001", PublicNames: []string{"registry.example.com", "10.0.0.1:8001"},
		OnRevoke: func(ids ...string) { g.told = append(g.told, ids...) },
		Now:      g.now, Log: slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// newGate has an admin "root" and a user "ann".
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
	return g
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
		"by revocation":      {func(t *testing.T, g *gate, raw string) { must(t, g.RevokeRefresh(t.Context(), raw)) }, 401},
		"by a new password":  {func(t *testing.T, g *gate, _ string) { must(t, g.SetPassword(t.Context(), "ann", "another one")) }, 401},
		"with its user":      {func(t *testing.T, g *gate, _ string) { must(t, g.RemoveUser(t.Context(), "ann")) }, 401},
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

func TestAuthorize(t *testing.T) {
	g := newGate(t)
	_, pull := g.get("ann", annPassword, url.Values{"scope": {"repository:shop/app:pull"}})
	_, plain := g.get("ann", annPassword, nil)
	_, rootDelete := g.get("root", rootPassword, url.Values{"scope": {"repository:shop/app:*"}})
	_, catalog := g.get("ann", annPassword, url.Values{"scope": {"registry:catalog:*"}})
	none := g.request("GET", "https://x/v2/", nil)
	digest := g.request("GET", "https://x/v2/", nil)
	digest.Header.Set("Authorization", "Digest x")
	type want int
	const (
		ok want = iota
		challenged
		denied
	)
	for name, c := range map[string]struct {
		r       *http.Request
		repo    string
		actions []string
		want    want
	}{
		"nobody":                         {none, "shop/app", []string{"pull"}, challenged},
		"nobody, base":                   {none, "", nil, challenged},
		"another scheme":                 {digest, "shop/app", []string{"pull"}, challenged},
		"token, base":                    {g.bearing(plain.Token), "", nil, ok},
		"token without scope":            {g.bearing(plain.Token), "shop/app", []string{"pull"}, challenged},
		"token for pull, pull":           {g.bearing(pull.Token), "shop/app", []string{"pull"}, ok},
		"token for pull, push":           {g.bearing(pull.Token), "shop/app", []string{"push"}, challenged},
		"token for pull, pull and push":  {g.bearing(pull.Token), "shop/app", []string{"pull", "push"}, challenged},
		"token for another repository":   {g.bearing(pull.Token), "shop/app2", []string{"pull"}, challenged},
		"token, what nobody grants ann":  {g.bearing(pull.Token), "shop/app", []string{"delete"}, denied},
		"token for all, delete":          {g.bearing(rootDelete.Token), "shop/app", []string{"delete"}, ok},
		"token for a repository, list":   {g.bearing(pull.Token), "", []string{"catalog"}, challenged},
		"token for the catalog, list":    {g.bearing(catalog.Token), "", []string{"catalog"}, ok},
		"token cut":                      {g.bearing(pull.Token[:20]), "shop/app", []string{"pull"}, challenged},
		"password, pull and push":        {g.as("ann", annPassword), "shop/app", []string{"pull", "push"}, ok},
		"password, delete":               {g.as("ann", annPassword), "shop/app", []string{"delete"}, denied},
		"password of the admin, delete":  {g.as("root", rootPassword), "shop/app", []string{"delete"}, ok},
		"password, an action of no kind": {g.as("root", rootPassword), "shop/app", []string{"sudo"}, denied},
		"password, no action":            {g.as("root", rootPassword), "shop/app", nil, denied},
		"wrong password":                 {g.as("ann", "wrong"), "", nil, challenged},
	} {
		who, err := g.Authorize(c.r, c.repo, c.actions...)
		switch {
		case c.want == ok && (err != nil || who == ""):
			t.Errorf("%s: %q %v", name, who, err)
		case c.want == challenged && challengeOf(err) == "":
			t.Errorf("%s: %q %v, want a challenge", name, who, err)
		case c.want == denied && (!errors.Is(err, ErrDenied) || challengeOf(err) != ""):
			t.Errorf("%s: %q %v, want a denial", name, who, err)
		}
		if err != nil && who != "" {
			t.Errorf("%s: an error and a subject", name)
		}
	}
	g.advance(token.Life)
	if _, err := g.Authorize(g.bearing(pull.Token), "shop/app", "pull"); challengeOf(err) == "" {
		t.Errorf("an expired token: %v", err)
	}
}

func TestTokenOfARemovedUserEndsAtOnce(t *testing.T) {
	g := newGate(t)
	_, answer := g.get("ann", annPassword, url.Values{"scope": {"repository:a:pull"}})
	must(t, g.RemoveUser(t.Context(), "ann"))
	if _, err := g.Authorize(g.bearing(answer.Token), "a", "pull"); challengeOf(err) == "" {
		t.Fatal(err)
	}
}

func TestChallenge(t *testing.T) {
	g := newGate(t)
	at := func(url string) *http.Request { return g.request("GET", url, nil) }
	reachedAt := func(url, local string) *http.Request {
		r := at(url)
		return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, addr(local)))
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want string
	}{
		"configured":            {at("https://shoal.example.com:8001/v2/"), "https://shoal.example.com:8001"},
		"capitals":              {at("https://SHOAL.example.com:8001/v2/"), "https://SHOAL.example.com:8001"},
		"TLS ended before us":   {at("http://shoal.example.com:8001/v2/"), "https://shoal.example.com:8001"},
		"public name":           {at("https://registry.example.com/v2/"), "https://registry.example.com"},
		"public name, any port": {at("https://registry.example.com:9/v2/"), "https://registry.example.com:9"},
		"public name with port": {at("https://10.0.0.1:8001/v2/"), "https://10.0.0.1:8001"},
		"that name, other port": {at("https://10.0.0.1:9/v2/"), "https://shoal.example.com:8001"},
		"another's name":        {at("https://evil.example.com/v2/"), "https://shoal.example.com:8001"},
		"address reached":       {reachedAt("http://127.0.0.1:5001/v2/", "127.0.0.1:5001"), "http://127.0.0.1:5001"},
		"address reached, TLS":  {reachedAt("https://127.0.0.1:5001/v2/", "127.0.0.1:5001"), "https://127.0.0.1:5001"},
		"localhost":             {reachedAt("http://localhost:5001/v2/", "[::1]:5001"), "http://localhost:5001"},
		"localhost from afar":   {reachedAt("http://localhost:5001/v2/", "10.0.0.9:5001"), "https://shoal.example.com:8001"},
		"address not reached":   {reachedAt("http://127.0.0.2:5001/v2/", "127.0.0.1:5001"), "https://shoal.example.com:8001"},
	} {
		_, err := g.Authorize(c.r, "shop/app", "pull", "push")
		want := `Bearer realm="` + c.want + `/token",service="shoal",scope="repository:shop/app:pull,push"`
		if got := challengeOf(err); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	r := at("https://x/")
	r.Host = `registry.example.com:1",evil="`
	_, err := g.Authorize(r, `a",scope="x`, "pull")
	if got := challengeOf(err); got != `Bearer realm="https://shoal.example.com:8001/token",service="shoal"` {
		t.Errorf("quotes got in: %s", got)
	}
	_, err = g.Authorize(at("https://x/"), "", "catalog")
	if got := challengeOf(err); !strings.Contains(got, `scope="registry:catalog:*"`) {
		t.Errorf("catalog: %s", got)
	}
	_, err = g.Authorize(g.bearing("x"), "a", "pull")
	if got := challengeOf(err); !strings.HasSuffix(got, `,error="invalid_token"`) {
		t.Errorf("a bad token: %s", got)
	}
}

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

// Threat 19: a registry token is no admin token.
func TestThreat19API(t *testing.T) {
	g := newGate(t)
	_, forRegistry := g.get("root", rootPassword, url.Values{"scope": {"registry:catalog:* repository:a:*"}})
	_, forAPI := g.get("root", rootPassword, url.Values{"service": {APIService}, "scope": {"repository:a:pull"}, "offline_token": {"true"}})
	_, annAPI := g.get("ann", annPassword, url.Values{"service": {APIService}})
	if _, err := g.AuthorizeAPI(g.bearing(forRegistry.Token)); challengeOf(err) == "" {
		t.Fatalf("a registry token opened the API: %v", err)
	}
	if _, err := g.Authorize(g.bearing(forAPI.Token), ""); challengeOf(err) == "" {
		t.Fatalf("an API token opened the registry: %v", err)
	}
	if u, err := g.AuthorizeAdmin(g.bearing(forAPI.Token)); err != nil || u.Name != "root" {
		t.Fatalf("%v %v", u, err)
	}
	if w, _ := g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {forAPI.RefreshToken}, "service": {APIService}}); w.Code != 200 {
		t.Fatalf("refresh for the API: %d", w.Code)
	}
	if u, err := g.AuthorizeAPI(g.bearing(annAPI.Token)); err != nil || u.Name != "ann" || u.Admin {
		t.Fatalf("%v %v", u, err)
	}
	if _, err := g.AuthorizeAdmin(g.bearing(annAPI.Token)); !errors.Is(err, ErrDenied) {
		t.Fatalf("ann as admin: %v", err)
	}
	if u, err := g.AuthorizeAdmin(g.as("root", rootPassword)); err != nil || !u.Admin {
		t.Fatalf("by password: %v", err)
	}
	if _, err := g.AuthorizeAPI(g.request("POST", "https://x/api/", nil)); !strings.Contains(challengeOf(err), `service="shoal-api"`) {
		t.Fatalf("nobody: %v", err)
	}
	// A right that was taken away is gone at once, whatever the token says.
	must(t, g.CreateUser(t.Context(), "eve", "eve's password", true))
	_, eve := g.get("eve", "eve's password", url.Values{"service": {APIService}})
	must(t, g.RemoveUser(t.Context(), "eve"))
	if _, err := g.AuthorizeAPI(g.bearing(eve.Token)); challengeOf(err) == "" {
		t.Fatalf("a removed admin: %v", err)
	}
}

// Threat 34: sessions, their cookies and their CSRF tokens.
func TestThreat34Session(t *testing.T) {
	g := newGate(t)
	page := func(cookies ...*http.Cookie) *http.Request {
		r := g.request("POST", "https://shoal.example.com:8001/login", url.Values{})
		r.TLS = &tls.ConnectionState{}
		for _, c := range cookies {
			r.AddCookie(c)
		}
		return r
	}
	evil := page()
	evil.Header.Set("Origin", "https://evil.example.com")
	if _, err := g.LoginSession(httptest.NewRecorder(), evil, "ann", annPassword); !errors.Is(err, ErrCSRF) {
		t.Fatalf("a login form of another site: %v", err)
	}
	if _, err := g.LoginSession(httptest.NewRecorder(), page(), "ann", "wrong"); !errors.Is(err, ErrLogin) {
		t.Fatal(err)
	}
	login := func(with ...*http.Cookie) *http.Cookie {
		w := httptest.NewRecorder()
		if _, err := g.LoginSession(w, page(with...), "ann", annPassword); err != nil {
			t.Fatal(err)
		}
		return w.Result().Cookies()[0]
	}
	fixed := &http.Cookie{Name: secureCookie, Value: "chosen by somebody else"}
	cookie := login(fixed)
	if cookie.Value == fixed.Value || !cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Domain != "" || !strings.HasPrefix(cookie.Name, "__Host-") {
		t.Fatalf("%+v", cookie)
	}
	s, err := g.SessionFrom(page(cookie))
	if err != nil || s.User.Name != "ann" || s.CSRF == "" || strings.Contains(cookie.Value, s.CSRF) {
		t.Fatalf("%+v %v", s, err)
	}
	if _, err := g.SessionFrom(page(fixed)); !errors.Is(err, ErrNoSession) {
		t.Fatal("a session id chosen by the browser")
	}
	list, err := g.store.List(t.Context(), sessionPrefix, "", 0)
	if err != nil || len(list) != 1 || strings.Contains(list[0].Key+string(list[0].Data), cookie.Value) {
		t.Fatalf("what is stored opens a session: %v %v", list, err)
	}

	other, err := g.SessionFrom(page(login()))
	must(t, err)
	if g.CheckCSRF(page(cookie), s, s.CSRF) != nil {
		t.Fatal("the right token was refused")
	}
	crossSite := page(cookie)
	crossSite.Header.Set("Sec-Fetch-Site", "cross-site")
	for name, err := range map[string]error{
		"none":             g.CheckCSRF(page(cookie), s, ""),
		"another's":        g.CheckCSRF(page(cookie), s, other.CSRF),
		"cross-site":       g.CheckCSRF(crossSite, s, s.CSRF),
		"without session":  g.CheckCSRF(page(), Session{}, ""),
		"another's origin": g.CheckCSRF(evil, s, s.CSRF),
	} {
		if !errors.Is(err, ErrCSRF) {
			t.Errorf("CSRF %s: %v", name, err)
		}
	}
	// The API takes a cookie only with the token beside it.
	call := page(cookie)
	if _, err := g.AuthorizeAPI(call); challengeOf(err) == "" {
		t.Fatalf("a cookie alone: %v", err)
	}
	call.Header.Set(CSRFHeader, s.CSRF)
	if u, err := g.AuthorizeAPI(call); err != nil || u.Name != "ann" {
		t.Fatalf("%v %v", u, err)
	}
	w := httptest.NewRecorder()
	must(t, g.EndSession(w, page(cookie)))
	if _, err := g.SessionFrom(page(cookie)); !errors.Is(err, ErrNoSession) || w.Result().Cookies()[0].MaxAge >= 0 {
		t.Fatalf("after logging out: %v", err)
	}
}

func TestSessionEnds(t *testing.T) {
	for name, end := range map[string]func(g *gate, r *http.Request){
		"by time":           func(g *gate, _ *http.Request) { g.advance(sessionLife) },
		"by a new password": func(g *gate, _ *http.Request) { must(t, g.SetPassword(t.Context(), "ann", "another one")) },
		"with its user":     func(g *gate, _ *http.Request) { must(t, g.RemoveUser(t.Context(), "ann")) },
		"by a next one": func(g *gate, r *http.Request) {
			_, err := g.LoginSession(httptest.NewRecorder(), r, "ann", annPassword)
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t)
			w := httptest.NewRecorder()
			r := g.request("GET", "http://127.0.0.1/", nil)
			if _, err := g.LoginSession(w, r, "ann", annPassword); err != nil {
				t.Fatal(err)
			}
			cookie := w.Result().Cookies()[0]
			if cookie.Secure || cookie.Name != plainCookie {
				t.Fatalf("over plain HTTP: %+v", cookie)
			}
			r.AddCookie(cookie)
			g.advance(sessionLife - time.Hour)
			if _, err := g.SessionFrom(r); err != nil {
				t.Fatal(err)
			}
			end(g, r)
			if _, err := g.SessionFrom(r); !errors.Is(err, ErrNoSession) {
				t.Fatal(err)
			}
		})
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
		"no store": func(c *Config) { c.Meta = nil }, "no member key": func(c *Config) { c.MemberKey = nil }, "no token key": func(c *Config) { c.TokenKey = nil },
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
	if !strings.Contains(g.log.String(), "login failed") {
		t.Error("a failed login is not logged")
	}
}

func TestSweep(t *testing.T) {
	g := newGate(t)
	for range meta.MaxOps + 5 {
		_, err := g.newRefresh(t.Context(), User{Name: "ann"}, "shoal")
		must(t, err)
	}
	g.advance(time.Hour)
	_, err := g.newRefresh(t.Context(), User{Name: "ann"}, "shoal")
	must(t, err)
	_, _, err = g.CreateJoin(t.Context(), time.Hour, "", 1)
	must(t, err)
	g.advance(refreshLife - time.Hour)
	must(t, g.Sweep(t.Context()))
	left, err := g.store.List(t.Context(), "auth/", "", 0)
	must(t, err)
	if len(left) != 3 { // two users and the young refresh token
		t.Fatalf("%d are left", len(left))
	}
}
