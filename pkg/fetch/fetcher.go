package fetch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/shoalproject/shoal/pkg/blob"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// lingerFor is how long a flight goes on after its last reader left.
	lingerFor = 5 * time.Second
	// sizeWait is how long a reader waits to learn a size nobody told it.
	sizeWait = 30 * time.Second
	// defaultLanes is how many requests to origins a host has open at once.
	defaultLanes = 8
)

// Config wires a Fetcher. Only Store is needed; every other part may be nil.
type Config struct {
	Store    Store
	Local    Local
	Swarm    Swarm
	Tracker  Finder
	DHT      Finder
	Upstream Upstream
	Gateway  Gateway
	Tags     TagStore
	TagsNear TagFinder

	// Classify finds the HTTP status (0: none) behind an error of Upstream or
	// Gateway and the wait that it asks for. Without it, errors tell by
	// HTTPStatus() and RetryAfter() methods.
	Classify func(err error) (status int, retryAfter time.Duration)
	// Verify checks the signer of a tag record; without it no record is
	// believed.
	Verify blob.VerifyFunc
	// Sign signs the piece map of a blob that this node verified itself when
	// nobody signed one before.
	Sign blob.SignFunc
	// Landed is told of each piece that came from an origin and was written.
	Landed func(b Blob, i int, h blob.PieceHash)
	// Blame is told of a signer whose piece hashes led to a wrong digest.
	Blame func(signer string, d blob.Digest)
	// OfflineGrace is for how long a signed tag record is believed when no
	// registry can be asked; 0 means not at all.
	OfflineGrace time.Duration
	// Lanes is how many requests to origins are open at once; 0 means 8.
	Lanes   int
	Log     *slog.Logger
	Metrics prometheus.Registerer // may be nil
}

// Request names a blob and who wants it. The caller has authorised the reader.
type Request struct {
	Digest blob.Digest
	Size   int64 // bytes; -1 when not known
	Ref    blob.Ref
	// Class is the traffic class: "wait", "rollout", "prewarm" or "reseed";
	// empty means wait.
	Class string
	// OriginToken is the reader's own pull token for Ref, "" without one.
	OriginToken string
	// PullID is what BeginPull returned; empty finds the latest pull that
	// names the digest.
	PullID string

	// manifest keeps the flight from asking registries for it as a blob.
	manifest bool
}

// Fetcher decides where bytes come from.
type Fetcher struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	ledger   *ledger
	refusals *refusals
	lanes    chan struct{}
	once     *fullNotice

	gatewayDown pausing
	sizes       sizes
	stats       singleflight.Group

	mu      sync.Mutex // guards what follows
	flights map[blob.Digest]*flight
	closed  bool
	running sync.WaitGroup
}

// New makes a Fetcher. Close ends it.
func New(cfg Config) *Fetcher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lanes <= 0 {
		cfg.Lanes = defaultLanes
	}
	m := newMetrics(cfg.Metrics)
	return &Fetcher{
		cfg: cfg, log: cfg.Log, metrics: m,
		ledger:   &ledger{metrics: m},
		refusals: newRefusals(),
		lanes:    make(chan struct{}, cfg.Lanes),
		once:     &fullNotice{log: cfg.Log},
		flights:  map[blob.Digest]*flight{},
	}
}

