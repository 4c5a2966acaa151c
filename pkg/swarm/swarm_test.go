package swarm_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/swarm/swarmtest"
)

var signer = swarmtest.NewSigner("supernode")

// node is one host: what it holds, its server and its exchange.
type node struct {
	peer     blob.Peer
	exchange *swarm.Exchange
	server   *httptest.Server
	metrics  *prometheus.Registry

	mu    sync.Mutex
	blobs map[blob.Digest]swarm.Content // guarded by mu
	bad   []swarm.Bad                   // guarded by mu
	from  map[string]int64              // bytes by peer; guarded by mu
	asked map[string]int                // requests by path; guarded by mu
}

// handler lets a test stand between the network and a node's server.
type handler func(next http.Handler) http.Handler

func newNode(t *testing.T, name string, seed bool, wrap handler) *node {
	t.Helper()
	n := &node{
		blobs: map[blob.Digest]swarm.Content{}, from: map[string]int64{}, asked: map[string]int{},
		metrics: prometheus.NewRegistry(),
	}
	n.exchange = swarm.NewExchange(swarm.Config{
		Self: name, Verify: signer.Verify, Metrics: n.metrics,
		Report: func(b swarm.Bad) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.bad = append(n.bad, b)
		},
	})
	var h http.Handler = swarm.NewServer(swarm.ServerConfig{
		Seed: seed, Metrics: n.metrics,
		Lookup: func(_ context.Context, d blob.Digest) (swarm.Content, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if c := n.blobs[d]; c != nil {
				return c, nil
			}
			return nil, fmt.Errorf("look up %s: %w", d, blob.ErrNotHeld)
		},
		Member: func(r *http.Request) (string, error) { return strings.Split(r.RemoteAddr, ":")[0], nil },
		Allow:  func(context.Context, string, blob.Digest, []byte) error { return nil },
	})
	if wrap != nil {
		h = wrap(h)
	}
	counting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.asked[r.URL.Path]++
		n.mu.Unlock()
		h.ServeHTTP(w, r)
	})
	n.server = httptest.NewServer(counting)
	t.Cleanup(func() {
		n.exchange.Close()
		n.server.CloseClientConnections()
		n.server.Close()
	})
	n.peer = blob.Peer{ID: name, Addr: n.server.Listener.Addr().String(), Seed: seed}
	return n
}

func (n *node) hold(c swarm.Content) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blobs[c.Digest()] = c
}

func (n *node) fetch(ctx context.Context, sink swarm.Sink, peers ...blob.Peer) error {
	n.hold(sink)
	list := make(chan []blob.Peer, 1)
	list <- peers
	close(list)
	return n.exchange.Fetch(ctx, swarm.FetchRequest{Sink: sink, Peers: list, Got: func(p blob.Peer, bytes int64) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.from[p.ID] += bytes
	}})
}

// count is a metric's value, summed over labels that contain match.
func (n *node) count(t *testing.T, name, match string) float64 {
	t.Helper()
	all, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range all {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if match == "" || strings.Contains(m.String(), match) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func random(t *testing.T, size int) []byte {
	t.Helper()
	var key [32]byte
	copy(key[:], t.Name())
	out := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(out)
	return out
}

func whole(t *testing.T, data []byte) *swarmtest.Blob {
	t.Helper()
	b, err := swarmtest.Whole(data, signer.Sign)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func check(t *testing.T, sink *swarmtest.Blob, data []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sink.Bytes(), data) {
		t.Fatal("the bytes differ")
	}
}

func TestSeedEmitsEachPieceOnceToConcurrentClients(t *testing.T) {
	const hosts = 8
	data := random(t, 16<<20+1234)
	origin := whole(t, data)
	seed := newNode(t, "seed", true, nil)
	seed.hold(origin)
	nodes := make([]*node, hosts)
	peers := []blob.Peer{seed.peer}
	for i := range nodes {
		nodes[i] = newNode(t, fmt.Sprintf("host-%d", i), false, nil)
		peers = append(peers, nodes[i].peer)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	sinks := make([]*swarmtest.Blob, hosts)
	errs := make([]error, hosts)
	for i, n := range nodes {
		sinks[i] = swarmtest.New(origin.Digest(), origin.Size())
		wg.Go(func() { errs[i] = n.fetch(ctx, sinks[i], peers...) })
	}
	wg.Wait()
	for i := range nodes {
		check(t, sinks[i], data, errs[i])
	}
	pieces := float64(blob.PieceCount(origin.Size()))
	if got := seed.count(t, "shoal_swarm_sent_pieces_total", `"next"`); got != pieces {
		t.Errorf("the seed handed out %v pieces of %v", got, pieces)
	}
	t.Logf("repeats: %v", seed.count(t, "shoal_swarm_sent_pieces_total", `"repeat"`))
}

// endsWhenFull ends the fetch as soon as the last piece is in, as a flight
// does.
type endsWhenFull struct {
	*swarmtest.Blob
	end func()
}

func (e endsWhenFull) PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error) {
	h, err := e.Blob.PutPiece(i, r, want)
	if e.Missing().Count() == 0 {
		e.end()
	}
	return h, err
}

// Every byte has a sender, the last piece's too.
func TestEveryPieceIsTold(t *testing.T) {
	data := make([]byte, 3<<20)
	origin := whole(t, data)
	seed := newNode(t, "seed", true, nil)
	seed.hold(origin)
	for range 5 {
		me := newNode(t, "me", false, nil)
		ctx, end := context.WithCancel(t.Context())
		sink := endsWhenFull{swarmtest.New(origin.Digest(), origin.Size()), end}
		_ = me.fetch(ctx, sink, seed.peer) // it may say that its context ended
		end()
		me.mu.Lock()
		told := me.from[seed.peer.ID]
		me.mu.Unlock()
		if told != int64(len(data)) {
			t.Fatalf("told of %d bytes of %d", told, len(data))
		}
	}
}
