package docker

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/shoalproject/shoal/pkg/runtime"
	"github.com/shoalproject/shoal/pkg/runtime/runtimetest"
)

func TestRealDocker(t *testing.T) {
	daemon := runtimetest.StartDocker(t, runtimetest.Need(t, "dockerd"), func(ctx context.Context, socket string) error {
		return New(socket).Ping(ctx)
	})
	mirror := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0))))
	defer mirror.Close()
	img, err := random.Image(32<<10, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = goruntime.GOOS, goruntime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	image := strings.TrimPrefix(mirror.URL, "http://") + "/registry.example.com/team/app:v1"
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}

	c := New(daemon.Socket)
	defer c.Close()
	if v, err := c.Version(t.Context()); err != nil || v == "" {
		t.Errorf("Version = %q, %v", v, err)
	}
	if has, err := c.HasImage(t.Context(), image); err != nil || has {
		t.Errorf("HasImage = %v, %v before the pull", has, err)
	}
	if err := c.Pull(t.Context(), runtime.Pull{Image: image}); err != nil {
		t.Fatal(err)
	}
	if err := c.Tag(t.Context(), image, "registry.example.com/team/app:v1"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{image, "registry.example.com/team/app:v1"} {
		if has, err := c.HasImage(t.Context(), name); err != nil || !has {
			t.Errorf("HasImage(%s) = %v, %v after the pull", name, has, err)
		}
	}
	if err := c.Pull(t.Context(), runtime.Pull{Image: strings.Replace(image, "v1", "none", 1)}); err == nil {
		t.Error("a tag that is not there was pulled")
	}
}

// fake is a daemon of one answer.
func fake(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "d.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: answer}}
	server.Start()
	t.Cleanup(server.Close)
	return New(socket)
}

func TestPullReportsAndFailsAsTheDaemonSays(t *testing.T) {
	const good = `{"status":"Pulling from team/app","id":"v1"}
{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"a"}
{"status":"Downloading","progressDetail":{"current":5,"total":50},"id":"b"}
{"status":"Download complete","progressDetail":{},"id":"a"}
{"status":"Pull complete","progressDetail":{},"id":"b"}
`
	for name, c := range map[string]struct {
		body string
		want string
	}{
		"all is well": {good, ""},
		"refused":     {good + `{"errorDetail":{"message":"no such tag"},"error":"no such tag"}`, "no such tag"},
		"broken off":  {good + `{"status":"Down`, "broke off"},
		"garbage":     {"\x00\xff", "broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			var query, auth string
			docker := fake(t, func(w http.ResponseWriter, r *http.Request) {
				query, auth = r.URL.String(), r.Header.Get("X-Registry-Auth")
				_, _ = io.WriteString(w, c.body)
			})
			var done, total int64
			err := docker.Pull(t.Context(), runtime.Pull{
				Image: "127.0.0.1:65001/team/app:v1", Platform: "linux/arm64",
				Credential: &runtime.Credential{Username: "ada", Secret: "s"},
				Progress:   func(d, n int64) { done, total = d, n },
			})
			if c.want == "" && (err != nil || done != 150 || total != 150) {
				t.Errorf("%d of %d bytes, %v", done, total, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if want := "/images/create?fromImage=127.0.0.1%3A65001%2Fteam%2Fapp&platform=linux%2Farm64&tag=v1"; query != want {
				t.Errorf("asked for %s, want %s", query, want)
			}
			if auth != "eyJwYXNzd29yZCI6InMiLCJ1c2VybmFtZSI6ImFkYSJ9" {
				t.Errorf("credential header %q", auth)
			}
		})
	}
}

func TestTokenIsShownInsteadOfACredential(t *testing.T) {
	for want, pull := range map[string]runtime.Pull{
		`{"registrytoken":"t"}`: {Token: "t", Credential: &runtime.Credential{Username: "ada", Secret: "s"}},
		`{"identitytoken":"s"}`: {Credential: &runtime.Credential{Secret: "s"}},
		"":                      {},
	} {
		raw, err := base64.URLEncoding.DecodeString(authHeader(pull).Get("X-Registry-Auth"))
		if err != nil || string(raw) != want {
			t.Errorf("the daemon is shown %s, %v; want %s", raw, err, want)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	gone := New(filepath.Join(t.TempDir(), "none.sock"))
	if err := gone.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "is the daemon running") {
		t.Errorf("Ping: %v", err)
	}
	missing := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message":"no such image: x"}`)
	})
	if err := missing.Tag(t.Context(), "x", "y:v1"); !errors.Is(err, ErrNoImage) {
		t.Errorf("Tag: %v, want %v", err, ErrNoImage)
	}
	for _, image := range []string{"../containers/x", "a b", "?x", ""} {
		if has, err := missing.HasImage(t.Context(), image); err == nil {
			t.Errorf("HasImage(%q) = %v, want an error", image, has)
		}
	}
}
