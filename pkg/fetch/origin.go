package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// readIdle is for how long an origin may send nothing.
	readIdle = 15 * time.Second
	// retriesMost is how often an origin may fail in a row.
	retriesMost = 4
	// retryFirst is the pause after the first failure; it doubles.
	retryFirst = 100 * time.Millisecond
	// retryLongest is the longest Retry-After that a flight sits out.
	retryLongest = 30 * time.Second
	// wrongMost is how many pieces an origin may send that contradict a
	// signed hash before the flight leaves it alone.
	wrongMost = 3
	// streamsMost is how many requests a flight has open at its origin: one
	// from the lowest missing piece on, the others where readers wait.
	streamsMost = 3
	// holdBack is how many pieces ahead of its place a stream claims, so that
	// the swarm may still take the rest of the run.
	holdBack = 2
)

// lead is an HTTP source that the flight may read from, as one of its readers
// knows it. Its fields but the first two are guarded by the flight's mu.
type lead struct {
	origin  blob.Origin
	road    road
	refused error     // set when it is of no use any more
	fails   int       // in a row
	wrong   int       // pieces that contradicted a signed hash
	rest    time.Time // left alone until then
}

// addLead is called with mu held, or before the flight is shared.
func (fl *flight) addLead(req Request) {
	o := blob.Origin{Ref: req.Ref, Token: req.OriginToken}
	_, way := fl.f.source(req.Ref)
	if way == noRoad || req.manifest {
		return
	}
	for _, l := range fl.leads {
		if l.origin == o {
			return
		}
	}
	fl.leads = append(fl.leads, &lead{origin: o, road: way})
}

// bestLead is called with mu held. A registry outside comes before the
// supernode's.
func (fl *flight) bestLead() *lead {
	var best *lead
	for _, l := range fl.leads {
		if l.refused == nil && (best == nil || best.road == gatewayWay && l.road == upstreamWay) {
			best = l
		}
	}
	return best
}

// refusal is why there is nowhere to go: the last word of the origins, or of
// the tracker about them.
func (fl *flight) refusal() error {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, l := range fl.leads {
		if l.refused != nil {
			return l.refused
		}
	}
	if r := fl.scouted.refused; r != nil {
		_, err := sortError(r, r.Status)
		return fmt.Errorf("fetch %s: %w", fl.digest, err)
	}
	return nil
}

// leadFailed takes in an origin's error and says whether to go on with it.
func (fl *flight) leadFailed(l *lead, err error) {
	status, after := fl.f.classify(err)
	kind, err := sortError(err, status)
	fl.mu.Lock()
	defer fl.mu.Unlock()
	l.fails++
	pause := min(retryFirst<<min(l.fails-1, 8), readIdle)
	if after > 0 {
		pause = after
	}
	switch {
	case kind == missing:
		fl.f.refusals.missing(fl.digest, l.origin, err)
		l.refused = err
	case kind == denied, l.fails >= retriesMost, pause > retryLongest, errors.Is(err, ErrBadDigest), errors.Is(err, ErrSize):
		l.refused = err
	default:
		l.rest = time.Now().Add(pause)
	}
	if l.refused != nil && fl.bestLead() == nil && !fl.othersHelp() {
		fl.fatal = fmt.Errorf("fetch %s from %s: %w", fl.digest, l.origin.Ref, l.refused)
	}
	fl.poke()
}

// othersHelp reports, with mu held, whether the swarm may still finish what
// no origin gives.
func (fl *flight) othersHelp() bool {
	s := &fl.scouted
	if s.tracker == asking || s.dht == asking {
		return true
	}
	return len(s.merged()) > 0 && time.Since(latest(fl.born, fl.swarmed.get())) < crowdWait
}

// switcher lets the origin's streams run or makes them stop at the next piece.
type switcher struct {
	allowed atomic.Bool
	streams atomic.Int32
	waiting atomic.Int32 // those without a lane yet
}

func (s *switcher) allow(yes bool) { s.allowed.Store(yes) }
func (s *switcher) on() bool       { return s.streams.Load() > 0 }

// startOrigin opens one more stream if there is work for it; the stream pokes
// the flight when it has begun. It is called by the flight's own goroutine
// only.
func (fl *flight) startOrigin(ctx context.Context, workers *sync.WaitGroup, b Blob) {
	if fl.filling.streams.Load() >= streamsMost || fl.filling.waiting.Load() > 0 {
		return
	}
	extra := fl.filling.on()
	fl.mu.Lock()
	l := fl.bestLead()
	rests := l != nil && time.Now().Before(l.rest)
	fl.mu.Unlock()
	if l == nil || rests {
		return
	}
	if _, ok := fl.nextRun(b, extra, l.road); !ok {
		return
	}
	fl.filling.streams.Add(1)
	fl.filling.waiting.Add(1)
	workers.Go(func() {
		defer fl.poke()
		defer fl.filling.streams.Add(-1)
		fl.stream(ctx, b, l, extra)
	})
}

func (fl *flight) nextRun(b Blob, demandOnly bool, way road) (run, bool) {
	lacking := b.Missing()
	demand, _ := b.Demand()
	fl.mu.Lock()
	most := lacking.Len()
	if fl.leased(way) {
		most = piecesFor(fl.scouted.budget, b.Size())
	}
	fl.mu.Unlock()
	return nextRun(lacking, demand, fl.claims.busy, demandOnly, most)
}

// leased reports, with mu held, whether bytes of the origin count against what
// the tracker granted.
func (fl *flight) leased(way road) bool {
	return way == upstreamWay && fl.scouted.tracker == answered
}

