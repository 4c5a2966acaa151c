package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultParallel is how many calls a provider gets at once.
	defaultParallel = 16
	// defaultEvery is how often everything is compared when nothing happens.
	defaultEvery = 15 * time.Second
	// defaultPatience is how long a server may take from its intent until its
	// agent has joined.
	defaultPatience = 30 * time.Minute
	// defaultGrace is how long a machine with our tag may be nobody's. It is
	// for the operator: a supernode that was started from an old backup says in
	// its log what it is about to delete.
	defaultGrace = 10 * time.Minute
	// defaultCall bounds Get, List and Delete.
	defaultCall = time.Minute
	// defaultCreate bounds Create, which may copy a program onto a host.
	defaultCreate = 15 * time.Minute
	// shortestRound keeps news from making rounds without a pause.
	shortestRound = time.Second
	// longestQuiet bounds for how long a provider can ask to be left alone.
	longestQuiet = 10 * time.Minute
	// noteWithin bounds writing down what came of a call that was made, also
	// while the supernode stops.
	noteWithin = 10 * time.Second
)

// ErrChanged is returned by an Inventory when a server is in another phase by
// now than the call is for. It is looked at again in the next round.
var ErrChanged = errors.New("the server changed in between")

// Inventory is what the reconciler needs of the inventory. Each method that
// changes something is durable when it returns, and may be repeated.
type Inventory interface {
	// Managed lists the servers of this provider: all but the retired ones that
	// Gone was said of.
	Managed(ctx context.Context) ([]Server, error)
	// Intend moves a requested server on to provisioning; of one that is there
	// already nothing changes. Any other phase is ErrChanged.
	Intend(ctx context.Context, id string) error
	// Made writes down which machine a server has, whatever its phase.
	Made(ctx context.Context, id string, m Machine) error
	// Gone takes note that a server's machine is no more, or that it never had
	// one: a requested server may get another one, a retired server is done
	// with. When a machine with another ID is written down, nothing changes.
	Gone(ctx context.Context, id, machineID string) error
	// Fail ends a server that has not failed or been retired, at a step.
	Fail(ctx context.Context, id, at, reason string) error
	// Note adds a line to the server's log, for whoever waits for it.
	Note(ctx context.Context, id, line string) error
	// Join draws a token by which an agent joins as this server.
	Join(ctx context.Context, id string) (string, error)
}

// Config is what a Reconciler is made of. Zero times and numbers take the
// defaults.
type Config struct {
	// Name is the provider's, as servers of the inventory have it.
	Name      string
	Provider  Provider
	Inventory Inventory
	// Tag is this fleet's own: two supernodes of different fleets must never
	// have the same.
	Tag string

	Parallel int
	Every    time.Duration
	Patience time.Duration
	Grace    time.Duration
	Call     time.Duration
	Create   time.Duration
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil for none
}

// Reconciler brings the machines of one provider and the servers of the
// inventory together. Run does the work.
type Reconciler struct {
	cfg  Config
	kick chan struct{}
	slot chan struct{} // holds one value for each call in progress
	work sync.WaitGroup

	mu     sync.Mutex
	busy   map[string]bool      // guarded by mu: keys of steps in progress or queued
	tries  map[string]*tried    // guarded by mu: by key of a step that failed
	quiet  time.Time            // guarded by mu: until then the provider is left alone
	strays map[string]time.Time // owned by Run: machine without a server → since when
}

// tried is what is known of a step that failed.
type tried struct {
	times int
	next  time.Time
	last  string // what the server's log was told
}

// New makes a reconciler.
func New(cfg Config) (*Reconciler, error) {
	if err := CheckKey(cfg.Tag); err != nil {
		return nil, fmt.Errorf("the fleet's tag: %w", err)
	}
	if cfg.Provider == nil || cfg.Inventory == nil || cfg.Log == nil {
		return nil, errors.New("provision: Provider, Inventory and Log are all needed")
	}
	fill(&cfg.Every, defaultEvery)
	fill(&cfg.Patience, defaultPatience)
	fill(&cfg.Grace, defaultGrace)
	fill(&cfg.Call, defaultCall)
	fill(&cfg.Create, defaultCreate)
	fill(&cfg.Parallel, defaultParallel)
	cfg.Provider = newCounted(cfg.Provider, cfg.Name, cfg.Metrics)
	return &Reconciler{
		cfg: cfg, kick: make(chan struct{}, 1), slot: make(chan struct{}, cfg.Parallel),
		busy: map[string]bool{}, tries: map[string]*tried{}, strays: map[string]time.Time{},
	}, nil
}

func fill[T int | time.Duration](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

// Kick has a round begin soon, because something changed in the inventory.
func (r *Reconciler) Kick() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run compares and acts until ctx ends, and then waits for the calls that
// are in progress.
func (r *Reconciler) Run(ctx context.Context) {
	defer r.work.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.kick:
		}
		if wait := time.Until(last.Add(shortestRound)); wait > 0 {
			timer.Reset(wait)
			continue
		}
		if err := r.round(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("the machines of a provider could not be compared; it is tried again", "error", err)
			r.failed("list", err)
		}
		last = time.Now()
		timer.Reset(r.pause(last))
	}
}

