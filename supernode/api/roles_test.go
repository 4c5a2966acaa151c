package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/registry"
)

const (
	indexType = "application/vnd.oci.image.index.v1+json"
	emptyList = `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`
	otherList = `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[],"annotations":{"a":"b"}}`
	layer     = "a layer"
)

// through is another registry that has one manifest and one blob everywhere.
type through struct{}

func (through) Manifest(context.Context, string, blob.Ref, string) (registry.ForeignManifest, error) {
	d := digest.FromString(emptyList)
	return registry.ForeignManifest{Descriptor: blob.Descriptor{MediaType: indexType, Digest: d, Size: int64(len(emptyList))}, Body: []byte(emptyList)}, nil
}

func (through) Stat(context.Context, string, blob.Ref, blob.Digest) (int64, error) {
	return int64(len(layer)), nil
}

func (through) Blob(_ context.Context, _ string, _ blob.Ref, _ blob.Digest, part blob.Range) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(layer[part.Start:part.End])), nil
}

// everybody may do everything: to set the scene.
type everybody struct{}

func (everybody) Authorize(*http.Request, string, ...string) (string, error) { return "scene", nil }

func (everybody) Readable(context.Context, string) (func(string) (bool, error), error) {
	return func(string) (bool, error) { return true, nil }, nil
}

// account is somebody who tries.
type account struct{ name, password string }

// scene is a front with people, projects and images.
type scene struct {
	*front
	open *registry.Registry // without a gate
	who  map[string]account
}

func (f *front) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

var system = auth.User{Name: "admin", Admin: true}

// newScene makes all accounts, or only the people that are named: each
// password costs its time.
func newScene(t *testing.T, people ...string) *scene {
	t.Helper()
	s := &scene{front: newFront(t), who: map[string]account{}}
	var err error
	s.open, err = registry.New(t.Context(), registry.Config{
		Meta: s.meta, Objects: s.Registry.Objects, Auth: everybody{}, Sign: s.key.Sign, Origin: "here", Now: s.now, Log: s.Log,
	})
	s.must(err)
	for name, settings := range map[string]auth.Settings{"own": {}, "lax": {DevelopersDelete: true}, "other": {}, "public": {Public: true, DevelopersDelete: true}} {
		_, err := s.Auth.CreateProject(t.Context(), system, name, settings)
		s.must(err)
	}
	s.who["system administrator"] = account{"admin", s.password}
	s.who["stranger"] = account{}
	for name, role := range map[string]auth.Role{"project admin": auth.RoleAdmin, "developer": auth.RoleDeveloper, "guest": auth.RoleGuest, "no member": ""} {
		if len(people) > 0 && !slices.Contains(people, name) {
			continue
		}
		user := account{strings.ReplaceAll(name, " ", "-"), "a password of " + name}
		s.must(s.Auth.CreateUser(t.Context(), user.name, user.password, false))
		for _, project := range []string{"own", "lax"} {
			if role != "" {
				s.must(s.Auth.SetMember(t.Context(), system, project, user.name, role))
			}
		}
		s.who[name] = user
	}
	for name, may := range map[string][]string{"robot that pulls": {"pull"}, "robot that does all": {"pull", "push", "delete"}} {
		robot, secret, err := s.Auth.CreateRobot(t.Context(), system, "own", strings.ReplaceAll(name, " ", "-"), may, time.Hour)
		s.must(err)
		s.who[name] = account{robot.Login(), secret}
	}
	return s
}

// set puts the image that is asked for where it may have been deleted.
func (s *scene) set(repository string) {
	for _, step := range [][3]string{
		{"POST", "/blobs/uploads/?digest=" + string(digest.FromString(layer)), layer},
		{"PUT", "/manifests/v1", emptyList},
	} {
		r := httptest.NewRequestWithContext(s.t.Context(), step[0], "/v2/"+repository+step[1], strings.NewReader(step[2]))
		if step[0] == "PUT" {
			r.Header.Set("Content-Type", indexType)
		}
		w := httptest.NewRecorder()
		if s.open.ServeHTTP(w, r); w.Code != http.StatusCreated {
			s.t.Fatalf("%s %s: %d %s", step[0], step[1], w.Code, w.Body)
		}
	}
}

