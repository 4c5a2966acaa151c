package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
)

// TestForgedTokensOpenNoDoor shows forged tokens to every door that takes
// one: the registry, the API and a host's mirror, which has the image. The
// verifier itself is tried with more of them in pkg/token.
func TestForgedTokensOpenNoDoor(t *testing.T) {
	v := buildTown(t)
	img := makeImage(t, image.Spec{Layers: []int64{1 << 20}, Seed: 79, NoProgram: true})
	if err := v.supernode.Push(t.Context(), "alpha/app", "v1", img); err != nil {
		t.Fatal(err)
	}
	good := v.bearer(v.supernode.URL, "ann", "repository:alpha/app:pull")
	const manifest = "/v2/alpha/app/manifests/v1"
	for _, base := range []string{v.supernode.URL, v.agent.Mirror} {
		if got := v.ask(http.DefaultClient, "GET", base+manifest, good, nil); got.status != http.StatusOK {
			t.Fatalf("the true token at %s: %d %s", base, got.status, got.body)
		}
	}
	doors := map[string]string{
		"registry": v.supernode.URL + manifest, "mirror": v.agent.Mirror + manifest,
		"API": v.supernode.URL + "/api/shoal.v1.UserService/WhoAmI",
	}
	forged := forgeries(t, v, good)
	if len(forged) < 30 {
		t.Fatalf("only %d forgeries", len(forged))
	}
	for name, raw := range forged {
		for door, target := range doors {
			method := http.MethodGet
			if door == "API" {
				method = http.MethodPost
			}
			got := v.ask(http.DefaultClient, method, target, raw, http.Header{"Content-Type": {"application/json"}})
			if got.status != http.StatusUnauthorized && got.status != http.StatusForbidden && got.status != http.StatusBadRequest {
				t.Errorf("%s at the %s: %d %s", name, door, got.status, got.body)
			}
			if len(raw) > 16 && strings.Contains(got.body+got.header, raw) {
				t.Errorf("%s: the %s gives the token back", name, door)
			}
		}
	}
}

// forgeries are tokens that each lack one thing. Those that need it are signed
// with the supernode's true key, which lies on this machine.
func forgeries(t *testing.T, v *town, good string) map[string]string {
	t.Helper()
	keys, err := identity.LoadOrCreateTokenKeys(filepath.Join(v.supernode.Data, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	key := keys[0].Private
	public := key.Public().(ed25519.PublicKey)
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	decode := func(part string) (out map[string]any) {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil {
			err = json.Unmarshal(raw, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	header, payload := decode(parts[0]), decode(parts[1])
	encode := func(m map[string]any) string {
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	sign := func(key ed25519.PrivateKey, header, payload map[string]any) string {
		text := encode(header) + "." + encode(payload)
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
	}
	with := func(m map[string]any, name string, value any) map[string]any {
		m = maps.Clone(m)
		if m[name] = value; value == nil {
			delete(m, name)
		}
		return m
	}
	head := func(name string, value any) string { return sign(key, with(header, name, value), payload) }
	claim := func(name string, value any) string { return sign(key, header, with(payload, name, value)) }
	mac := func(method jwt.SigningMethod, secret []byte) string {
		tok := jwt.NewWithClaims(method, jwt.MapClaims(payload))
		tok.Header["kid"] = header["kid"]
		raw, err := tok.SignedString(secret)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	// What all forgeries start from is a token that is taken.
	if got := v.ask(http.DefaultClient, "GET", v.supernode.URL+"/v2/alpha/app/manifests/v1", sign(key, header, payload), nil); got.status != http.StatusOK {
		t.Fatalf("signed again by hand: %d %s", got.status, got.body)
	}
	jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(stranger.Public().(ed25519.PublicKey))}
	now := time.Now()
	access := func(repository string, actions ...string) string {
		return claim("access", []token.Access{{Type: "repository", Name: repository, Actions: actions}})
	}
	return map[string]string{
		"no token":              " ",
		"alg none":              encode(with(header, "alg", "none")) + "." + parts[1] + ".",
		"alg NONE":              encode(with(header, "alg", "NONE")) + "." + parts[1] + ".",
		"HMAC, public key":      mac(jwt.SigningMethodHS256, public),
		"HMAC, public key, 512": mac(jwt.SigningMethodHS512, public),
		"HMAC, empty key":       mac(jwt.SigningMethodHS256, []byte{}),
		"alg of another kind":   head("alg", "RS256"),
		"alg missing":           head("alg", nil),
		"kid missing":           head("kid", nil),
		"kid of a stranger":     head("kid", token.KeyID(stranger.Public().(ed25519.PublicKey))),
		"kid a path":            head("kid", "../../../../../../dev/null"),
		"kid a URL":             head("kid", "http://127.0.0.1:1/key"),
		"kid a query":           head("kid", "x' UNION SELECT 'y"),
		"embedded jwk":          sign(stranger, with(header, "jwk", jwk), payload),
		"jku":                   sign(stranger, with(header, "jku", "http://127.0.0.1:1/jwks.json"), payload),
		"jku, true signature":   head("jku", "http://127.0.0.1:1/jwks.json"),
		"x5c":                   sign(stranger, with(header, "x5c", []string{"MIIB"}), payload),
		"x5u":                   head("x5u", "http://127.0.0.1:1/cert.pem"),
		"crit":                  head("crit", []string{"exp"}),
		"a stranger's key":      sign(stranger, header, payload),
		"another's payload":     parts[0] + "." + encode(with(payload, "sub", "admin")) + "." + parts[2],
		"signature cut":         good[:len(good)-6],
		"signature missing":     parts[0] + "." + parts[1] + ".",
		"expired":               sign(key, header, with(with(with(payload, "exp", now.Add(-time.Minute).Unix()), "iat", now.Add(-6*time.Minute).Unix()), "nbf", now.Add(-6*time.Minute).Unix())),
		"not yet":               sign(key, header, with(with(payload, "nbf", now.Add(20*time.Minute).Unix()), "exp", now.Add(30*time.Minute).Unix())),
		"for ever":              claim("exp", now.AddDate(100, 0, 0).Unix()),
		"no expiry":             claim("exp", nil),
		"another audience":      claim("aud", "another-registry"),
		"no audience":           claim("aud", nil),
		"another issuer":        claim("iss", "shoal/another"),
		"no subject":            claim("sub", nil),
		"another repository":    access("alpha/other", "pull"),
		"another's repository":  access("beta/app", "pull"),
		"another action":        access("alpha/app", "push"),
		"a name that climbs":    access("alpha/../alpha/app", "pull"),
		"no access":             claim("access", []token.Access{}),
	}
}
