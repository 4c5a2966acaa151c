package cost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shoalproject/shoal/supernode/meta"
)

// The keys. Of intervals that go on: kind and ID; of those that ended: pool,
// end, kind, ID and start, so that a report reads no further back than it is
// about.
const (
	openPrefix   = "cost/open/"
	usedPrefix   = "cost/used/"
	seenKey      = "cost/seen"
	trafficKeys  = "cost/traffic/"
	hostPrefix   = "cost/host/"
	budgetPrefix = "cost/budget/"
)

const (
	// Keep is for how long ended intervals and bytes are kept: a year and a
	// month, so that a month can be held against that of the year before.
	Keep = 400 * 24 * time.Hour
	// maxAsking bounds the questions that are worked out at once, and so the
	// memory and the processors that they take.
	maxAsking = 2
	// maxName bounds IDs and the names of pools, placements and projects, in
	// bytes.
	maxName = 255
)

// Terms are what a pool asks for its servers.
type Terms struct {
	Price
	CPUWeight int64 // how many GiB of memory a core costs as much as; 0 is DefaultCPUWeight
}

// Alarm says that spending has reached a part of a budget.
type Alarm struct {
	Budget
	Percent int // the alarm that was reached
}

// Config is what a book needs.
type Config struct {
	Meta meta.Store
	// Terms are those of a pool now; of a pool that is not there, none.
	Terms func(ctx context.Context, pool string) (Terms, error)
	// Alarm is told, at least once, of each alarm of a budget in a month.
	Alarm   func(context.Context, Alarm)
	Metrics prometheus.Registerer
	Now     func() time.Time
	Log     *slog.Logger
}

// Usage says how a thing is used since a time, or that it is used no more.
type Usage struct {
	Kind Kind
	ID   string
	Name string // for people
	Pool string
	// What a server has or a container may use.
	CPUMilli    int64
	MemoryBytes int64
	// Of a container: the ID of its server, its placement, and the project of
	// its image.
	Server    string
	Placement string
	Project   string
	Ended     bool
	At        time.Time // zero is now
}

// Book keeps the usage and answers from it. Its methods may be called at once
// from many goroutines; one book at a time may use a store.
type Book struct {
	cfg     Config
	metrics bookMetrics
	asking  chan struct{} // holds a word for each question that is worked out

	mu      sync.Mutex           // guards what follows and orders the commits of usage
	open    map[string]*entry    // by kind/ID
	touched map[string]time.Time // when usage was told of last, by kind/ID

	reports sync.Mutex        // guards what follows
	waiting map[string]report // not yet written, by peer

	flushing sync.Mutex // orders the commits of bytes
	checking sync.Mutex // orders the checks of budgets
}

// entry is an interval that goes on.
type entry struct {
	Interval
	revision meta.Revision
}