// deed is a request to the registry and the right that it needs.
type deed struct {
	name, method, path, body, need string
}

var deeds = []deed{
	{"pull a manifest", "GET", "/manifests/v1", "", "pull"},
	{"pull a manifest by digest", "GET", "/manifests/" + string(digest.FromString(emptyList)), "", "pull"},
	{"look at a manifest", "HEAD", "/manifests/v1", "", "pull"},
	{"pull a blob", "GET", "/blobs/" + string(digest.FromString(layer)), "", "pull"},
	{"look at a blob", "HEAD", "/blobs/" + string(digest.FromString(layer)), "", "pull"},
	{"list tags", "GET", "/tags/list", "", "pull"},
	{"list referrers", "GET", "/referrers/" + string(digest.FromString(emptyList)), "", "pull"},
	{"begin an upload", "POST", "/blobs/uploads/", "", "push"},
	{"push a blob", "POST", "/blobs/uploads/?digest=" + string(digest.FromString("new")), "new", "push"},
	{"push a manifest", "PUT", "/manifests/v2", otherList, "push"},
	{"move a tag", "PUT", "/manifests/v1", otherList, "push"},
	{"tag again", "PUT", "/manifests/v3", emptyList, "push"},
	{"delete a tag", "DELETE", "/manifests/v1", "", "delete"},
	{"delete a manifest", "DELETE", "/manifests/" + string(digest.FromString(emptyList)), "", "delete"},
	{"delete a blob", "DELETE", "/blobs/" + string(digest.FromString(layer)), "", "delete"},
}

// outcome is an answer of the registry, after a login by one of two ways.
type outcome struct {
	status    int
	body      string
	challenge string
}

func (o outcome) refused() bool {
	return o.status == http.StatusUnauthorized || o.status == http.StatusForbidden
}

var challengePart = regexp.MustCompile(`(realm|service|scope)="([^"]*)"`)

