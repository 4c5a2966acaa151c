package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	defaultQueue  = 4096
	defaultWindow = 5 * time.Minute
)

var (
	errClosed = errors.New("the audit is closed")
	errFull   = errors.New("too many events wait to be written")
)

// Config is what a Log is made of. Dir, Sign, Verify, Now and Log are needed.
type Config struct {
	Dir string // its own; it is made
	// Sign signs where the chain begins and ends, Verify checks that.
	Sign   blob.SignFunc
	Verify blob.VerifyFunc
	// Keep is for how long rows are kept; 0 is for ever. The day that a row
	// was written on goes as a whole.
	Keep time.Duration
	// MaxBytes bounds all rows together; 0 does not. The oldest go first.
	MaxBytes int64
	// Window is for how long events of one kind are counted instead of written.
	// Default five minutes.
	Window time.Duration
	// Queue is how many events may wait to be written. Default 4096.
	Queue   int
	Metrics prometheus.Registerer // may be nil
	Now     func() time.Time
	Log     *slog.Logger
}

// Log is the audit. It is safe for concurrent use.
type Log struct {
	cfg    Config
	counts counts
	queue  chan item

	gate     sync.RWMutex
	closed   bool          // guarded by gate
	stopping chan struct{} // closed when Close begins
	done     chan struct{} // closed when the writer has ended

	mu       sync.Mutex
	repeats  *repeats  // guarded by mu
	segments []segment // guarded by mu, oldest first; the writer alone changes it
	at       ends      // guarded by mu; the writer alone changes it

	removing sync.RWMutex // held while segments are removed

	// Owned by the writer.
	file     *os.File // the last segment; nil: the next row begins one
	lastTime time.Time
	sealed   bool // at is on disk
}

// item is something for the writer: an event, or somebody who waits until all
// before it is written.
type item struct {
	at     time.Time
	event  Event
	more   uint64
	waiter chan<- struct{}
}

// Open continues the chain in a folder, or begins one. What it finds broken it
// says in the log and by a row of its own, and Verify goes on to name it.
func Open(cfg Config) (*Log, error) {
	if cfg.Dir == "" || cfg.Sign == nil || cfg.Verify == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("audit: Dir, Sign, Verify, Now and Log are all needed")
	}
	if cfg.Window <= 0 {
		cfg.Window = defaultWindow
	}
	if cfg.Queue <= 0 {
		cfg.Queue = defaultQueue
	}
	l := &Log{
		cfg: cfg, queue: make(chan item, cfg.Queue), stopping: make(chan struct{}), done: make(chan struct{}),
		repeats: newRepeats(cfg.Window),
	}
	if err := durable.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the audit: %w", err)
	}
	found, err := l.resume()
	if err != nil {
		return nil, fmt.Errorf("open the audit in %s: %w", cfg.Dir, err)
	}
	l.counts = newCounts(cfg.Metrics)
	go l.run()
	if found != nil {
		l.Record(*found)
	}
	return l, nil
}

func (l *Log) endsPath() string { return filepath.Join(l.cfg.Dir, endsFile) }

// Record takes an event in, in the order of the calls, and returns at once.
// An event of a kind that was written within the last window is counted, if it
// was refused or is often done.
func (l *Log) Record(e Event) {
	e = e.bounded()
	it := item{at: l.cfg.Now(), event: e}
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closed {
		l.lost(it, errClosed)
		return
	}
	if e.Often || !e.Allowed {
		l.mu.Lock()
		first := l.repeats.take(it.at, e)
		l.mu.Unlock()
		if first == nil {
			l.counts.counted.Inc()
			return
		}
		it.event = *first
	}
	select {
	case l.queue <- it:
	default:
		l.lost(it, errFull)
	}
}

// lost leaves an event that cannot be written in the program's own log.
func (l *Log) lost(it item, err error) {
	e := it.event
	l.counts.lost.Inc()
	l.cfg.Log.Error("an event is missing from the audit", "error", err, "subject", e.Subject, "action", e.Action,
		"object", e.Object, "from", e.From, "allowed", e.Allowed, "reason", e.Reason, "more", it.more)
}

// Flush waits until everything that was recorded before is on disk.
func (l *Log) Flush(ctx context.Context) error {
	written := make(chan struct{})
	if err := l.enqueue(ctx, item{waiter: written}); err != nil {
		return fmt.Errorf("wait for the audit: %w", err)
	}
	select {
	case <-written:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the audit: %w", ctx.Err())
	}
}

func (l *Log) enqueue(ctx context.Context, it item) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closed {
		return errClosed
	}
	select {
	case l.queue <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close writes what is left, the counts of open windows included, and ends.
func (l *Log) Close() error {
	l.gate.Lock()
	if l.closed {
		l.gate.Unlock()
		return nil
	}
	l.closed = true
	close(l.stopping)
	close(l.queue)
	l.gate.Unlock()
	<-l.done
	return nil
}

// snapshot is what can be read now.
func (l *Log) snapshot() ([]segment, ends) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.segments), l.at
}

// counts are the audit's metrics.
type counts struct{ rows, counted, lost prometheus.Counter }

func newCounts(to prometheus.Registerer) counts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "shoal", Subsystem: "audit", Name: name, Help: help})
	}
	c := counts{
		rows:    counter("rows_total", "Rows that were written."),
		counted: counter("counted_total", "Events that were counted in the row of another."),
		lost:    counter("lost_total", "Events that were not written; the log holds them."),
	}
	if to != nil {
		to.MustRegister(c.rows, c.counted, c.lost)
	}
	return c
}
