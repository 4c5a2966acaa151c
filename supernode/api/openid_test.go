package api

import (
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/auth/openid"
	"github.com/shoalproject/shoal/supernode/auth/openid/openidtest"
)

// people of the provider, by subject.
func people() map[string]openidtest.Human {
	return map[string]openidtest.Human{
		"subject-1": {Username: "eve", Password: "eve at the provider", Email: "eve@example.com", EmailVerified: true, Groups: []string{"dev"}},
		"subject-2": {Username: "admin", Password: "another admin", Groups: []string{"ops"}},
		"subject-3": {Username: "olga", Password: "olga at the provider", Groups: []string{"ops", "dev"}},
	}
}

// newOpenIDFront is a front whose login provider is a real one.
func newOpenIDFront(t *testing.T, tls bool) (*front, *openidtest.Provider) {
	t.Helper()
	var provider *openidtest.Provider
	f := newFrontWith(t, func(c *auth.Config) {
		provider = openidtest.Start(t, tls, c.ExternalURL+auth.OpenIDCallback)
		if err := provider.SetPeople(people()); err != nil {
			t.Fatal(err)
		}
		config := openid.Config{
			Issuer: provider.Issuer, ClientID: openidtest.ClientID, ClientSecret: openidtest.ClientSecret,
			UsernameClaim: "preferred_username", GroupsClaim: "groups", AdminGroup: "ops", Scopes: []string{"profile", "email"}, Now: time.Now,
		}
		var err error
		if tls {
			config.CA, err = os.ReadFile(provider.CAFile)
		}
		if err == nil {
			c.OpenID, err = openid.New(config)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return f, provider
}

// logIn is a person with a browser who logs in at the provider, and is brought
// back.
func (f *front) logIn(browser *http.Client, user, password string) (*http.Response, string) {
	f.t.Helper()
	response, err := openidtest.LogIn(f.t.Context(), browser, f.public.URL+"/login/oidc", user, password)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response, string(body)
}

func (f *front) page(browser *http.Client, path string) string {
	f.t.Helper()
	response, err := browser.Get(f.public.URL + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response.Request.URL.Path + "\n" + string(body)
}

func (f *front) sessions(credentials func(*http.Request)) shoalv1connect.SessionServiceClient {
	return shoalv1connect.NewSessionServiceClient(&http.Client{Transport: with{credentials}}, f.public.URL+"/api")
}

func (f *front) logins() shoalv1connect.LoginServiceClient {
	return shoalv1connect.NewLoginServiceClient(http.DefaultClient, f.public.URL+"/api")
}

// The console, with a browser's steps, at a real provider.
func TestPeopleLogInAtTheProvider(t *testing.T) {
	f, provider := newOpenIDFront(t, false)
	browser := openidtest.Browser(http.DefaultTransport, "")
	if page := f.page(browser, "/images"); !strings.HasPrefix(page, "/login\n") || !strings.Contains(page, `href="/login/oidc"`) {
		t.Fatalf("the login page offers no provider: %s", page)
	}
	response, body := f.logIn(browser, "eve", "eve at the provider")
	if response.StatusCode != http.StatusOK || response.Request.URL.Path != auth.OpenIDCallback || !strings.Contains(body, "url=/images") {
		t.Fatalf("%s %s %s", response.Status, response.Request.URL, body)
	}
	if page := f.page(browser, "/images"); !strings.HasPrefix(page, "/images\n") || !strings.Contains(page, ">eve<") {
		t.Fatalf("not logged in: %s", page)
	}
	// The code is used up at the provider, and the answer here.
	response2, err := browser.Get(response.Request.URL.String())
	if err != nil {
		t.Fatal(err)
	}
	response2.Body.Close()
	if response2.StatusCode != http.StatusUnauthorized {
		t.Errorf("the same answer again: %s", response2.Status)
	}
	// A wrong password stays at the provider's form.
	if response, _ := f.logIn(openidtest.Browser(http.DefaultTransport, ""), "eve", "wrong"); response.Request.URL.Host == f.public.Listener.Addr().String() {
		t.Errorf("a wrong password leads to %s", response.Request.URL)
	}
	// Who is called admin there is not our admin.
	if response, body := f.logIn(openidtest.Browser(http.DefaultTransport, ""), "admin", "another admin"); response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "a user of that name exists") {
		t.Errorf("the provider's admin: %s %s", response.Status, body)
	}
	// Another name there is the same user here.
	renamed := people()
	eve := renamed["subject-1"]
	eve.Username = "evelyn"
	renamed["subject-1"] = eve
	if err := provider.SetPeople(renamed); err != nil {
		t.Fatal(err)
	}
	again := openidtest.Browser(http.DefaultTransport, "")
	f.logIn(again, "evelyn", "eve at the provider")
	if page := f.page(again, "/images"); !strings.Contains(page, ">eve<") {
		t.Errorf("evelyn is not eve: %s", page)
	}
}

// Login CSRF and code injection, at a real provider: what one browser brought
// back is nothing to another, with or without a login of its own under way.
func TestAnAnswerIsForTheBrowserThatAsked(t *testing.T) {
	f, provider := newOpenIDFront(t, true)
	trusting := provider.Transport()
	mallory := openidtest.Browser(trusting, f.public.URL+auth.OpenIDCallback)
	response, _ := f.logIn(mallory, "eve", "eve at the provider")
	answer, err := response.Location()
	if err != nil || answer.Query().Get("code") == "" {
		t.Fatalf("%v %v", answer, err)
	}
	stranger, busy := openidtest.Browser(trusting, ""), openidtest.Browser(trusting, f.public.URL+auth.OpenIDCallback)
	own, _ := f.logIn(busy, "olga", "olga at the provider")
	mine, err := own.Location()
	if err != nil {
		t.Fatal(err)
	}
	injected := *mine
	q := mine.Query()
	q.Set("code", answer.Query().Get("code"))
	injected.RawQuery = q.Encode()
	for what, c := range map[string]struct {
		browser *http.Client
		target  string
	}{
		"a stranger":             {stranger, answer.String()},
		"a login under way":      {busy, answer.String()},
		"a code put into theirs": {busy, injected.String()},
	} {
		response, err := c.browser.Get(c.target)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", what, response.Status)
		}
		if page := f.page(c.browser, "/images"); !strings.HasPrefix(page, "/login\n") {
			t.Errorf("%s is logged in: %s", what, page)
		}
	}
}

// A login from a terminal, confirmed at a real provider: what it leaves opens
// the API and the registry as a password does, and ends at once.
func TestTerminalsLogInAtTheProvider(t *testing.T) {
	f, provider := newOpenIDFront(t, true)
	browser := openidtest.Browser(provider.Transport(), "")
	start := func() *shoalv1.StartLoginResponse {
		t.Helper()
		started, err := f.logins().StartLogin(t.Context(), connect.NewRequest(&shoalv1.StartLoginRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return started.Msg
	}
	finish := func(login *shoalv1.StartLoginResponse) (*shoalv1.FinishLoginResponse, error) {
		f.offset.Add(int64(time.Duration(login.IntervalSeconds) * time.Second))
		answer, err := f.logins().FinishLogin(t.Context(), connect.NewRequest(&shoalv1.FinishLoginRequest{Handle: login.Handle}))
		if err != nil {
			return nil, err
		}
		return answer.Msg, nil
	}
	confirm := func(login *shoalv1.StartLoginResponse, action string) {
		t.Helper()
		if err := openidtest.Confirm(t.Context(), browser, login.VerificationUrl, login.UserCode, "olga", "olga at the provider", action); err != nil {
			t.Fatal(err)
		}
	}
	login := start()
	if answer, err := finish(login); err != nil || !answer.Pending || answer.RefreshToken != "" {
		t.Fatalf("before anybody answered: %v %v", answer, err)
	}
	confirm(login, "allow")
	answer, err := finish(login)
	if err != nil || answer.Pending || answer.User != "olga" || answer.RefreshToken == "" {
		t.Fatalf("%v %v", answer, err)
	}
	if _, err := finish(login); code(err) != connect.CodeNotFound {
		t.Errorf("a second time: %v", err)
	}
	turned := start()
	confirm(turned, "deny")
	if _, err := finish(turned); code(err) != connect.CodePermissionDenied {
		t.Errorf("turned down: %v", err)
	}
	f.useAndEnd(answer.RefreshToken)
}

// useAndEnd uses a refresh token for the registry and the API, and ends its
// session.
func (f *front) useAndEnd(refresh string) {
	f.t.Helper()
	ref, err := name.ParseReference(f.public.Listener.Addr().String()+"/demo/app:v1", name.Insecure)
	if err != nil {
		f.t.Fatal(err)
	}
	image, err := random.Image(1000, 1)
	if err != nil {
		f.t.Fatal(err)
	}
	identity := remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: "olga", IdentityToken: refresh}))
	if err := remote.Write(ref, image, identity); err != nil {
		f.t.Fatalf("push with the identity token: %v", err)
	}
	response, raw := f.do("POST", "/token", strings.NewReader(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {auth.APIService}}.Encode()),
		func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") })
	if response.StatusCode != http.StatusOK {
		f.t.Fatalf("%s %s", response.Status, raw)
	}
	bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+between(string(raw), `"token":"`, `"`)) }
	own := f.sessions(bearer)
	list, err := own.ListSessions(f.t.Context(), connect.NewRequest(&shoalv1.ListSessionsRequest{}))
	if err != nil || len(list.Msg.Sessions) != 1 || !list.Msg.Sessions[0].Current || list.Msg.Sessions[0].By != "oidc" {
		f.t.Fatalf("%v %v", list, err)
	}
	if _, err := own.RevokeSession(f.t.Context(), connect.NewRequest(&shoalv1.RevokeSessionRequest{Id: list.Msg.Sessions[0].Id})); err != nil {
		f.t.Fatal(err)
	}
	if _, err := own.ListSessions(f.t.Context(), connect.NewRequest(&shoalv1.ListSessionsRequest{})); code(err) != connect.CodeUnauthenticated {
		f.t.Errorf("the API after the end: %v", err)
	}
	if err := remote.Write(ref, image, identity); err == nil {
		f.t.Error("the registry after the end")
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// The supernode starts while the provider is down, and people are told.
func TestWithoutTheProviderPasswordsWork(t *testing.T) {
	f := newFrontWith(t, func(c *auth.Config) {
		var err error
		c.OpenID, err = openid.New(openid.Config{Issuer: "http://127.0.0.1:1", ClientID: "c", UsernameClaim: "sub", Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
	})
	response, body := f.do("GET", "/login/oidc", nil, nil)
	if response.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), "cannot be used now") || strings.Contains(string(body), "127.0.0.1:1") {
		t.Errorf("%s %s", response.Status, body)
	}
	if _, err := f.logins().StartLogin(t.Context(), connect.NewRequest(&shoalv1.StartLoginRequest{})); code(err) != connect.CodeUnavailable {
		t.Errorf("%v", err)
	}
	jar, _ := cookiejar.New(nil)
	response, err := (&http.Client{Jar: jar}).PostForm(f.public.URL+"/login", url.Values{"user": {"admin"}, "password": {f.password}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.Request.URL.Path != "/images" {
		t.Errorf("a password leads to %s", response.Request.URL)
	}
}

// Everybody sees and ends their own sessions, system administrators all.
func TestSessionsOfOthersAreTheAdministrators(t *testing.T) {
	f := newFront(t)
	if err := f.Auth.CreateUser(t.Context(), "ann", "ann's long password", false); err != nil {
		t.Fatal(err)
	}
	admin := f.sessions(func(r *http.Request) { r.SetBasicAuth("admin", f.password) })
	ann := f.sessions(func(r *http.Request) { r.SetBasicAuth("ann", "ann's long password") })
	f.do("GET", "/token?offline_token=true", nil, func(r *http.Request) { r.SetBasicAuth("ann", "ann's long password") })
	f.do("GET", "/token?offline_token=true", nil, func(r *http.Request) { r.SetBasicAuth("admin", f.password) })
	list := func(c shoalv1connect.SessionServiceClient, request *shoalv1.ListSessionsRequest) ([]*shoalv1.Session, error) {
		answer, err := c.ListSessions(t.Context(), connect.NewRequest(request))
		if err != nil {
			return nil, err
		}
		return answer.Msg.Sessions, nil
	}
	own, err := list(ann, &shoalv1.ListSessionsRequest{})
	if err != nil || len(own) != 1 || own[0].User != "ann" {
		t.Fatalf("%v %v", own, err)
	}
	all, err := list(admin, &shoalv1.ListSessionsRequest{Everybody: true})
	if err != nil || len(all) != 2 {
		t.Fatalf("%v %v", all, err)
	}
	admins, err := list(admin, &shoalv1.ListSessionsRequest{})
	if err != nil || len(admins) != 1 {
		t.Fatalf("%v %v", admins, err)
	}
	_, err1 := list(ann, &shoalv1.ListSessionsRequest{User: "admin"})
	_, err2 := list(ann, &shoalv1.ListSessionsRequest{Everybody: true})
	_, err3 := ann.RevokeSession(t.Context(), connect.NewRequest(&shoalv1.RevokeSessionRequest{All: true, User: "admin"}))
	for i, err := range []error{err1, err2, err3} {
		if code(err) != connect.CodePermissionDenied {
			t.Errorf("%d: %v", i, err)
		}
	}
	_, err = ann.RevokeSession(t.Context(), connect.NewRequest(&shoalv1.RevokeSessionRequest{Id: admins[0].Id}))
	_, none := ann.RevokeSession(t.Context(), connect.NewRequest(&shoalv1.RevokeSessionRequest{Id: "0123456789abcdef"}))
	if code(err) != connect.CodeNotFound || none == nil || errors.Unwrap(err).Error() != errors.Unwrap(none).Error() {
		t.Errorf("the admin's session: %v; none: %v", err, none)
	}
	if _, err := admin.RevokeSession(t.Context(), connect.NewRequest(&shoalv1.RevokeSessionRequest{Id: own[0].Id})); err != nil {
		t.Fatal(err)
	}
	if left, err := list(ann, &shoalv1.ListSessionsRequest{}); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
}
