package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/fetch/fetchtest"
)

const (
	piece  = blob.MinPieceLength
	pieces = 20
)

var outside = blob.Ref{Registry: "registry.example.com", Repository: "library/app"}

// world is a host and what surrounds it.
type world struct {
	t       *testing.T
	store   *fetchtest.Store
	origin  *fetchtest.Origin
	gateway *fetchtest.Origin
	swarm   *fetchtest.Swarm
	tracker *fetchtest.Finder
	dht     *fetchtest.Finder
	log     *bytes.Buffer
	fetcher *fetch.Fetcher
	data    []byte
	digest  blob.Digest
	started time.Time
}

// inWorld runs a test in a bubble; build changes the world and the
// configuration before the fetcher is made.
func inWorld(t *testing.T, build func(w *world, cfg *fetch.Config), run func(w *world)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, store: fetchtest.NewStore(dir), origin: fetchtest.NewOrigin(), gateway: fetchtest.NewOrigin(),
			swarm: fetchtest.NewSwarm(50 * time.Millisecond), tracker: &fetchtest.Finder{}, dht: &fetchtest.Finder{},
			log: &bytes.Buffer{},
		}
		w.data, w.digest = fetchtest.Bytes(1, pieces*piece-1000)
		w.origin.Put(w.digest, w.data)
		w.origin.Chunk, w.origin.Pace = piece, 20*time.Millisecond
		w.swarm.Put(w.digest, w.data)
		cfg := fetch.Config{
			Store: w.store, Upstream: w.origin, Verify: fetchtest.Verify,
			Log: slog.New(slog.NewTextHandler(w.log, nil)),
		}
		build(w, &cfg)
		w.fetcher = fetch.New(cfg)
		defer w.fetcher.Close()
		w.started = time.Now()
		run(w)
	})
}

// crowd puts a tracker, a DHT and a swarm into the world; the tracker names a
// seed and a peer.
func crowd(w *world, cfg *fetch.Config) {
	w.tracker.Answer = blob.Neighbours{Peers: []blob.Peer{{ID: "seed", Seed: true}, {ID: "peer"}}}
	w.dht.Answer = blob.Neighbours{Peers: []blob.Peer{{ID: "far"}}}
	cfg.Tracker, cfg.DHT, cfg.Swarm = w.tracker, w.dht, w.swarm
}

func (w *world) request() fetch.Request {
	return fetch.Request{Digest: w.digest, Size: int64(len(w.data)), Ref: outside}
}

func (w *world) open(req fetch.Request, r blob.Range) *fetch.Reader {
	w.t.Helper()
	rd, err := w.fetcher.Open(w.t.Context(), req, r)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	return rd
}

// read reads a range to its end and compares.
func (w *world) read(req fetch.Request, r blob.Range) error {
	w.t.Helper()
	rd, err := w.fetcher.Open(w.t.Context(), req, r)
	if err != nil {
		return err
	}
	defer rd.Close()
	var got bytes.Buffer
	if _, err := io.Copy(&got, rd); err != nil {
		return err
	}
	if r.End < 0 {
		r.End = int64(len(w.data))
	}
	if !bytes.Equal(got.Bytes(), w.data[r.Start:r.End]) {
		w.t.Errorf("wrong bytes for %v", r)
	}
	return nil
}

func (w *world) mustRead() {
	w.t.Helper()
	if err := w.read(w.request(), blob.Range{End: -1}); err != nil {
		w.t.Fatalf("read: %v", err)
	}
}

// settled waits until the flight of the digest is over.
func (w *world) settled() {
	w.t.Helper()
	if err := w.fetcher.Prefetch(w.t.Context(), w.request(), nil); err != nil {
		w.t.Fatalf("flight: %v", err)
	}
	synctest.Wait()
}

// from sums up the bytes of the last pull by kind.
func (w *world) from(kind string) int64 {
	report, ok := w.fetcher.PullReport(w.digest.String())
	if !ok {
		return 0
	}
	sum := int64(0)
	for _, b := range report.Blobs {
		for _, s := range b.Sources {
			if s.Kind == kind {
				sum += s.Bytes
			}
		}
	}
	return sum
}

