package token

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return noon.Add(time.Duration(c.offset.Load())) }

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// house is an issuer, its verifier and the clock of both.
type house struct {
	key      ed25519.PrivateKey
	issuer   *Issuer
	verifier *Verifier
	clock    *clock
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{key: newKey(t), clock: &clock{}}
	var err error
	if h.issuer, err = NewIssuer(h.key, "shoal fra1", "shoal", h.clock.now); err != nil {
		t.Fatal(err)
	}
	if h.verifier, err = NewVerifier(h.issuer.JWKS(), "shoal fra1", "shoal", h.clock.now); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) issue(t testing.TB, access ...Access) string {
	t.Helper()
	raw, err := h.issuer.Issue("ann", access, Life)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

var pullApp = Access{Type: "repository", Name: "shop/app", Actions: []string{"pull"}}

func TestTokenRoundTrip(t *testing.T) {
	h := newHouse(t)
	raw := h.issue(t, pullApp)
	for range 2 { // the second answer is a remembered one
		c, err := h.verifier.Verify(raw)
		if err != nil {
			t.Fatal(err)
		}
		if c.Subject != "ann" || c.ID == "" || !c.ExpiresAt.Equal(noon.Add(Life)) || len(c.Access) != 1 {
			t.Fatalf("%+v", c)
		}
		if !c.Allows("repository", "shop/app", "pull") || c.Allows("repository", "shop/app", "pull", "push") ||
			c.Allows("repository", "shop/other", "pull") || c.Allows("registry", "shop/app", "pull") || c.Allows("repository", "shop/app") {
			t.Fatal("Allows grants too little or too much")
		}
		c.Access[0].Name, c.Access[0].Actions[0] = "changed", "*" // must not reach what is remembered
	}
	if other := h.issue(t, pullApp); other == raw {
		t.Fatal("two tokens have one jti")
	}
}

func TestTokenTimes(t *testing.T) {
	h := newHouse(t)
	raw := h.issue(t, pullApp)
	for _, c := range []struct {
		at   time.Duration
		good bool
	}{
		{-MaxSkew - time.Second, false}, {-MaxSkew, true}, {-10 * time.Minute, true}, {0, true}, {Life - time.Second, true}, {Life, false},
	} {
		h.clock.offset.Store(int64(c.at))
		for _, state := range []string{"fresh or remembered", "remembered"} {
			_, err := h.verifier.Verify(raw)
			if c.good != (err == nil) {
				t.Errorf("at %v, %s: %v", c.at, state, err)
			}
			if c.at == Life && !errors.Is(err, ErrTokenExpired) {
				t.Errorf("expired, but says %v", err)
			}
		}
	}
}

// forge signs any header and payload, with the right key unless told otherwise.
func forge(t testing.TB, key ed25519.PrivateKey, header, payload map[string]any) string {
	t.Helper()
	text := segment(t, header) + "." + segment(t, payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
}

func segment(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func with(m map[string]any, name string, value any) map[string]any {
	m = maps.Clone(m)
	if m[name] = value; value == nil {
		delete(m, name)
	}
	return m
}

// Threats 18 and 19: algorithm, key and every claim are the verifier's choice.
func TestThreat18And19ForgedTokens(t *testing.T) {
	h := newHouse(t)
	stranger := newKey(t)
	public := h.key.Public().(ed25519.PublicKey)
	kid := KeyID(public)
	header := map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": kid}
	payload := map[string]any{
		"iss": "shoal fra1", "sub": "ann", "aud": "shoal", "jti": "x",
		"iat": noon.Unix(), "nbf": noon.Unix(), "exp": noon.Add(Life).Unix(),
		"access": []Access{pullApp},
	}
	good := forge(t, h.key, header, payload)
	if _, err := h.verifier.Verify(good); err != nil {
		t.Fatalf("the token that all forgeries start from: %v", err)
	}
	strangerJWK := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(stranger.Public().(ed25519.PublicKey))}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	lib := func(method jwt.SigningMethod, key any) string {
		tok := jwt.NewWithClaims(method, jwt.MapClaims(payload))
		tok.Header["kid"] = kid
		raw, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	head := func(name string, value any) string { return forge(t, h.key, with(header, name, value), payload) }
	claim := func(name string, value any) string { return forge(t, h.key, header, with(payload, name, value)) }
	parts := strings.Split(good, ".")
	forged := map[string]string{
		"alg none, no signature":      segment(t, with(header, "alg", "none")) + "." + parts[1] + ".",
		"alg none by the library":     lib(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType),
		"alg nOnE":                    segment(t, with(header, "alg", "nOnE")) + "." + parts[1] + ".",
		"alg HS256, public key":       lib(jwt.SigningMethodHS256, []byte(public)),
		"alg HS512, JWK set":          lib(jwt.SigningMethodHS512, h.issuer.JWKS()),
		"alg RS256":                   lib(jwt.SigningMethodRS256, rsaKey),
		"alg PS256":                   lib(jwt.SigningMethodPS256, rsaKey),
		"alg says HS256, Ed25519":     head("alg", "HS256"),
		"alg eddsa":                   head("alg", "eddsa"),
		"alg Ed25519":                 head("alg", "Ed25519"),
		"alg missing":                 head("alg", nil),
		"alg a list":                  head("alg", []string{"EdDSA"}),
		"typ missing":                 head("typ", nil),
		"typ another":                 head("typ", "at+jwt"),
		"kid missing":                 head("kid", nil),
		"kid empty":                   head("kid", ""),
		"kid unknown":                 head("kid", KeyID(stranger.Public().(ed25519.PublicKey))),
		"kid a path":                  head("kid", "../../../../dev/null"),
		"kid a path and the kid":      head("kid", "./"+kid),
		"kid in capitals":             head("kid", strings.ToUpper(kid)),
		"kid SQL":                     head("kid", kid+"' OR '1'='1"),
		"kid a number":                head("kid", 1),
		"embedded jwk":                forge(t, stranger, with(header, "jwk", strangerJWK), payload),
		"embedded jwk, right key":     head("jwk", strangerJWK),
		"jku":                         head("jku", "https://evil.example.com/jwks.json"),
		"x5c":                         head("x5c", []string{"MIIB"}),
		"x5u":                         head("x5u", "https://evil.example.com/cert.pem"),
		"x5t":                         head("x5t", "abc"),
		"crit":                        head("crit", []string{"exp"}),
		"b64 false":                   head("b64", false),
		"zip":                         head("zip", "DEF"),
		"header twice":                headerText(t, h.key, `{"alg":"EdDSA","typ":"JWT","kid":"`+kid+`","kid":"`+kid+`"}`, payload),
		"header no object":            headerText(t, h.key, `["EdDSA"]`, payload),
		"header with a tail":          headerText(t, h.key, `{"alg":"EdDSA","typ":"JWT","kid":"`+kid+`"} {}`, payload),
		"Alg in capitals":             headerText(t, h.key, `{"Alg":"EdDSA","typ":"JWT","kid":"`+kid+`"}`, payload),
		"signed by a stranger":        forge(t, stranger, header, payload),
		"signature of another":        parts[0] + "." + segment(t, with(payload, "sub", "admin")) + "." + parts[2],
		"signature cut":               good[:len(good)-4],
		"signature empty":             parts[0] + "." + parts[1] + ".",
		"signature padded":            good + "==",
		"signature, spare bits on":    good[:len(good)-1] + spareBit(good[len(good)-1]),
		"signature missing":           parts[0] + "." + parts[1],
		"four parts":                  good + ".x",
		"JWE, five parts":             good + ".x.y",
		"white space":                 good + "\n",
		"empty":                       "",
		"two dots":                    "..",
		"too long":                    claim("pad", strings.Repeat("x", maxToken)),
		"iss another":                 claim("iss", "evil"),
		"iss missing":                 claim("iss", nil),
		"aud another":                 claim("aud", "shoal-api"),
		"aud missing":                 claim("aud", nil),
		"aud two":                     claim("aud", []string{"shoal", "shoal-api"}),
		"aud empty":                   claim("aud", []string{}),
		"aud a prefix":                claim("aud", "shoa"),
		"exp missing":                 claim("exp", nil),
		"exp past":                    claim("exp", noon.Unix()),
		"exp text":                    claim("exp", "tomorrow"),
		"exp negative":                claim("exp", -1),
		"exp in a thousand years":     claim("exp", noon.AddDate(1000, 0, 0).Unix()),
		"exp 1e300":                   claim("exp", 1e300),
		"exp after MaxLife":           claim("exp", noon.Add(MaxLife+time.Second).Unix()),
		"nbf missing":                 claim("nbf", nil),
		"nbf in the future":           claim("nbf", noon.Add(time.Second).Unix()),
		"iat missing":                 claim("iat", nil),
		"iat in the future":           forge(t, h.key, header, with(with(payload, "iat", noon.Add(time.Hour).Unix()), "exp", noon.Add(61*time.Minute).Unix())),
		"iat after exp":               claim("iat", noon.Add(Life+time.Second).Unix()),
		"jti missing":                 claim("jti", nil),
		"jti too long":                claim("jti", strings.Repeat("x", maxID+1)),
		"sub missing":                 claim("sub", nil),
		"sub too long":                claim("sub", strings.Repeat("x", maxSubject+1)),
		"sub a list":                  claim("sub", []string{"ann"}),
		"access, a name that climbs":  claim("access", []Access{{Type: "repository", Name: "../x", Actions: []string{"pull"}}}),
		"access, more than are taken": claim("access", manyAccess(maxAccess+1)),
		"access text":                 claim("access", "repository:shop/app:pull"),
	}
	for name, raw := range forged {
		c, err := h.verifier.Verify(raw)
		if !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %+v, %v", name, c, err)
			continue
		}
		for _, part := range strings.Split(raw, ".") {
			if len(part) > 8 && strings.Contains(err.Error(), part) {
				t.Errorf("%s: threat 35: the error quotes the token: %v", name, err)
			}
		}
	}
	if len(forged) < 30 {
		t.Fatalf("only %d forgeries", len(forged))
	}
}

func headerText(t testing.TB, key ed25519.PrivateKey, header string, payload map[string]any) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + segment(t, payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
}

// spareBit is the next base64url letter: 64 bytes leave four spare bits in
// the last one, which must be zero.
func spareBit(last byte) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(letters[strings.IndexByte(letters, last)+1])
}

func manyAccess(n int) []Access {
	out := make([]Access, n)
	for i := range out {
		out[i] = Access{Type: "repository", Name: fmt.Sprintf("shop/a%d", i), Actions: []string{"pull"}}
	}
	return out
}

// Threat 19: a registry token is no admin token, nor the other way round.
func TestThreat19AudiencesDoNotMix(t *testing.T) {
	h := newHouse(t)
	api, err := NewIssuer(h.key, "shoal fra1", "shoal-api", h.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	apiVerifier, err := NewVerifier(api.JWKS(), "shoal fra1", "shoal-api", h.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	forAPI, err := api.Issue("ann", nil, Life)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := apiVerifier.Verify(forAPI); err != nil {
		t.Fatal(err)
	}
	if _, err := apiVerifier.Verify(h.issue(t, pullApp)); !errors.Is(err, ErrBadToken) {
		t.Fatalf("a registry token opened the API: %v", err)
	}
	if _, err := h.verifier.Verify(forAPI); !errors.Is(err, ErrBadToken) {
		t.Fatalf("an API token opened the registry: %v", err)
	}
}

func TestVerifierUpdate(t *testing.T) {
	h := newHouse(t)
	old := h.issue(t, pullApp)
	if _, err := h.verifier.Verify(old); err != nil {
		t.Fatal(err)
	}
	next, err := NewIssuer(newKey(t), "shoal fra1", "shoal", h.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := next.Issue("ann", nil, Life)
	if err != nil {
		t.Fatal(err)
	}
	both := EncodeJWKS(h.key.Public().(ed25519.PublicKey), next.keys.Keys()[0].Private.Public().(ed25519.PublicKey))
	if err := h.verifier.Update(both); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{old, fresh} {
		if _, err := h.verifier.Verify(raw); err != nil {
			t.Fatalf("with both keys: %v", err)
		}
	}
	if err := h.verifier.Update(next.JWKS()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.verifier.Verify(old); !errors.Is(err, ErrBadToken) {
		t.Fatalf("a remembered token of a withdrawn key: %v", err)
	}
	if err := h.verifier.Update([]byte("{}")); !errors.Is(err, ErrBadKeys) {
		t.Fatal(err)
	}
	if _, err := h.verifier.Verify(fresh); err != nil {
		t.Fatalf("a failed update took the keys away: %v", err)
	}
}

func TestJWKS(t *testing.T) {
	// The key and its thumbprint from RFC 8037, appendix A.3.
	x, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	if got := KeyID(x); got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Fatalf("thumbprint %s", got)
	}
	good := string(EncodeJWKS(x))
	if _, err := parseJWKS([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"no JSON":       "x",
		"no keys":       `{"keys":[]}`,
		"RSA":           `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a"}]}`,
		"HMAC":          `{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}`,
		"another curve": strings.Replace(good, `"crv":"Ed25519"`, `"crv":"X25519"`, 1),
		"another alg":   strings.Replace(good, "EdDSA", "HS256", 1),
		"for secrecy":   strings.Replace(good, `"sig"`, `"enc"`, 1),
		"wrong kid":     strings.Replace(good, `"kid":"k`, `"kid":"x`, 1),
		"short x":       strings.Replace(good, "11qY", "", 1),
		"private":       strings.Replace(good, `"kty"`, `"d":"AAAA","kty"`, 1),
		"too long":      good + strings.Repeat(" ", maxJWKS),
	} {
		if _, err := parseJWKS([]byte(raw)); !errors.Is(err, ErrBadKeys) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	h := newHouse(t)
	for name, issue := range map[string]func() (string, error){
		"no subject":   func() (string, error) { return h.issuer.Issue("", nil, Life) },
		"long subject": func() (string, error) { return h.issuer.Issue(strings.Repeat("x", maxSubject+1), nil, Life) },
		"no life":      func() (string, error) { return h.issuer.Issue("ann", nil, 0) },
		"long life":    func() (string, error) { return h.issuer.Issue("ann", nil, MaxLife+1) },
		"many":         func() (string, error) { return h.issuer.Issue("ann", manyAccess(maxAccess+1), Life) },
		"bad name": func() (string, error) {
			return h.issuer.Issue("ann", []Access{{Type: "repository", Name: "a//b"}}, Life)
		},
		"too big": func() (string, error) {
			many := manyAccess(maxAccess)
			for i := range many {
				many[i].Name += strings.Repeat("x", 300)
			}
			return h.issuer.Issue("ann", many, Life)
		},
	} {
		if raw, err := issue(); err == nil {
			t.Errorf("%s: issued %q", name, raw)
		}
	}
	if _, err := NewIssuer(nil, "a", "b", h.clock.now); err == nil {
		t.Error("an issuer without a key")
	}
	if _, err := NewVerifier(h.issuer.JWKS(), "", "b", h.clock.now); err == nil {
		t.Error("a verifier of every issuer")
	}
}

func TestVerifierRemembersBoundedly(t *testing.T) {
	v := newHouse(t).verifier
	for i := range 3 * cacheHalf {
		v.keep([32]byte{byte(i), byte(i >> 8)}, &claims{}, v.generation)
		if len(v.young) > cacheHalf || len(v.aged) > cacheHalf {
			t.Fatalf("%d and %d tokens are remembered", len(v.young), len(v.aged))
		}
	}
	v.keep([32]byte{1, 2, 3}, &claims{}, v.generation-1)
	if v.young[[32]byte{1, 2, 3}] != nil {
		t.Fatal("a token verified with withdrawn keys is remembered")
	}
}

func FuzzVerify(f *testing.F) {
	h := newHouse(f)
	f.Add(h.issue(f, pullApp))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	mac := hmac.New(sha256.New, []byte("k")).Sum(nil)
	f.Add("e30.e30." + base64.RawURLEncoding.EncodeToString(mac))
	valid := h.issue(f, pullApp)
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := h.verifier.Verify(raw); err == nil && strings.Count(raw, ".") != 2 {
			t.Fatalf("%q passed", raw)
		} else if err != nil && (raw == valid || !errors.Is(err, ErrBadToken)) {
			t.Fatal(err)
		}
	})
}

func FuzzJWKS(f *testing.F) {
	f.Add(newHouse(f).issuer.JWKS())
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseJWKS(raw)
		if err != nil && !errors.Is(err, ErrBadKeys) {
			t.Fatal(err)
		}
		for kid, key := range keys {
			if KeyID(key) != kid {
				t.Fatal("a key under another's name")
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	h := newHouse(b)
	raw := h.issue(b, pullApp)
	b.Run("remembered", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.verifier.Verify(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			h.verifier.young, h.verifier.aged = nil, nil
			if _, err := h.verifier.Verify(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
