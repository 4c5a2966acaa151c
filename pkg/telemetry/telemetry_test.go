package telemetry

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestTheInsidesAskForTheToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	guarded, err := Server(prometheus.NewRegistry(), file, Alive)
	if err != nil {
		t.Fatal(err)
	}
	open, err := Server(prometheus.NewRegistry(), "", Alive)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		server     *http.Server
		path, auth string
		want       int
	}{
		{guarded, "/metrics", "", 401},
		{guarded, "/metrics", "Bearer wrong", 401},
		{guarded, "/metrics", "Bearer s3cret", 200},
		{guarded, "/debug/pprof/", "", 401},
		{guarded, "/debug/pprof/heap", "", 401},
		{guarded, "/debug/pprof/profile", "", 401},
		{guarded, "/anything", "", 401},
		{guarded, "/healthz", "", 200},
		{guarded, "/readyz", "", 200},
		{open, "/metrics", "", 200},
		{open, "/debug/pprof/", "", 200},
	} {
		r := httptest.NewRequest("GET", c.path, nil)
		r.Header.Set("Authorization", c.auth)
		w := httptest.NewRecorder()
		c.server.Handler.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s with %q: %d, want %d", c.path, c.auth, w.Code, c.want)
		}
	}
	if _, err := Server(prometheus.NewRegistry(), file+"x", Alive); err == nil {
		t.Error("a token file that is not there was taken")
	}
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Server(prometheus.NewRegistry(), file, Alive); err == nil {
		t.Error("an empty token was taken")
	}
}
