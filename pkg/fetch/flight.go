package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// flight is the one fetch of a digest in this process.
type flight struct {
	f       *Fetcher
	digest  blob.Digest
	born    time.Time
	jitter  time.Duration
	cancel  context.CancelCauseFunc
	sized   chan struct{} // closed when size is known
	ready   chan struct{} // closed when blob is there, or at the end
	done    chan struct{} // closed at the end
	wake    chan struct{} // holds a value when the policy should look again
	nudge   chan struct{} // holds a value when the tracker should be asked again
	rec     *record
	claims  *claims
	filling switcher
	moved   moment // when bytes last came from anywhere
	swarmed moment // when bytes last came from the swarm
	probing atomic.Bool

	mu      sync.Mutex // guards what follows
	blob    Blob
	size    int64 // -1 until known
	err     error // set before done is closed
	ended   bool
	doomed  bool  // about to end: nobody joins any more
	fatal   error // ends the flight: a full disk, a refusal
	readers int
	linger  *time.Timer
	class   string
	renew   context.CancelFunc // restarts the swarm's fetch for a better class
	leads   []*lead
	scouted scouted
}

// classes in falling order of urgency.
var classes = []string{"wait", "rollout", "prewarm", "reseed"}

// newFlight makes a flight held by its first reader. It outlives that
// reader's context: others join it.
func newFlight(ctx context.Context, f *Fetcher, req Request) (*flight, context.Context) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	fl := &flight{
		f: f, digest: req.Digest, born: time.Now(), cancel: cancel,
		jitter: rand.N(jitterMost),
		sized:  make(chan struct{}), ready: make(chan struct{}), done: make(chan struct{}),
		wake: make(chan struct{}, 1), nudge: make(chan struct{}, 1),
		rec:    f.ledger.record(req.PullID, req.Digest, req.Size),
		claims: newClaims(), size: req.Size, class: req.Class, readers: 1,
	}
	fl.scouted = newScouted(f.cfg.Tracker != nil, f.cfg.DHT != nil)
	if req.Size >= 0 {
		close(fl.sized)
	}
	fl.addLead(req)
	return fl, ctx
}

// hold joins one more reader; false when the flight has ended or is about to.
func (fl *flight) hold(req Request) (bool, error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.doomed || fl.fatal != nil {
		return false, nil
	}
	if req.Size >= 0 && fl.size >= 0 && req.Size != fl.size {
		return false, fmt.Errorf("%w: %w: %s is said to have %d bytes, and it is being fetched as one of %d",
			ErrUnavailable, ErrSize, fl.digest, req.Size, fl.size)
	}
	fl.readers++
	if fl.linger != nil {
		fl.linger.Stop()
		fl.linger = nil
	}
	fl.addLead(req)
	fl.f.ledger.share(req.PullID, fl.rec)
	if slices.Index(classes, req.Class) < slices.Index(classes, fl.class) {
		fl.class = req.Class
		if fl.renew != nil {
			fl.renew()
		}
	}
	return true, nil
}

// leave is the counterpart of hold.
func (fl *flight) leave() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.readers--
	switch {
	case fl.readers > 0:
	case fl.ended:
		fl.closeBlob()
	default:
		fl.linger = time.AfterFunc(lingerFor, fl.stopIdle)
	}
}

func (fl *flight) stopIdle() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.readers == 0 {
		fl.doomed = true
		fl.cancel(errIdle)
	}
}

// closeBlob is called with mu held.
func (fl *flight) closeBlob() {
	if fl.blob != nil {
		fl.blob.Close()
		fl.blob = nil
	}
}

// run flies from the first question to the commit.
func (fl *flight) run(ctx context.Context) {
	err := fl.fly(ctx)
	fl.mu.Lock()
	fl.doomed = true
	fl.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	fl.cancel(errIdle)
	fl.f.forget(fl)
	fl.end(err)
}