// stream waits for a lane, chooses a run and reads it.
func (fl *flight) stream(ctx context.Context, b Blob, l *lead, extra bool) {
	select {
	case fl.f.lanes <- struct{}{}:
		defer func() { <-fl.f.lanes }()
	case <-ctx.Done():
		fl.filling.waiting.Add(-1)
		return
	}
	part, ok := fl.nextRun(b, extra, l.road)
	ok = ok && fl.filling.allowed.Load() && fl.claims.byOrigin(part.first)
	settle := func(int64) {}
	if ok {
		settle = fl.reserve(b, part, l.road)
	}
	fl.filling.waiting.Add(-1)
	fl.poke()
	if !ok {
		return
	}
	claimed := map[int]bool{part.first: true}
	var read int64
	defer func() {
		settle(read)
		for i := range claimed {
			fl.claims.originDone(i)
		}
	}()
	err := fl.readRun(ctx, b, l, part, claimed, &read)
	switch {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, blob.ErrFull):
		fl.fail(err)
	case errors.Is(err, blob.ErrPieceMismatch):
		fl.contradicted(l, err)
	default:
		fl.leadFailed(l, err)
	}
}

// reserve takes a run's bytes out of the budget; settle gives back what was
// not read.
func (fl *flight) reserve(b Blob, part run, way road) (settle func(read int64)) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if !fl.leased(way) {
		return func(int64) {}
	}
	n := min(blob.PieceRange(b.Size(), part.end-1).End-blob.PieceRange(b.Size(), part.first).Start, fl.scouted.budget)
	fl.scouted.budget -= n
	fl.scouted.reserved += n
	return func(read int64) {
		fl.mu.Lock()
		defer fl.mu.Unlock()
		fl.scouted.reserved -= n
		fl.scouted.budget += max(n-read, 0)
	}
}

// contradicted counts a piece whose bytes from the origin do not make the
// signed hash. Which of the two is wrong only the whole digest can tell.
func (fl *flight) contradicted(l *lead, err error) {
	fl.f.log.Warn("the origin contradicts a signed piece hash", "digest", fl.digest, "origin", l.origin.Ref, "err", err)
	fl.mu.Lock()
	l.wrong++
	over := l.wrong >= wrongMost
	fl.mu.Unlock()
	if over {
		fl.leadFailed(l, fmt.Errorf("%w: %w", ErrBadDigest, err))
	}
}

func (fl *flight) readRun(ctx context.Context, b Blob, l *lead, part run, claimed map[int]bool, read *int64) error {
	src, way := fl.f.source(l.origin.Ref)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(readIdle, cancel)
	defer idle.Stop()
	span := blob.Range{
		Start: blob.PieceRange(b.Size(), part.first).Start,
		End:   blob.PieceRange(b.Size(), part.end-1).End,
	}
	rc, size, err := src.Blob(ctx, l.origin.Ref, fl.digest, span, l.origin.Token)
	if err != nil {
		return err
	}
	defer rc.Close()
	if size >= 0 && size != b.Size() {
		return fmt.Errorf("%w: the registry says %d bytes, %d were expected", ErrSize, size, b.Size())
	}
	kind, name := FromUpstream, l.origin.Ref.Registry
	if way == gatewayWay {
		kind, name = FromSupernode, ""
	}
	body := &meter{r: rc, got: func(n int) {
		idle.Reset(readIdle)
		*read += int64(n)
		fl.gotFromOrigin(kind, name, int64(n), l)
	}}
	for i := part.first; i < part.end; i++ {
		if !fl.claimAhead(b, i, part.end, claimed) {
			return nil
		}
		if err := fl.readPiece(b, i, body); errors.Is(err, errTaken) {
			return nil
		} else if err != nil {
			return err
		}
		fl.claims.originDone(i)
		delete(claimed, i)
		if !fl.filling.allowed.Load() {
			return nil
		}
	}
	return nil
}

// claimAhead claims piece i and a few beyond it. False when somebody else has
// i or is at it: the run ends there, and the next one begins where pieces are
// missing.
func (fl *flight) claimAhead(b Blob, i, end int, claimed map[int]bool) bool {
	if !b.Missing().Has(i) {
		return false
	}
	for j := i; j < min(i+1+holdBack, end); j++ {
		if claimed[j] || fl.claims.byOrigin(j) {
			claimed[j] = true
			continue
		}
		return j > i
	}
	return true
}

func (fl *flight) readPiece(b Blob, i int, body *meter) error {
	want, known := b.WantHash(i)
	expect := &want
	if !known {
		expect = nil
	}
	length := blob.PieceRange(b.Size(), i)
	before := body.n
	h, err := b.PutPiece(i, io.LimitReader(body, length.Len()), expect)
	switch {
	case err == nil && body.n-before == length.Len():
		if fl.f.cfg.Landed != nil {
			fl.f.cfg.Landed(b, i, h)
		}
		fl.poke()
		return nil
	case err == nil:
		return errTaken
	case body.n-before < length.Len() && !errors.Is(err, blob.ErrFull):
		return fmt.Errorf("piece %d did not come in whole from the origin: %w", i, errors.Join(err, body.err))
	}
	return err
}

// errTaken ends a run in which the swarm was quicker: the piece was there, and
// the stream's place no longer fits.
var errTaken = errors.New("the swarm was quicker")

func (fl *flight) gotFromOrigin(kind, name string, n int64, l *lead) {
	fl.rec.add(kind, name, n)
	fl.moved.set(time.Now())
	fl.mu.Lock()
	defer fl.mu.Unlock()
	l.fails = 0
}

// meter counts what is read.
type meter struct {
	r   io.Reader
	n   int64
	err error // why reading ended, if not at the end
	got func(n int)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if n > 0 {
		m.got(n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}
