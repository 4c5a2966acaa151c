package swarm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/swarm/swarmtest"
)

// pieces answers requests for pieces with h and passes on the rest.
func pieces(h http.HandlerFunc) handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/piece/") {
				h(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// pair is a good neighbour and one whose pieces go through bad.
func pair(t *testing.T, bad http.HandlerFunc) (me *node, origin *swarmtest.Blob, data []byte, good, other *node) {
	t.Helper()
	data = random(t, 4<<20)
	origin = whole(t, data)
	good, other = newNode(t, "good", false, nil), newNode(t, "bad", false, pieces(bad))
	good.hold(origin)
	other.hold(origin)
	return newNode(t, "me", false, nil), origin, data, good, other
}

func TestPeerWithWrongBytesIsBanned(t *testing.T) {
	me, origin, data, good, bad := pair(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(blob.MinPieceLength))
		_, _ = w.Write(make([]byte, blob.MinPieceLength))
	})
	sink := swarmtest.New(origin.Digest(), origin.Size())
	check(t, sink, data, me.fetch(within(t), sink, good.peer, bad.peer))
	me.mu.Lock()
	reports, fromBad := me.bad, me.from["bad"]
	me.mu.Unlock()
	if len(reports) == 0 || reports[0].Peer.ID != "bad" || reports[0].Digest != origin.Digest() {
		t.Errorf("reported: %+v", reports)
	}
	if fromBad != 0 {
		t.Errorf("%d bytes are credited to the bad peer", fromBad)
	}
	// The ban holds for other blobs and later fetches.
	bad.mu.Lock()
	clear(bad.asked)
	bad.mu.Unlock()
	second := whole(t, data[:1<<20])
	good.hold(second)
	bad.hold(second)
	sink = swarmtest.New(second.Digest(), second.Size())
	check(t, sink, data[:1<<20], me.fetch(within(t), sink, good.peer, bad.peer))
	bad.mu.Lock()
	defer bad.mu.Unlock()
	for path := range bad.asked {
		if strings.Contains(path, string(second.Digest())) {
			t.Errorf("a banned peer was asked for %s", path)
		}
	}
}

func TestSilentPeerIsHedged(t *testing.T) {
	me, origin, data, good, bad := pair(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	sink := swarmtest.New(origin.Digest(), origin.Size())
	check(t, sink, data, me.fetch(within(t), sink, good.peer, bad.peer))
	if me.count(t, "shoal_swarm_hedges_total", "") == 0 {
		t.Error("no second peer was asked")
	}
}

func TestPeerThatStopsInTheMiddleIsHedged(t *testing.T) {
	me, origin, data, good, bad := pair(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "262144")
		_, _ = w.Write(make([]byte, 1000))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	sink := swarmtest.New(origin.Digest(), origin.Size())
	check(t, sink, data, me.fetch(within(t), sink, good.peer, bad.peer))
}

func TestFalseClaimsAreForgotten(t *testing.T) {
	me, origin, data, good, bad := pair(t, http.NotFound)
	sink := swarmtest.New(origin.Digest(), origin.Size())
	check(t, sink, data, me.fetch(within(t), sink, good.peer, bad.peer))
	if n := me.count(t, "shoal_swarm_piece_failures_total", `"not held"`); n == 0 || n > 6 {
		t.Errorf("a liar was asked %v times in vain", n)
	}
}

func TestPullSucceedsAmongBrokenPeers(t *testing.T) {
	me, origin, data, good, bad := pair(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After-Ms", "20")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	refusing := blob.Peer{ID: "nobody", Addr: "127.0.0.1:1"}
	short := newNode(t, "short", false, pieces(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("short")) }))
	short.hold(origin)
	sink := swarmtest.New(origin.Digest(), origin.Size())
	check(t, sink, data, me.fetch(within(t), sink, refusing, bad.peer, short.peer, good.peer))
}

func TestFetchGoesOnWithWhatIsThere(t *testing.T) {
	me, origin, data, good, _ := pair(t, http.NotFound)
	m, _, _ := origin.Proof()
	sink := swarmtest.New(origin.Digest(), origin.Size())
	if err := sink.AddProof(m, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		span := blob.PieceRange(origin.Size(), i)
		if _, err := sink.PutPiece(i, bytes.NewReader(data[span.Start:span.End]), &m.Hashes[i]); err != nil {
			t.Fatal(err)
		}
	}
	check(t, sink, data, me.fetch(within(t), sink, good.peer))
	me.mu.Lock()
	defer me.mu.Unlock()
	if want := origin.Size() - 10*blob.MinPieceLength; me.from["good"] != want {
		t.Errorf("%d bytes were fetched, want %d", me.from["good"], want)
	}
}

func TestFetchEndsWhenNobodyIsLeft(t *testing.T) {
	origin := whole(t, random(t, 1<<20))
	me := newNode(t, "me", false, nil)
	sink := swarmtest.New(origin.Digest(), origin.Size())
	if err := me.fetch(within(t), sink, blob.Peer{ID: "nobody", Addr: "127.0.0.1:1"}); !errors.Is(err, swarm.ErrNoPeers) {
		t.Errorf("nobody answers: %v", err)
	}
	if err := me.fetch(within(t), sink); !errors.Is(err, swarm.ErrNoPeers) {
		t.Errorf("an empty list: %v", err)
	}
}

