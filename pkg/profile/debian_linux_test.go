package profile

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// debian is a host whose root is a real Debian, in a folder of its own.
func debian(t *testing.T) *place {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: another root needs root")
	}
	cache := os.Getenv("SHOAL_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, ".cache", "shoal")
	}
	from := filepath.Join(cache, "parts", "debian-bookworm")
	if _, err := os.Stat(filepath.Join(from, "usr/bin/apt-get")); err != nil {
		t.Skip("NOT RUN: needs a root of Debian (scripts/install-parts test):", err)
	}
	p := newPlace(t, nil)
	p.unrooted = false
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from+"/.", p.Root).CombinedOutput(); err != nil {
		t.Fatalf("copy the root: %v: %s", err, out)
	}
	return p
}

// TestRealPackages installs what the steps install, with the real package
// manager, and nothing of that into this machine.
func TestRealPackages(t *testing.T) {
	p := debian(t)
	here, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Host.run(t.Context(), "apt-get", "-qq", "update"); err != nil {
		t.Skip("NOT RUN: no packages can be had:", err)
	}
	own := authority(t, "here", true)
	p.Authority = func(context.Context) ([]byte, error) { return []byte(own), nil }
	p.says(p.step(kindCA, changed, "install", "apt"), `"here" is trusted`)
	p.step(kindCA, ok)
	if !strings.Contains(p.get("/etc/ssl/certs/ca-certificates.crt"), strings.TrimSpace(own)) {
		t.Error("the bundle of Debian does not hold the authority")
	}

	p.says(p.dry(kindRuntime, would), "not installed")
	p.says(p.step(kindRuntime, fails, "install", "apt"), "systemd does not run this host")
	daemon := exec.CommandContext(t.Context(), "chroot", p.Root, "/usr/bin/containerd", "--config", "/dev/null",
		"--address", "/run/containerd/containerd.sock", "--root", "/var/lib/containerd", "--state", "/run/containerd")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { daemon.Process.Kill(); daemon.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); !p.exists("/run/containerd/containerd.sock") && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
	}
	p.says(p.step(kindRuntime, ok, "min-version", "1.6"), "answers on")
	if after, err := os.ReadFile("/var/lib/dpkg/status"); err != nil || string(after) != string(here) {
		t.Errorf("this machine's packages changed: %v", err)
	}
}