func (fl *flight) end(err error) {
	fl.note(err)
	fl.rec.finish(err)
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.ended, fl.err = true, err
	if fl.linger != nil {
		fl.linger.Stop()
	}
	if fl.blob == nil {
		close(fl.ready)
	} else if err != nil {
		fl.blob.Fail(err)
	}
	close(fl.done)
	if fl.readers == 0 {
		fl.closeBlob()
	}
}

// note logs how a flight ended and remembers a refusal.
func (fl *flight) note(err error) {
	log := fl.f.log.With("digest", fl.digest)
	switch {
	case err == nil:
		log.Debug("blob fetched", "took", time.Since(fl.born))
	case errors.Is(err, errIdle), errors.Is(err, ErrClosed):
		log.Debug("flight stopped; what is there stays", "why", err)
	case errors.Is(err, blob.ErrFull):
	case errors.Is(err, ErrSize):
		fl.f.ledger.forgetSize(fl.digest)
		fl.f.sizes.forget(fl.digest)
		log.Warn("blob not fetched", "err", err)
	case errors.Is(err, ErrBadDigest):
		fl.f.refusals.refuted(fl.digest, err)
		fl.f.metrics.mismatches.Inc()
		log.Error("blob refuted", "err", err)
	case errors.Is(err, ErrNotFound):
		fl.noteMissing(err)
		log.Warn("blob not fetched", "err", err)
	default:
		log.Warn("blob not fetched", "err", err)
	}
}

// noteMissing remembers the tracker's word that an outside registry does not
// have the blob, or has other bytes under its digest, so that whoever asks next
// hears it before an answer has begun. What is not in the own registry may be
// pushed there any moment.
func (fl *flight) noteMissing(err error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if r := fl.scouted.refused; r == nil || r.Status != http.StatusNotFound {
		return
	}
	for _, l := range fl.leads {
		if l.origin.Ref.Registry != "" {
			fl.f.refusals.missing(fl.digest, l.origin, err)
		}
	}
}

func (fl *flight) fly(ctx context.Context) error {
	var scouts sync.WaitGroup
	scoutCtx, stop := context.WithCancel(ctx)
	defer scouts.Wait()
	defer stop()
	fl.scout(scoutCtx, &scouts, fl.f.cfg.Tracker, false)
	askDHT := sync.OnceFunc(func() { fl.scout(scoutCtx, &scouts, fl.f.cfg.DHT, true) })

	size, err := fl.learnSize(ctx, askDHT)
	if err != nil {
		return err
	}
	b, err := fl.f.cfg.Store.Create(fl.digest, size)
	if errors.Is(err, blob.ErrFull) {
		fl.f.once.set(true, err)
	}
	if err != nil {
		return fmt.Errorf("make room for %s: %w", fl.digest, err)
	}
	fl.publish(b)
	return fl.fill(ctx, b, askDHT)
}

// publish lets the readers in.
func (fl *flight) publish(b Blob) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.blob = b
	close(fl.ready)
}

// fill brings in what is missing and commits, once more when the store finds
// at the commit that a piece of an earlier flight is bad.
func (fl *flight) fill(ctx context.Context, b Blob, askDHT func()) error {
	for {
		if err := fl.bringIn(ctx, b, askDHT); err != nil {
			return err
		}
		err := fl.commit(ctx, b)
		if err == nil || ctx.Err() != nil || errors.Is(err, blob.ErrDigestMismatch) || b.Missing().Count() == 0 {
			return err
		}
		fl.f.log.Warn("pieces of an earlier flight were bad; they are fetched again", "digest", fl.digest, "err", err)
	}
}

// bringIn runs the swarm and the origin against the missing pieces until none
// is missing. Nobody writes to the blob any more when it returns.
func (fl *flight) bringIn(ctx context.Context, b Blob, askDHT func()) error {
	work, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	if fl.f.cfg.Swarm != nil && b.Missing().Count() > 0 {
		workers.Go(func() { fl.swarm(work, b) })
	}
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	for b.Missing().Count() > 0 {
		if err := fl.trouble(); err != nil {
			return err
		}
		v := decide(fl.facts())
		if v.giveUp {
			return fl.hopeless(v)
		}
		fl.act(work, &workers, b, v, askDHT)
		_, demandChanged := b.Demand()
		timer.Reset(lookAgain)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-fl.wake:
		case <-demandChanged:
		case <-timer.C:
		}
	}
	return nil
}