func TestFetchEndsWithoutProof(t *testing.T) {
	origin := whole(t, random(t, 1<<20))
	me, other := newNode(t, "me", false, nil), newNode(t, "other", false, nil)
	stranger, err := swarmtest.Whole(origin.Bytes(), swarmtest.NewSigner("stranger").Sign)
	if err != nil {
		t.Fatal(err)
	}
	other.hold(stranger)
	sink := swarmtest.New(origin.Digest(), origin.Size())
	if err := me.fetch(within(t), sink, other.peer); !errors.Is(err, swarm.ErrNoProof) {
		t.Errorf("a map of an unknown signer: %v", err)
	}
	if sink.Missing().Count() != blob.PieceCount(origin.Size()) {
		t.Error("pieces were taken on a stranger's word")
	}
}

func TestGrowingSeedIsFollowed(t *testing.T) {
	data := random(t, 4<<20)
	origin := whole(t, data)
	m, _, _ := origin.Proof()
	seed := newNode(t, "seed", true, nil)
	growing := swarmtest.New(origin.Digest(), origin.Size())
	seed.hold(growing)
	const hosts = 3
	sinks, errs := make([]*swarmtest.Blob, hosts), make([]error, hosts)
	var wg sync.WaitGroup
	nodes := []*node{newNode(t, "a", false, nil), newNode(t, "b", false, nil), newNode(t, "c", false, nil)}
	for i, n := range nodes {
		sinks[i] = swarmtest.New(origin.Digest(), origin.Size())
		wg.Go(func() { errs[i] = n.fetch(within(t), sinks[i], seed.peer, nodes[0].peer, nodes[1].peer, nodes[2].peer) })
	}
	for i, h := range m.Hashes {
		b, err := blob.NewBatch("flight", m.Digest, m.Size, i, m.Hashes[i:i+1], signer.Sign)
		if err != nil {
			t.Fatal(err)
		}
		if err := growing.AddProof(nil, b); err != nil {
			t.Fatal(err)
		}
		span := blob.PieceRange(m.Size, i)
		if _, err := growing.PutPiece(i, bytes.NewReader(data[span.Start:span.End]), &h); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for i := range sinks {
		check(t, sinks[i], data, errs[i])
	}
	if got := seed.count(t, "shoal_swarm_sent_pieces_total", `"next"`); got != float64(len(m.Hashes)) {
		t.Errorf("the seed handed out %v pieces of %d", got, len(m.Hashes))
	}
}

func TestGarbageIsRefused(t *testing.T) {
	origin := whole(t, random(t, 1<<20))
	seed, host := newNode(t, "seed", true, nil), newNode(t, "host", false, nil)
	seed.hold(origin)
	host.hold(origin)
	d := string(origin.Digest())
	for _, c := range []struct {
		name, method, path string
		header             http.Header
		node               *node
		want               int
	}{
		{"a piece", "GET", d + "/piece/0", nil, seed, 200},
		{"no such piece", "GET", d + "/piece/4", nil, seed, 404},
		{"negative", "GET", d + "/piece/-1", nil, seed, 400},
		{"padded", "GET", d + "/piece/00", nil, seed, 400},
		{"huge", "GET", d + "/piece/99999999999999999999", nil, seed, 400},
		{"range", "GET", d + "/piece/0", http.Header{"Range": {"bytes=0-1"}}, seed, 400},
		{"query", "GET", d + "/piece/0?x=1", nil, seed, 400},
		{"class", "GET", d + "/piece/0", http.Header{"Shoal-Class": {"vip"}}, seed, 400},
		{"post", "POST", d + "/piece/0", nil, seed, 405},
		{"verb", "GET", d + "/peace/0", nil, seed, 404},
		{"digest", "GET", "sha256:beef/map", nil, seed, 400},
		{"traversal", "GET", "..%2f..%2fetc/map", nil, seed, 404},
		{"unknown digest", "GET", "sha256:" + strings.Repeat("0", 64) + "/map", nil, seed, 404},
		{"next without want", "GET", d + "/next", nil, seed, 400},
		{"next with too much", "GET", d + "/next", http.Header{"Shoal-Want": {strings.Repeat("A", 4096)}}, seed, 400},
		{"next with spare bits", "GET", d + "/next", http.Header{"Shoal-Want": {"/w=="}}, seed, 400},
		{"next of nothing", "GET", d + "/next", http.Header{"Shoal-Want": {"AA=="}}, seed, 204},
		{"next at a host", "GET", d + "/next", http.Header{"Shoal-Want": {"8A=="}}, host, 501},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(within(t), c.method, c.node.server.URL+"/swarm/v1/"+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range c.header {
				req.Header[k] = v
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.want {
				body, _ := io.ReadAll(resp.Body)
				t.Errorf("%d, want %d: %s", resp.StatusCode, c.want, body)
			}
		})
	}
}
