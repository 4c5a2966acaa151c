package api

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// member is a node with a line to the members' listener.
type member struct {
	f    *front
	key  *identity.Key
	node *identity.Node
	http *http.Client
	shoalv1connect.NodeServiceClient
}

func (m *member) id() string { return m.key.PeerID().String() }

// joinToken makes one, for one node.
func (f *front) joinToken() string {
	f.t.Helper()
	answer, err := f.admin().CreateJoinToken(f.t.Context(), connect.NewRequest(&shoalv1.CreateJoinTokenRequest{TtlSeconds: 60, Pool: "web", Uses: 1}))
	if err != nil {
		f.t.Fatal(err)
	}
	return answer.Msg.Token
}

// knock asks to join with a token.
func (f *front) knock(key *identity.Key, token string) (*shoalv1.Welcome, error) {
	client := shoalv1connect.NewJoinServiceClient(http.DefaultClient, f.public.URL+"/api")
	answer, err := client.Join(f.t.Context(), connect.NewRequest(&shoalv1.JoinRequest{
		Token: token, PublicKey: key.Public(), Proof: identity.JoinProof(key, token), Hostname: "host-1",
	}))
	if err != nil {
		return nil, err
	}
	return answer.Msg.Welcome, nil
}

// join makes a node that is a member.
func (f *front) join() *member {
	f.t.Helper()
	key := newKey(f.t)
	welcome, err := f.knock(key, f.joinToken())
	if err != nil {
		f.t.Fatal(err)
	}
	return f.member(key, f.now, welcome.Membership, welcome.MemberKey)
}

// member makes the line of a node that shows this membership.
func (f *front) member(key *identity.Key, now func() time.Time, membership []byte, memberKey ed25519.PublicKey) *member {
	f.t.Helper()
	m := &member{f: f, key: key, node: identity.NewNode(key, now)}
	if err := m.node.SetMembership(membership, memberKey); err != nil {
		f.t.Fatal(err)
	}
	m.node.AddMemberKey(f.memberPublic())
	m.connect(f.members.Addr().String())
	return m
}

func (m *member) connect(addr string) {
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return m.node.Dial(ctx, network, addr, m.f.key.PeerID().String())
	}}
	m.f.t.Cleanup(transport.CloseIdleConnections)
	m.http = &http.Client{Transport: transport}
	m.NodeServiceClient = shoalv1connect.NewNodeServiceClient(m.http, "https://supernode")
}

// watch opens the line for orders and takes the first sign of life.
func (m *member) watch(hostname string) *connect.ServerStreamForClient[shoalv1.Order] {
	m.f.t.Helper()
	line, err := m.Watch(m.f.t.Context(), connect.NewRequest(&shoalv1.WatchRequest{Hostname: hostname, Version: "v1", SwarmAddr: ":65002"}))
	if err != nil {
		m.f.t.Fatal(err)
	}
	if !line.Receive() || line.Msg().GetIdle() == nil {
		m.f.t.Fatalf("the line is not alive: %v", line.Err())
	}
	return line
}

func (f *front) revoke(peer string) {
	f.t.Helper()
	if _, err := f.admin().RevokeServer(f.t.Context(), connect.NewRequest(&shoalv1.RevokeServerRequest{PeerId: peer})); err != nil {
		f.t.Fatal(err)
	}
}

