package auth

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// offline logs somebody in with a refresh token, and gives it with an API
// token that was made from it.
func (g *gate) offline(user, password string) (refresh, access string) {
	g.t.Helper()
	w, answer := g.get(user, password, url.Values{"offline_token": {"true"}, "service": {APIService}})
	if w.Code != 200 || answer.RefreshToken == "" {
		g.t.Fatalf("%d %s", w.Code, w.Body)
	}
	_, answer2 := g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {answer.RefreshToken}, "service": {APIService}})
	return answer.RefreshToken, answer2.AccessToken
}

func (g *gate) asks(access string) (User, error) {
	r := g.request("POST", "https://x/api/", nil)
	r.Header.Set("Authorization", "Bearer "+access)
	return g.AuthorizeAPI(r)
}

func TestSessionsAreListed(t *testing.T) {
	g := newGate(t)
	_, access := g.offline("ann", annPassword)
	g.advance(time.Minute)
	w := httptest.NewRecorder()
	r := g.request("POST", "https://shoal.example.com:8001/login", nil)
	r.Header.Set("User-Agent", "Browser/1.0 \x1b[31m"+strings.Repeat("x", 100))
	if _, err := g.LoginSession(w, r, "ann", annPassword); err != nil {
		t.Fatal(err)
	}
	g.offline("root", rootPassword)
	ann, err := g.asks(access)
	if err != nil {
		t.Fatal(err)
	}
	list, err := g.Sessions(t.Context(), ann, "ann")
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v %v", list, err)
	}
	browser, token := list[0], list[1]
	if browser.Kind != KindConsole || browser.Current || browser.Begun.By != byPassword || browser.Begun.From == "" ||
		len(browser.Begun.Client) != maxClient || strings.Contains(browser.Begun.Client, "\x1b") || !browser.Expires.Equal(browser.Begun.At.Add(sessionLife)) {
		t.Errorf("%+v", browser)
	}
	if token.Kind != KindToken || !token.Current || token.Service != APIService || token.User != "ann" || !isSessionID(token.ID) {
		t.Errorf("%+v", token)
	}
	if all, err := g.Sessions(t.Context(), g.user("root"), ""); err != nil || len(all) != 3 {
		t.Errorf("%+v %v", all, err)
	}
	g.advance(sessionLife)
	if left, err := g.Sessions(t.Context(), ann, "ann"); err != nil || len(left) != 1 || left[0].ID != token.ID {
		t.Errorf("after the browser's ended: %+v %v", left, err)
	}
	must(t, g.SetPassword(t.Context(), "ann", "another password"))
	if left, err := g.Sessions(t.Context(), ann, "ann"); err != nil || len(left) != 0 {
		t.Errorf("after a new password: %+v %v", left, err)
	}
}

func TestSessionsEndAtOnce(t *testing.T) {
	for name, end := range map[string]func(g *gate, r *http.Request, ann User, id string) error{
		"by its owner":       func(g *gate, r *http.Request, ann User, id string) error { return g.RevokeSession(r, ann, id) },
		"by its own request": func(g *gate, r *http.Request, ann User, _ string) error { return g.RevokeSession(r, ann, "") },
		"by an administrator": func(g *gate, r *http.Request, _ User, id string) error {
			return g.RevokeSession(r, g.user("root"), id)
		},
		"with all of its owner": func(g *gate, r *http.Request, ann User, _ string) error { return g.RevokeSessions(r, ann, "ann") },
		"with all, by an administrator": func(g *gate, r *http.Request, _ User, _ string) error {
			return g.RevokeSessions(r, g.user("root"), "ann")
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t)
			refresh, access := g.offline("ann", annPassword)
			_, registry := g.post(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {annPassword}, "access_type": {"offline"}, "service": {"shoal"}, "scope": {"repository:a/x:pull"}})
			r := g.request("POST", "https://x/", nil)
			ann, err := g.asks(access)
			must(t, err)
			var told []string
			g.cfg.OnChange = func(c Change) { told = append(told, c.Project+"/"+c.User) }
			must(t, end(g, r, ann, sessionID(hashed(refresh))))
			if len(told) != 1 || told[0] != "/ann" {
				t.Errorf("the agents heard %v", told)
			}
			if _, err := g.asks(access); err == nil {
				t.Error("a token that was made from it opens the API")
			}
			if w, _ := g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {APIService}}); w.Code != 401 {
				t.Errorf("the refresh token: %d", w.Code)
			}
			_, err = g.Authorize(g.bearing(registry.AccessToken), "a/x", "pull")
			_, pulls := g.Puller(t.Context(), registry.AccessToken, "a peer", "a/x")
			if all := strings.Contains(name, "with all"); (err != nil) != all || (pulls != nil) != all {
				t.Errorf("the token of the other session: %v, %v", err, pulls)
			}
			if _, err := g.Login(r, "ann", annPassword); err != nil {
				t.Errorf("the password: %v", err)
			}
		})
	}
}

// A session of somebody else and one that is not there look the same.
func TestNobodyEndsTheSessionsOfOthers(t *testing.T) {
	g := newGate(t)
	refresh, access := g.offline("root", rootPassword)
	r := g.request("POST", "https://x/", nil)
	ann := g.user("ann")
	for name, id := range map[string]string{
		"root's": sessionID(hashed(refresh)), "none": "0123456789abcdef", "a part": sessionID(hashed(refresh))[:8], "empty": "", "all": strings.Repeat("0", 64),
	} {
		if err := g.RevokeSession(r, ann, id); !errors.Is(err, ErrUnknownSession) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := g.RevokeSessions(r, ann, "root"); !errors.Is(err, ErrDenied) {
		t.Errorf("all of root's: %v", err)
	}
	if err := g.RevokeSessions(r, g.user("root"), "nobody"); !errors.Is(err, ErrNoUser) {
		t.Errorf("all of nobody's: %v", err)
	}
	if _, err := g.asks(access); err != nil {
		t.Errorf("root's session ended: %v", err)
	}
}
