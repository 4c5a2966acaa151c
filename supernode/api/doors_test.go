package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
)

const someDigest = "sha256:4bc453b53cb3d914b45f4b250294236adba2c0e09ff6f03793949e7e39fd4cc1"

// below are the paths to try under patterns that end in a slash: with a path
// of its own for whatever answers there.
func below(pattern string) []string {
	switch {
	case pattern == "/v2/":
		return []string{
			"/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/b/manifests/v1", "/v2/a/b/manifests/" + someDigest,
			"/v2/a/b/blobs/" + someDigest, "/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads/x", "/v2/a/b/referrers/" + someDigest,
			"/v2/library/alpine/manifests/3?ns=docker.io", "/v2/nonsense", "/v2/a/b/blobs/uploads/?mount=" + someDigest + "&from=c/d",
		}
	case strings.Contains(pattern, "shoal.v1."):
		_, name, _ := strings.Cut(strings.TrimSuffix(pattern, "/"), "shoal.v1.")
		var paths []string
		for _, file := range []protoreflect.FileDescriptor{shoalv1.File_shoal_v1_admin_proto, shoalv1.File_shoal_v1_node_proto, shoalv1.File_shoal_v1_project_proto, shoalv1.File_shoal_v1_audit_proto, shoalv1.File_shoal_v1_session_proto} {
			if service := file.Services().ByName(protoreflect.Name(name)); service != nil {
				for i := range service.Methods().Len() {
					paths = append(paths, strings.TrimSuffix(pattern, "/")+"/"+string(service.Methods().Get(i).Name()))
				}
			}
		}
		return append(paths, pattern, pattern+"Nonsense")
	}
	return []string{pattern, pattern + "x", pattern + "../x"}
}

// requests are all that the test asks about a route: its method, or several.
func requests(r route) (methods, paths []string) {
	method, path, found := strings.Cut(r.pattern, " ")
	methods = []string{method}
	if !found {
		path, methods = r.pattern, nil
	}
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		if !slices.Contains(methods, m) {
			methods = append(methods, m)
		}
	}
	if path = strings.TrimSuffix(path, "{$}"); strings.HasSuffix(path, "/") && path != "/" {
		return methods, below(path)
	}
	return methods, []string{path}
}

// unguarded asks every route as a stranger and lists what answered and is not
// in open.
func unguarded(routes []route, open []string) []string {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.pattern, r.handler)
	}
	var found []string
	for _, r := range routes {
		methods, paths := requests(r)
		for _, path := range paths {
			for _, method := range methods {
				request := httptest.NewRequest(method, path, strings.NewReader("{}"))
				request.Header.Set("Content-Type", "application/json")
				if _, pattern := mux.Handler(request); slices.Contains(open, pattern) {
					continue
				}
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, request)
				if !closed(w) {
					found = append(found, fmt.Sprintf("%s %s: %d %q", method, path, w.Code, w.Body))
				}
			}
		}
	}
	return found
}

// closed reports whether an answer tells a stranger nothing: a refusal, the
// way to the login, or the router's own word that there is no such thing.
func closed(w *httptest.ResponseRecorder) bool {
	switch w.Code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return true
	case http.StatusFound, http.StatusSeeOther:
		return w.Header().Get("Location") == "/login"
	case http.StatusNotFound:
		return w.Body.Len() == 0 || w.Body.String() == "404 page not found\n"
	case http.StatusMethodNotAllowed:
		return w.Body.Len() == 0 || w.Body.String() == "Method Not Allowed\n"
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect: // the router's own, to a cleaner path
		return w.Body.Len() < 200
	}
	return false
}