func TestAMemberRenewsAnnouncesAndIsSeen(t *testing.T) {
	f := newFront(t)
	m := f.join()
	before, _ := m.node.Membership()
	f.offset.Store(int64(time.Hour))
	renewed, err := m.Renew(t.Context(), connect.NewRequest(&shoalv1.RenewRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	w := renewed.Msg.Welcome
	if err := m.node.SetMembership(w.Membership, w.MemberKey); err != nil {
		t.Fatal(err)
	}
	if after, _ := m.node.Membership(); after.Pool != "web" || !after.NotAfter.After(before.NotAfter) {
		t.Errorf("renewed: %+v, before: %+v", after, before)
	}
	if got := w.Supernodes[0].SwarmAddr; got != "127.0.0.1:8002" {
		t.Errorf("the welcome names %q, not the address that was reached", got)
	}
	answer, err := m.Announce(t.Context(), connect.NewRequest(&shoalv1.AnnounceRequest{
		SwarmAddr: ":65002",
		Announcements: []*shoalv1.Announcement{
			{Digest: someDigest, Size: 10, State: shoalv1.Announcement_WANTS, Origin: &shoalv1.Origin{Registry: "docker.io", Repository: "library/alpine", Token: "secret"}},
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := blob.Origin{Ref: blob.Ref{Registry: "docker.io", Repository: "library/alpine"}, Token: "secret"}
	if got := <-f.outside.asked; got != want {
		t.Errorf("the seed was asked for %+v", got)
	}
	peers := answer.Msg.Neighbours[0].Peers
	if len(peers) != 1 || !peers[0].Seed || peers[0].SwarmAddr != "127.0.0.1:8002" || answer.Msg.Epoch == 0 || answer.Msg.BeatMs == 0 {
		t.Errorf("neighbours: %+v", answer.Msg)
	}
	m.watch("host-1")
	list, err := f.admin().ListServers(t.Context(), connect.NewRequest(&shoalv1.ListServersRequest{}))
	if err != nil || len(list.Msg.Servers) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	s := list.Msg.Servers[0]
	if s.PeerId != m.id() || !s.Connected || s.Pool != "web" || s.Hostname != "host-1" || s.SwarmAddr != "127.0.0.1:65002" || s.Revoked {
		t.Errorf("listed as %+v", s)
	}
	swarms, err := f.admin().ListSwarms(t.Context(), connect.NewRequest(&shoalv1.ListSwarmsRequest{}))
	if err != nil || len(swarms.Msg.Swarms) != 1 || swarms.Msg.Swarms[0].Peers[0].Hostname != "host-1" {
		t.Errorf("swarms: %+v, %v", swarms, err)
	}
}

func TestATokenTakesInOneNode(t *testing.T) {
	f := newFront(t)
	token := f.joinToken()
	key := newKey(t)
	if _, err := f.knock(key, token); err != nil {
		t.Fatal(err)
	}
	if _, err := f.knock(newKey(t), token); code(err) != connect.CodePermissionDenied {
		t.Errorf("a used token: %v", err)
	}
	if _, err := f.knock(key, token+"0"); code(err) != connect.CodePermissionDenied {
		t.Errorf("a wrong token: %v", err)
	}
	late := f.joinToken()
	f.offset.Store(int64(2 * time.Minute))
	if _, err := f.knock(newKey(t), late); code(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "join-token") {
		t.Errorf("an expired token: %v", err)
	}
}

// Threat 23: a revocation closes the line and every connection.
func TestARevokedNodeIsCutOff(t *testing.T) {
	f := newFront(t)
	m, other := f.join(), f.join()
	line, theirs := m.watch("host-1"), other.watch("host-2")
	f.revoke(m.id())
	if line.Receive() {
		t.Errorf("an order came over a line that should be closed: %v", line.Msg())
	}
	if _, err := m.Renew(t.Context(), connect.NewRequest(&shoalv1.RenewRequest{})); err == nil {
		t.Error("a revoked node renewed its membership")
	}
	if _, err := f.knock(m.key, f.joinToken()); code(err) != connect.CodePermissionDenied {
		t.Errorf("a revoked node came back with a new token: %v", err)
	}
	if _, err := other.Renew(t.Context(), connect.NewRequest(&shoalv1.RenewRequest{})); err != nil {
		t.Errorf("the neighbour was cut off too: %v", err)
	}
	theirs.Close()
}

// A connection that nothing closes is refused all the same, on the very next
// request.
func TestARevokedNodeIsRefusedOnALiveConnection(t *testing.T) {
	f := newFront(t)
	m := f.join()
	dialled := 0
	bare := f.serveMembers(func(l net.Listener) net.Listener { return tls.NewListener(l, f.Node.ServerTLS()) })
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialled++
		return m.node.Dial(ctx, network, bare.Addr().String(), f.key.PeerID().String())
	}}
	defer transport.CloseIdleConnections()
	client := shoalv1connect.NewNodeServiceClient(&http.Client{Transport: transport}, "https://supernode")
	announce := func() error {
		_, err := client.Announce(t.Context(), connect.NewRequest(&shoalv1.AnnounceRequest{SwarmAddr: ":1"}))
		return err
	}
	if err := announce(); err != nil {
		t.Fatal(err)
	}
	f.revoke(m.id())
	if err := announce(); code(err) != connect.CodeUnauthenticated || dialled != 1 {
		t.Errorf("%v, over %d connections", err, dialled)
	}
}

func TestStrangersAreNoMembers(t *testing.T) {
	f := newFront(t)
	now := time.Now()
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	statement := func(key *identity.Key, from time.Time, signer ed25519.PrivateKey) []byte {
		raw, err := identity.SignMembership(identity.Membership{
			PeerID: key.PeerID().String(), Role: identity.RoleAgent, IDC: "here", Pool: "web",
			NotBefore: from, NotAfter: from.Add(identity.MembershipLife),
		}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	self, late := newKey(t), newKey(t)
	clock := now.Add(-48 * time.Hour) // at which the late node's membership is good
	members := map[string]*member{
		"a membership signed by itself": f.member(self, time.Now, statement(self, now, own), own.Public().(ed25519.PublicKey)),
		"a membership that ran out":     f.member(late, func() time.Time { return clock }, statement(late, clock, f.memberKey), f.memberPublic()),
	}
	clock = now // its certificate stays the old one
	for name, m := range members {
		if _, err := m.Renew(t.Context(), connect.NewRequest(&shoalv1.RenewRequest{})); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	// Another node's membership cannot even be put into a certificate.
	victim := f.join()
	stolen, err := f.Auth.Renew(t.Context(), victim.id())
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.NewNode(newKey(t), time.Now).SetMembership(stolen, f.memberPublic()); err == nil {
		t.Error("a node took on another node's membership")
	}
	// Without any certificate there is no connection.
	plain := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a stranger does not care
	if response, err := plain.Get("https://" + f.members.Addr().String() + "/v2/"); err == nil {
		response.Body.Close()
		t.Errorf("a stranger without a certificate was answered: %s", response.Status)
	}
}