// try sends a request with Basic credentials, or as Docker does: bare, then
// with a token for what the challenge names.
func (s *scene) try(who account, byToken bool, method, path, body string) outcome {
	s.t.Helper()
	send := func(credentials func(*http.Request)) outcome {
		var reader io.Reader
		if body != "" {
			reader = strings.NewReader(body)
		}
		response, raw := s.do(method, path, reader, func(r *http.Request) {
			if method == "PUT" && strings.Contains(path, "/manifests/") {
				r.Header.Set("Content-Type", indexType)
			}
			credentials(r)
		})
		return outcome{response.StatusCode, string(raw), response.Header.Get("WWW-Authenticate")}
	}
	if !byToken {
		return send(func(r *http.Request) {
			if who.name != "" {
				r.SetBasicAuth(who.name, who.password)
			}
		})
	}
	bare := send(func(*http.Request) {})
	if bare.status != http.StatusUnauthorized {
		s.t.Errorf("%s %s without a login: %d", method, path, bare.status)
	}
	if who.name == "" {
		return bare
	}
	parts := map[string]string{}
	for _, m := range challengePart.FindAllStringSubmatch(bare.challenge, -1) {
		parts[m[1]] = m[2]
	}
	q := url.Values{"service": {parts["service"]}}
	if parts["scope"] != "" {
		q.Set("scope", parts["scope"])
	}
	token := s.tokenFor(who, parts["realm"], q)
	return send(func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
}

func (f *front) tokenFor(who account, realm string, q url.Values) string {
	f.t.Helper()
	response, raw := f.do("GET", strings.TrimPrefix(realm, f.public.URL)+"?"+q.Encode(), nil, func(r *http.Request) { r.SetBasicAuth(who.name, who.password) })
	var answer struct{ Token string }
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Token == "" {
		f.t.Fatalf("a token for %s: %s %s", who.name, response.Status, raw)
	}
	return answer.Token
}

// TestRoles is the full matrix: who × what × where, by token and by password,
// against the running server. Threat 16 is among it: DELETE needs delete,
// whatever overwrites needs push.
func TestRoles(t *testing.T) {
	s := newScene(t)
	const all, none = "pull push delete", ""
	places := []string{"own", "lax", "other", "public", "missing", "upstream"}
	rights := map[string][6]string{
		"system administrator": {all, all, all, all, all, "pull"},
		"project admin":        {all, all, none, "pull", none, "pull"},
		"developer":            {"pull push", all, none, "pull", none, "pull"},
		"guest":                {"pull", "pull", none, "pull", none, "pull"},
		"no member":            {none, none, none, "pull", none, "pull"},
		"robot that pulls":     {"pull", none, none, "pull", none, "pull"},
		"robot that does all":  {all, none, none, "pull", none, "pull"},
		"stranger":             {none, none, none, none, none, none},
	}
	if len(rights) != len(s.who) {
		t.Fatalf("%d accounts, %d in the table", len(s.who), len(rights))
	}
	missing := 0
	for name, who := range s.who {
		for i, place := range places {
			for _, d := range deeds {
				for _, byToken := range []bool{true, false} {
					repository, query := place+"/app", ""
					switch place {
					case "missing": // a new one each time, since a push may make it
						missing++
						repository = fmt.Sprintf("missing%d/app", missing)
					case "upstream":
						if d.path == "/tags/list" || strings.HasPrefix(d.path, "/referrers/") {
							continue // never answered of others
						}
						repository, query = "library/app", "?ns=docker.io"
						if strings.Contains(d.path, "?") {
							query = "&ns=docker.io"
						}
					default:
						s.set(repository)
					}
					got := s.try(who, byToken, d.method, "/v2/"+repository+d.path+query, d.body)
					checkDeed(t, fmt.Sprintf("%s, %s in %s (token: %v)", name, d.name, place, byToken), place, d, strings.Contains(rights[name][i], d.need), got)
				}
			}
		}
	}
}

func checkDeed(t *testing.T, what, place string, d deed, may bool, got outcome) {
	t.Helper()
	done := got.status/100 == 2
	switch {
	case place == "upstream" && d.need != "pull":
		// Other registries are read through and never written to.
		if got.status != http.StatusMethodNotAllowed && !got.refused() {
			t.Errorf("%s: %d %s", what, got.status, got.body)
		}
	case may && place == "missing" && d.need != "push":
		if got.status != http.StatusNotFound && !done { // an empty list of referrers is no error
			t.Errorf("%s: %d %s, want 404", what, got.status, got.body)
		}
	case may && !done:
		t.Errorf("%s: %d %s, want success", what, got.status, got.body)
	case !may && !got.refused():
		t.Errorf("%s: %d %s, want a refusal", what, got.status, got.body)
	}
}

// What is refused and what is not there get the same answer, to the byte.
func TestARefusalDoesNotTellWhatIsThere(t *testing.T) {
	s := newScene(t, "project admin", "no member")
	s.set("other/app")
	for _, name := range []string{"project admin", "no member", "robot that does all", "stranger"} {
		for _, d := range deeds {
			for _, byToken := range []bool{true, false} {
				there := s.try(s.who[name], byToken, d.method, "/v2/other/app"+d.path, d.body)
				for _, absent := range []string{"other/nope", "nopes/app"} {
					nowhere := s.try(s.who[name], byToken, d.method, "/v2/"+absent+d.path, d.body)
					nowhere.challenge = strings.ReplaceAll(nowhere.challenge, absent, "other/app")
					if there != nowhere || !there.refused() {
						t.Errorf("%s, %s (token: %v): %+v where it is, %+v where it is not", name, d.name, byToken, there, nowhere)
					}
				}
			}
		}
	}
}

func TestTheCatalogueListsWhatOneMayPull(t *testing.T) {
	s := newScene(t, "project admin", "guest", "no member")
	for _, project := range []string{"own", "lax", "other", "public"} {
		s.set(project + "/app")
	}
	for name, want := range map[string]string{
		"system administrator": `"lax/app","other/app","own/app","public/app"`, "project admin": `"lax/app","own/app","public/app"`,
		"guest": `"lax/app","own/app","public/app"`, "no member": `"public/app"`, "robot that does all": `"own/app","public/app"`,
	} {
		for _, byToken := range []bool{true, false} {
			if got := s.try(s.who[name], byToken, "GET", "/v2/_catalog", ""); got.body != `{"repositories":[`+want+`]}` {
				t.Errorf("%s (token: %v): %d %s", name, byToken, got.status, got.body)
			}
		}
	}
}

// Threat 14: a mount needs pull on its source, by the very token that it
// comes with.
func TestThreat14MountNeedsPullOnTheSource(t *testing.T) {
	s := newScene(t, "developer")
	s.set("own/app")
	s.set("other/app")
	d := digest.FromString(layer)
	mount := func(from string, scopes ...string) int {
		token := s.tokenFor(s.who["developer"], s.public.URL+"/token", url.Values{"scope": scopes})
		path := "/v2/own/new/blobs/uploads/?mount=" + string(d)
		if from != "" {
			path += "&from=" + from
		}
		response, raw := s.do("POST", path, nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusAccepted {
			t.Errorf("mount from %q: %s %s", from, response.Status, raw)
		}
		return response.StatusCode
	}
	const push = "repository:own/new:pull,push"
	for _, c := range []struct {
		from  string
		scope string
		want  int
	}{
		{"other/app", "repository:other/app:pull", http.StatusAccepted}, // no member there: the scope is not granted
		{"nowhere/app", "repository:nowhere/app:pull", http.StatusAccepted},
		{"own/app", "", http.StatusAccepted}, // a member, but the token does not say so
		{"", "", http.StatusAccepted},
		{"own/app", "repository:own/app:pull", http.StatusCreated},
	} {
		if got := mount(c.from, push, c.scope); got != c.want {
			t.Errorf("mount from %q with %q: %d, want %d", c.from, c.scope, got, c.want)
		}
	}
}

// Threat 15: an upload can be seen, filled and cancelled by who began it.
func TestUploadsBelongToWhoBeganThem(t *testing.T) {
	s := newScene(t, "developer", "project admin")
	developer, admin := s.who["developer"], s.who["project admin"]
	begin := func() string {
		response, _ := s.do("POST", "/v2/own/app/blobs/uploads/", nil, func(r *http.Request) { r.SetBasicAuth(developer.name, developer.password) })
		return response.Header.Get("Location")
	}
	path := begin()
	for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
		target := path
		if method == "PUT" {
			target += "?digest=" + string(digest.FromString("x"))
		}
		if got := s.try(admin, false, method, target, "x"); got.status != http.StatusNotFound {
			t.Errorf("%s of another's upload: %d", method, got.status)
		}
	}
	if got := s.try(developer, true, "DELETE", path, ""); got.status != http.StatusNoContent {
		t.Errorf("cancel the own one: %d %s", got.status, got.body)
	}
	if got := s.try(developer, true, "GET", path, ""); got.status != http.StatusNotFound {
		t.Errorf("after that: %d", got.status)
	}
}

// A change of members counts at once for what is taken away, and with the
// next token for what is given.
func TestMembersChangeWhileTokensAreOut(t *testing.T) {
	s := newScene(t, "guest")
	s.set("own/app")
	guest := s.who["guest"]
	scope := url.Values{"scope": {"repository:own/app:pull,push"}}
	status := func(token, method, path, body string) int {
		response, _ := s.do(method, path, bytes.NewReader([]byte(body)), func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header.Set("Content-Type", indexType)
		})
		return response.StatusCode
	}
	const manifest = "/v2/own/app/manifests/v1"
	before := s.tokenFor(guest, s.public.URL+"/token", scope)
	if got := status(before, "PUT", manifest, emptyList); got != http.StatusForbidden {
		t.Errorf("a guest pushes: %d", got)
	}
	s.must(s.Auth.SetMember(t.Context(), system, "own", guest.name, auth.RoleDeveloper))
	if got := status(before, "PUT", manifest, emptyList); got != http.StatusUnauthorized {
		t.Errorf("a developer pushes with the guest's token: %d, want the way to a new one", got)
	}
	after := s.tokenFor(guest, s.public.URL+"/token", scope)
	if got := status(after, "PUT", manifest, emptyList); got != http.StatusCreated {
		t.Errorf("with a new token: %d", got)
	}
	s.must(s.Auth.RemoveMember(t.Context(), system, "own", guest.name))
	for _, token := range []string{before, after} {
		if got := status(token, "GET", manifest, ""); got != http.StatusForbidden {
			t.Errorf("somebody who is out pulls with an old token: %d", got)
		}
	}
}