// pause is how long to wait for the next round: until a failed step may be
// tried again, and never longer than Every.
func (r *Reconciler) pause(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := now.Add(r.cfg.Every)
	for _, t := range r.tries {
		if t.next.After(now) && t.next.Before(next) {
			next = t.next
		}
	}
	if r.quiet.After(now) {
		next = r.quiet
	}
	return max(next.Sub(now), shortestRound)
}

// round looks once and starts what is to be done. It does not wait for it.
func (r *Reconciler) round(ctx context.Context) error {
	if !r.may("list", time.Now()) {
		return nil
	}
	// What is in progress now may be over before its machine could be listed,
	// so it is left for the next round.
	before := r.inProgress()
	machines, err := r.list(ctx)
	if err != nil {
		return err
	}
	servers, err := r.cfg.Inventory.Managed(ctx)
	if err != nil {
		return fmt.Errorf("read the inventory: %w", err)
	}
	r.passed("list")
	now := time.Now()
	steps := plan(servers, machines, now, r.cfg.Patience)
	r.forget(steps, machines)
	for _, s := range steps {
		if s.verb == verbOrphan && !r.ripe(s.machine, now) {
			continue
		}
		key := s.key()
		if before[key] || !r.may(key, now) || !r.begin(key) {
			continue
		}
		r.work.Go(func() {
			defer r.end(key)
			r.inSlot(ctx, key, s)
		})
	}
	return nil
}

func (r *Reconciler) list(ctx context.Context) ([]Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Call)
	defer cancel()
	machines, err := r.cfg.Provider.List(ctx, r.cfg.Tag)
	if err != nil {
		return nil, fmt.Errorf("list the machines with the tag %s: %w", r.cfg.Tag, err)
	}
	if len(machines) > MaxMachines {
		return nil, fmt.Errorf("the provider lists %d machines with the tag %s; at most %d are handled", len(machines), r.cfg.Tag, MaxMachines)
	}
	return machines, nil
}

// forget drops what was remembered of steps and machines that are no more.
func (r *Reconciler) forget(steps []step, machines []Machine) {
	listed := make(map[string]bool, len(machines))
	for _, m := range machines {
		listed[m.ID] = true
	}
	maps.DeleteFunc(r.strays, func(id string, _ time.Time) bool { return !listed[id] })
	planned := make(map[string]bool, len(steps))
	for _, s := range steps {
		planned[s.key()] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.tries, func(key string, _ *tried) bool { return !planned[key] && !r.busy[key] })
}

// ripe reports whether a machine was nobody's for long enough to delete it.
func (r *Reconciler) ripe(m Machine, now time.Time) bool {
	since, known := r.strays[m.ID]
	if !known {
		r.strays[m.ID] = now
		r.cfg.Log.Warn("a machine carries this fleet's tag and is no server's; it will be deleted", "machine", m.ID, "key", m.Key, "in", r.cfg.Grace)
		return false
	}
	return now.Sub(since) >= r.cfg.Grace
}

// inSlot waits for its turn and acts. What was queued when the provider asked
// to be left alone is dropped: the next round finds it again.
func (r *Reconciler) inSlot(ctx context.Context, key string, s step) {
	select {
	case r.slot <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-r.slot }()
	if !r.may(key, time.Now()) {
		return
	}
	err := r.act(ctx, s)
	switch {
	case err == nil:
		r.passed(key)
	case errors.Is(err, ErrChanged) || ctx.Err() != nil:
		// The next round, or the next supernode, sees how things stand.
	default:
		r.report(ctx, s, err, r.failed(key, err))
	}
}

// report tells whoever waits for the server what went wrong, once for each
// different fault.
func (r *Reconciler) report(ctx context.Context, s step, err error, news bool) {
	r.cfg.Log.Warn("a call for a machine failed; it is tried again", "do", string(s.verb), "server", s.server.ID, "machine", s.machine.ID, "error", err)
	if !news || s.server.ID == "" {
		return
	}
	if err := r.cfg.Inventory.Note(ctx, s.server.ID, err.Error()); err != nil {
		r.cfg.Log.Warn("a server's log took no line", "server", s.server.ID, "error", err)
	}
}

func (r *Reconciler) inProgress() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.busy)
}

func (r *Reconciler) begin(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[key] {
		return false
	}
	r.busy[key] = true
	return true
}

func (r *Reconciler) end(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, key)
}

// may reports whether a step may be tried now.
func (r *Reconciler) may(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tries[key]
	return !now.Before(r.quiet) && (t == nil || !now.Before(t.next))
}

func (r *Reconciler) passed(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tries, key)
}

// failed notes a failure and when to try again; it reports whether the fault
// is another one than before.
func (r *Reconciler) failed(key string, err error) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tries[key]
	if t == nil {
		t = &tried{}
		r.tries[key] = t
	}
	news = t.last != err.Error()
	t.times, t.last = t.times+1, err.Error()
	wait := backoff(t.times)
	t.next = time.Now().Add(wait)
	if busy := (*BusyError)(nil); errors.As(err, &busy) {
		if until := time.Now().Add(min(longestQuiet, max(busy.After, wait))); until.After(r.quiet) {
			r.quiet = until
		}
	}
	return news
}

// lastFault is what the last failure of a step was, for whoever gives up.
func (r *Reconciler) lastFault(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tries[key]; t != nil {
		return "; the last fault: " + t.last
	}
	return ""
}
