package openid

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/shoalproject/shoal/supernode/auth/openid/openidtest"
)

const (
	redirect     = "http://127.0.0.1:8001/login/oidc/callback"
	clientSecret = "s3cret: of/the client+"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

type bench struct {
	*Provider
	forger *openidtest.Forger
	offset time.Duration
}

func (b *bench) now() time.Time { return noon.Add(b.offset) }

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := &bench{}
	b.forger = openidtest.NewForger(t, b.now)
	c := Config{Issuer: b.forger.URL, ClientID: "shoal", ClientSecret: clientSecret, UsernameClaim: "preferred_username", GroupsClaim: "groups", Scopes: []string{"profile"}, Now: b.now}
	if change != nil {
		change(&c)
	}
	var err error
	if b.Provider, err = New(c); err != nil {
		t.Fatal(err)
	}
	return b
}

// login is a whole login of the browser that keeps the secret.
func (b *bench) login(t *testing.T, secret string) (Person, error) {
	t.Helper()
	target, err := b.AuthURL(t.Context(), redirect, secret)
	if err != nil {
		t.Fatal(err)
	}
	return b.Finish(t.Context(), redirect, secret, b.forger.Authorize(target))
}

func TestLoginAsksForAsMuchAsItShould(t *testing.T) {
	b := newBench(t, nil)
	target, err := b.AuthURL(t.Context(), redirect, "secret one")
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(target)
	q := u.Query()
	for key, want := range map[string]string{"response_type": "code", "client_id": "shoal", "redirect_uri": redirect, "scope": "openid profile", "code_challenge_method": "S256"} {
		if q.Get(key) != want {
			t.Errorf("%s is %q, want %q", key, q.Get(key), want)
		}
	}
	for _, key := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(key)) != 43 || strings.Contains(target, "secret") {
			t.Errorf("%s: %s", key, target)
		}
	}
	other, err := b.AuthURL(t.Context(), redirect, "secret two")
	if err != nil || other == target {
		t.Fatal("two logins look the same")
	}
	person, err := b.login(t, "secret one")
	if err != nil || person != (Person{Issuer: b.forger.URL, Subject: "s1", Name: "ann"}) {
		t.Fatalf("%+v, %v", person, err)
	}
	seen := b.forger.Requests()
	i := slices.IndexFunc(seen, func(s openidtest.Seen) bool { return s.Path == "/token" })
	if seen[i].User != "shoal" || seen[i].Password != url.QueryEscape(clientSecret) || seen[i].Form.Get("client_secret") != "" || len(seen[i].Form.Get("code_verifier")) != 43 {
		t.Errorf("the code is exchanged by %+v", seen[i])
	}
}

