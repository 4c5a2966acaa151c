// Package runtimes runs the real clients, containerd, Docker and skopeo, on a
// host of the test network, each with its own root, state and socket, so that
// nothing of the machine's own engines is touched.
//
// Limits: needs root; containers run with the host's (the namespace's) network
// or none.
package runtimes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shoalproject/shoal/e2e/netns"
)

// Containerd is one containerd on a host.
type Containerd struct {
	*netns.Process
	Host   *netns.Host
	Socket string
	Root   string
	Hosts  string // the certs.d folder
	ctr    string
	argv   []string
	env    []string
}

// PartsDir is where scripts/install-parts puts what it builds.
func PartsDir() string {
	if dir := os.Getenv("SHOAL_CACHE"); dir != "" {
		return filepath.Join(dir, "parts")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".cache", "shoal", "parts")
}

// Containerd2 is the folder of containerd 2.4.2, or an error that says how
// to get it.
func Containerd2() (string, error) {
	dir := filepath.Join(PartsDir(), "containerd-2.4.2")
	if _, err := os.Stat(filepath.Join(dir, "containerd")); err != nil {
		return "", fmt.Errorf("needs containerd 2.4.2 in %s (scripts/install-parts test)", dir)
	}
	return dir, nil
}

// StartContainerd starts a containerd; bin is the folder of its programs, or
// empty for the one that Debian installed.
func StartContainerd(ctx context.Context, h *netns.Host, bin string) (*Containerd, error) {
	return startContainerd(ctx, h, bin, `disabled_plugins = ["io.containerd.grpc.v1.cri"]`)
}

// StartContainerdWithCRI starts one that serves the Kubernetes interface too,
// which takes its mirrors from the same folder.
func StartContainerdWithCRI(ctx context.Context, h *netns.Host, bin string) (*Containerd, error) {
	hosts := filepath.Join(h.Dir, "containerd", "certs.d")
	return startContainerd(ctx, h, bin, fmt.Sprintf("[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = %q", hosts))
}

func startContainerd(ctx context.Context, h *netns.Host, bin, plugins string) (*Containerd, error) {
	dir := filepath.Join(h.Dir, "containerd")
	c := &Containerd{
		Host: h, Socket: filepath.Join(dir, "c.sock"), Root: filepath.Join(dir, "root"),
		Hosts: filepath.Join(dir, "certs.d"), ctr: filepath.Join(bin, "ctr"),
	}
	if bin != "" {
		c.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")} // the shim beside it
	}
	if err := os.MkdirAll(c.Hosts, 0o700); err != nil {
		return nil, fmt.Errorf("containerd on %s: %w", h.Name, err)
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\n%s\n[grpc]\naddress = %q\n",
		c.Root, filepath.Join(dir, "state"), plugins, c.Socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("containerd on %s: %w", h.Name, err)
	}
	c.argv = []string{filepath.Join(bin, "containerd"), "--config", config}
	return c, c.Restart(ctx)
}

// Restart starts containerd (again) on the same root.
func (c *Containerd) Restart(ctx context.Context) error {
	p, err := c.Host.Start(ctx, "containerd", c.env, c.argv...)
	if err != nil {
		return err
	}
	c.Process = p
	return waitFor(ctx, p, func() bool {
		_, err := c.Ctr(ctx, "version")
		return err == nil
	})
}

// Ctr runs containerd's own client and returns what it wrote to its standard
// output.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	cmd := c.Host.Command(ctx, append([]string{c.ctr, "--address", c.Socket}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("ctr %s on %s: %w: %s", strings.Join(args, " "), c.Host.Name, err, complaint.String())
	}
	return string(out), nil
}

// UseMirror writes the hosts.toml that sends every registry to the mirror.
func (c *Containerd) UseMirror(mirror string) error {
	dir := filepath.Join(c.Hosts, "_default")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mirror of containerd on %s: %w", c.Host.Name, err)
	}
	text := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("mirror of containerd on %s: %w", c.Host.Name, err)
	}
	return nil
}

// Pull pulls an image; user is "name:password" or empty.
func (c *Containerd) Pull(ctx context.Context, ref, user string) error {
	args := []string{"images", "pull", "--hosts-dir", c.Hosts}
	if user != "" {
		args = append(args, "--user", user)
	}
	_, err := c.Ctr(ctx, append(args, ref)...)
	return err
}

// Run runs the image's program to its end and returns what it printed.
func (c *Containerd) Run(ctx context.Context, ref string) (string, error) {
	return c.Ctr(ctx, "run", "--rm", "--net-host", ref, fmt.Sprintf("run-%d", time.Now().UnixNano()))
}

// Forget removes the image and its content, so that a pull starts anew.
func (c *Containerd) Forget(ctx context.Context, ref string) error {
	if _, err := c.Ctr(ctx, "images", "rm", "--sync", ref); err != nil {
		return err
	}
	out, err := c.Ctr(ctx, "content", "ls", "-q")
	if err != nil {
		return err
	}
	for _, digest := range strings.Fields(out) {
		// What is still used by another image stays: that is no fault.
		_, _ = c.Ctr(ctx, "content", "rm", digest)
	}
	return nil
}

// waitFor polls until good, the end of the process, or half a minute.
func waitFor(ctx context.Context, p *netns.Process, good func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !good() {
		select {
		case <-tick.C:
		case <-p.Done():
			return fmt.Errorf("%s ended before it was ready:\n%s", p.Name, p.Tail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.Name, ctx.Err(), p.Tail(20))
		}
	}
	return nil
}