func TestLoneHostGoesUpstreamAtOnce(t *testing.T) {
	inWorld(t, func(*world, *fetch.Config) {}, func(w *world) {
		w.mustRead()
		_, n, first := w.origin.Served()
		if n != int64(len(w.data)) || first.Sub(w.started) > 0 {
			t.Errorf("upstream gave %d bytes, first after %s", n, first.Sub(w.started))
		}
		w.mustRead()
		if _, again, _ := w.origin.Served(); again != n {
			t.Errorf("a second read took %d more bytes from upstream", again-n)
		}
		if got := w.from(fetch.FromStore); got != int64(len(w.data)) {
			t.Errorf("%d bytes are said to come from the store", got)
		}
		if got, want := w.fetcher.Totals(), (fetch.Totals{Upstream: n, Local: n}); got != want {
			t.Errorf("all in all %+v, want %+v", got, want)
		}
	})
}

func TestSwarmAloneServesAHostWithoutGrant(t *testing.T) {
	inWorld(t, crowd, func(w *world) {
		w.mustRead()
		if requests, _, _ := w.origin.Served(); requests != 0 {
			t.Errorf("upstream was asked %d times", requests)
		}
		if got := w.from(fetch.FromSupernode) + w.from(fetch.FromPeer); got != int64(len(w.data)) {
			t.Errorf("the swarm is said to have given %d bytes", got)
		}
		if got, want := w.fetcher.Totals(), (fetch.Totals{Supernode: w.from(fetch.FromSupernode), Peer: w.from(fetch.FromPeer)}); got != want {
			t.Errorf("all in all %+v, want %+v", got, want)
		}
	})
}

func TestSupernodeDiesInTheMiddle(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		w.swarm.StopAfter(8)
		w.dht.Answer = blob.Neighbours{}
	}, func(w *world) {
		rd := w.open(w.request(), blob.Range{End: -1})
		defer rd.Close()
		if _, err := io.ReadFull(rd, make([]byte, 7*piece)); err != nil {
			t.Fatal(err)
		}
		w.tracker.Die()
		rest, err := io.ReadAll(rd)
		if err != nil || !bytes.Equal(rest, w.data[7*piece:]) {
			t.Fatalf("%d bytes, %v", len(rest), err)
		}
		given, last := w.swarm.Given()
		_, n, first := w.origin.Served()
		if wait := first.Sub(last); wait > 1100*time.Millisecond {
			t.Errorf("upstream stepped in after %s", wait)
		}
		if want := int64(len(w.data) - given*piece); n != want {
			t.Errorf("upstream gave %d bytes, %d were missing", n, want)
		}
	})
}

func TestStalledSwarmWithoutGrantStaysOffUpstream(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		w.swarm.StopAfter(3)
	}, func(w *world) {
		err := w.read(w.request(), blob.Range{End: -1})
		if !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(w.started); took < time.Minute || took > 65*time.Second {
			t.Errorf("gave up after %s", took)
		}
		if requests, _, _ := w.origin.Served(); requests != 0 {
			t.Errorf("upstream was asked %d times without leave", requests)
		}
	})
}

func TestGrantIsNotExceeded(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		w.tracker.Answer.OriginBytes = 5 * piece
		w.swarm.StopAfter(0)
	}, func(w *world) {
		rd := w.open(w.request(), blob.Range{End: 5 * piece})
		defer rd.Close()
		if _, err := io.ReadAll(rd); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Second)
		synctest.Wait()
		if _, n, _ := w.origin.Served(); n != 5*piece {
			t.Errorf("took %d bytes with a grant of %d", n, 5*piece)
		}
	})
}

func TestSwarmAndOriginShareTheWork(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		w.tracker.Answer.OriginBytes = 1 << 30
		w.swarm.StopAfter(2)
		w.origin.Pace = 300 * time.Millisecond
	}, func(w *world) {
		time.AfterFunc(2*time.Second, func() { w.swarm.StopAfter(-1) })
		w.mustRead()
		given, _ := w.swarm.Given()
		_, n, _ := w.origin.Served()
		if given < 10 || n < 2*piece {
			t.Errorf("the swarm gave %d pieces, the origin %d bytes", given, n)
		}
		if twice := int64(given*piece) + n - int64(len(w.data)); twice > 2*piece {
			t.Errorf("%d bytes came twice", twice)
		}
	})
}