// An answer is taken by the browser that began the login, and by no other.
func TestAnAnswerBelongsToTheBrowserThatBegan(t *testing.T) {
	b := newBench(t, nil)
	target, err := b.AuthURL(t.Context(), redirect, "mine")
	if err != nil {
		t.Fatal(err)
	}
	good := b.forger.Authorize(target)
	before := len(b.forger.Requests())
	for name, c := range map[string]struct {
		secret string
		answer url.Values
	}{
		"no cookie":                    {"", good},
		"another browser's":            {"another", good},
		"no state":                     {"mine", url.Values{"code": {"c"}}},
		"another state":                {"mine", url.Values{"code": {"c"}, "state": {derive("another", ofState)}}},
		"the state of an empty secret": {"", url.Values{"code": {"c"}, "state": {derive("", ofState)}}},
		"the nonce as state":           {"mine", url.Values{"code": {"c"}, "state": {derive("mine", ofNonce)}}},
	} {
		if _, err := b.Finish(t.Context(), redirect, c.secret, c.answer); !errors.Is(err, ErrAttempt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := len(b.forger.Requests()); got != before {
		t.Errorf("the provider was asked %d times about answers that fit to nothing", got-before)
	}
	// A code of somebody else's login, put into one's own: its verifier is not
	// ours, and neither is the nonce in what it proves.
	mine, _ := b.AuthURL(t.Context(), redirect, "mine")
	theirs, _ := b.AuthURL(t.Context(), redirect, "theirs")
	answer := b.forger.Authorize(mine)
	b.forger.Authorize(theirs)
	if _, err := b.Finish(t.Context(), redirect, "mine", answer); !errors.Is(err, ErrRefused) {
		t.Errorf("a code of another login: %v", err)
	}
}

func TestOnlyWhatIsProvenIsBelieved(t *testing.T) {
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claims := func(c map[string]any) func(*openidtest.Forger) { return func(f *openidtest.Forger) { f.Claims = c } }
	unsigned := func(f *openidtest.Forger) {
		head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
		body := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"` + f.URL + `","sub":"s1","aud":"shoal","exp":9999999999}`))
		f.Raw = head + "." + body + "."
	}
	byPublicKey := func(f *openidtest.Forger) {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": f.URL, "sub": "s1", "aud": "shoal", "exp": noon.Add(time.Hour).Unix()})
		f.Raw, _ = token.SignedString([]byte(clientSecret))
	}
	for name, c := range map[string]struct {
		lie  func(*openidtest.Forger)
		want error
	}{
		"the truth":                  {func(*openidtest.Forger) {}, nil},
		"another issuer":             {claims(map[string]any{"iss": "https://evil.example"}), ErrUntrue},
		"another audience":           {claims(map[string]any{"aud": "somebody else"}), ErrUntrue},
		"an audience of several":     {claims(map[string]any{"aud": []string{"other", "shoal"}, "azp": "shoal"}), nil},
		"given to another client":    {claims(map[string]any{"aud": []string{"other", "shoal"}, "azp": "other"}), ErrUntrue},
		"expired":                    {claims(map[string]any{"exp": noon.Add(-time.Second).Unix()}), ErrUntrue},
		"no end":                     {claims(map[string]any{"exp": nil}), ErrUntrue},
		"another nonce":              {claims(map[string]any{"nonce": "another"}), ErrUntrue},
		"no nonce":                   {claims(map[string]any{"nonce": nil}), ErrUntrue},
		"no subject":                 {claims(map[string]any{"sub": ""}), ErrUntrue},
		"a subject too long":         {claims(map[string]any{"sub": strings.Repeat("s", 256)}), ErrUntrue},
		"a hash of another token":    {claims(map[string]any{"at_hash": "c29tZXRoaW5nIGVsc2U"}), ErrUntrue},
		"no name anywhere":           {claims(map[string]any{"preferred_username": nil}), ErrUntrue},
		"a name that is no text":     {claims(map[string]any{"preferred_username": 7}), ErrUntrue},
		"signed by another key":      {func(f *openidtest.Forger) { f.Key = foreign }, ErrUntrue},
		"not signed":                 {unsigned, ErrUntrue},
		"signed with the own secret": {byPublicKey, ErrUntrue},
		"no ID token":                {func(f *openidtest.Forger) { f.Raw = " " }, ErrUntrue},
		"a name from elsewhere":      {nameless(map[string]any{"sub": "s1", "preferred_username": "bob"}), nil},
		"the name of another person": {nameless(map[string]any{"sub": "s2", "preferred_username": "bob"}), ErrUntrue},
		"a refusal":                  {func(f *openidtest.Forger) { f.Refuse = "invalid_grant" }, ErrRefused},
		"a refusal that is no code":  {func(f *openidtest.Forger) { f.Refuse = "<b>hello</b>" }, ErrRefused},
		"a fault without any OAuth":  {fault(500, "oops"), ErrUnavailable},
		"an answer without an end":   {fault(200, strings.Repeat(" ", 2*maxAnswer)+"{}"), ErrUnavailable},
		"the secret is sent elsewhere": {func(f *openidtest.Forger) {
			f.Handle["/token"] = http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect).ServeHTTP
		}, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.forger.Set(c.lie)
			person, err := b.login(t, "secret")
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("%+v, %v; want %v", person, err, c.want)
			}
			if err != nil && (person != Person{} || strings.Contains(err.Error(), "nobody should see") || strings.Contains(err.Error(), "<b>")) {
				t.Fatalf("%+v %v", person, err)
			}
			for _, seen := range b.forger.Requests() {
				if seen.Path == "/elsewhere" {
					t.Fatal("a redirect was followed")
				}
			}
		})
	}
}

func nameless(info map[string]any) func(*openidtest.Forger) {
	return func(f *openidtest.Forger) {
		f.Claims = map[string]any{"preferred_username": nil}
		f.UserInfo = info
	}
}

func fault(status int, body string) func(*openidtest.Forger) {
	return func(f *openidtest.Forger) {
		f.Handle["/token"] = func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
}

func TestTheAnswerMayNameItsIssuer(t *testing.T) {
	b := newBench(t, nil)
	for iss, want := range map[string]error{b.forger.URL: nil, "https://evil.example": ErrUntrue} {
		target, err := b.AuthURL(t.Context(), redirect, "secret")
		if err != nil {
			t.Fatal(err)
		}
		answer := b.forger.Authorize(target)
		answer.Set("iss", iss)
		if _, err := b.Finish(t.Context(), redirect, "secret", answer); !errors.Is(err, want) {
			t.Errorf("iss=%s: %v", iss, err)
		}
	}
}

func TestNamesAndGroups(t *testing.T) {
	email := func(c *Config) { c.UsernameClaim = "email" }
	admins := func(c *Config) { c.AdminGroup = "ops" }
	for name, c := range map[string]struct {
		config func(*Config)
		claims map[string]any
		want   Person
		err    error
	}{
		"an address that is verified":     {email, map[string]any{"email": "a@b.c", "email_verified": true}, Person{Name: "a@b.c"}, nil},
		"an address that is not verified": {email, map[string]any{"email": "a@b.c", "email_verified": false}, Person{}, ErrUntrue},
		"an address of which nobody says": {email, map[string]any{"email": "a@b.c"}, Person{}, ErrUntrue},
		"a group among others":            {admins, map[string]any{"groups": []string{"dev", "ops"}}, Person{Name: "ann", DecidesAdmin: true, Admin: true}, nil},
		"one group":                       {admins, map[string]any{"groups": "ops"}, Person{Name: "ann", DecidesAdmin: true, Admin: true}, nil},
		"other groups":                    {admins, map[string]any{"groups": []any{"opsx", 7}}, Person{Name: "ann", DecidesAdmin: true}, nil},
		"no decision about admins":        {nil, map[string]any{"groups": []string{"ops"}}, Person{Name: "ann"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.config)
			b.forger.Set(func(f *openidtest.Forger) { f.Claims = c.claims })
			if c.err == nil {
				c.want.Issuer, c.want.Subject = b.forger.URL, "s1"
			}
			person, err := b.login(t, "secret")
			if person != c.want || !errors.Is(err, c.err) {
				t.Fatalf("%+v, %v", person, err)
			}
		})
	}
}

// The provider may be down when the supernode starts; strangers cannot make us
// ask it again and again.
func TestTheProviderIsAskedAgainAfterAFailure(t *testing.T) {
	b := newBench(t, nil)
	const path = "/.well-known/openid-configuration"
	b.forger.Set(func(f *openidtest.Forger) { f.Handle[path] = http.NotFound })
	for range 5 {
		if _, err := b.AuthURL(t.Context(), redirect, "s"); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n := len(b.forger.Requests()); n != 1 {
		t.Fatalf("asked %d times within %v", n, retryAfter)
	}
	b.forger.Set(func(f *openidtest.Forger) { delete(f.Handle, path) })
	b.offset = retryAfter
	for range 2 {
		if _, err := b.AuthURL(t.Context(), redirect, "s"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.forger.Requests()); n != 2 {
		t.Fatalf("asked %d times in all", n)
	}
}

func TestTheSecretTravelsInPrivate(t *testing.T) {
	for _, issuer := range []string{"", "login.example.com", "http://login.example.com", "ftp://127.0.0.1", "https://u@login.example.com", "http://localhost.example.com"} {
		if _, err := New(Config{Issuer: issuer, ClientID: "c", UsernameClaim: "sub", Now: time.Now}); err == nil {
			t.Errorf("issuer %q is taken", issuer)
		}
	}
	for _, key := range []string{"authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "device_authorization_endpoint", "issuer"} {
		b := newBench(t, nil)
		b.forger.Set(func(f *openidtest.Forger) { f.Metadata[key] = "http://login.example.com/x" })
		if _, err := b.AuthURL(t.Context(), redirect, "s"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s in plain http: %v", key, err)
		}
	}
}

// A provider that takes no Basic credentials gets them in the form.
func TestTheClientAuthenticatesAsTheProviderWants(t *testing.T) {
	b := newBench(t, nil)
	b.forger.Set(func(f *openidtest.Forger) {
		f.Metadata["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"}
	})
	if _, err := b.login(t, "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.StartDevice(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, seen := range b.forger.Requests() {
		if posted := seen.Form.Get("client_secret") == clientSecret; posted != (seen.Path == "/token" || seen.Path == "/device") || seen.User != "" {
			t.Errorf("%+v", seen)
		}
	}
}
