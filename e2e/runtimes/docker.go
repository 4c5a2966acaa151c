package runtimes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoalproject/shoal/e2e/netns"
)

// Docker is one dockerd on a host.
type Docker struct {
	*netns.Process
	Host   *netns.Host
	Socket string
	config string // the client's folder, with its logins
}

// StartDocker starts a dockerd that leaves the host's network alone. It takes
// any certificate of registries in the test network. args are further flags.
func StartDocker(ctx context.Context, h *netns.Host, args ...string) (*Docker, error) {
	dir := filepath.Join(h.Dir, "docker")
	d := &Docker{Host: h, Socket: filepath.Join(dir, "d.sock"), config: filepath.Join(dir, "client")}
	if err := os.MkdirAll(d.config, 0o700); err != nil {
		return nil, fmt.Errorf("docker on %s: %w", h.Name, err)
	}
	empty := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(empty, []byte("{}\n"), 0o600); err != nil {
		return nil, fmt.Errorf("docker on %s: %w", h.Name, err)
	}
	argv := append([]string{"dockerd", "--config-file", empty, "--host", "unix://" + d.Socket,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--insecure-registry", "10.77.0.0/16"}, args...)
	p, err := h.Start(ctx, "dockerd", nil, argv...)
	if err != nil {
		return nil, err
	}
	d.Process = p
	return d, waitFor(ctx, p, func() bool {
		_, err := d.Run(ctx, "version")
		return err == nil
	})
}

// Run runs Docker's client and returns what it wrote to its standard output.
func (d *Docker) Run(ctx context.Context, args ...string) (string, error) {
	cmd := d.Host.Command(ctx, append([]string{"docker", "--config", d.config, "--host", "unix://" + d.Socket}, args...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("docker %s on %s: %w: %s", strings.Join(args, " "), d.Host.Name, err, complaint.String())
	}
	return string(out), nil
}

// Login logs the client in to a registry.
func (d *Docker) Login(ctx context.Context, registry, user, password string) error {
	cmd := d.Host.Command(ctx, "docker", "--config", d.config, "--host", "unix://"+d.Socket,
		"login", "--username", user, "--password-stdin", registry)
	cmd.Stdin = strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker login %s on %s: %w: %s", registry, d.Host.Name, err, out)
	}
	return nil
}
