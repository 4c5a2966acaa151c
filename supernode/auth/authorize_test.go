package auth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/pkg/token"
)

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
