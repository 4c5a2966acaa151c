package openidtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Forger is a provider that says what a test wants, true or not. It takes any
// code, as often as it comes. Its fields may be set between requests.
type Forger struct {
	*httptest.Server

	mu sync.Mutex
	// Claims are put over those of a good ID token; a nil value removes one.
	Claims map[string]any
	// Key signs; another one than the JWK set's when a test sets it.
	Key ed25519.PrivateKey
	// Raw is sent as the ID token when it is not empty.
	Raw string
	// UserInfo is answered by the endpoint of that name.
	UserInfo map[string]any
	// Metadata is put over the provider's configuration.
	Metadata map[string]any
	// Refuse is the error code that the token endpoint answers with.
	Refuse string
	// Device is put over the answer of the device endpoint.
	Device map[string]any
	// Handle answers a path instead of the forger.
	Handle map[string]http.HandlerFunc

	nonce, challenge string
	public           ed25519.PublicKey
	now              func() time.Time
	requests         []Seen
}

// Seen is a request that came to a Forger.
type Seen struct {
	Path           string
	Form           url.Values
	User, Password string // of Basic, as sent
}

// NewForger starts one for the length of a test. It proves the subject "s1",
// whose preferred_username is "ann".
func NewForger(t *testing.T, now func() time.Time) *Forger {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &Forger{Key: key, public: public, now: now, Claims: map[string]any{}, Metadata: map[string]any{}, Device: map[string]any{}, Handle: map[string]http.HandlerFunc{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

// Set changes what the forger says.
func (f *Forger) Set(change func(*Forger)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// Requests are those that came so far.
func (f *Forger) Requests() []Seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Seen(nil), f.requests...)
}

// Authorize does as if a person logged in at the address that AuthURL gave,
// and returns what their browser brings back.
func (f *Forger) Authorize(authURL string) url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, err := url.Parse(authURL)
	if err != nil {
		return nil
	}
	q := u.Query()
	f.nonce, f.challenge = q.Get("nonce"), q.Get("code_challenge")
	return url.Values{"state": {q.Get("state")}, "code": {"the code"}}
}

func (f *Forger) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.ParseForm() //nolint:errcheck // an empty form says as much
	user, password, _ := r.BasicAuth()
	f.requests = append(f.requests, Seen{r.URL.Path, r.PostForm, user, password})
	if handle := f.Handle[r.URL.Path]; handle != nil {
		handle(w, r)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		answer(w, 200, over(map[string]any{
			"issuer": f.URL, "authorization_endpoint": f.URL + "/authorize", "token_endpoint": f.URL + "/token",
			"device_authorization_endpoint": f.URL + "/device", "userinfo_endpoint": f.URL + "/userinfo", "jwks_uri": f.URL + "/jwks",
			"id_token_signing_alg_values_supported": []string{"EdDSA", "RS256", "HS256", "none"},
		}, f.Metadata))
	case "/jwks":
		answer(w, 200, map[string]any{"keys": []any{map[string]any{
			"kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "use": "sig", "x": base64.RawURLEncoding.EncodeToString(f.public),
		}}})
	case "/token":
		f.token(w, r)
	case "/userinfo":
		answer(w, 200, f.UserInfo)
	case "/device":
		answer(w, 200, over(map[string]any{
			"device_code": "the device code", "user_code": "WDJB-MJHT", "verification_uri": f.URL + "/activate",
			"verification_uri_complete": f.URL + "/activate?user_code=WDJB-MJHT", "expires_in": 600, "interval": 7,
		}, f.Device))
	default:
		http.NotFound(w, r)
	}
}

func (f *Forger) token(w http.ResponseWriter, r *http.Request) {
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if f.Refuse == "" && r.PostForm.Get("grant_type") == "authorization_code" && base64.RawURLEncoding.EncodeToString(sum[:]) != f.challenge {
		answer(w, 400, map[string]any{"error": "invalid_grant"})
		return
	}
	if f.Refuse != "" {
		answer(w, 400, map[string]any{"error": f.Refuse, "error_description": "a description that nobody should see"})
		return
	}
	now := f.now()
	claims := over(map[string]any{
		"iss": f.URL, "sub": "s1", "aud": "shoal", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "nonce": f.nonce, "preferred_username": "ann",
	}, f.Claims)
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims(claims))
	token.Header["kid"] = "k1"
	raw, err := token.SignedString(f.Key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if f.Raw != "" {
		raw = f.Raw
	}
	answer(w, 200, map[string]any{"access_token": "an access token", "token_type": "Bearer", "expires_in": 60, "id_token": raw})
}

// over puts the second map over a copy of the first.
func over(base, more map[string]any) map[string]any {
	out := maps.Clone(base)
	for k, v := range more {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

func answer(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // a client that left misses nothing
}
