package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shoalproject/shoal/pkg/blob"
)

// bodyIdle is how long a peer may be silent in the middle of a piece.
const bodyIdle = 5 * time.Second

var (
	errEnded   = errors.New("the fetch ended")
	errBeaten  = errors.New("another peer was faster")
	errNotOurs = errors.New("the piece is already here or on its way")
	errSilent  = errors.New("the peer sent nothing for too long")
	errAnswer  = errors.New("the peer answered out of protocol")
)

// job is one piece that is on its way; owned by the session.
type job struct {
	piece    int
	attempts []*attempt
	writer   *attempt // the one that writes into the sink: never two at a time
	waiting  *attempt // takes over when the writer, which was told to stop, has stopped
	chance   float64  // in [0, 1), for policy.Pace.SeedAfter
	release  func()   // of the claim
}

// attempt is one request for a piece.
type attempt struct {
	link  *link
	piece int  // -1 until a seed has chosen
	next  bool // the seed chooses
	again bool // of next: among what has left the seed and few who answer hold
	slot  bool // takes a download slot
	want  blob.Bitmap

	start  time.Time
	cancel context.CancelCauseFunc
	permit chan bool // whether it may write into the sink
	got    atomic.Int64
	slow   bool // was hedged; owned by the session

	// Owned by the session: how many bytes were here when it looked last, when
	// they last became more, and whether that is longer ago than nearly all
	// pieces take.
	seen  int64
	moved time.Time
	still bool
}

// start begins an attempt. release is of the claim, when the attempt is the
// first for its piece.
func (s *session) start(a *attempt, release func()) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	a.cancel = cancel
	a.start = time.Now()
	a.permit = make(chan bool, 1)
	s.attempts[a] = struct{}{}
	s.e.mu.Lock()
	a.link.state.Outstanding++
	s.e.mu.Unlock()
	if a.next {
		a.piece = -1
		a.link.asked++
	} else {
		j := s.jobs[a.piece]
		if j == nil {
			j = &job{piece: a.piece, release: release, chance: s.rand.Float64()}
			s.jobs[a.piece] = j
		}
		j.attempts = append(j.attempts, a)
	}
	s.work.Go(func() {
		err := s.request(ctx, a)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		cancel(nil)
		if err == nil {
			// Told here, since the session may end before it hears of its last pieces.
			s.req.Got(a.link.peer, blob.PieceRange(s.size, a.piece).Len())
		}
		s.post(func() { s.ended(a, err) })
	})
}

// request asks for a piece and streams it into the sink.
func (s *session) request(ctx context.Context, a *attempt) error {
	header := askHeader(s.class, s.req.Grant())
	path := "next"
	if a.next {
		header.Set(headerWant, encodeWant(a.want))
		if a.again {
			header.Set(headerAgain, "1")
		}
	} else {
		path = "piece/" + strconv.Itoa(a.piece)
	}
	var socket syscall.RawConn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { socket = rawSocket(info.Conn) },
	})
	resp, err := a.link.client.get(ctx, s.sink.Digest(), path, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := failed(resp); err != nil {
		return err
	}
	piece := a.piece
	if a.next {
		if piece, err = strconv.Atoi(resp.Header.Get(headerPiece)); err != nil || !a.want.Has(piece) {
			return fmt.Errorf("%w: it sent piece %.20q, which was not wanted", errAnswer, resp.Header.Get(headerPiece))
		}
	}
	length := blob.PieceRange(s.size, piece).Len()
	if resp.ContentLength != length {
		return fmt.Errorf("%w: it sent %d bytes for a piece of %d", errAnswer, resp.ContentLength, length)
	}
	if !s.post(func() { s.answered(a, piece) }) {
		return errEnded
	}
	select {
	case ok := <-a.permit:
		if !ok {
			return errNotOurs
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.take(ctx, a, piece, length, resp.Body, socket)
}

// sinkError is a fault of this host, not of the peer.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// take streams a body into the sink.
func (s *session) take(ctx context.Context, a *attempt, piece int, length int64, body io.Reader, socket syscall.RawConn) error {
	want, ok := s.sink.WantHash(piece)
	if !ok {
		return &sinkError{fmt.Errorf("the signed hash of piece %d is gone from the sink", piece)}
	}
	kind := fromPeer
	if a.link.peer.Seed {
		kind = fromSeed
	}
	in := &pieceReader{
		ctx: ctx, body: body, left: length, got: &a.got, socket: socket,
		limit:    s.e.cfg.DownloadLimit,
		received: s.e.metrics.received.WithLabelValues(kind),
		idle:     time.AfterFunc(bodyIdle, func() { a.cancel(errSilent) }),
	}
	defer in.idle.Stop()
	defer in.eager()
	_, err := s.sink.PutPiece(piece, in, &want)
	switch {
	case err == nil && a.got.Load() < length:
		return errNotOurs // somebody else put it there, and the sink read nothing
	case err == nil:
		// The rest of the answer is nothing; reading it frees the connection.
		_, _ = body.Read(make([]byte, 1))
		s.e.metrics.pieces.WithLabelValues(kind).Inc()
		return nil
	case in.err != nil:
		return in.err
	case errors.Is(err, blob.ErrPieceMismatch):
		return err
	}
	return &sinkError{err}
}

// pieceReader reads the body of a piece: counted, limited, in large parts.
type pieceReader struct {
	ctx      context.Context
	body     io.Reader
	left     int64
	got      *atomic.Int64
	limit    *rate.Limiter
	received prometheus.Counter
	idle     *time.Timer
	socket   syscall.RawConn // nil when it is not to be had
	lazy     bool            // the socket wakes nobody for a few bytes
	err      error           // what the body failed with, if it did
}

// Read fills p as far as the piece goes: a TLS record holds 16 KiB, and
// writing those one by one costs more than waiting for the next.
func (r *pieceReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.left, chunk)]
	if r.limit != nil {
		if err := r.limit.WaitN(r.ctx, len(p)); err != nil {
			r.err = err
			return 0, err
		}
	}
	r.doze()
	n := 0
	for n < len(p) && r.err == nil {
		var m int
		m, r.err = r.body.Read(p[n:])
		if m > 0 {
			n += m
			r.got.Add(int64(m))
			r.idle.Reset(bodyIdle)
		}
	}
	r.left -= int64(n)
	r.received.Add(float64(n))
	if n == len(p) {
		r.err = nil // io.EOF may come with the last bytes
		return n, nil
	}
	if errors.Is(r.err, io.EOF) {
		r.err = io.ErrUnexpectedEOF
	}
	return n, r.err
}

const (
	// lowat is how many bytes at most must have come to wake a piece's reader.
	lowat = 64 << 10
	// within is how much of what is still to come may already lie between the
	// socket and the reader: TLS records, whole and cut short, HTTP's buffer.
	within = 56 << 10
)

// doze lets the socket wake its reader only for so many bytes as are certain
// to come after this chunk.
func (r *pieceReader) doze() {
	if r.socket == nil {
		return
	}
	certain := min(lowat, r.left-chunk-within)
	if certain < 4<<10 {
		r.eager()
		return
	}
	r.lazy = true
	setLowat(r.socket, int(certain))
}

// eager lets the socket wake its reader for any byte.
func (r *pieceReader) eager() {
	if r.lazy {
		r.lazy = false
		setLowat(r.socket, 1)
	}
}
