package runtimetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Need returns the path of a program. Where it is missing, or the test is not
// root, the test fails in CI and says elsewhere that it was not run.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	switch {
	case err != nil:
		notRun(t, program+" is missing")
	case os.Getuid() != 0:
		notRun(t, program+" needs root")
	}
	return path
}

// Containerd2 returns the path of containerd 2.x, as scripts/install-parts
// builds it. Its shim lies beside it.
func Containerd2(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("SHOAL_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			notRun(t, "no home folder: "+err.Error())
		}
		cache = filepath.Join(home, ".cache", "shoal")
	}
	path := filepath.Join(cache, "parts", "containerd-2.4.2", "containerd")
	if _, err := os.Stat(path); err != nil {
		notRun(t, "containerd 2.4.2 is missing (scripts/install-parts test)")
	}
	return path
}

func notRun(t testing.TB, reason string) {
	t.Helper()
	message := fmt.Sprintf("NOT RUN: %s: %s", t.Name(), reason)
	if os.Getenv("CI") == "true" {
		t.Fatal(message)
	}
	fmt.Fprintln(os.Stderr, message)
	t.Skip(message)
}

// Daemon is a runtime that was started for a test.
type Daemon struct {
	Socket string // absolute path of its Unix socket
	Root   string // its root folder

	t      testing.TB
	argv   []string
	probe  func(context.Context) error
	cmd    *exec.Cmd
	done   chan struct{} // closed when cmd has ended
	output *bytes.Buffer // of cmd; to be read when done is closed
}

// StartContainerd starts a containerd of its own, with its state in a
// temporary folder; the configuration suits 1.6 and 2.x. Probe says whether it
// answers at the socket. It ends with the test.
func StartContainerd(t testing.TB, binary string, probe func(ctx context.Context, socket string) error) *Daemon {
	t.Helper()
	dir := shortDir(t)
	config := filepath.Join(dir, "config.toml")
	d := &Daemon{
		t: t, Socket: filepath.Join(dir, "c.sock"), Root: filepath.Join(dir, "root"),
		argv: []string{binary, "--config", config, "--log-level", "warn"},
	}
	d.probe = func(ctx context.Context) error { return probe(ctx, d.Socket) }
	text := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "10ms"
  schedule_delay = "0ms"
`, d.Root, filepath.Join(dir, "state"), d.Socket, filepath.Join(dir, "t.sock"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Start()
	t.Cleanup(d.Stop)
	return d
}

// StartDocker starts a dockerd of its own that leaves the host's network
// alone.
func StartDocker(t testing.TB, binary string, probe func(ctx context.Context, socket string) error) *Daemon {
	t.Helper()
	dir := shortDir(t)
	d := &Daemon{t: t, Socket: filepath.Join(dir, "d.sock"), Root: filepath.Join(dir, "root")}
	d.probe = func(ctx context.Context) error { return probe(ctx, d.Socket) }
	d.argv = []string{
		binary, "--host", "unix://" + d.Socket, "--data-root", d.Root, "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--config-file", filepath.Join(dir, "none.json"),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--storage-driver=vfs", "--log-level=warn",
	}
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Start()
	t.Cleanup(func() {
		d.Stop()
		// dockerd leaves the network of containers that shared the host's mounted.
		_ = syscall.Unmount(filepath.Join(dir, "exec", "netns", "default"), syscall.MNT_DETACH)
	})
	return d
}

// shortDir is a temporary folder whose path leaves room for a socket's name,
// which may not be longer than 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("left behind: %v", err)
		}
	})
	return dir
}

// Start starts the daemon and waits until it answers.
func (d *Daemon) Start() {
	d.t.Helper()
	d.output = &bytes.Buffer{}
	d.done = make(chan struct{})
	d.cmd = exec.CommandContext(d.t.Context(), d.argv[0], d.argv[1:]...)
	process := d.cmd
	d.cmd.Cancel = func() error { return process.Process.Signal(syscall.SIGTERM) }
	d.cmd.WaitDelay = 10 * time.Second
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := d.done
	go func() {
		defer close(done)
		_ = process.Wait() // it is killed; how it ended says nothing
	}()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := d.probe(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-d.done:
			d.t.Fatalf("%s ended at once: %v\n%s", d.argv[0], err, d.output)
		case <-ctx.Done():
			d.Stop()
			d.t.Fatalf("%s does not answer: %v\n%s", d.argv[0], err, d.output)
		}
	}
}

// Stop ends the daemon and waits for it.
func (d *Daemon) Stop() {
	select {
	case <-d.done:
		return
	default:
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}
