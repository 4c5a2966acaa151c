package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/auth/openid"
	"github.com/shoalproject/shoal/supernode/auth/openid/openidtest"
)

// newOpenIDGate is a gate whose provider is a forger.
func newOpenIDGate(t *testing.T, adminGroup string) (*gate, *openidtest.Forger) {
	t.Helper()
	g := newGate(t)
	f := openidtest.NewForger(t, g.now)
	p, err := openid.New(openid.Config{Issuer: f.URL, ClientID: "shoal", ClientSecret: "s", UsernameClaim: "preferred_username", GroupsClaim: "groups", AdminGroup: adminGroup, Now: g.now})
	if err != nil {
		t.Fatal(err)
	}
	g.cfg.OpenID = p
	return g, f
}

// away is a browser at the provider: its cookies, and where it was sent.
type away struct {
	cookies []*http.Cookie
	target  string
}

func (g *gate) begin(host string) away {
	g.t.Helper()
	w := httptest.NewRecorder()
	if err := g.BeginOpenID(w, g.request("GET", "https://"+host+"/login/oidc", nil)); err != nil {
		g.t.Fatal(err)
	}
	if w.Code != http.StatusFound {
		g.t.Fatalf("%d", w.Code)
	}
	return away{w.Result().Cookies(), w.Header().Get("Location")}
}

