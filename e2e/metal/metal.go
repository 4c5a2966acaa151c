// Package metal puts bare machines onto the test network: a Debian with an SSH
// server and nothing of ours, each in namespaces of its own (network, mounts,
// processes, host name), to be adopted as a machine of metal is.
//
// Limits: needs root and the root that scripts/install-parts makes. There is
// no systemd on these machines.
package metal

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/runtimes"
)

// Root is the folder with the machines' file system, or an error that says how
// to get it.
func Root() (string, error) {
	if err := netns.Missing("unshare"); err != nil {
		return "", err
	}
	dir := filepath.Join(runtimes.PartsDir(), "debian-bookworm")
	if _, err := os.Stat(filepath.Join(dir, "usr/sbin/sshd")); err != nil {
		return "", fmt.Errorf("needs a root of Debian in %s (scripts/install-parts test)", dir)
	}
	return dir, nil
}

// Machine is a bare machine. It ends with its host.
type Machine struct {
	*netns.Process
	Host    *netns.Host
	Address string // host:port of its SSH server
	HostKey string // SHA256:…
}

// boot lays a file system of its own over the root, in memory, and starts the
// SSH server. The shell stays the first process and buries what dies.
const boot = `set -e
lower=$1 rw=$2 seed=$3 name=$4
hostname "$name"
mount --make-rprivate /
mkdir -p "$rw"
mount -t tmpfs tmpfs "$rw"
mkdir "$rw/upper" "$rw/work" "$rw/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$rw/upper,workdir=$rw/work" "$rw/root"
cd "$rw/root"
mount -t proc proc proc
mount -t tmpfs tmpfs dev
for node in "null 3" "zero 5" "random 8" "urandom 9"; do
	set -- $node
	mknod -m 666 "dev/$1" c 1 "$2"
done
mkdir -p run/sshd
cp -R "$seed/." .
chown -R 0:0 root etc/ssh etc/hostname
chroot . /usr/sbin/sshd -D -e &
wait
`

// Start starts a machine on a host of the test network. Whoever has the key
// may log in as root.
func Start(ctx context.Context, h *netns.Host, authorizedKey string) (*Machine, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	m := &Machine{Host: h, Address: net.JoinHostPort(h.Addr, "22")}
	seed := filepath.Join(h.Dir, "seed")
	if m.HostKey, err = plant(seed, h.Name, authorizedKey); err != nil {
		return nil, fmt.Errorf("start machine %s: %w", h.Name, err)
	}
	m.Process, err = h.Start(ctx, "metal", nil, "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
		"sh", "-c", boot, "metal", root, filepath.Join(h.Dir, "rw"), seed, h.Name)
	if err != nil {
		return nil, err
	}
	return m, m.await(ctx)
}

// plant writes what makes one machine differ from another: its name, its host
// key and who may log in.
func plant(seed, name, authorizedKey string) (fingerprint string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := gossh.MarshalPrivateKey(private, name)
	if err != nil {
		return "", err
	}
	key, err := gossh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	for path, content := range map[string]string{
		"etc/ssh/ssh_host_ed25519_key": string(pem.EncodeToMemory(block)),
		"etc/hostname":                 name + "\n",
		"root/.ssh/authorized_keys":    authorizedKey + "\n",
	} {
		path = filepath.Join(seed, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	// These folders are in the root already, and what is copied sets their mode.
	for _, dir := range []string{".", "etc", "etc/ssh"} {
		if err := os.Chmod(filepath.Join(seed, dir), 0o755); err != nil {
			return "", err
		}
	}
	return gossh.FingerprintSHA256(key), nil
}

// await waits until the SSH server greets.
func (m *Machine) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if m.greets(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.Done():
			return fmt.Errorf("machine %s ended at once:\n%s", m.Host.Name, m.Log())
		case <-ctx.Done():
			return fmt.Errorf("machine %s does not answer: %w\n%s", m.Host.Name, ctx.Err(), m.Log())
		}
	}
}

func (m *Machine) greets(ctx context.Context) bool {
	conn, err := m.Host.DialContext(ctx, "tcp", m.Address)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return false
	}
	head := make([]byte, len("SSH-"))
	_, err = io.ReadFull(conn, head)
	return err == nil && string(head) == "SSH-"
}

// Run runs a command on the machine, past SSH, and returns what it printed.
func (m *Machine) Run(ctx context.Context, argv ...string) (string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.PID(), m.PID()))
	if err != nil {
		return "", fmt.Errorf("machine %s: %w", m.Host.Name, err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	if _, err := strconv.Atoi(first); err != nil {
		return "", errors.New("machine " + m.Host.Name + " does not run")
	}
	args := append([]string{"--target", first, "--mount", "--uts", "--ipc", "--net", "--pid", "chroot", filepath.Join(m.Host.Dir, "rw/root")}, argv...)
	out, err := exec.CommandContext(ctx, "nsenter", args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("on machine %s: %q: %w\n%s", m.Host.Name, argv, err, out)
	}
	return string(out), nil
}

// Agents lists the command lines of the agents that run on the machine.
func (m *Machine) Agents(ctx context.Context) ([]string, error) {
	out, err := m.Run(ctx, "sh", "-c", `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <"$f" 2>/dev/null; echo; done`)
	if err != nil {
		return nil, err
	}
	var agents []string
	for line := range strings.Lines(out) {
		for word := range strings.FieldsSeq(line) {
			if word == "/usr/local/bin/dfagent" {
				agents = append(agents, strings.TrimSpace(line))
				break
			}
		}
	}
	return agents, nil
}
