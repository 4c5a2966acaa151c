package seed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/upstream"
)

const (
	// answerWithin is how long Ensure waits for a registry's word on a reader.
	// It is short, since a node announces many digests in one request; what
	// was asked is answered the next time.
	answerWithin = 5 * time.Millisecond
	// deniedFor and missingFor are how long a refusal is believed.
	deniedFor  = 15 * time.Second
	missingFor = time.Minute
	// failedFor is how long an origin that could not be reached rests, when it
	// named no time itself.
	failedFor = 5 * time.Second
	// outcomesKept bounds the refusals and failures that are remembered.
	outcomesKept = 8192
	// flightsMost bounds the digests that are being fetched at once.
	flightsMost = 512
	// lanes is how many requests to registries are open at once.
	lanes = 64
)

// ErrUnknownUpstream says that no registry of that name is configured.
var ErrUnknownUpstream = errors.New("no such upstream is configured")

// Content is a blob that may be given to neighbours, whole or growing.
type Content interface {
	io.ReaderAt
	Digest() blob.Digest
	Size() int64
	Progress() (blob.Bitmap, <-chan struct{})
	Proof() (*blob.PieceMap, []*blob.Batch, <-chan struct{})
	Close() error
}

// Upstream is what the seed needs of pkg/upstream's Client.
type Upstream interface {
	Known(registry string) bool
	// Credentials reports whether the operator configured a login for it.
	Credentials(registry string) bool
	Head(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (blob.Descriptor, error)
	Manifest(ctx context.Context, ref blob.Ref, reference, token string, accept []string) (blob.Descriptor, []byte, error)
	Blob(ctx context.Context, ref blob.Ref, d blob.Digest, r blob.Range, token string) (io.ReadCloser, int64, error)
	Readable(ctx context.Context, ref blob.Ref, reference string, manifest bool, token string) (bool, error)
}

// Config wires a Seed. Store and Upstream are needed.
type Config struct {
	// Own opens the supernode's own content and wraps blob.ErrNotHeld for
	// others; may be nil.
	Own      func(ctx context.Context, d blob.Digest) (Content, error)
	Store    fetch.Store
	Upstream Upstream
	// MayLogin reports whether a subject may read what the operator's own login
	// at the registry may. May be nil: then nobody may.
	MayLogin func(ctx context.Context, registry, subject string) (bool, error)
	// Sign signs provisional hashes, maps and tag records.
	Sign blob.SignFunc
	// Tags keeps the signed records of tags; may be nil.
	Tags fetch.TagStore
	// StaleTags is for how long a tag is served as it was last known while its
	// registry cannot be reached; 0 means never.
	StaleTags time.Duration
	// Epoch is stamped on tag records.
	Epoch   func() uint64
	Log     *slog.Logger
	Metrics prometheus.Registerer // may be nil
}

// Seed is safe for concurrent use. Close ends it.
type Seed struct {
	cfg      Config
	log      *slog.Logger
	fetcher  *fetch.Fetcher
	signer   *signer
	resolves singleflight.Group
	rights   *rights
	running  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	flights  map[key]bool
	outcomes *expirable.LRU[key, outcome]
	tags     *expirable.LRU[tagKey, tagState]
}

// key is a digest as one reader's token opens it. Outcomes that hold for
// everybody have only the digest.
type key struct {
	digest blob.Digest
	ref    blob.Ref
	token  [sha256.Size]byte
}

// outcome is how a flight failed, and until when that is believed.
type outcome struct {
	status Status
	until  time.Time
}

// State is what the seed does about a digest.
type State int

// The states; the tracker counts them alike.
const (
	Absent   State = iota // it neither has it nor can fetch it
	Has                   // it has it, or is fetching it
	Failed                // the origin could not be reached
	Refused               // the origin refused it, or this reader
	Unneeded              // it is of no upstream
	Checking              // whether the reader may have it is being asked
)

// Status answers Ensure.
type Status struct {
	State         State
	RefusedStatus int // HTTP, when refused
	RefusedReason string
}

// Want is a blob that a node wants.
type Want struct {
	Subject string // the node
	Digest  blob.Digest
	Size    int64 // bytes; -1 when not known
	Ref     blob.Ref
	Token   string // the reader's pull token for Ref, "" without one
}

// New makes a seed.
func New(cfg Config) *Seed {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MayLogin == nil {
		cfg.MayLogin = func(context.Context, string, string) (bool, error) { return false, nil }
	}
	if cfg.Epoch == nil {
		cfg.Epoch = func() uint64 { return 0 }
	}
	s := &Seed{
		cfg: cfg, log: cfg.Log, signer: newSigner(cfg.Sign, cfg.Log), rights: newRights(),
		flights: map[key]bool{}, outcomes: expirable.NewLRU[key, outcome](outcomesKept, nil, 0),
		tags: expirable.NewLRU[tagKey, tagState](tagsKept, nil, 0),
	}
	s.fetcher = fetch.New(fetch.Config{
		Store: cfg.Store, Upstream: cfg.Upstream, Classify: Classify, Sign: cfg.Sign, Landed: s.signer.landed,
		Lanes: lanes, Log: cfg.Log, Metrics: cfg.Metrics,
	})
	return s
}

// Close ends every flight.
func (s *Seed) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := s.fetcher.Close()
	s.running.Wait()
	s.signer.close()
	return err
}

// Fetcher is where the seed's flights are looked at.
func (s *Seed) Fetcher() *fetch.Fetcher { return s.fetcher }