func TestAnUrgentReaderRaisesTheClass(t *testing.T) {
	inWorld(t, crowd, func(w *world) {
		req := w.request()
		req.Class = "prewarm"
		done := make(chan error)
		go func() { done <- w.fetcher.Prefetch(w.t.Context(), req, nil) }()
		<-time.After(500 * time.Millisecond)
		w.mustRead()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := w.swarm.Classes(); !slices.Equal(got, []string{"prewarm", "wait"}) {
			t.Errorf("the swarm was asked as %v", got)
		}
		if given, _ := w.swarm.Given(); given > pieces {
			t.Errorf("%d pieces were given of %d", given, pieces)
		}
	})
}

func TestEverySupernodeGone(t *testing.T) {
	for name, c := range map[string]struct {
		dhtAfter time.Duration
		peers    []blob.Peer
		upstream bool
	}{
		"the DHT names a neighbour":     {dhtAfter: 500 * time.Millisecond, peers: []blob.Peer{{ID: "far"}}},
		"the DHT names nobody":          {dhtAfter: 500 * time.Millisecond, upstream: true},
		"the DHT takes far too long":    {dhtAfter: time.Minute, upstream: true},
		"a neighbour that is not there": {dhtAfter: 300 * time.Millisecond, peers: []blob.Peer{{ID: "dead"}}, upstream: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world, cfg *fetch.Config) {
				crowd(w, cfg)
				w.tracker.After = 500 * time.Millisecond
				w.tracker.Die()
				w.dht.After, w.dht.Answer.Peers = c.dhtAfter, c.peers
				if c.upstream {
					w.swarm.StopAfter(0)
				}
			}, func(w *world) {
				w.mustRead()
				requests, _, first := w.origin.Served()
				if c.upstream != (requests > 0) {
					t.Errorf("upstream was asked %d times", requests)
				}
				if c.upstream && first.Sub(w.started) > 2*time.Second {
					t.Errorf("upstream was asked after %s", first.Sub(w.started))
				}
			})
		})
	}
}

func TestReadersShareOneFlight(t *testing.T) {
	inWorld(t, func(*world, *fetch.Config) {}, func(w *world) {
		errs := make(chan error)
		ranges := []blob.Range{{End: -1}, {End: -1}, {Start: 12*piece + 7, End: 13 * piece}, {Start: 19 * piece, End: -1}}
		for _, r := range ranges {
			go func() { errs <- w.read(w.request(), r) }()
		}
		for range ranges {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if _, n, _ := w.origin.Served(); n > int64(len(w.data))+2*piece {
			t.Errorf("upstream gave %d bytes for a blob of %d", n, len(w.data))
		}
		if w.store.Created() != 1 {
			t.Errorf("%d blobs were made", w.store.Created())
		}
	})
}

func TestARangeThatIsAskedForComesFirst(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) { w.origin.Pace = 100 * time.Millisecond }, func(w *world) {
		whole := w.open(w.request(), blob.Range{End: -1})
		defer whole.Close()
		go io.Copy(io.Discard, whole)
		<-time.After(10 * time.Millisecond)
		began := time.Now()
		if err := w.read(w.request(), blob.Range{Start: 15 * piece, End: 15*piece + 10}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("a range far ahead took %s; all before it takes 1.5 s", took)
		}
	})
}

func TestAbandonedFlightLingersAndIsResumed(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) { w.origin.Pace = time.Second }, func(w *world) {
		rd := w.open(w.request(), blob.Range{End: -1})
		if _, err := io.ReadFull(rd, make([]byte, piece)); err != nil {
			t.Fatal(err)
		}
		rd.Close()
		<-time.After(30 * time.Second)
		synctest.Wait()
		if n := len(w.fetcher.Status()); n != 0 {
			t.Fatalf("%d flights go on without a reader", n)
		}
		have := pieces - w.store.Blob(w.digest).Missing().Count()
		if have < 5 || have > 8 {
			t.Errorf("%d pieces are there after the linger", have)
		}
		_, before, _ := w.origin.Served()
		w.mustRead()
		_, after, _ := w.origin.Served()
		if want := int64(len(w.data) - have*piece); after-before != want {
			t.Errorf("the second flight took %d bytes, %d were missing", after-before, want)
		}
	})
}

func TestAbortedRangeDoesNotStopTheFlight(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) { w.origin.Pace = 500 * time.Millisecond }, func(w *world) {
		for at := int64(0); at < pieces; at += 4 {
			rd := w.open(w.request(), blob.Range{Start: at * piece, End: -1})
			io.ReadFull(rd, make([]byte, 10))
			rd.Close()
			<-time.After(2 * time.Second)
		}
		w.mustRead()
		if _, n, _ := w.origin.Served(); n > int64(len(w.data))+3*piece {
			t.Errorf("upstream gave %d bytes for a blob of %d", n, len(w.data))
		}
	})
}

