package dht

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalproject/shoal/pkg/blob"
)

const testSize = 3*blob.MinPieceLength + 17

var testDigest = blob.Digest("sha256:" + "ab0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd")

// cluster is a private network on loopback with an authority of its own.
type cluster struct {
	t         *testing.T
	psk       []byte
	authority ed25519.PrivateKey

	mu      sync.Mutex
	revoked map[string]bool // guarded by mu
}

// testNode is a node with the answers it gives.
type testNode struct {
	*Node

	mu    sync.Mutex
	holds map[blob.Digest]Holding      // guarded by mu
	tags  map[string][]*blob.TagRecord // guarded by mu
	asked map[string]int               // guarded by mu: questions by peer
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	_, authority, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, psk: bytes.Repeat([]byte{7}, 32), authority: authority, revoked: map[string]bool{}}
}

func newKey(t testing.TB) (crypto.PrivKey, string) {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, id.String()
}

func (c *cluster) statement(id string) []byte {
	return append(ed25519.Sign(c.authority, []byte(id)), id...)
}

func (c *cluster) verify(raw []byte, id string) error {
	if len(raw) < ed25519.SignatureSize || string(raw[ed25519.SignatureSize:]) != id {
		return errors.New("statement is for another peer")
	}
	if !ed25519.Verify(c.authority.Public().(ed25519.PublicKey), []byte(id), raw[:ed25519.SignatureSize]) {
		return errors.New("statement is not signed by the authority")
	}
	return nil
}

func (c *cluster) revoke(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked[id] = true
}

func (c *cluster) isRevoked(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revoked[id]
}

// add starts a member that calls the given nodes.
func (c *cluster) add(change func(*Config), bootstrap ...*testNode) *testNode {
	c.t.Helper()
	key, id := newKey(c.t)
	node := &testNode{holds: map[blob.Digest]Holding{}, tags: map[string][]*blob.TagRecord{}, asked: map[string]int{}}
	cfg := Config{
		Key: key, Listen: "127.0.0.1:0", PSK: c.psk, Secret: []byte("a secret of this data centre"),
		Statement:    func() []byte { return c.statement(id) },
		VerifyMember: c.verify,
		Revoked:      c.isRevoked,
		SwarmAddr:    "0.0.0.0:4001",
		Holdings:     node.holding,
		Tags:         node.records,
		VerifyTag:    c.verifyTag,
		Jitter:       time.Millisecond,
		FindAgain:    100 * time.Millisecond,
	}
	for _, other := range bootstrap {
		cfg.Bootstrap = append(cfg.Bootstrap, other.Addrs()...)
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if node.Node, err = New(c.t.Context(), cfg); err != nil {
		c.t.Fatalf("start node: %v", err)
	}
	c.t.Cleanup(func() {
		if err := node.Close(); err != nil {
			c.t.Errorf("close node: %v", err)
		}
	})
	return node
}

// grow starts n members that call the first, and waits until each has
// neighbours.
func (c *cluster) grow(n int) []*testNode {
	c.t.Helper()
	nodes := []*testNode{c.add(nil)}
	for len(nodes) < n {
		nodes = append(nodes, c.add(nil, nodes[0]))
	}
	for i, node := range nodes {
		eventually(c.t, fmt.Sprintf("node %d to have neighbours", i), func() bool {
			return node.Neighbours() >= min(3, n-1)
		})
	}
	return nodes
}

func (n *testNode) holding(d blob.Digest) (Holding, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.holds[d]
	return h, ok
}

func (n *testNode) records(ref blob.Ref, tag string) []*blob.TagRecord {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.tags[ref.String()+":"+tag]
}

func (n *testNode) hold(d blob.Digest, size int64, complete bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := Holding{Size: size, Complete: complete, Have: blob.NewBitmap(blob.PieceCount(size))}
	if complete {
		h.Have.Fill()
	}
	n.holds[d] = h
}

func (n *testNode) forget(d blob.Digest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.holds, d)
}

func (c *cluster) verifyTag(signer string, message, signature []byte) error {
	if signer != "authority" || !ed25519.Verify(c.authority.Public().(ed25519.PublicKey), message, signature) {
		return errors.New("not signed by the authority")
	}
	return nil
}

func (c *cluster) tagRecord(ref blob.Ref, tag string, epoch uint64, at time.Time) *blob.TagRecord {
	c.t.Helper()
	r := &blob.TagRecord{Ref: ref, Tag: tag, Digest: testDigest, MediaType: "application/json", Size: 9, Epoch: epoch, Time: at.UTC().Truncate(time.Second)}
	err := r.Sign(func(message []byte) (string, []byte, error) {
		return "authority", ed25519.Sign(c.authority, message), nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// eventually fails the test when what does not come about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// findAll collects lists until accept takes one.
func findAll(t *testing.T, n *testNode, d blob.Digest, size int64, accept func([]blob.Peer) bool) []blob.Peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last []blob.Peer
	for list := range n.Find(ctx, d, size) {
		last = list
		if accept(list) {
			return list
		}
	}
	t.Fatalf("no such list came; the last one was %v", last)
	return nil
}

// findOnce runs one search to its end.
func findOnce(t *testing.T, n *testNode, d blob.Digest, size int64) []blob.Peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	list := &peerList{out: make(chan []blob.Peer, 1), peers: map[peer.ID]blob.Peer{}}
	n.search(ctx, d, size, list)
	list.publish()
	return <-list.out
}
