package pull

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/origin"
)

// serve is a registry that asks for a login when user is not empty.
func serve(t *testing.T, user string) (*httptest.Server, int64) {
	t.Helper()
	img, err := image.Build(t.Context(), image.Spec{Layers: []int64{200_000, 100_000}, NoProgram: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := image.WriteLayout(dir, "v1", img); err != nil {
		t.Fatal(err)
	}
	registry, err := origin.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", registry)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if name, word, _ := r.BasicAuth(); name != user || word != "secret" || r.FormValue("scope") == "" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"token": "good"})
	})
	registry.Misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if user == "" || r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s",scope="repository:a/b:pull"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	size, err := image.Size(img)
	if err != nil {
		t.Fatal(err)
	}
	return server, size
}

func TestPull(t *testing.T) {
	for _, user := range []string{"", "ann"} {
		server, size := serve(t, user)
		got, err := Pull(t.Context(), Image{Base: server.URL, Repository: "a/b", Reference: "v1", User: user, Password: "secret", Verify: true})
		if err != nil {
			t.Fatal(err)
		}
		if got.Bytes != size || got.FirstByte.IsZero() || got.Done.Before(got.FirstByte) {
			t.Errorf("user %q: %+v, want %d bytes", user, got, size)
		}
	}
}

func TestPullFails(t *testing.T) {
	server, _ := serve(t, "ann")
	if _, err := Pull(t.Context(), Image{Base: server.URL, Repository: "a/b", Reference: "v1"}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a login: %v", err)
	}
	if _, err := Pull(t.Context(), Image{Base: server.URL, Repository: "a/b", Reference: "v1", User: "ann", Password: "wrong"}); err == nil {
		t.Error("with a wrong password: pulled")
	}
	open, _ := serve(t, "")
	if _, err := Pull(t.Context(), Image{Base: open.URL, Repository: "a/b", Reference: "none"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a tag that is not there: %v", err)
	}
}