func TestReaderGoesWithItsContext(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) { crowd(w, cfg); w.swarm.StopAfter(0) }, func(w *world) {
		ctx, cancel := context.WithCancel(w.t.Context())
		rd, err := w.fetcher.Open(ctx, w.request(), blob.Range{End: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer rd.Close()
		time.AfterFunc(time.Second, cancel)
		if _, err := rd.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSizeIsLearned(t *testing.T) {
	inWorld(t, crowd, func(w *world) {
		req := w.request()
		req.Size = -1
		rd := w.open(req, blob.Range{Start: 5, End: -1})
		defer rd.Close()
		if rd.Size() != int64(len(w.data)) {
			t.Errorf("size %d", rd.Size())
		}
		if _, err := w.fetcher.Open(w.t.Context(), req, blob.Range{Start: 5, End: int64(len(w.data)) + 1}); err == nil {
			t.Error("a range past the end was taken")
		}
		if n, err := w.fetcher.Stat(w.t.Context(), fetch.Request{Digest: w.digest, Size: -1, Ref: outside}); err != nil || n != int64(len(w.data)) {
			t.Errorf("stat: %d, %v", n, err)
		}
	})
}

func TestNodeSignsWhatNobodySigned(t *testing.T) {
	inWorld(t, func(_ *world, cfg *fetch.Config) { cfg.Sign = fetchtest.Sign("me") }, func(w *world) {
		w.mustRead()
		w.settled()
		m, _, _ := w.store.Blob(w.digest).Proof()
		if m == nil || m.Signer != "me" || m.Check(fetchtest.Verify) != nil {
			t.Errorf("map %+v", m)
		}
	})
}

func TestPullReport(t *testing.T) {
	inWorld(t, crowd, func(w *world) {
		other, otherDigest := fetchtest.Bytes(2, 1000)
		w.swarm.Put(otherDigest, other)
		id := w.fetcher.BeginPull("registry.example.com/library/app:1", []blob.Descriptor{
			{Digest: w.digest, Size: int64(len(w.data))}, {Digest: otherDigest, Size: 1000},
		})
		req := w.request()
		req.Size = -1 // known from the manifest
		if err := w.read(req, blob.Range{End: -1}); err != nil {
			t.Fatal(err)
		}
		w.settled()
		report, ok := w.fetcher.PullReport("")
		if !ok || report.ID != id || len(report.Blobs) != 1 || report.Ended.IsZero() {
			t.Fatalf("report %+v", report)
		}
		b := report.Blobs[0]
		if b.Size != int64(len(w.data)) || b.FirstByte < 50*time.Millisecond || b.FirstByte > 100*time.Millisecond {
			t.Errorf("blob %+v", b)
		}
		again := w.fetcher.BeginPull("registry.example.com/library/app:1", []blob.Descriptor{{Digest: w.digest, Size: int64(len(w.data))}})
		if again == id {
			t.Error("a second pull counts as the first")
		}
		w.mustRead()
		report, _ = w.fetcher.PullReport(again)
		if len(report.Blobs) != 1 || len(report.Blobs[0].Sources) != 1 || report.Blobs[0].Sources[0].Kind != fetch.FromStore {
			t.Errorf("second pull %+v", report)
		}
	})
}

func TestCloseEndsFlights(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) { crowd(w, cfg); w.swarm.StopAfter(0) }, func(w *world) {
		rd := w.open(w.request(), blob.Range{End: -1})
		defer rd.Close()
		time.AfterFunc(time.Second, func() { w.fetcher.Close() })
		if _, err := rd.Read(make([]byte, 1)); !errors.Is(err, fetch.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := w.fetcher.Open(w.t.Context(), w.request(), blob.Range{End: -1}); !errors.Is(err, fetch.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPrefetchOutlivesNoReader(t *testing.T) {
	inWorld(t, crowd, func(w *world) {
		var last, total int64
		err := w.fetcher.Prefetch(w.t.Context(), w.request(), func(d, n int64) {
			if d < last {
				t.Errorf("progress went from %d back to %d", last, d)
			}
			last, total = d, n
		})
		if err != nil || last != total || total != int64(len(w.data)) {
			t.Errorf("%v: %d of %d", err, last, total)
		}
	})
}
