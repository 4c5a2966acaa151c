// Package cluster starts the real programs, a supernode and its agents, as
// processes on hosts (namespaces, or this machine for the demo), and holds
// the handles by which tests, the benchmark and the demo speak to them.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/shoalproject/shoal/e2e/netns"
)

// AdminUser is the user that a fresh supernode has.
const AdminUser = "admin"

// Supernode is one supernode on a host.
type Supernode struct {
	*netns.Process
	Host     *netns.Host
	Bin      string // folder of the programs
	Data     string
	Addr     string // host:port of the registry
	URL      string // the same with its scheme
	Metrics  string // URL of /metrics
	Password string // of AdminUser

	args []string
}

// SupernodeOptions say how a supernode differs from the plain one.
type SupernodeOptions struct {
	Upstreams map[string]string // URL of each registry outside, by name
	Password  string            // of AdminUser; empty takes one that tests may know
	Args      []string          // further flags
}

// StartSupernode starts a supernode and waits until it is ready.
func StartSupernode(ctx context.Context, bin string, h *netns.Host, o SupernodeOptions) (*Supernode, error) {
	s := &Supernode{Host: h, Bin: bin, Data: filepath.Join(h.Dir, "supernode"), Password: cmp.Or(o.Password, "correct horse battery staple")}
	password := filepath.Join(h.Dir, "admin-password")
	config := filepath.Join(h.Dir, "supernode.yaml")
	var yaml strings.Builder
	if len(o.Upstreams) > 0 {
		yaml.WriteString("upstreams:\n")
	}
	for name, target := range o.Upstreams {
		fmt.Fprintf(&yaml, "  %q: {url: %q}\n", name, target)
	}
	err := errors.Join(os.WriteFile(password, []byte(s.Password+"\n"), 0o600), os.WriteFile(config, []byte(yaml.String()), 0o600))
	if err != nil {
		return nil, fmt.Errorf("start a supernode on %s: %w", h.Name, err)
	}
	ports, err := choosePorts(h, 8001, 8002, 8003, 9090)
	if err != nil {
		return nil, fmt.Errorf("start a supernode on %s: %w", h.Name, err)
	}
	s.Addr = ports[0]
	s.URL = "https://" + s.Addr
	if strings.HasPrefix(s.Addr, "127.") {
		s.URL = "http://" + s.Addr
	}
	s.Metrics = "http://" + ports[3] + "/metrics"
	s.args = append([]string{filepath.Join(bin, "supernode"), "serve", "--config", config, "--data", s.Data,
		"--listen", ports[0], "--swarm-listen", ports[1], "--p2p-listen", ports[2], "--metrics-listen", ports[3],
		"--admin-password-file", password}, o.Args...)
	return s, s.Restart(ctx)
}

// Restart starts the supernode (again) on the same data, after it was killed
// or has ended.
func (s *Supernode) Restart(ctx context.Context) error {
	p, err := s.Host.Start(ctx, "supernode", nil, s.args...)
	if err != nil {
		return err
	}
	s.Process = p
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.WaitReady(ctx, s.Host, s.URL+"/readyz")
}

// JoinToken makes a token for so many agents.
func (s *Supernode) JoinToken(ctx context.Context, uses int, args ...string) (string, error) {
	argv := append([]string{filepath.Join(s.Bin, "supernode"), "join-token", "--data", s.Data, "--uses", fmt.Sprint(uses)}, args...)
	out, err := s.Host.Command(ctx, argv...).Output()
	if err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Ref is the name of an image in the supernode's registry, as a client on
// another host writes it.
func (s *Supernode) Ref(repository, reference string) string {
	if strings.Contains(reference, ":") {
		return s.Addr + "/" + repository + "@" + reference
	}
	return s.Addr + "/" + repository + ":" + reference
}

// Push pushes from the supernode's own host, as the administrator.
func (s *Supernode) Push(ctx context.Context, repository, tag string, img v1.Image) error {
	ref, options, err := s.remote(ctx, repository, tag)
	if err != nil {
		return err
	}
	if err := remote.Write(ref, img, options...); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// PushIndex pushes an index and all it names.
func (s *Supernode) PushIndex(ctx context.Context, repository, tag string, index v1.ImageIndex) error {
	ref, options, err := s.remote(ctx, repository, tag)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(ref, index, options...); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

func (s *Supernode) remote(ctx context.Context, repository, tag string) (name.Reference, []remote.Option, error) {
	ref, err := name.ParseReference(s.Ref(repository, tag))
	if err != nil {
		return nil, nil, fmt.Errorf("push: %w", err)
	}
	return ref, []remote.Option{remote.WithContext(ctx), remote.WithTransport(s.Host.Transport()),
		remote.WithAuth(&authn.Basic{Username: AdminUser, Password: s.Password})}, nil
}

// choosePorts gives the usual ports on a host that is a namespace, with its
// address. On this machine it takes them where they are free and others
// where not. The last one is for metrics and always on loopback.
func choosePorts(h *netns.Host, usual ...int) ([]string, error) {
	var out []string
	for i, port := range usual {
		host := h.Addr
		if i == len(usual)-1 {
			host = "127.0.0.1"
		}
		addr := net.JoinHostPort(host, fmt.Sprint(port))
		l, err := h.Listen(context.Background(), addr)
		if err != nil {
			if l, err = h.Listen(context.Background(), net.JoinHostPort(host, "0")); err != nil {
				return nil, fmt.Errorf("no free port: %w", err)
			}
		}
		out = append(out, l.Addr().String())
		defer l.Close() // only when all are chosen, so that none is given twice
	}
	return out, nil
}