func (g *gate) finish(cookies []*http.Cookie, answer url.Values) (*httptest.ResponseRecorder, User, error) {
	g.t.Helper()
	r := g.request("GET", "https://shoal.example.com:8001"+OpenIDCallback+"?"+answer.Encode(), nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	user, err := g.FinishOpenID(w, r)
	return w, user, err
}

// sessionOf is the session that an answer began, or none.
func (g *gate) sessionOf(w *httptest.ResponseRecorder) (Session, error) {
	r := g.request("GET", "https://shoal.example.com:8001/images", nil)
	for _, c := range w.Result().Cookies() {
		if c.Name == secureCookie {
			r.AddCookie(c)
		}
	}
	return g.SessionFrom(r)
}

func (g *gate) loginOpenID(f *openidtest.Forger) (User, error) {
	g.t.Helper()
	b := g.begin("shoal.example.com:8001")
	_, user, err := g.finish(b.cookies, f.Authorize(b.target))
	return user, err
}

func TestLoginAtTheProvider(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	f.Set(func(f *openidtest.Forger) { f.Claims["preferred_username"] = "Eve" })
	b := g.begin("shoal.example.com:8001")
	if len(b.cookies) != 1 {
		t.Fatalf("%v", b.cookies)
	}
	c := b.cookies[0]
	if c.Name != "__Host-shoal-oidc" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.MaxAge != 600 || c.Path != "/" || strings.Contains(b.target, c.Value) {
		t.Fatalf("the cookie is %+v", c)
	}
	w, user, err := g.finish(b.cookies, f.Authorize(b.target))
	if err != nil || user.Name != "eve" || user.Admin || user.MustChange || !user.OpenID {
		t.Fatalf("%+v %v", user, err)
	}
	session, err := g.sessionOf(w)
	if err != nil || session.User.Name != "eve" {
		t.Fatalf("%+v %v", session, err)
	}
	for _, c := range w.Result().Cookies() {
		if c.Name == secureAttempt && c.MaxAge >= 0 {
			t.Errorf("the login's cookie stays: %+v", c)
		}
	}
	// No password opens it, and none can be set.
	for _, password := range []string{"", "eve's password", g.passwords.decoy} {
		if _, err := g.Login(g.request("GET", "https://x/", nil), "eve", password); !errors.Is(err, ErrLogin) {
			t.Errorf("password %q: %v", password, err)
		}
	}
	if err := g.SetPassword(t.Context(), "eve", "a long password"); !errors.Is(err, ErrNoPassword) {
		t.Errorf("a password from an admin: %v", err)
	}
	if err := g.ChangePassword(g.request("GET", "https://x/", nil), "eve", "", "a long password"); !errors.Is(err, ErrNoPassword) {
		t.Errorf("a password of her own: %v", err)
	}
}

// Login CSRF: a browser that is led to the end of somebody else's login gets
// no session, and keeps its own login that is under way.
func TestABrowserTakesNoLoginOfOthers(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	mallory, victim := g.begin("shoal.example.com:8001"), g.begin("shoal.example.com:8001")
	answer := f.Authorize(mallory.target)
	for name, cookies := range map[string][]*http.Cookie{"no login under way": nil, "an own one": victim.cookies} {
		w, _, err := g.finish(cookies, answer)
		if !errors.Is(err, openid.ErrAttempt) || len(w.Result().Cookies()) != 0 {
			t.Errorf("%s: %v, %v", name, err, w.Result().Cookies())
		}
	}
	for range 3 * addressFree { // from sites that send the victim here
		g.finish(victim.cookies, answer)
	}
	f.Set(func(f *openidtest.Forger) { f.Claims["preferred_username"] = "eve" })
	if w, _, err := g.finish(victim.cookies, f.Authorize(victim.target)); err != nil {
		t.Errorf("the victim's own login: %v", err)
	} else if s, err := g.sessionOf(w); err != nil || s.User.Name != "eve" {
		t.Errorf("%+v %v", s, err)
	}
}

// An answer that was seen on its way is good once, also where the provider
// takes its code again and again, as the forger does.
func TestAnAnswerIsGoodOnce(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	f.Set(func(f *openidtest.Forger) { f.Claims["preferred_username"] = "eve" })
	b := g.begin("shoal.example.com:8001")
	answer := f.Authorize(b.target)
	if _, _, err := g.finish(b.cookies, answer); err != nil {
		t.Fatal(err)
	}
	asked := len(f.Requests())
	for range 3 {
		if w, _, err := g.finish(b.cookies, answer); !errors.Is(err, openid.ErrAttempt) {
			t.Fatalf("%v", err)
		} else if _, err := g.sessionOf(w); !errors.Is(err, ErrNoSession) {
			t.Fatalf("%v", err)
		}
	}
	if len(f.Requests()) != asked {
		t.Error("the provider was asked again")
	}
}

// Open redirect: the provider is told to send people back to a name of ours,
// whatever the request said.
func TestTheWayBackIsOurs(t *testing.T) {
	g, _ := newOpenIDGate(t, "")
	for host, want := range map[string]string{
		"shoal.example.com:8001":    "https://shoal.example.com:8001/login/oidc/callback",
		"registry.example.com":      "https://registry.example.com/login/oidc/callback",
		"evil.example":              "https://shoal.example.com:8001/login/oidc/callback",
		"shoal.example.com.evil.ex": "https://shoal.example.com:8001/login/oidc/callback",
	} {
		u, err := url.Parse(g.begin(host + "/login/oidc?redirect_uri=https://evil.example/&next=//evil.example#").target)
		if err != nil || u.Query().Get("redirect_uri") != want || strings.Contains(u.String(), "evil") {
			t.Errorf("%s: %s", host, u)
		}
	}
}

// Wrong answers make us ask the provider: they are limited as wrong passwords
// are.
func TestWrongAnswersHaveToWait(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	f.Set(func(f *openidtest.Forger) { f.Refuse = "invalid_grant" })
	var limit *LimitError
	for i := range addressFree + 1 {
		if _, err := g.loginOpenID(f); !errors.Is(err, openid.ErrRefused) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, err := g.loginOpenID(f); !errors.As(err, &limit) {
		t.Fatalf("%v", err)
	}
	f.Set(func(f *openidtest.Forger) { f.Refuse = ""; f.Claims["preferred_username"] = "eve" })
	g.advance(limit.After)
	if _, err := g.loginOpenID(f); err != nil {
		t.Fatal(err)
	}
}

func TestLoginsAtTheProviderAreTold(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	var told []string
	g.cfg.Audit = func(_ context.Context, d Deed) {
		told = append(told, fmt.Sprintf("%s %s %s %v %s %v", d.Subject, d.Action, d.Object, d.Allowed, d.Reason, d.Detail))
	}
	f.Set(func(f *openidtest.Forger) { f.Claims["preferred_username"] = "eve" })
	b := g.begin("shoal.example.com:8001")
	answer := f.Authorize(b.target)
	g.finish(nil, answer)
	g.finish(b.cookies, answer)
	f.Set(func(f *openidtest.Forger) { f.Claims["aud"] = "a claim that nobody should see" })
	g.loginOpenID(f)
	f.Set(func(f *openidtest.Forger) { delete(f.Claims, "aud") })
	_, refresh, err := g.FinishDevice(g.request("POST", "https://x/", nil), g.device().Handle)
	must(t, err)
	want := []string{
		"(unknown) login  false " + openid.ErrAttempt.Error() + " map[by:oidc]",
		"eve login  true  map[by:oidc]", "eve session.begin  true  map[]",
		"(unknown) login  false " + openid.ErrUntrue.Error() + " map[by:oidc]",
		"eve login  true  map[by:oidc flow:device]", "eve refresh_token.create * true  map[]",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
	for _, secret := range []string{refresh, b.cookies[0].Value, answer.Get("code"), answer.Get("state")} {
		if strings.Contains(strings.Join(told, "\n")+g.log.String(), secret) {
			t.Errorf("%q is told", secret)
		}
	}
}

func TestWithoutAProvider(t *testing.T) {
	g := newGate(t)
	r := g.request("GET", "https://shoal.example.com:8001/login/oidc", nil)
	_, err2 := g.FinishOpenID(httptest.NewRecorder(), r)
	_, err3 := g.StartDevice(r)
	_, _, err4 := g.FinishDevice(r, "handle")
	for i, err := range []error{g.BeginOpenID(httptest.NewRecorder(), r), err2, err3, err4} {
		if !errors.Is(err, ErrNoOpenID) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// Who somebody is at the provider decides whose user they get, and not the
// name that they have there.
func TestPeopleAreBoundToTheirSubject(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	say := func(subject, name string) {
		f.Set(func(f *openidtest.Forger) { f.Claims = map[string]any{"sub": subject, "preferred_username": name} })
	}
	say("s1", "ann") // a user of our own has that name
	if _, err := g.loginOpenID(f); !errors.Is(err, ErrNameTaken) {
		t.Fatalf("somebody at the provider became our ann: %v", err)
	}
	say("s1", "eve")
	eve, err := g.loginOpenID(f)
	if err != nil {
		t.Fatal(err)
	}
	say("s2", "EVE")
	if _, err := g.loginOpenID(f); !errors.Is(err, ErrNameTaken) {
		t.Fatalf("another eve: %v", err)
	}
	for _, name := range []string{"evelyn", "ann", "root", "a b", ""} {
		say("s1", name)
		again, err := g.loginOpenID(f)
		if name == "" {
			if !errors.Is(err, openid.ErrUntrue) {
				t.Errorf("without a name: %v", err)
			}
			continue
		}
		if err != nil || again.Name != "eve" || again.id != eve.id || again.Admin {
			t.Errorf("eve, who is called %q now: %+v %v", name, again, err)
		}
	}
	for _, name := range []string{"a b", "robot$shop+ci", "node:x", "(unknown)", strings.Repeat("x", maxUser+1)} {
		say("s3", name)
		if _, err := g.loginOpenID(f); !errors.Is(err, ErrInvalid) {
			t.Errorf("a person named %q: %v", name, err)
		}
	}
	// An entry that is not borne out by the user's own record binds nobody.
	must(t, update(t.Context(), g.store, binding{f.URL, "s9"}.key(), func(*bindingRecord) (*bindingRecord, error) { return &bindingRecord{User: "eve"}, nil }))
	say("s9", "zoe")
	if zoe, err := g.loginOpenID(f); err != nil || zoe.Name != "zoe" {
		t.Errorf("zoe is %+v %v", zoe, err)
	}
	// Removed, eve may come again, as somebody without any of her rights; or
	// another person gets the name.
	g.seat("shop", "eve", RoleDeveloper)
	must(t, g.RemoveUser(t.Context(), "eve"))
	say("s2", "eve")
	next, err := g.loginOpenID(f)
	if err != nil || next.id == eve.id {
		t.Fatalf("%+v %v", next, err)
	}
	say("s1", "eve")
	if _, err := g.loginOpenID(f); !errors.Is(err, ErrNameTaken) {
		t.Fatalf("the eve before: %v", err)
	}
}

func TestTheProviderNamesAdministrators(t *testing.T) {
	g, f := newOpenIDGate(t, "ops")
	login := func(groups ...string) User {
		t.Helper()
		f.Set(func(f *openidtest.Forger) { f.Claims = map[string]any{"preferred_username": "eve", "groups": groups} })
		user, err := g.loginOpenID(f)
		if err != nil {
			t.Fatal(err)
		}
		return user
	}
	if login("dev").Admin || !login("ops", "dev").Admin {
		t.Fatal("the group does not decide")
	}
	// The last administrator whom no provider can take away stays.
	if err := g.RemoveUser(t.Context(), "root"); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("root goes: %v", err)
	}
	if login().Admin {
		t.Error("eve left the group and administers on")
	}
	if record, _, err := g.readUser(t.Context(), "eve"); err != nil || record.Admin {
		t.Errorf("%+v %v", record, err)
	}
}

// device begins a login from a terminal and returns its handle.
func (g *gate) device() DeviceLogin {
	g.t.Helper()
	d, err := g.StartDevice(g.request("POST", "https://x/", nil))
	if err != nil {
		g.t.Fatal(err)
	}
	return d
}

func TestLoginFromATerminal(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	r := g.request("POST", "https://x/", nil)
	f.Set(func(f *openidtest.Forger) {
		f.Claims = map[string]any{"preferred_username": "eve"}
		f.Refuse = "authorization_pending"
	})
	d := g.device()
	if d.UserCode == "" || d.Interval != 7*time.Second || d.Life != 10*time.Minute || strings.Contains(d.Handle+d.URL, "the device code") {
		t.Fatalf("%+v", d)
	}
	// Asked too often, we do not ask the provider.
	for range 5 {
		if _, _, err := g.FinishDevice(r, d.Handle); !errors.Is(err, openid.ErrPending) {
			t.Fatal(err)
		}
	}
	tokens := func() (n int) {
		for _, seen := range f.Requests() {
			if seen.Path == "/token" {
				n++
			}
		}
		return n
	}
	if tokens() != 1 {
		t.Fatalf("the provider was asked %d times at once", tokens())
	}
	f.Set(func(f *openidtest.Forger) { f.Refuse = "slow_down" })
	g.advance(d.Interval)
	g.FinishDevice(r, d.Handle)
	f.Set(func(f *openidtest.Forger) { f.Refuse = "" })
	g.advance(d.Interval)
	if _, _, err := g.FinishDevice(r, d.Handle); !errors.Is(err, openid.ErrPending) || tokens() != 2 {
		t.Fatalf("%v, asked %d times; the provider wants longer pauses", err, tokens())
	}
	if _, _, err := g.FinishDevice(r, "another handle"); !errors.Is(err, ErrDeviceEnded) {
		t.Fatalf("another handle: %v", err)
	}
	g.advance(slowerBy)
	user, refresh, err := g.FinishDevice(r, d.Handle)
	if err != nil || user.Name != "eve" {
		t.Fatalf("%+v %v", user, err)
	}
	if _, _, err := g.FinishDevice(r, d.Handle); !errors.Is(err, ErrDeviceEnded) {
		t.Fatalf("a second time: %v", err)
	}
	// What the terminal keeps is good for the registry and the API.
	for _, service := range []string{"shoal", APIService} {
		w, answer := g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {service}})
		if w.Code != 200 || answer.AccessToken == "" {
			t.Errorf("%s: %d %s", service, w.Code, w.Body)
		}
	}
	if stored, err := g.store.List(t.Context(), refreshPrefix, "", 0); err != nil || len(stored) != 1 || strings.Contains(string(stored[0].Data)+stored[0].Key, refresh) {
		t.Errorf("stored as it is: %v %v", stored, err)
	}
	if strings.Contains(g.log.String(), refresh) || strings.Contains(g.log.String(), "the device code") {
		t.Error("a secret is in the log")
	}
}

func TestLoginsFromTerminalsAreBounded(t *testing.T) {
	g, f := newOpenIDGate(t, "")
	first := g.device()
	for range maxDevicesAddress - 1 {
		g.device()
	}
	asked := len(f.Requests())
	var limit *LimitError
	r := g.request("POST", "https://x/", nil)
	if _, err := g.StartDevice(r); !errors.As(err, &limit) || len(f.Requests()) != asked {
		t.Fatalf("%v", err)
	}
	r.RemoteAddr = "198.51.100.77:4711"
	if _, err := g.StartDevice(r); err != nil {
		t.Fatalf("somebody elsewhere: %v", err)
	}
	g.advance(10 * time.Minute)
	if _, _, err := g.FinishDevice(r, first.Handle); !errors.Is(err, ErrDeviceEnded) {
		t.Fatalf("after its time: %v", err)
	}
	g.device()
	// In all: the table is filled from many addresses.
	d := newDevices()
	for i := range maxDevices {
		if _, err := d.add(strings.Repeat("k", i+1), strings.Repeat("a", i/maxDevicesAddress+1), noon); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := d.add("one more", "elsewhere", noon); !errors.As(err, &limit) {
		t.Fatalf("%v", err)
	}
	if _, err := d.add("one more", "elsewhere", noon.Add(startingDevice)); err != nil {
		t.Fatalf("after they ended: %v", err)
	}
}
