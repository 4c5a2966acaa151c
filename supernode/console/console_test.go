package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// doors lets in whoever sends the cookie "in".
type doors struct {
	changed  string
	provider bool
	fault    error // of the fleet
}

func (d *doors) Login(w http.ResponseWriter, _ *http.Request, user, password string) error {
	if user != "admin" || password != "right" {
		return fmt.Errorf("%w: this user and password are not known", ErrRefused)
	}
	http.SetCookie(w, &http.Cookie{Name: "in", Value: "1"})
	return nil
}

func (d *doors) OpenID() bool { return d.provider }

func (d *doors) BeginOpenID(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, "https://provider.example/authorize", http.StatusFound)
	return nil
}

func (d *doors) FinishOpenID(w http.ResponseWriter, r *http.Request) error {
	switch r.URL.Query().Get("code") {
	case "":
		return fmt.Errorf("%w: begin it again", ErrRefused)
	case "fault":
		return errors.New("the store is away")
	}
	http.SetCookie(w, &http.Cookie{Name: "in", Value: "1"})
	return nil
}

func (d *doors) Session(r *http.Request) (Session, bool) {
	_, err := r.Cookie("in")
	return Session{User: "admin", CSRF: "c5rf", MustChange: true}, err == nil
}

func (d *doors) CheckForm(_ *http.Request, csrf string) error {
	if csrf != "c5rf" {
		return errors.New("wrong token")
	}
	return nil
}

func (d *doors) Logout(http.ResponseWriter, *http.Request) {}

func (d *doors) ChangePassword(_ *http.Request, old, next string) error {
	if old != "right" {
		return errors.New("the password is wrong")
	}
	d.changed = next
	return nil
}