// Classify tells what kind of trouble an error of pkg/upstream is: the HTTP
// status, 0 for none, and for how long the registry wants to be left alone.
func Classify(err error) (status int, after time.Duration) {
	var retry *upstream.RetryError
	switch {
	case errors.Is(err, upstream.ErrUnauthorized):
		return http.StatusUnauthorized, 0
	case errors.Is(err, upstream.ErrDenied):
		return http.StatusForbidden, 0
	case errors.Is(err, upstream.ErrNotFound), errors.Is(err, upstream.ErrUnknownRegistry):
		return http.StatusNotFound, 0
	case errors.As(err, &retry):
		return retry.Status, retry.After
	}
	return 0, 0
}

// Content opens a blob for the swarm: the supernode's own, or what was or is
// being fetched. It wraps blob.ErrNotHeld.
func (s *Seed) Content(ctx context.Context, d blob.Digest) (Content, error) {
	var ownErr error
	if s.cfg.Own != nil {
		c, err := s.cfg.Own(ctx, d)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, blob.ErrNotHeld) {
			ownErr = err
		}
	}
	b, err := s.cfg.Store.Get(d)
	if err != nil {
		return nil, fmt.Errorf("seed %s: %w", d, errors.Join(ownErr, err))
	}
	return b, nil
}

// Ensure sees to it that the seed has a blob or fetches it, and says how that
// stands. It does not wait for the origin for longer than a moment.
func (s *Seed) Ensure(ctx context.Context, w Want) Status {
	if w.Ref.Registry == "" {
		return s.own(ctx, w.Digest)
	}
	if !s.cfg.Upstream.Known(w.Ref.Registry) {
		return Status{State: Absent}
	}
	if st, known := s.outcome(w); known {
		return st
	}
	held := s.holds(w.Digest)
	if !held {
		s.start(ctx, w)
	}
	moment, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	err := s.may(moment, Reader{Subject: w.Subject, Token: w.Token}, w.Ref, w.Digest.String(), false)
	switch {
	case err == nil:
		return Status{State: Has}
	case errors.Is(err, fetch.ErrDenied):
		return Status{State: Refused, RefusedStatus: http.StatusUnauthorized, RefusedReason: "the registry does not let this reader have it"}
	case moment.Err() != nil:
		return Status{State: Checking}
	}
	return Status{State: Failed}
}

func (s *Seed) own(ctx context.Context, d blob.Digest) Status {
	if s.cfg.Own == nil {
		return Status{State: Unneeded}
	}
	c, err := s.cfg.Own(ctx, d)
	switch {
	case err == nil:
		c.Close()
		return Status{State: Has}
	case errors.Is(err, blob.ErrNotHeld):
		return Status{State: Refused, RefusedStatus: http.StatusNotFound, RefusedReason: "no repository here holds it"}
	}
	s.log.Error("own content cannot be opened", "digest", d, "err", err)
	return Status{State: Unneeded}
}

func (s *Seed) holds(d blob.Digest) bool {
	b, err := s.cfg.Store.Get(d)
	if err != nil {
		return false
	}
	defer b.Close()
	return b.Complete()
}

func keyOf(d blob.Digest, ref blob.Ref, token string) key {
	return key{digest: d, ref: ref, token: sha256.Sum256([]byte(token))}
}

// outcome finds a failure that still stands, for everybody or this reader.
func (s *Seed) outcome(w Want) (Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range []key{{digest: w.Digest}, keyOf(w.Digest, w.Ref, w.Token)} {
		if o, ok := s.outcomes.Get(k); ok {
			if time.Now().Before(o.until) {
				return o.status, true
			}
			s.outcomes.Remove(k)
		}
	}
	return Status{}, false
}

// start begins or joins the flight of a digest, once for each token.
func (s *Seed) start(ctx context.Context, w Want) {
	k := keyOf(w.Digest, w.Ref, w.Token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.flights[k] || len(s.flights) >= flightsMost {
		return
	}
	s.flights[k] = true
	s.running.Go(func() {
		req := fetch.Request{Digest: w.Digest, Size: w.Size, Ref: w.Ref, OriginToken: w.Token}
		flying := context.WithoutCancel(ctx)
		err := s.fetcher.Prefetch(flying, req, nil)
		if errors.Is(err, fetch.ErrSize) { // what a node says of a size may be a lie
			req.Size = -1
			err = s.fetcher.Prefetch(flying, req, nil)
		}
		s.ended(k, err)
	})
}

// ended notes how a flight ended.
func (s *Seed) ended(k key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flights, k)
	if err == nil || errors.Is(err, fetch.ErrClosed) {
		return
	}
	now := time.Now()
	switch {
	case errors.Is(err, fetch.ErrBadDigest):
		s.outcomes.Add(key{digest: k.digest},
			outcome{refused(http.StatusNotFound, "the registry's bytes do not have this digest"), now.Add(missingFor)})
	case errors.Is(err, fetch.ErrDenied):
		s.outcomes.Add(k, outcome{refused(http.StatusUnauthorized, "the registry refuses this reader"), now.Add(deniedFor)})
	case errors.Is(err, fetch.ErrNotFound):
		s.outcomes.Add(k, outcome{refused(http.StatusNotFound, "the registry does not have it"), now.Add(missingFor)})
	default:
		_, after := Classify(err)
		s.outcomes.Add(k, outcome{Status{State: Failed}, now.Add(max(after, failedFor))})
	}
}

func refused(status int, reason string) Status {
	return Status{State: Refused, RefusedStatus: status, RefusedReason: reason}
}