// New opens the book of a store.
func New(ctx context.Context, cfg Config) (*Book, error) {
	b := &Book{cfg: cfg, metrics: newMetrics(cfg.Metrics), asking: make(chan struct{}, maxAsking), touched: map[string]time.Time{}, waiting: map[string]report{}}
	if err := b.load(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// load reads what goes on; mu is held, or nobody else knows the book.
func (b *Book) load(ctx context.Context) error {
	b.open = nil
	open := map[string]*entry{}
	for v, err := range meta.Scan(ctx, b.cfg.Meta, openPrefix) {
		if err != nil {
			return fmt.Errorf("read what is in use: %w", err)
		}
		e := &entry{revision: v.Revision}
		if err := json.Unmarshal(v.Data, &e.Interval); err != nil {
			return fmt.Errorf("read %s: %w", v.Key, err)
		}
		open[strings.TrimPrefix(v.Key, openPrefix)] = e
	}
	b.open = open
	return nil
}

// Note takes in how a thing is used. What is known already changes nothing,
// so a word may be said again.
func (b *Book) Note(ctx context.Context, u Usage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.turnOf(ctx, u)
	if err == nil {
		err = b.write(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("note the use of %s %s: %w", u.Kind, u.ID, err)
	}
	b.touched[u.key()] = b.cfg.Now()
	return nil
}

func (u Usage) key() string { return string(u.Kind) + "/" + u.ID }

// turn is one change of what is in use: an interval ends and another one
// begins. Either may be missing.
type turn struct {
	key  string
	old  *entry
	at   time.Time // when old ended
	next *Interval
}

// turnOf is what a usage changes; a turn without both intervals is none. mu is
// held.
func (b *Book) turnOf(ctx context.Context, u Usage) (turn, error) {
	if err := u.check(); err != nil {
		return turn{}, err
	}
	if b.open == nil { // a commit before this one had an outcome that nobody knows
		if err := b.load(ctx); err != nil {
			return turn{}, err
		}
	}
	now, t := b.cfg.Now(), turn{key: u.key(), old: b.open[u.key()]}
	if u.Ended {
		if t.old != nil {
			t.at = clamp(u.At, t.old.Start, now)
		}
		return t, nil
	}
	next, err := b.interval(ctx, u)
	if err != nil {
		return turn{}, err
	}
	if t.old == nil {
		next.Start, t.next = clamp(u.At, time.Time{}, now), &next
		return t, nil
	}
	if next.Start = t.old.Start; next == t.old.Interval {
		return turn{}, nil
	}
	// It is used in another way since At, or since some moment that nobody
	// told.
	next.Start = clamp(u.At, time.Time{}, now)
	if !next.Start.After(t.old.Start) {
		next.Start = milli(now)
	}
	t.at, t.next = next.Start, &next
	return t, nil
}

func (u Usage) check() error {
	if u.Kind != Server && u.Kind != Container {
		return fmt.Errorf("the kind %q is %w", u.Kind, ErrInvalid)
	}
	for what, name := range map[string]string{"ID": u.ID, "pool": u.Pool, "server": u.Server, "placement": u.Placement, "project": u.Project, "name": u.Name} {
		if len(name) > maxName || strings.Contains(name, "/") && what != "name" || what == "ID" && name == "" {
			return fmt.Errorf("the %s %.70q is %w: up to %d bytes without a slash are taken", what, name, ErrInvalid, maxName)
		}
	}
	return nil
}

// interval is what a usage begins, without its start.
func (b *Book) interval(ctx context.Context, u Usage) (Interval, error) {
	i := Interval{
		Kind: u.Kind, ID: u.ID, Name: u.Name, Pool: u.Pool, CPUMilli: u.CPUMilli, MemoryBytes: u.MemoryBytes,
		Server: u.Server, Placement: u.Placement, Project: u.Project,
	}
	if u.Kind != Server {
		return i, nil
	}
	terms, err := b.cfg.Terms(ctx, u.Pool)
	if err != nil {
		return i, fmt.Errorf("look up the price of pool %s: %w", u.Pool, err)
	}
	i.Currency, i.Hourly, i.CPUWeight = terms.Currency, terms.PerHour(), terms.CPUWeight
	return i, nil
}

// turnsPerCommit is how many fit one commit: each has two operations and a
// compare.
const turnsPerCommit = meta.MaxOps / 2

// write writes turns of different things, some in each commit. mu is held.
func (b *Book) write(ctx context.Context, turns ...turn) error {
	turns = slices.DeleteFunc(turns, func(t turn) bool { return t.old == nil && t.next == nil })
	for some := range slices.Chunk(turns, turnsPerCommit) {
		var compares []meta.Compare
		var ops []meta.Op
		for _, t := range some {
			compare, more, err := t.commit()
			if err != nil {
				return err
			}
			compares, ops = append(compares, compare), append(ops, more...)
		}
		revision, err := b.cfg.Meta.Commit(ctx, compares, ops)
		if err != nil {
			b.open = nil
			return fmt.Errorf("write it down: %w", err)
		}
		for _, t := range some {
			if t.next == nil {
				delete(b.open, t.key)
			} else {
				b.open[t.key] = &entry{*t.next, revision}
			}
		}
	}
	return nil
}

// commit is what a turn compares and writes. An interval without length leaves
// nothing behind.
func (t turn) commit() (compare meta.Compare, ops []meta.Op, err error) {
	compare.Key = openPrefix + t.key
	if t.old != nil {
		compare.Revision = t.old.revision
		if ended := t.old.Interval; t.at.After(ended.Start) {
			ended.End = t.at
			op, err := meta.PutRecord(usedKey(ended), ended)
			if err != nil {
				return compare, nil, err
			}
			ops = append(ops, op)
		}
	}
	last := meta.Delete(compare.Key)
	if t.next != nil {
		if last, err = meta.PutRecord(compare.Key, t.next); err != nil {
			return compare, nil, err
		}
	}
	return compare, append(ops, last), nil
}

func usedKey(i Interval) string {
	return fmt.Sprintf("%s%s/%015d/%s/%s/%015d", usedPrefix, i.Pool, i.End.UnixMilli(), i.Kind, i.ID, i.Start.UnixMilli())
}

// clamp puts a time between two others; a zero one is the last. Times are
// kept in whole milliseconds.
func clamp(t, first, last time.Time) time.Time {
	if t.IsZero() || t.After(last) {
		t = last
	}
	if t.Before(first) {
		t = first
	}
	return milli(t)
}

func milli(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// Reconcile takes in all that is used, as it was looked up not before asOf,
// and ends what is not named: when a supernode was killed before an end was
// written down, the thing was last seen when Reconcile was called last, and
// that is when it ended. What was told of since asOf is left alone.
func (b *Book) Reconcile(ctx context.Context, asOf time.Time, all []Usage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen, err := b.seen(ctx)
	if err == nil && b.open == nil {
		err = b.load(ctx)
	}
	if err != nil {
		return err
	}
	var errs []error
	turns, named := []turn(nil), map[string]bool{}
	for _, u := range all {
		key := u.key()
		if named[key] || !b.touched[key].Before(asOf) {
			named[key] = true
			continue
		}
		named[key] = true
		t, err := b.turnOf(ctx, u)
		if err != nil {
			errs = append(errs, fmt.Errorf("note the use of %s %s: %w", u.Kind, u.ID, err))
		}
		turns = append(turns, t)
	}
	for key, e := range b.open {
		if !named[key] && b.touched[key].Before(asOf) {
			turns = append(turns, turn{key: key, old: e, at: clamp(seen, e.Start, b.cfg.Now())})
		}
	}
	if err := b.write(ctx, turns...); err != nil {
		errs = append(errs, fmt.Errorf("note how the fleet is used: %w", err))
	}
	for key, at := range b.touched {
		if at.Before(asOf) {
			delete(b.touched, key)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	data, err := milli(asOf).MarshalText()
	if err == nil {
		_, err = b.cfg.Meta.Commit(ctx, nil, []meta.Op{meta.Put(seenKey, data)})
	}
	if err != nil {
		return fmt.Errorf("write down when the fleet was looked at: %w", err)
	}
	return nil
}

// seen is when the whole fleet was looked at last; zero for never.
func (b *Book) seen(ctx context.Context) (at time.Time, err error) {
	v, err := b.cfg.Meta.Get(ctx, seenKey)
	if err == nil {
		err = at.UnmarshalText(v.Data)
	}
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return at, fmt.Errorf("read when the fleet was looked at last: %w", err)
	}
	return at, nil
}
