package runtimes

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/origin"
)

// TestHandles pulls from a plain registry and runs what was pulled, with each
// client. It tests the handles, so that a failure of the end-to-end tests is
// not one of theirs.
func TestHandles(t *testing.T) {
	if err := netns.Missing("containerd", "ctr", "runc", "dockerd", "docker", "skopeo"); err != nil {
		t.Skip("NOT RUN:", err)
	}
	two, err := Containerd2()
	if err != nil {
		t.Skip("NOT RUN:", err)
	}
	ctx := t.Context()
	dir, err := os.MkdirTemp("", "shoal-rt-") // a short path: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n, err := netns.New(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	add := func(name string) *netns.Host {
		h, err := n.AddHost(ctx, name, netns.Link{})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	img, err := image.Build(ctx, image.Spec{Line: "a known line", Layers: []int64{1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(dir, "layout")
	if err := image.WriteLayout(layout, "v1", img); err != nil {
		t.Fatal(err)
	}
	registry, err := origin.New(layout)
	if err != nil {
		t.Fatal(err)
	}
	server := add("registry")
	l, err := server.Listen(ctx, server.Addr+":5000")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: registry}
	go web.Serve(l)
	t.Cleanup(func() { web.Close() })
	ref := server.Addr + ":5000/some/app:v1"

	for name, bin := range map[string]string{"old": "", "new": two} {
		c, err := StartContainerd(ctx, add(name), bin)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.UseMirror("http://" + server.Addr + ":5000"); err != nil {
			t.Fatal(err)
		}
		if err := c.Pull(ctx, ref, ""); err != nil {
			t.Fatal(err)
		}
		if out, err := c.Run(ctx, ref); err != nil || !strings.Contains(out, "a known line") {
			t.Errorf("containerd %s: %q, %v", name, out, err)
		}
		if err := c.Forget(ctx, ref); err != nil {
			t.Error(err)
		}
	}
	d, err := StartDocker(ctx, add("docker"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Run(ctx, "pull", ref); err != nil {
		t.Fatal(err)
	}
	if out, err := d.Run(ctx, "run", "--rm", "--network", "none", ref); err != nil || !strings.Contains(out, "a known line") {
		t.Errorf("docker: %q, %v", out, err)
	}
}