// act does what the policy said.
func (fl *flight) act(work context.Context, workers *sync.WaitGroup, b Blob, v verdict, askDHT func()) {
	if v.askDHT {
		askDHT()
	}
	if v.nudge {
		fl.nudgeTracker()
	}
	if v.probe && fl.f.cfg.Swarm != nil && fl.probing.CompareAndSwap(false, true) {
		workers.Go(func() { fl.probe(work) })
	}
	if v.why != "" && !v.fill && time.Since(fl.lastBytes()) >= stall/2 {
		fl.rec.waits(v.why)
	}
	fl.filling.allow(v.fill)
	if v.fill {
		fl.startOrigin(work, workers, b)
	}
}

// hopeless is the error of a flight that gives up.
func (fl *flight) hopeless(v verdict) error {
	if err := fl.refusal(); err != nil {
		return err
	}
	fl.rec.waits(v.why)
	return fmt.Errorf("%w: %s: %s", ErrUnavailable, fl.digest, v.why)
}

// poke makes the policy look again.
func (fl *flight) poke() { signal(fl.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail ends the flight with err.
func (fl *flight) fail(err error) {
	fl.mu.Lock()
	if fl.fatal == nil {
		fl.fatal = err
	}
	fl.mu.Unlock()
	fl.poke()
}

// trouble is the fault that ends the flight, if there is one.
func (fl *flight) trouble() error {
	fl.mu.Lock()
	err := fl.fatal
	fl.mu.Unlock()
	if errors.Is(err, blob.ErrFull) {
		fl.f.once.set(true, err)
	}
	return err
}

func (fl *flight) lastBytes() time.Time { return latest(fl.born, fl.moved.get()) }

func (fl *flight) result() error {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.err
}

func (fl *flight) knownSize() int64 {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.size
}

// waitSize returns the blob's size as soon as it is known.
func (fl *flight) waitSize(ctx context.Context) (int64, error) {
	select {
	case <-fl.sized:
		return fl.knownSize(), nil
	default:
	}
	select {
	case <-fl.sized:
		return fl.knownSize(), nil
	case <-fl.done:
		if err := fl.result(); err != nil {
			return 0, err
		}
		return fl.knownSize(), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// handle opens what a reader reads from: the file of a complete blob, or else
// the growing blob.
func (fl *flight) handle() (Blob, *os.File, error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.blob == nil || fl.err != nil {
		if fl.err == nil {
			return nil, nil, fmt.Errorf("%w: the flight of %s is over", ErrUnavailable, fl.digest)
		}
		return nil, nil, fl.err
	}
	if fl.blob.Complete() {
		file, err := fl.blob.OpenFile()
		return nil, file, err
	}
	return fl.blob, nil, nil
}

// failure is why the flight ended; nil while it lasts, and when it is well.
func (fl *flight) failure() error {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.err
}

// progress is in bytes.
func (fl *flight) progress() (done, total int64) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.blob == nil {
		return 0, max(fl.size, 0)
	}
	done = fl.size
	for i := range fl.blob.Missing().All() {
		r := blob.PieceRange(fl.size, i)
		done -= r.Len()
	}
	return done, fl.size
}

func (fl *flight) status() FlightStatus {
	report := fl.rec.report()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	s := FlightStatus{
		Digest: fl.digest, Size: fl.size, Pieces: blob.PieceCount(fl.size), Readers: fl.readers,
		Since: fl.born, Waits: report.WhyWaited, Sources: report.Sources,
		Neighbours: len(fl.scouted.merged()),
	}
	if fl.blob != nil {
		s.Held = s.Pieces - fl.blob.Missing().Count()
	}
	return s
}
