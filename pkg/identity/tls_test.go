package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// clock is a settable time.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return noon.Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

type idc struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
	clock   *clock
}

func newIDC(t testing.TB) *idc {
	public, private := newMemberKey(t)
	return &idc{public, private, &clock{}}
}

func (i *idc) statement(t testing.TB, k *Key) []byte {
	t.Helper()
	m := membershipOf(k)
	m.NotBefore = i.clock.now()
	m.NotAfter = m.NotBefore.Add(MembershipLife)
	raw, err := SignMembership(m, i.private)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (i *idc) node(t testing.TB) *Node {
	t.Helper()
	k := newKey(t)
	n := NewNode(k, i.clock.now, i.public)
	if err := n.SetMembership(i.statement(t, k), i.public); err != nil {
		t.Fatal(err)
	}
	return n
}

// serve answers with the peer ID of who asks, or 403 and why not.
func serve(t testing.TB, n *Node) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := n.PeerID(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		io.WriteString(w, id) // the client notices
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(n.Listener(l)) }() // ends with Close
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

func httpClient(t testing.TB, config *tls.Config) *http.Client {
	tr := &http.Transport{TLSClientConfig: config}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func get(t testing.TB, c *http.Client, addr string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestMembersMeet(t *testing.T) {
	i := newIDC(t)
	server, client := i.node(t), i.node(t)
	addr := serve(t, server)
	status, body, err := get(t, httpClient(t, client.ClientTLS(server.Key().PeerID().String())), addr)
	if err != nil || status != 200 || body != client.Key().PeerID().String() {
		t.Fatalf("%d %q %v", status, body, err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	i, foreign := newIDC(t), newIDC(t)
	server := i.node(t)
	addr := serve(t, server)
	id := server.Key().PeerID().String()

	// A thief shows another's membership under an own key.
	thief := newKey(t)
	stolen, err := makeCertificate(thief, i.statement(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	// A libp2p identity that is nobody's member.
	plain, err := libp2ptls.NewIdentity(newKey(t).Libp2p())
	if err != nil {
		t.Fatal(err)
	}
	plainConfig, _ := plain.ConfigForPeer("")
	late := i.node(t)
	lateClock := &clock{}
	expired := NewNode(newKey(t), lateClock.now, i.public)
	m := membershipOf(expired.key)
	m.NotBefore, m.NotAfter = noon.Add(-24*time.Hour), noon
	old, err := SignMembership(m, i.private)
	if err != nil {
		t.Fatal(err)
	}
	lateClock.advance(-time.Hour) // by its own clock it is still a member
	if err := expired.SetMembership(old, i.public); err != nil {
		t.Fatal(err)
	}

	raw := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, Certificates: certs, MinVersion: tls.VersionTLS12}
	}
	old12 := raw(*late.cert)
	old12.MaxVersion = tls.VersionTLS12
	for name, config := range map[string]*tls.Config{
		"no certificate":         raw(),
		"no membership":          raw(plainConfig.Certificates[0]),
		"another's membership":   raw(*stolen),
		"another IDC":            raw(*foreign.node(t).cert),
		"expired":                expired.ClientTLS(id),
		"TLS 1.2":                old12,
		"two certificates":       raw(tls.Certificate{Certificate: [][]byte{late.cert.Certificate[0], late.cert.Certificate[0]}, PrivateKey: late.cert.PrivateKey}),
		"another than expected":  late.ClientTLS(late.Key().PeerID().String()),
		"not a member by itself": NewNode(newKey(t), i.clock.now, i.public).ClientTLS(id),
	} {
		if status, body, err := get(t, httpClient(t, config), addr); err == nil {
			t.Errorf("%s: got %d %q", name, status, body)
		}
	}
	server.seen.mu.Lock()
	remembered := len(server.seen.young)
	server.seen.mu.Unlock()
	if remembered != 0 {
		t.Errorf("%d strangers are remembered", remembered)
	}
	// A client refuses a server that is no member, too.
	addr = serve(t, foreign.node(t))
	if _, _, err := get(t, httpClient(t, late.ClientTLS("")), addr); !errors.Is(err, ErrNotMember) {
		t.Errorf("server of another IDC: %v", err)
	}
}

func TestAnotherIDCsMemberKeyIsAdded(t *testing.T) {
	here, there := newIDC(t), newIDC(t)
	server, guest := here.node(t), there.node(t)
	addr := serve(t, server)
	guest.AddMemberKey(here.public)
	if _, _, err := get(t, httpClient(t, guest.ClientTLS("")), addr); err == nil {
		t.Fatal("a member of an unknown IDC was let in")
	}
	server.AddMemberKey(there.public)
	client := httpClient(t, guest.ClientTLS(""))
	if status, body, err := get(t, client, addr); err != nil || status != 200 {
		t.Fatalf("%d %q %v", status, body, err)
	}
	server.RemoveMemberKey(there.public)
	if status, _, err := get(t, client, addr); err != nil || status != http.StatusForbidden {
		t.Fatalf("the live connection after the key was removed: %d %v", status, err)
	}
}

func TestExpiryIsSeenOnALiveConnection(t *testing.T) {
	i := newIDC(t)
	server, client := i.node(t), i.node(t)
	addr := serve(t, server)
	c := httpClient(t, client.ClientTLS(""))
	if status, _, err := get(t, c, addr); err != nil || status != 200 {
		t.Fatalf("%d %v", status, err)
	}
	i.clock.advance(MembershipLife)
	if status, body, err := get(t, c, addr); err != nil || status != http.StatusForbidden {
		t.Fatalf("after 24 h: %d %q %v", status, body, err)
	}
	// Both renew; a new connection carries the new certificates.
	for _, n := range []*Node{server, client} {
		if err := n.SetMembership(i.statement(t, n.key), i.public); err != nil {
			t.Fatal(err)
		}
	}
	c.CloseIdleConnections()
	if status, body, err := get(t, c, addr); err != nil || status != 200 {
		t.Fatalf("after renewal: %d %q %v", status, body, err)
	}
}

// Threat 23: a revoked node is cut, its live connections included.
func TestThreat23RevokedIsCut(t *testing.T) {
	i := newIDC(t)
	server, client, bystander := i.node(t), i.node(t), i.node(t)
	addr := serve(t, server)
	id := client.Key().PeerID().String()
	var told []string
	server.OnRevoke(func(ids []string) { told = append(told, ids...) })

	c, b := httpClient(t, client.ClientTLS("")), httpClient(t, bystander.ClientTLS(""))
	for _, x := range []*http.Client{c, b} {
		if status, _, err := get(t, x, addr); err != nil || status != 200 {
			t.Fatalf("%d %v", status, err)
		}
	}
	live, err := client.Dial(t.Context(), "tcp", addr, "")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if _, err := io.WriteString(live, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := live.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}

	server.Revoke(id)

	if err := live.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, live); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the live connection did not end: %v", err)
	}
	if status, _, err := get(t, c, addr); err == nil {
		t.Fatalf("a revoked peer got %d", status)
	}
	if len(told) != 1 || told[0] != id || !errors.Is(server.Admit(id), ErrRevoked) {
		t.Fatalf("hook told %v, Admit %v", told, server.Admit(id))
	}
	if status, _, err := get(t, b, addr); err != nil || status != 200 {
		t.Fatalf("the bystander: %d %v", status, err)
	}
	server.Readmit(id)
	if status, _, err := get(t, c, addr); err != nil || status != 200 {
		t.Fatalf("after it joined anew: %d %v", status, err)
	}
}

// Threat 23, without Listener: the request itself is refused.
func TestThreat23RevokedRequestOnALiveConnection(t *testing.T) {
	i := newIDC(t)
	server, client := i.node(t), i.node(t)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s, c := tls.Server(a, server.ServerTLS()), tls.Client(b, client.ClientTLS(""))
	errs := make(chan error, 1)
	go func() { errs <- c.HandshakeContext(context.WithoutCancel(t.Context())) }()
	if err := errors.Join(s.HandshakeContext(t.Context()), <-errs); err != nil {
		t.Fatal(err)
	}
	state := s.ConnectionState()
	if m, err := server.PeerOf(&state); err != nil || m.Membership.Pool != "core" {
		t.Fatalf("%v %v", m, err)
	}
	server.Revoke(client.Key().PeerID().String())
	if _, err := server.PeerOf(&state); !errors.Is(err, ErrRevoked) || !errors.Is(err, ErrNotMember) {
		t.Fatalf("after the revocation: %v", err)
	}
	if _, err := server.FromRequest(&http.Request{}); !errors.Is(err, ErrNotMember) {
		t.Fatalf("a request without TLS: %v", err)
	}
}

func TestRevocationsAreForgottenWhenTheyNoLongerMatter(t *testing.T) {
	i := newIDC(t)
	n := i.node(t)
	n.Revoke("a")
	i.clock.advance(revokedKept)
	n.Revoke("b")
	if n.Admit("a") == nil {
		t.Fatal("forgotten while a membership could still be shown")
	}
	i.clock.advance(time.Second)
	n.Revoke("c")
	if n.Admit("a") != nil || n.Admit("b") == nil || n.Admit("c") == nil {
		t.Fatal("the wrong ones were forgotten")
	}
}

func TestOwnMembershipIsChecked(t *testing.T) {
	i, foreign := newIDC(t), newIDC(t)
	n := NewNode(newKey(t), i.clock.now)
	if _, err := n.Membership(); !errors.Is(err, ErrNoMembership) {
		t.Fatal(err)
	}
	if err := n.SetMembership(i.statement(t, newKey(t)), i.public); !errors.Is(err, ErrBadMembership) {
		t.Fatalf("another's: %v", err)
	}
	if err := n.SetMembership(foreign.statement(t, n.key), i.public); !errors.Is(err, ErrBadMembership) {
		t.Fatalf("by another IDC: %v", err)
	}
	if err := n.SetMembership(i.statement(t, n.key), i.public); err != nil {
		t.Fatal(err)
	}
	if m, err := n.Membership(); err != nil || m.Pool != "core" {
		t.Fatalf("%v %v", m, err)
	}
}

func TestChainCacheIsBounded(t *testing.T) {
	var c chainCache
	for i := range 3 * chainCacheHalf {
		c.keep([32]byte{byte(i), byte(i >> 8)}, provenCert{})
		if len(c.young) > chainCacheHalf || len(c.aged) > chainCacheHalf {
			t.Fatalf("%d and %d entries", len(c.young), len(c.aged))
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	i := newIDC(b)
	server, client := i.node(b), i.node(b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	tl := server.Listener(l)
	go func() {
		for {
			c, err := tl.Accept()
			if err != nil {
				return
			}
			c.(*tls.Conn).HandshakeContext(context.WithoutCancel(b.Context())) // the client notices
			c.Close()
		}
	}()
	for b.Loop() {
		server.seen, client.seen = chainCache{}, chainCache{}
		c, err := client.Dial(b.Context(), "tcp", l.Addr().String(), server.key.PeerID().String())
		if err != nil {
			b.Fatal(err)
		}
		c.Read(make([]byte, 1)) // waits for the server's end
		c.Close()
	}
}

// BenchmarkPeerOf is what each request on a live connection pays.
func BenchmarkPeerOf(b *testing.B) {
	i := newIDC(b)
	server, client := i.node(b), i.node(b)
	state := tls.ConnectionState{HandshakeComplete: true}
	state.PeerCertificates = append(state.PeerCertificates, client.cert.Leaf)
	for b.Loop() {
		if _, err := server.PeerOf(&state); err != nil {
			b.Fatal(err)
		}
	}
}
