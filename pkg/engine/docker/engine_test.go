package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/engine/enginetest"
	"github.com/shoalproject/shoal/pkg/runtime"
	runtimes "github.com/shoalproject/shoal/pkg/runtime/docker"
	"github.com/shoalproject/shoal/pkg/runtime/runtimetest"
)

func over(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

func TestRealDocker(t *testing.T) {
	daemon := runtimetest.StartDocker(t, runtimetest.Need(t, "dockerd"), func(ctx context.Context, socket string) error {
		return runtimes.New(socket).Ping(ctx)
	})
	address, manifest, index := enginetest.Serve(t)
	hands := runtimes.New(daemon.Socket)
	defer hands.Close()
	for _, d := range []blob.Digest{manifest, index} {
		if err := hands.Pull(t.Context(), runtime.Pull{Image: address + "/" + enginetest.Repository + "@" + string(d)}); err != nil {
			t.Fatal(err)
		}
	}
	open := func(t *testing.T, owner string) *Engine {
		client := over(daemon.Socket)
		e := Open(client, Options{Owner: owner, LogBytes: enginetest.LogBytes})
		t.Cleanup(func() {
			list, err := e.List(context.Background())
			for _, c := range list {
				err = errors.Join(err, e.Remove(context.Background(), c.ID))
			}
			if err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections()
		})
		return e
	}
	enginetest.Run(t, func(t *testing.T) enginetest.Subject {
		return enginetest.Subject{
			Engine: open(t, t.Name()), Manifest: manifest, Index: index,
			Reopen: func(t *testing.T) engine.Engine { return open(t, t.Name()) },
			Other:  open(t, "another of "+t.Name()),
			Limits: true,
		}
	})
}

func TestLogFrames(t *testing.T) {
	for name, c := range map[string]struct {
		body, want string
		bad        bool
	}{
		"both streams": {"\x01\x00\x00\x00\x00\x00\x00\x02a\n\x02\x00\x00\x00\x00\x00\x00\x02b\n", "a\nb\n", false},
		"empty piece":  {"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x", "x", false},
		"nothing":      {"", "", false},
		"cut header":   {"\x01\x00", "", true},
		"cut piece":    {"\x01\x00\x00\x00\xff\xff\xff\xffabc", "abc", true},
		"no header":    {"plain text", "", true},
	} {
		f := &frames{body: io.NopCloser(strings.NewReader(c.body)), ctx: t.Context()}
		got, err := io.ReadAll(f)
		if string(got) != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func FuzzLogFrames(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x02a\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, _ := io.ReadAll(&frames{body: io.NopCloser(strings.NewReader(string(body))), ctx: t.Context()})
		if len(got) > len(body) {
			t.Errorf("%d bytes came out of %d", len(got), len(body))
		}
	})
}

func TestWhatTheDaemonSaysIsTold(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"message":"the disk is full"}`)
	}))
	defer server.Close()
	e := Open(&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}}, Options{Owner: "me"})
	if _, err := e.List(t.Context()); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("List: %v", err)
	}
	gone := Open(over("/nowhere/d.sock"), Options{Owner: "me"})
	if _, err := gone.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "is the daemon running") {
		t.Errorf("Version: %v", err)
	}
}