// Close ends every flight and waits for them. What they had stays in the
// store.
func (f *Fetcher) Close() error {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.flights {
		fl.cancel(ErrClosed)
	}
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

// Open returns a reader of the range; an End of -1 means to the end. With a
// known size it returns at once, before the first byte is there. Errors wrap
// ErrNotFound, ErrDenied, ErrUnavailable or the fault of the range.
func (f *Fetcher) Open(ctx context.Context, req Request, r blob.Range) (*Reader, error) {
	if file, kind, size, ok := f.whole(req.Digest); ok {
		return f.openWhole(ctx, req, r, file, kind, size)
	}
	fl, err := f.join(ctx, req)
	if err != nil {
		return nil, err
	}
	size, err := fl.waitSize(ctx)
	if err != nil {
		fl.leave()
		return nil, err
	}
	if r, err = clampRange(r, size); err != nil {
		fl.leave()
		return nil, err
	}
	return newFlightReader(ctx, fl, req, size, r), nil
}

func (f *Fetcher) openWhole(ctx context.Context, req Request, r blob.Range, file *os.File, kind string, size int64) (*Reader, error) {
	r, err := clampRange(r, size)
	if err == nil && r.Start > 0 {
		_, err = file.Seek(r.Start, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	rec := f.ledger.record(req.PullID, req.Digest, size)
	return newFileReader(ctx, file, kind, rec, size, r), nil
}

func clampRange(r blob.Range, size int64) (blob.Range, error) {
	if r.End < 0 {
		r.End = size
	}
	return r, r.Check(size)
}

// whole opens a complete blob of the store or of the container runtime.
func (f *Fetcher) whole(d blob.Digest) (file *os.File, kind string, size int64, ok bool) {
	if b, err := f.cfg.Store.Get(d); err == nil {
		defer b.Close()
		if b.Complete() {
			if file, err = b.OpenFile(); err == nil {
				return file, FromStore, b.Size(), true
			}
			f.log.Warn("a stored blob cannot be opened; it is fetched again", "digest", d, "err", err)
		}
	}
	if f.cfg.Local == nil {
		return nil, "", 0, false
	}
	file, err := f.cfg.Local.OpenLocal(d)
	if err != nil {
		return nil, "", 0, false
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, "", 0, false
	}
	return file, FromContainerd, info.Size(), true
}

// source is the HTTP source for a reference: the registry outside, or for the
// supernode's own images the supernode.
func (f *Fetcher) source(ref blob.Ref) (Source, road) {
	if ref.Registry != "" {
		if f.cfg.Upstream == nil {
			return nil, noRoad
		}
		return f.cfg.Upstream, upstreamWay
	}
	if f.cfg.Gateway == nil {
		return nil, noRoad
	}
	return f.cfg.Gateway, gatewayWay
}

// Prefetch brings the whole blob into the store. progress, which may be nil,
// is called now and then with bytes. A blob that the container runtime holds
// is left there.
func (f *Fetcher) Prefetch(ctx context.Context, req Request, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if file, _, size, ok := f.whole(req.Digest); ok {
		file.Close()
		progress(size, size)
		return nil
	}
	fl, err := f.join(ctx, req)
	if err != nil {
		return err
	}
	defer fl.leave()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-fl.done:
			if err := fl.result(); err != nil {
				return fmt.Errorf("prefetch %s: %w", req.Digest, err)
			}
			size := fl.knownSize()
			progress(size, size)
			return nil
		case <-tick.C:
			progress(fl.progress())
		case <-ctx.Done():
			return fmt.Errorf("prefetch %s: %w", req.Digest, context.Cause(ctx))
		}
	}
}

// join finds or begins the flight for the digest and holds it; the caller
// must leave it.
func (f *Fetcher) join(ctx context.Context, req Request) (*flight, error) {
	if req.Class == "" {
		req.Class = "wait"
	}
	if req.Size < 0 {
		if size, ok := f.knownSize(req.Digest); ok {
			req.Size = size
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	if err := f.refusals.find(req); err != nil {
		return nil, err
	}
	if fl := f.flights[req.Digest]; fl != nil {
		joined, err := fl.hold(req)
		if err != nil {
			return nil, err
		}
		if joined {
			return fl, nil
		}
	}
	fl, flightCtx := newFlight(ctx, f, req)
	f.flights[req.Digest] = fl
	f.running.Go(func() { fl.run(flightCtx) })
	return fl, nil
}

// forget takes an ended flight out, unless another has taken its place.
func (f *Fetcher) forget(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flights[fl.digest] == fl {
		delete(f.flights, fl.digest)
	}
}

// BeginPull notes that an image is being pulled and which blobs it names, so
// that their bytes are counted under it and their sizes are known. It returns
// the pull's id.
func (f *Fetcher) BeginPull(image string, blobs []blob.Descriptor) string {
	return f.ledger.begin(image, blobs)
}

// PullReport finds a pull by its id, an image or a digest in it; "" finds the
// last one.
func (f *Fetcher) PullReport(key string) (PullReport, bool) { return f.ledger.report(key) }

// FlightStatus is a flight in progress.
type FlightStatus struct {
	Digest     blob.Digest
	Size       int64 // -1 when not known yet
	Held       int   // pieces
	Pieces     int
	Neighbours int
	Readers    int
	Since      time.Time
	Waits      string // what it waits for, in words
	Sources    []BytesFrom
}

// Status lists the flights in progress.
func (f *Fetcher) Status() []FlightStatus {
	f.mu.Lock()
	flights := make([]*flight, 0, len(f.flights))
	for _, fl := range f.flights {
		flights = append(flights, fl)
	}
	f.mu.Unlock()
	out := make([]FlightStatus, 0, len(flights))
	for _, fl := range flights {
		out = append(out, fl.status())
	}
	return out
}
