package dht

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalproject/shoal/pkg/blob"
)

func TestFindAfterBootstrapPeerIsGone(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(12)
	holder, asker := nodes[5], nodes[9]
	holder.hold(testDigest, testSize, true)
	if err := nodes[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Announce(t.Context(), testDigest); err != nil {
		t.Fatal(err)
	}
	list := findAll(t, asker, testDigest, testSize, func(l []blob.Peer) bool { return len(l) > 0 })
	want := blob.Peer{ID: holder.ID(), Addr: "127.0.0.1:4001", Complete: true, Distance: distance}
	if len(list) != 1 || list[0] != want {
		t.Fatalf("found %v, want %v", list, want)
	}

	// A newcomer that remembers neighbours of before finds it without node 0.
	late := c.add(func(cfg *Config) { cfg.Bootstrap = asker.Known() })
	findAll(t, late, testDigest, -1, func(l []blob.Peer) bool { return len(l) == 1 && l[0] == want })
}

func TestFindListsAreCumulativeAndCurrent(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(5)
	for _, n := range nodes[1:4] {
		n.hold(testDigest, testSize, false)
		if err := n.Announce(t.Context(), testDigest); err != nil {
			t.Fatal(err)
		}
	}
	nodes[3].hold(testDigest, testSize+1, true) // claims another size: left out
	lists := nodes[4].Find(t.Context(), testDigest, testSize)
	wait := func(want ...*testNode) {
		t.Helper()
		eventually(t, "the right list", func() bool {
			select {
			case list := <-lists:
				ids := make([]string, len(list))
				for i, p := range list {
					ids[i] = p.ID
				}
				return len(ids) == len(want) && !slices.ContainsFunc(want, func(n *testNode) bool { return !slices.Contains(ids, n.ID()) })
			default:
				return false
			}
		})
	}
	wait(nodes[1], nodes[2])
	nodes[1].forget(testDigest)
	wait(nodes[2])
}

func TestFindEndsWithItsContextAndAfterOneSearch(t *testing.T) {
	c := newCluster(t)
	once := c.add(func(cfg *Config) { cfg.FindAgain = -1 }, c.add(nil))
	for range once.Find(t.Context(), testDigest, -1) {
		t.Error("a list came though nobody holds anything")
	}
	again := c.add(nil)
	ctx, cancel := context.WithCancel(t.Context())
	lists := again.Find(ctx, testDigest, -1)
	if list := <-lists; len(list) != 0 {
		t.Errorf("found %v, want an empty list after the first search", list)
	}
	cancel()
	for range lists {
	}
}

func TestStrangerWithoutPSKCannotConnect(t *testing.T) {
	c := newCluster(t)
	inside := c.add(nil)
	outside := c.add(func(cfg *Config) { cfg.PSK = bytes.Repeat([]byte{8}, 32) })
	if err := outside.callOne(t.Context(), inside); err == nil {
		t.Error("a node with another private network key connected")
	}
	if len(inside.host.Network().Peers()) != 0 {
		t.Errorf("the member is connected to %v", inside.host.Network().Peers())
	}
}

// callOne connects n to other through the membership gate.
func (n *testNode) callOne(ctx context.Context, other *testNode) error {
	return n.host.Connect(ctx, peer.AddrInfo{ID: other.host.ID(), Addrs: other.host.Addrs()})
}

func TestNonMemberGetsNothing(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(3)
	nodes[1].hold(testDigest, testSize, true)
	if err := nodes[1].Announce(t.Context(), testDigest); err != nil {
		t.Fatal(err)
	}
	findAll(t, nodes[2], testDigest, -1, func(l []blob.Peer) bool { return len(l) == 1 })

	_, foreign := newKey(t)
	intruder := c.add(func(cfg *Config) {
		cfg.Statement = func() []byte { return c.statement(foreign) } // somebody else's
	}, nodes...)
	if err := intruder.callOne(t.Context(), nodes[1]); err == nil {
		t.Error("the member admitted a node with another's statement")
	}
	if list := findOnce(t, intruder, testDigest, -1); len(list) != 0 {
		t.Errorf("a non-member found %v", list)
	}
	for i, n := range nodes {
		if n.kad.RoutingTable().Find(intruder.host.ID()) != "" {
			t.Errorf("node %d has the non-member in its routing table", i)
		}
		eventually(t, "the non-member to be disconnected", func() bool {
			return n.host.Network().Connectedness(intruder.host.ID()) != network.Connected
		})
	}
}

func TestNonMemberWhoSkipsTheHandshakeIsNotAnswered(t *testing.T) {
	c := newCluster(t)
	member := c.add(nil)
	member.hold(testDigest, testSize, true)
	intruder := c.add(func(cfg *Config) { cfg.Statement = func() []byte { return nil } })
	question := func(payload []byte) []byte {
		var b bytes.Buffer
		if err := writeFrame(&b, payload); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for protocol, sent := range map[string][]byte{
		holdsProtocol:      question([]byte(testDigest)),
		tagsProtocol:       question(tagsRequest{tag: "v1"}.encode()),
		"/shoal/kad/1.0.0": {2, 8, 5}, // a kad-dht ping: length 2, field 1 (type) = 5
	} {
		if answer := rawAnswer(t, c.add(nil), member, protocol, sent); len(answer) == 0 {
			t.Errorf("%s does not answer a member: the question is wrong", protocol)
		}
		if answer := rawAnswer(t, intruder, member, protocol, sent); len(answer) != 0 {
			t.Errorf("%s answered a non-member with %x", protocol, answer)
		}
	}
}

// rawAnswer sends bytes on a stream of a host without its own gate, and
// returns the first bytes that come back.
func rawAnswer(t *testing.T, from, to *testNode, protocol string, sent []byte) []byte {
	t.Helper()
	raw := from.host.Host
	raw.Peerstore().AddAddrs(to.host.ID(), to.host.Addrs(), time.Hour)
	s, err := raw.NewStream(t.Context(), to.host.ID(), protocolID(protocol))
	if err != nil {
		return nil
	}
	defer s.Reset()
	_, _ = s.Write(sent) // a reset shows when reading
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	answer := make([]byte, 16)
	n, _ := s.Read(answer)
	return answer[:n]
}

func TestRevokedPeerIsCutAndStaysOut(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(3)
	bad := nodes[2]
	if err := bad.callOne(t.Context(), nodes[1]); err != nil {
		t.Fatal(err)
	}
	c.revoke(bad.ID())
	nodes[1].Drop(bad.ID())
	if nodes[1].host.Network().Connectedness(bad.host.ID()) == network.Connected {
		t.Error("the revoked peer is still connected")
	}
	eventually(t, "the revoked peer to notice", func() bool {
		return bad.host.Network().Connectedness(nodes[1].host.ID()) != network.Connected
	})
	if err := bad.callOne(t.Context(), nodes[1]); err == nil {
		t.Error("the revoked peer came back")
	}
	if slices.ContainsFunc(nodes[1].Known(), func(a string) bool { return strings.HasSuffix(a, bad.ID()) }) {
		t.Error("the revoked peer is named as a neighbour")
	}
}

func TestExpiredMembershipIsAskedForAgain(t *testing.T) {
	c := newCluster(t)
	var expired atomic.Value
	a := c.add(func(cfg *Config) {
		cfg.VerifyMember = func(raw []byte, id string) error {
			if id == expired.Load() {
				return errors.New("expired")
			}
			return c.verify(raw, id)
		}
	})
	b := c.add(nil)
	if err := a.callOne(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	expired.Store(b.ID())
	a.members.mu.Lock()
	a.members.known[b.host.ID()].checked = time.Now().Add(-2 * trustFor)
	a.members.mu.Unlock()
	if _, err := a.askHolds(t.Context(), b.host.ID(), testDigest); !errors.Is(err, errNotMember) {
		t.Errorf("asking a peer whose membership ran out: %v, want %v", err, errNotMember)
	}
}

func TestHolderHidesFromWhoMayNotRead(t *testing.T) {
	c := newCluster(t)
	var allowed atomic.Value
	holder := c.add(func(cfg *Config) {
		cfg.Allow = func(peer string, _ blob.Digest) bool { return peer == allowed.Load() }
	})
	reader, other := c.add(nil, holder), c.add(nil, holder)
	allowed.Store(reader.ID())
	holder.hold(testDigest, testSize, true)
	for _, n := range []*testNode{reader, other} {
		if err := n.callOne(t.Context(), holder); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := reader.askHolds(t.Context(), holder.host.ID(), testDigest); err != nil || found == nil {
		t.Errorf("who may read got %v, %v", found, err)
	}
	if found, err := other.askHolds(t.Context(), holder.host.ID(), testDigest); err != nil || found != nil {
		t.Errorf("who may not read got %v, %v", found, err)
	}
}

func TestWithoutTheSecretADigestCannotBeLookedUp(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(3)
	nodes[0].hold(testDigest, testSize, true)
	if err := nodes[0].Announce(t.Context(), testDigest); err != nil {
		t.Fatal(err)
	}
	findAll(t, nodes[1], testDigest, -1, func(l []blob.Peer) bool { return len(l) == 1 })
	blind := c.add(func(cfg *Config) { cfg.Secret = []byte("some other secret") }, nodes[0])
	eventually(t, "neighbours", func() bool { return blind.Neighbours() > 0 })
	if list := findOnce(t, blind, testDigest, -1); len(list) != 0 {
		t.Errorf("found %v without the secret", list)
	}
}

func TestProviderRecordsRunOut(t *testing.T) {
	c := newCluster(t)
	short := func(cfg *Config) { cfg.TTL = 2 * time.Second }
	a := c.add(short)
	b := c.add(short, a)
	asker := c.add(short, a)
	eventually(t, "neighbours", func() bool { return b.Neighbours() > 0 && asker.Neighbours() > 0 })
	if err := b.Announce(t.Context(), testDigest); err != nil {
		t.Fatal(err)
	}
	key := asker.cfg.blobKey(testDigest)
	eventually(t, "the record to be there", func() bool { return asker.holders(t.Context(), key) == 1 })
	start := time.Now()
	eventually(t, "the record to outlive its TTL by being announced again", func() bool {
		if asker.holders(t.Context(), key) != 1 {
			t.Fatal("the record was lost while it was being announced")
		}
		return time.Since(start) > 3*time.Second
	})
	b.Withdraw(testDigest)
	eventually(t, "the withdrawn record to run out", func() bool { return asker.holders(t.Context(), key) == 0 })
}

func TestEnoughHoldersAreEnough(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(3)
	key := nodes[0].cfg.blobKey(testDigest)
	store := nodes[1].kad.ProviderStore()
	for range MaxHolders {
		_, id := newKey(t)
		other, err := peer.Decode(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.AddProvider(t.Context(), key.Hash(), peer.AddrInfo{ID: other}); err != nil {
			t.Fatal(err)
		}
	}
	if got := nodes[2].announceOnce(key); got != enough {
		t.Errorf("outcome %v with %d holders, want %v", got, MaxHolders, enough)
	}
	if got := nodes[2].announceOnce(nodes[2].cfg.blobKey(testDigest + "x")); got != announced {
		t.Errorf("outcome %v without holders, want %v", got, announced)
	}
}

func TestFindTagsReturnsValidRecordsNewestFirst(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(4)
	ref := blob.Ref{Registry: "registry.example.com", Repository: "team/app"}
	noon := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	old, recent := c.tagRecord(ref, "v1", 1, noon.Add(time.Hour)), c.tagRecord(ref, "v1", 2, noon)
	forged := c.tagRecord(ref, "v1", 3, noon)
	forged.Size++
	elsewhere := c.tagRecord(blob.Ref{Repository: "other"}, "v1", 9, noon)
	key := ref.String() + ":v1"
	nodes[1].tags[key] = []*blob.TagRecord{old, forged}
	nodes[2].tags[key] = []*blob.TagRecord{elsewhere, recent}
	for _, n := range nodes[1:3] {
		if err := n.AnnounceTag(t.Context(), ref, "v1"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both records", func() bool {
		found, err := nodes[3].FindTags(t.Context(), ref, "v1")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range found {
			if r.Epoch > 2 {
				t.Fatalf("took a record that is forged or of another image: %+v", r)
			}
		}
		return len(found) == 2 && found[0].Epoch == 2 && found[1].Epoch == 1
	})
	if found, err := nodes[3].FindTags(t.Context(), ref, "v2"); err != nil || len(found) != 0 {
		t.Errorf("found %v, %v for a tag that nobody has", found, err)
	}
}

func TestGarbageOnEveryDoor(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(2)
	victim := nodes[0]
	for _, garbage := range [][]byte{nil, {0}, []byte("\xff\xff\xff\xff"), []byte("\x00\x00\x00\x04abcd"), bytes.Repeat([]byte("A"), 1<<16)} {
		for _, protocol := range []string{memberProtocol, holdsProtocol, tagsProtocol, "/shoal/kad/1.0.0"} {
			attacker := c.add(nil)
			if err := attacker.callOne(t.Context(), victim); err != nil {
				t.Fatal(err)
			}
			s, err := attacker.host.Host.NewStream(t.Context(), victim.host.ID(), protocolID(protocol))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write(garbage) // the victim may have hung up already
			_ = s.CloseWrite()
			_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.ReadAll(s); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s kept a stream with garbage %.10q open", protocol, garbage)
			}
			if err := attacker.Close(); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.Dial("tcp", listenAddr(t, victim))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(garbage)
		_ = conn.Close()
	}
	victim.hold(testDigest, testSize, true)
	if found, err := nodes[1].askHolds(t.Context(), victim.host.ID(), testDigest); err != nil || found == nil {
		t.Errorf("after the garbage an honest peer got %v, %v", found, err)
	}
}

func TestAPeerThatAsksTooMuchIsNotAnswered(t *testing.T) {
	c := newCluster(t)
	nodes := c.grow(2)
	nodes[0].hold(testDigest, testSize, true)
	refusedOnce := false
	for range 4 * askBurst {
		if _, err := nodes[1].askHolds(t.Context(), nodes[0].host.ID(), testDigest); err != nil {
			refusedOnce = true
			break
		}
	}
	if !refusedOnce {
		t.Errorf("%d questions in a row were answered", 4*askBurst)
	}
}

func TestConfigIsChecked(t *testing.T) {
	c := newCluster(t)
	key, id := newKey(t)
	good := Config{
		Key: key, Listen: "127.0.0.1:0", PSK: c.psk, Secret: []byte("sixteen bytes or"),
		Statement: func() []byte { return c.statement(id) }, VerifyMember: c.verify,
	}
	for name, change := range map[string]func(*Config){
		"no key":        func(cfg *Config) { cfg.Key = nil },
		"short PSK":     func(cfg *Config) { cfg.PSK = cfg.PSK[:16] },
		"short secret":  func(cfg *Config) { cfg.Secret = cfg.Secret[:8] },
		"no verifier":   func(cfg *Config) { cfg.VerifyMember = nil },
		"listen name":   func(cfg *Config) { cfg.Listen = "localhost" },
		"bad bootstrap": func(cfg *Config) { cfg.Bootstrap = []string{"/ip4/127.0.0.1/tcp/1"} },
		"bad advertise": func(cfg *Config) { cfg.Advertise = "host.example:1" },
	} {
		cfg := good
		change(&cfg)
		if n, err := New(t.Context(), cfg); err == nil {
			t.Errorf("%s: was taken", name)
			_ = n.Close()
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := good
	cfg.Listen = taken.Addr().String()
	if n, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "free port") {
		t.Errorf("port taken: %v, %v", n, err)
	}
}
