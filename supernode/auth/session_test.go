package auth

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

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
