package swarm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// chunk is how many bytes of a piece are read, hashed or sent at a time.
const chunk = 64 << 10

// ServerConfig says what a Server gives away and to whom.
type ServerConfig struct {
	// Lookup finds a blob; blob.ErrNotHeld becomes 404. The server closes what
	// it gets.
	Lookup func(ctx context.Context, d blob.Digest) (Content, error)
	// Member names the peer behind a request, or refuses it (401).
	Member func(r *http.Request) (peerID string, err error)
	// Allow says whether the peer may have the blob, by the grant that it
	// shows (nil without one), or refuses it (403). It
	// is asked for each request.
	Allow func(ctx context.Context, peerID string, d blob.Digest, grant []byte) error
	// Seed offers next.
	Seed bool
	// Slots is how many pieces are served at a time; 0 means the policy's.
	Slots int
	// UploadLimit in bytes per second; its burst must be 64 KiB or more. nil
	// means no limit.
	UploadLimit *rate.Limiter
	Log         *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Bounds of what one peer, and all together, may keep open.
const (
	streamsPerPeer = 128
	streamsInAll   = 8192
	// seedWaiting is how many requests may wait at a seed, where waiting is
	// what most hosts do most of the time.
	seedWaiting        = 2048
	seedWaitingPerPeer = 64
)

// Server gives away pieces. It is mounted at /swarm/v1/.
type Server struct {
	cfg     ServerConfig
	gate    *gate
	metrics *serverMetrics

	watchers watchers

	mu      sync.Mutex
	streams map[string]int // open map and have streams by peer; guarded by mu
	open    int            // the same in all; guarded by mu
}

// NewServer makes a server. Lookup, Member and Allow must be there.
func NewServer(cfg ServerConfig) *Server {
	params := policy.Default()
	if cfg.Slots > 0 {
		params.Slots = cfg.Slots
		params.PerPeerSlots = max(1, cfg.Slots*3/5)
	}
	if cfg.Seed {
		params.Waiting, params.WaitingPerPeer = seedWaiting, seedWaitingPerPeer
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := newServerMetrics(cfg.Metrics)
	return &Server{cfg: cfg, metrics: m, gate: newGate(params, m), streams: map[string]int{},
		watchers: watchers{all: map[blob.Digest]*watcher{}}}
}

// call is one request that passed the checks at the door.
type call struct {
	w       http.ResponseWriter
	control *http.ResponseController
	r       *http.Request
	peer    string
	class   policy.Class
	content Content
	pieces  int
}

// refusal is an answer other than 200.
type refusal struct {
	status int
	reason string // metric label
	text   string
	retry  time.Duration
}

func (e *refusal) Error() string { return fmt.Sprintf("%d: %s", e.status, e.text) }

// ServeHTTP answers one request of the exchange.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	// Errors: a recorder in a test has no deadline to set.
	_ = control.SetWriteDeadline(time.Now().Add(10 * time.Second))
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	err := s.serve(w, control, r)
	if err == nil {
		return
	}
	var no *refusal
	if !errors.As(err, &no) {
		// The answer has begun: all that can be said is to hang up.
		s.metrics.refused.WithLabelValues("broken").Inc()
		panic(http.ErrAbortHandler)
	}
	s.metrics.refused.WithLabelValues(no.reason).Inc()
	if no.status == http.StatusServiceUnavailable {
		w.Header().Set(headerRetry, strconv.FormatInt(max(1, no.retry.Milliseconds()), 10))
	}
	http.Error(w, no.text, no.status)
	_ = control.Flush()
}

func (s *Server) serve(w http.ResponseWriter, control *http.ResponseController, r *http.Request) error {
	peer, err := s.cfg.Member(r)
	if err != nil {
		return &refusal{status: http.StatusUnauthorized, reason: "member", text: "not a member of this network"}
	}
	if r.URL.Path == pathPrefix+"have" && r.Method == http.MethodPost {
		return s.stream(peer, func() error { return s.serveHave(w, control, r, peer) })
	}
	d, verb, index, err := parsePath(r)
	if err != nil {
		return err
	}
	class, err := policy.ParseClass(r.Header.Get(headerClass))
	if err != nil {
		return &refusal{status: http.StatusBadRequest, reason: "garbage", text: err.Error()}
	}
	grant, err := decodeGrant(r.Header.Get(headerGrant))
	if err != nil {
		return &refusal{status: http.StatusBadRequest, reason: "garbage", text: err.Error()}
	}
	if err := s.cfg.Allow(r.Context(), peer, d, grant); err != nil {
		return &refusal{status: http.StatusForbidden, reason: "denied", text: "this peer may not have this blob"}
	}
	content, err := s.cfg.Lookup(r.Context(), d)
	if errors.Is(err, blob.ErrNotHeld) {
		return &refusal{status: http.StatusNotFound, reason: "not held", text: "not held"}
	}
	if err != nil {
		s.cfg.Log.Warn("look a blob up for a peer", "digest", d, "peer", peer, "err", err)
		return &refusal{status: http.StatusInternalServerError, reason: "lookup", text: "cannot read the blob"}
	}
	defer content.Close()
	c := &call{
		w: w, control: control, r: r, peer: peer, class: class,
		content: content, pieces: blob.PieceCount(content.Size()),
	}
	switch verb {
	case "map":
		return s.stream(peer, c.sendMap)
	case "next":
		return s.next(c)
	default:
		return s.piece(c, index)
	}
}

// parsePath takes a request apart and refuses whatever is not part of the
// protocol.
func parsePath(r *http.Request) (d blob.Digest, verb string, index int, err error) {
	garbage := func(format string, args ...any) error {
		return &refusal{status: http.StatusBadRequest, reason: "garbage", text: fmt.Sprintf(format, args...)}
	}
	if r.Method != http.MethodGet {
		return "", "", 0, &refusal{status: http.StatusMethodNotAllowed, reason: "garbage", text: "only GET is served here"}
	}
	if r.URL.RawQuery != "" || r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return "", "", 0, garbage("neither a query nor a body is taken here")
	}
	for _, name := range []string{"Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match", "Expect", "Upgrade"} {
		if r.Header.Get(name) != "" {
			return "", "", 0, garbage("header %s is not taken here", name)
		}
	}
	rest, found := strings.CutPrefix(r.URL.Path, pathPrefix)
	parts := strings.Split(rest, "/")
	if !found || len(parts) < 2 || len(parts) > 3 {
		return "", "", 0, &refusal{status: http.StatusNotFound, reason: "garbage", text: "no such route"}
	}
	if d, err = blob.ParseDigest(parts[0]); err != nil {
		return "", "", 0, garbage("%v", err)
	}
	verb = parts[1]
	switch {
	case len(parts) == 2 && (verb == "map" || verb == "next"):
		return d, verb, 0, nil
	case len(parts) == 3 && verb == "piece":
		n, err := strconv.ParseUint(parts[2], 10, 31)
		if err != nil || strconv.FormatUint(n, 10) != parts[2] {
			return "", "", 0, garbage("%.20q is no piece index", parts[2])
		}
		return d, verb, int(n), nil
	}
	return "", "", 0, &refusal{status: http.StatusNotFound, reason: "garbage", text: "no such route"}
}

// stream runs a map or have stream within the bounds of this peer.
func (s *Server) stream(peer string, send func() error) error {
	s.mu.Lock()
	if s.streams[peer] >= streamsPerPeer || s.open >= streamsInAll {
		s.mu.Unlock()
		return &refusal{status: http.StatusServiceUnavailable, reason: "streams", text: "too many streams are open", retry: 2 * time.Second}
	}
	s.streams[peer]++
	s.open++
	s.mu.Unlock()
	s.metrics.streams.Inc()
	defer func() {
		s.metrics.streams.Dec()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		if s.streams[peer]--; s.streams[peer] == 0 {
			delete(s.streams, peer)
		}
	}()
	return send()
}

// turn is how long a have stream gathers news, by the number of those open.
func (s *Server) turn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(time.Duration(s.open)*turnEach, turnMost)
}
