package ssh

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/provision"
)

// TestMain is also the agent that the tests put on hosts: this very program,
// started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(fakeAgent(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// fakeAgent joins by writing down the token that it was given, and opens its
// socket, as the real one does when it has joined.
func fakeAgent(args []string) int {
	value := map[string]string{}
	for i := 0; i+1 < len(args); i += 2 {
		value[args[i]] = args[i+1]
	}
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "fake agent:", err)
		return 1
	}
	welcome := filepath.Join(value["--data"], "welcome.pb")
	if _, err := os.Stat(welcome); err != nil {
		token, err := os.ReadFile(value["--join-file"])
		if err != nil {
			return fail(err)
		}
		if strings.Contains(string(token), "bad") {
			return fail(errors.New("the token is\nunknown \x1b[31mor expired"))
		}
		if err := os.WriteFile(welcome, token, 0o600); err != nil {
			return fail(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(value["--data"], "agent.sock"))
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return 0
}

// host is a machine with an SSH server of x/crypto, whose root is a folder and
// whose commands are the real ones.
type host struct {
	t       *testing.T
	root    string
	bin     string // first in the PATH of its commands
	address string

	mu      sync.Mutex
	keys    []gossh.Signer  // guarded by mu
	allowed gossh.PublicKey // guarded by mu: who may log in
	logins  int             // guarded by mu: attempts
	ran     []string        // guarded by mu: the commands
	sent    int64           // guarded by mu: bytes that commands read
	fault   func(n int) cut // guarded by mu: how the n-th command goes wrong
}

// cut is when a connection breaks.
type cut int

const (
	never cut = iota
	before
	after
	hangs
)

func newSigner(t *testing.T) gossh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newECDSA(t *testing.T) gossh.Signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// newHost starts a host; its commands believe to be root's.
func newHost(t *testing.T, keys ...gossh.Signer) *host {
	t.Helper()
	if len(keys) == 0 {
		keys = []gossh.Signer{newSigner(t), newECDSA(t)}
	}
	h := &host{t: t, root: t.TempDir(), bin: t.TempDir(), keys: keys}
	h.command("id", `echo 0`)
	h.command("sudo", `[ "$1" = -n ] || exit 1; shift; exec "$@"`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = l.Addr().String()
	t.Cleanup(func() {
		l.Close()
		h.stopAgent()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(conn)
		}
	}()
	return h
}

// command puts a program before those of this machine.
func (h *host) command(name, script string) {
	if err := os.WriteFile(filepath.Join(h.bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) serve(conn net.Conn) {
	defer conn.Close()
	config := &gossh.ServerConfig{
		PublicKeyCallback: func(_ gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.logins++
			if h.allowed == nil || string(key.Marshal()) != string(h.allowed.Marshal()) {
				return nil, errors.New("not allowed")
			}
			return nil, nil
		},
	}
	h.mu.Lock()
	for _, key := range h.keys {
		config.AddHostKey(key)
	}
	h.mu.Unlock()
	_, channels, requests, err := gossh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go gossh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				var payload struct{ Command string }
				if r.Type != "exec" || gossh.Unmarshal(r.Payload, &payload) != nil {
					_ = r.Reply(false, nil)
					continue
				}
				_ = r.Reply(true, nil)
				h.exec(conn, channel, payload.Command)
			}
		}()
	}
}

func (h *host) exec(conn net.Conn, channel gossh.Channel, line string) {
	h.mu.Lock()
	n := len(h.ran)
	h.ran = append(h.ran, line)
	broken := never
	if h.fault != nil {
		broken = h.fault(n)
	}
	h.mu.Unlock()
	switch broken {
	case before:
		conn.Close()
		return
	case hangs:
		return
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = []string{"PATH=" + h.bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	cmd.Stdin = io.TeeReader(channel, (*counter)(h))
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	err := cmd.Run()
	if broken == after {
		conn.Close()
		return
	}
	var status struct{ Status uint32 }
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status.Status = uint32(exit.ExitCode())
	} else if err != nil {
		status.Status = 255
	}
	_, _ = channel.SendRequest("exit-status", false, gossh.Marshal(&status))
	channel.Close()
}

type counter host

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += int64(len(p))
	return len(p), nil
}

// breaks sets how commands go wrong from now on, counted anew.
func (h *host) breaks(fault func(n int) cut) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ran, h.sent, h.fault = nil, 0, fault
}

// saw are the commands since the last breaks, the attempts to log in ever, and
// the bytes that were sent.
func (h *host) saw() (commands []string, logins int, sent int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.ran...), h.logins, h.sent
}

func (h *host) allow(key gossh.PublicKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.allowed = key
}

func (h *host) read(path string) string {
	raw, err := os.ReadFile(filepath.Join(h.root, path))
	if err != nil {
		return ""
	}
	return string(raw)
}

// agents are the processes of this host's agent.
func (h *host) agents() (pids []int) {
	program := filepath.Join(h.root, "usr/local/bin/dfagent")
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, file := range all {
		raw, err := os.ReadFile(file)
		if err == nil && strings.HasPrefix(string(raw), program+"\x00") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				h.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *host) stopAgent() {
	for _, pid := range h.agents() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// hostKey is what an administrator writes down of the host.
func (h *host) hostKey() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return gossh.FingerprintSHA256(h.keys[0].PublicKey())
}

// install gives the host the keys of another installation.
func (h *host) install(keys ...gossh.Signer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = keys
}

// tokens counts the join tokens that were drawn.
type tokens struct {
	mu   sync.Mutex
	n    int
	text string
}

func (c *tokens) draw(context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.text + strconv.Itoa(c.n), nil
}

func (c *tokens) drawn() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (h *host) spec(tag string, c *tokens) provision.Spec {
	return provision.Spec{Tag: tag, Name: "metal-1", Pool: "web", Address: h.address, HostKey: h.hostKey(), Join: c.draw}
}

// newProvider logs in on the hosts, which share a root's prefix only when
// there is one of them.
func newProvider(t *testing.T, store Store, hosts ...*host) *Provider {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	key := newSigner(t)
	for _, h := range hosts {
		h.allow(key.PublicKey())
	}
	p, err := New(Config{
		Meta: store, Key: key, Program: func() (*Program, error) { return OpenProgram(executable) },
		Supernodes: func(seen net.IP) ([]string, error) {
			return []string{"https://" + net.JoinHostPort(seen.String(), "8001")}, nil
		},
		Root: hosts[0].root, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newStore(t *testing.T) *meta.Memory {
	store := meta.NewMemory()
	t.Cleanup(func() { store.Close() })
	return store
}
