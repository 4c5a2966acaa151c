package dfget

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
)

// A registry that the mirror does not know is told apart from one that is
// out of order, in one line that names it.
func TestARegistryThatIsNoUpstream(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	status := http.StatusNotFound
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write([]byte(`{"errors":[{"code":"NAME_UNKNOWN","message":"ns=` + r.URL.Query().Get("ns") + ` names no configured registry"}]}`))
	}))
	defer mirror.Close()
	open := func() *registry {
		r, err := new(app).mirror(mirror.Listener.Addr().String(), blob.Ref{Registry: "elsewhere.example.com", Repository: "team/app"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	_, _, err := open().manifest(t.Context(), "v1")
	if !errors.Is(err, errNotFound) || !strings.HasPrefix(err.Error(), "not found: elsewhere.example.com is no upstream of the supernode") {
		t.Errorf("manifest: %v", err)
	}
	if strings.Contains(err.Error(), "https://") || strings.Contains(err.Error(), "REDACTED") {
		t.Errorf("the way of the library is told: %v", err)
	}
	d := blob.Digest("sha256:" + strings.Repeat("0", 64))
	if held, err := open().hasBlob(t.Context(), d); held || err != nil {
		t.Errorf("a blob of a registry that is no upstream: %v, %v; want false and no error, for it is fetched directly then", held, err)
	}
	status = http.StatusBadGateway
	if _, err := open().hasBlob(t.Context(), d); err == nil || errors.Is(err, errNotFound) {
		t.Errorf("a mirror that is out of order: %v", err)
	}
	status = http.StatusForbidden
	if _, err := open().hasBlob(t.Context(), d); !errors.Is(err, errDenied) || !strings.Contains(err.Error(), "dfget login") {
		t.Errorf("a mirror that refuses: %v", err)
	}
}
