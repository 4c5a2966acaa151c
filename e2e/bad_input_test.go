package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
)

func login(h *house) remote.Option {
	return remote.WithAuth(&authn.Basic{Username: cluster.AdminUser, Password: h.supernode.Password})
}

// TestGarbage: whatever comes in at a port, the programs stay up and serve.
func TestGarbage(t *testing.T) {
	h := build(t, plan{hosts: 2})
	h.push("demo/app", "v1", image.Spec{Layers: []int64{1 << 20}, Seed: 41, NoProgram: true})
	a := h.agents[0]
	host, _, _ := net.SplitHostPort(h.supernode.Addr)
	for _, addr := range []string{
		h.supernode.Addr, host + ":8002", host + ":8003",
		a.Swarm, strings.TrimPrefix(a.Mirror, "http://"), strings.TrimPrefix(a.Docker, "http://"),
	} {
		for _, bytes := range garbage() {
			from := h.supernode.Host
			if strings.HasPrefix(addr, "127.") || strings.HasPrefix(addr, a.Host.Addr) {
				from = a.Host
			}
			conn, err := from.DialContext(h.ctx, "tcp", addr)
			if err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
			conn.Write(bytes)
			conn.Read(make([]byte, 4096))
			conn.Close()
		}
	}
	for _, p := range []<-chan struct{}{h.supernode.Done(), a.Done()} {
		select {
		case <-p:
			t.Fatal("a program ended on garbage")
		default:
		}
	}
	if _, err := h.pullAll(h.agents, order{repository: "demo/app", reference: "v1"}); err != nil {
		t.Error(err)
	}
}

// garbage is random bytes and requests that are cut off or lie.
func garbage() [][]byte {
	var key [32]byte
	random := make([]byte, 4096)
	rand.NewChaCha8(key).Read(random)
	out := [][]byte{random}
	for _, s := range []string{
		"GET /v2/demo/app/manifests/v1 HTTP/1.1\r\nHost: x\r\n",
		"GET /v2/demo/app/blobs/sha256:" + strings.Repeat("f", 63) + " HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=99999999999999999999-\r\n\r\n",
		"PUT /v2/demo/app/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
		"GET /v2/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzzzz",
		"\x16\x03\x01\xff\xff" + strings.Repeat("\x00", 300),
		"\x13/multistream/1.0.0\n\xff\xff\xff\xff",
	} {
		out = append(out, []byte(s))
	}
	return out
}

// TestClearErrors: what an operator gets wrong ends with a message that says
// what to do, and not with a stack or in silence.
func TestClearErrors(t *testing.T) {
	h := build(t, plan{hosts: 1})
	seed, agent := filepath.Join(h.bin, "supernode"), filepath.Join(h.bin, "dfagent")
	other := h.host("other", slow)
	file := filepath.Join(other.Dir, "a-file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	here := other.Addr
	serve := func(args ...string) []string {
		return append([]string{agent, "serve", "--data", filepath.Join(other.Dir, "agent"), "--swarm-listen", here + ":65002", "--p2p-listen", here + ":65003"}, args...)
	}
	for name, c := range map[string]struct {
		argv []string
		want string // part of the message, in lower case
	}{
		"wrong token":           {serve("--supernode", h.supernode.URL, "--join", "shoal-join.no.no.no"), "token"},
		"spent token":           {serve("--supernode", h.supernode.URL, "--join", spentToken(h)), "token"},
		"no supernode there":    {serve("--supernode", "https://10.77.9.9:8001", "--join", spentToken(h)), "10.77.9.9:8001"},
		"no token":              {serve("--supernode", h.supernode.URL), "join"},
		"folder is a file":      {[]string{seed, "serve", "--data", file, "--listen", here + ":8001"}, file},
		"port taken":            {[]string{seed, "serve", "--data", filepath.Join(other.Dir, "s"), "--listen", h.supernode.Addr}, h.supernode.Addr},
		"unknown key":           {[]string{seed, "serve", "--config", unknownKey(t, other.Dir)}, "colour"},
		"unknown flag":          {[]string{seed, "serve", "--colour", "red"}, "colour"},
		"no supernode runs":     {[]string{seed, "join-token", "--data", filepath.Join(other.Dir, "none")}, "supernode serve"},
		"dfget without a agent": {[]string{filepath.Join(h.bin, "dfget"), "--agent", "/nonexistent/agent.sock", "demo/app:v1", "-O", file + ".out"}, "agent"},
	} {
		ctx, cancel := context.WithTimeout(h.ctx, 45*time.Second)
		out, err := other.Command(ctx, c.argv...).CombinedOutput()
		cancel()
		text := string(out)
		switch {
		case err == nil || ctx.Err() != nil && ctx.Err() != context.Canceled:
			t.Errorf("%s: no failure (%v):\n%s", name, err, text)
		case !strings.Contains(strings.ToLower(text), strings.ToLower(c.want)):
			t.Errorf("%s: the message does not name %q:\n%s", name, c.want, text)
		case strings.Contains(text, "goroutine "), strings.Contains(text, "panic"):
			t.Errorf("%s: a stack, not a message:\n%s", name, text)
		}
	}
}

// spentToken is a token that the house's own agent has used up.
func spentToken(h *house) string {
	h.t.Helper()
	token, err := h.supernode.JoinToken(h.ctx, 1)
	if err != nil {
		h.t.Fatal(err)
	}
	first := h.host(fmt.Sprintf("guest%d", len(h.net.Hosts())), slow)
	a, err := h.supernode.StartAgent(h.ctx, first, token)
	if err != nil {
		h.t.Fatal(err)
	}
	a.Kill()
	return token
}

func unknownKey(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "wrong.yaml")
	if err := os.WriteFile(path, []byte("colour: red\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
