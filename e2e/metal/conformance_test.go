package metal

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/provision"
	"github.com/shoalproject/shoal/supernode/provision/provisiontest"
	"github.com/shoalproject/shoal/supernode/provision/ssh"
)

// agent stands for the real one: it opens the socket that the real one opens
// when it has joined. Perl is on every Debian.
const agent = `#!/usr/bin/perl
use Socket;
my %arg = @ARGV[1 .. $#ARGV];
open(my $w, ">", "$arg{'--data'}/welcome.pb") or die; print $w "joined\n"; close($w);
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
bind($s, sockaddr_un("$arg{'--data'}/agent.sock")) or die;
listen($s, 1);
sleep;
`

// TestConformance holds the provider of metal against the suite that every
// provider passes, with real SSH servers on bare machines.
func TestConformance(t *testing.T) {
	if _, err := Root(); err != nil {
		t.Skip("NOT RUN:", err)
	}
	dir, err := os.MkdirTemp("", "shoal-metal-") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n, err := netns.New(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	supernode, err := n.AddHost(t.Context(), "supernode", netns.Link{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.LoadOrCreateKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "dfagent")
	if err := os.WriteFile(program, []byte(agent), 0o700); err != nil {
		t.Fatal(err)
	}
	fresh := 0
	provisiontest.Run(t, func(t *testing.T) provisiontest.Subject {
		const many = 3
		machines := make([]*Machine, many)
		for i := range machines {
			fresh++
			machines[i] = start(t, n, fmt.Sprintf("metal%d", fresh), key)
		}
		return provisiontest.Subject{
			Provider: provider(t, supernode, key, program), Many: many, Settle: 20 * time.Second,
			Spec: func(i int, tag string) provision.Spec {
				return provision.Spec{
					Tag: tag, Address: machines[i].Address, HostKey: machines[i].HostKey,
					Join: func(context.Context) (string, error) { return "token", nil },
				}
			},
		}
	})
}

func start(t *testing.T, n *netns.Net, name string, key gossh.Signer) *Machine {
	t.Helper()
	h, err := n.AddHost(t.Context(), name, netns.Link{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Start(t.Context(), h, ssh.AuthorizedKey(key, "test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	return m
}

func provider(t *testing.T, from *netns.Host, key gossh.Signer, program string) *ssh.Provider {
	t.Helper()
	store := meta.NewMemory()
	t.Cleanup(func() { store.Close() })
	p, err := ssh.New(ssh.Config{
		Meta: store, Key: key, Program: func() (*ssh.Program, error) { return ssh.OpenProgram(program) },
		Supernodes: func(seen net.IP) ([]string, error) {
			if seen.String() != from.Addr {
				t.Errorf("the host sees us at %s, not at %s", seen, from.Addr)
			}
			return []string{"https://" + net.JoinHostPort(seen.String(), "8001")}, nil
		},
		Dial: from.DialContext, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