// Threat 26: every route is closed unless it stands in OpenRoutes.
func TestStrangersAreAnsweredByTheOpenRoutesAlone(t *testing.T) {
	f := newFront(t)
	f.push("a/b", "v1")
	routes, err := f.routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range unguarded(routes, OpenRoutes) {
		t.Errorf("a stranger was answered: %s", what)
	}
	for _, open := range OpenRoutes {
		if !slices.ContainsFunc(routes, func(r route) bool { return r.pattern == open }) {
			t.Errorf("%q is listed as open and is no route", open)
		}
	}
	// The check itself must notice a door that was left open, of any kind.
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) })
	missing := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no user bob", http.StatusNotFound) })
	elsewhere := http.RedirectHandler("/images", http.StatusFound)
	for pattern, handler := range map[string]http.Handler{
		"GET /hello": hello, "/hello/": hello, "POST /api/hello": hello, "GET /users": missing, "GET /away": elsewhere,
	} {
		if len(unguarded(append(slices.Clone(routes), route{pattern, handler}), OpenRoutes)) == 0 {
			t.Errorf("%s answers everybody, and the check does not notice", pattern)
		}
	}
}

// The members' listener answers nothing to a request that shows no membership,
// even where TLS let it in.
func TestTheMembersListenerAnswersMembersAlone(t *testing.T) {
	f := newFront(t)
	handler := Members(f.Config)
	for _, path := range append(below("/v2/"), "/token", "/swarm/v1/"+someDigest+"/have", "/swarm/v1/"+someDigest+"/piece/0",
		"/shoal.v1.NodeService/Renew", "/shoal.v1.NodeService/Watch", "/shoal.v1.NodeService/Announce", "/shoal.v1.MirrorAuditService/TellPulls", "/healthz", "/api/shoal.v1.AdminService/ListServers") {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(method, path, strings.NewReader("{}"))
			r.Header.Set("Content-Type", "application/json")
			r.SetBasicAuth("admin", f.password)
			handler.ServeHTTP(w, r)
			if !closed(w) {
				t.Errorf("%s %s: %d %q", method, path, w.Code, w.Body)
			}
		}
	}
}

// Threat 19: a token opens the one service that it was made for.
func TestTokensOfOneServiceDoNotOpenTheOther(t *testing.T) {
	f := newFront(t)
	f.push("demo/app", "v1")
	registryToken := f.token("shoal-registry", "repository:demo/app:pull,push,delete")
	apiToken := f.token(auth.APIService, "")
	servers := func(credentials func(*http.Request)) error {
		_, err := f.adminWith(credentials).ListServers(t.Context(), connect.NewRequest(&shoalv1.ListServersRequest{}))
		return err
	}
	manifest := func(credentials func(*http.Request)) int {
		response, _ := f.do("GET", "/v2/demo/app/manifests/v1", nil, credentials)
		return response.StatusCode
	}
	if err := servers(apiToken); err != nil {
		t.Errorf("the API refuses its own token: %v", err)
	}
	if got := manifest(registryToken); got != http.StatusOK {
		t.Errorf("the registry refuses its own token: %d", got)
	}
	if err := servers(registryToken); code(err) != connect.CodeUnauthenticated {
		t.Errorf("a registry token at the API: %v", err)
	}
	if got := manifest(apiToken); got != http.StatusUnauthorized {
		t.Errorf("an API token at the registry: %d", got)
	}
	order, err := f.Auth.IssuePull(f.key.PeerID().String(), "demo/app", orderToken)
	if err != nil {
		t.Fatal(err)
	}
	if err := servers(func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+order) }); code(err) != connect.CodeUnauthenticated {
		t.Errorf("an order's token at the API: %v", err)
	}
}

// Who is no admin administers nothing.
func TestOnlyAdminsAdminister(t *testing.T) {
	f := newFront(t)
	if err := f.Auth.CreateUser(t.Context(), "ann", "ann's long password", false); err != nil {
		t.Fatal(err)
	}
	ann := f.adminWith(func(r *http.Request) { r.SetBasicAuth("ann", "ann's long password") })
	if _, err := ann.CreateJoinToken(t.Context(), connect.NewRequest(&shoalv1.CreateJoinTokenRequest{TtlSeconds: 60, Uses: 1})); code(err) != connect.CodePermissionDenied {
		t.Errorf("ann makes a join token: %v", err)
	}
	stream, err := ann.Backup(t.Context(), connect.NewRequest(&shoalv1.BackupRequest{}))
	if err == nil {
		for stream.Receive() {
			t.Error("ann gets a backup")
		}
		err = stream.Err()
	}
	if code(err) != connect.CodePermissionDenied {
		t.Errorf("ann backs up: %v", err)
	}
}