func newServer(t *testing.T, d *doors) *http.ServeMux {
	t.Helper()
	c, err := New(Config{
		Doors: d, Name: "test", Log: slog.New(slog.DiscardHandler),
		Images: func(context.Context) ([]Image, error) {
			return []Image{{Repository: "<script>alert(1)</script>", Tag: "v1", Digest: "sha256:0123456789abcdef", Size: 1500}}, nil
		},
		Swarms: func(context.Context) ([]Swarm, error) {
			return []Swarm{{Digest: "sha256:0123456789abcdef", Size: 10, Peers: []Peer{{Host: "h1", Held: 1, Pieces: 4}}}}, nil
		},
		Services: func(context.Context) ([]Service, error) {
			return []Service{{Name: "web", Pool: "light", Image: "demo/web@sha256:01", Phase: "running", Healthy: 1, Replicas: 2, Containers: []Container{
				{Server: "h1", State: "running", Ready: time.Unix(1, 5e6), Started: time.Unix(2, 0)}, {Server: "h2", State: "failed", Error: "<b>no</b>"},
			}}}, nil
		},
		Fleet: func(context.Context) ([]Pool, error) {
			if d.fault != nil {
				return nil, d.fault
			}
			return []Pool{
				{Name: "light", Tier: "light", Cluster: "metal", Ready: 1, Servers: []Server{{Name: "h1", Phase: "ready", CPU: 12000, Memory: 16e9}, {Name: "<i>h2", Phase: "failed", Reason: "step disk: full"}}},
				{Name: "core", Tier: "core"},
			}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for route, handler := range c.Open() {
		mux.HandleFunc(route, handler)
	}
	for route, handler := range c.Closed() {
		mux.HandleFunc(route, handler)
	}
	return mux
}

func do(mux http.Handler, method, path string, in bool, form url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if in {
		r.AddCookie(&http.Cookie{Name: "in", Value: "1"})
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

func TestEveryClosedPageSendsStrangersToTheLogin(t *testing.T) {
	mux := newServer(t, &doors{})
	c, _ := New(Config{Doors: &doors{}})
	for route := range c.Closed() {
		method, path, _ := strings.Cut(route, " ")
		w := do(mux, method, strings.TrimSuffix(path, "{$}"), false, nil)
		if w.Code != http.StatusFound || w.Header().Get("Location") != "/login" {
			t.Errorf("%s: %d %s", route, w.Code, w.Header().Get("Location"))
		}
	}
}

func TestPages(t *testing.T) {
	mux := newServer(t, &doors{})
	for path, says := range map[string][]string{
		"/images":   {"&lt;script&gt;alert(1)"},
		"/swarm":    {"1 of 4 pieces"},
		"/services": {"running, 1 of 2 healthy on light", "00:00:01.005", "00:00:02.000", "&lt;b&gt;no", "<td>—</td>"},
		"/fleet":    {"metal, light, 1 of 2 ready", ">12<", "16.0 GB", "step disk: full", "&lt;i&gt;h2", "--pool core"},
		"/password": {"New password again"},
	} {
		w := do(mux, "GET", path, true, nil)
		body := w.Body.String()
		if w.Code != 200 || strings.Contains(body, "<script") {
			t.Errorf("%s: %d\n%s", path, w.Code, body)
		}
		for _, words := range says {
			if !strings.Contains(body, words) {
				t.Errorf("%s does not say %q:\n%s", path, words, body)
			}
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("%s: content security policy %q", path, csp)
		}
	}
	if w := do(newServer(t, &doors{fault: errors.New("away")}), "GET", "/fleet", true, nil); w.Code != 500 || strings.Contains(w.Body.String(), "away") {
		t.Errorf("/fleet with a fault: %d %s", w.Code, w.Body)
	}
	if w := do(mux, "GET", "/style.css", false, nil); w.Code != 200 || !strings.Contains(w.Header().Get("Content-Type"), "text/css") {
		t.Errorf("/style.css: %d %s", w.Code, w.Header())
	}
}

func TestLogin(t *testing.T) {
	mux := newServer(t, &doors{})
	if w := do(mux, "POST", "/login", false, url.Values{"user": {"admin"}, "password": {"wrong"}}); w.Code != 401 || !strings.Contains(w.Body.String(), "not known") {
		t.Errorf("wrong password: %d %s", w.Code, w.Body)
	}
	if w := do(mux, "POST", "/login", false, url.Values{"user": {"admin"}, "password": {"right"}}); w.Code != 303 || w.Header().Get("Set-Cookie") == "" {
		t.Errorf("right password: %d", w.Code)
	}
	if w := do(mux, "GET", "/login", true, nil); w.Code != 302 {
		t.Errorf("a second login: %d", w.Code)
	}
}

func TestLoginAtAProvider(t *testing.T) {
	const link = `href="/login/oidc"`
	if w := do(newServer(t, &doors{}), "GET", "/login", false, nil); strings.Contains(w.Body.String(), link) {
		t.Error("a login at a provider is offered, and there is none")
	}
	mux := newServer(t, &doors{provider: true})
	if w := do(mux, "GET", "/login", false, nil); !strings.Contains(w.Body.String(), link) {
		t.Errorf("the login page does not offer the provider: %s", w.Body)
	}
	if w := do(mux, "GET", "/login/oidc", false, nil); w.Code != 302 || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("the way to the provider: %d %v", w.Code, w.Header())
	}
	w := do(mux, "GET", "/login/oidc/callback?code=good&next=https://evil.example", false, nil)
	if w.Code != 200 || w.Header().Get("Set-Cookie") == "" || !strings.Contains(w.Body.String(), `content="0;url=/images"`) || strings.Contains(w.Body.String(), "evil") {
		t.Errorf("back from the provider: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := do(mux, "GET", "/login/oidc/callback", false, nil); w.Code != 401 || !strings.Contains(w.Body.String(), "begin it again") {
		t.Errorf("an answer that was not asked for: %d %s", w.Code, w.Body)
	}
	if w := do(mux, "GET", "/login/oidc/callback?code=fault", false, nil); w.Code != 500 || strings.Contains(w.Body.String(), "store") {
		t.Errorf("a fault: %d %s", w.Code, w.Body)
	}
}

func TestFormsNeedTheirToken(t *testing.T) {
	d := &doors{}
	mux := newServer(t, d)
	form := url.Values{"old": {"right"}, "new": {"n"}, "again": {"n"}}
	if w := do(mux, "POST", "/password", true, form); w.Code != 403 || d.changed != "" {
		t.Errorf("without a token: %d", w.Code)
	}
	form.Set("csrf", "c5rf")
	form.Set("again", "m")
	if w := do(mux, "POST", "/password", true, form); w.Code != 400 || d.changed != "" {
		t.Errorf("with two different passwords: %d", w.Code)
	}
	form.Set("again", "n")
	if w := do(mux, "POST", "/password", true, form); w.Code != 303 || d.changed != "n" {
		t.Errorf("with its token: %d %q", w.Code, d.changed)
	}
	if w := do(mux, "POST", "/logout", true, url.Values{"csrf": {"x"}}); w.Code != 403 {
		t.Errorf("logout without a token: %d", w.Code)
	}
	r := httptest.NewRequest("POST", "/login", io.LimitReader(neverEnding{}, 1<<20))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("an endless form: %d", w.Code)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}
