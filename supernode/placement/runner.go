package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

// What Config leaves 0.
const (
	// DefaultDeadline is for how long the hosts may take to get an image.
	DefaultDeadline = 15 * time.Minute
	defaultLost     = time.Minute
	defaultHealthy  = 2 * time.Minute
	defaultEvery    = 10 * time.Second
	// planTries is how often a plan is made anew when others were faster to
	// claim what it chose.
	planTries = 8
	// repairPause is how long a repair waits that found no room.
	repairPause = 30 * time.Second
	// settleFor is how long hosts may take to come back to a supernode that was
	// started again, before a change that it takes up counts on them no more. An
	// agent tries at least every 15 s.
	settleFor = 20 * time.Second
)

// Config is what a Runner is made of. World, Engine and Meta are needed.
type Config struct {
	Meta   meta.Store
	World  World
	Engine Engine
	// OnHost hears each change of what a host holds and is to run, before and
	// after, once it is written down and the host is being told.
	OnHost func(ctx context.Context, before, after HostRecord)
	// LostAfter is for how long a host may be away before its containers are
	// placed again. Default 1 min.
	LostAfter time.Duration
	// HealthyWithin is how long a container may take to become healthy. Default
	// 2 min.
	HealthyWithin time.Duration
	// Every is how often hosts are looked after. Default 10 s.
	Every time.Duration
	Now   func() time.Time
	Log   *slog.Logger
}

// Runner carries placements out.
type Runner struct {
	cfg Config

	mu       sync.Mutex
	began    time.Time                     // guarded by mu; Run
	run      context.Context               // guarded by mu; Run's, nil while it does not run
	wait     sync.WaitGroup                // what Run waits for; Add under mu while run is set
	driven   map[string]bool               // guarded by mu; placements that are driven; true: look again
	changed  map[string]chan struct{}      // guarded by mu; closed at the next change, by placement
	fetching map[string]map[string]Prepull // guarded by mu; by placement and server, while it lasts
	reports  map[string]report             // guarded by mu, by server
	away     map[string]time.Time          // guarded by mu; since when a server is seen to be away
	rests    map[string]time.Time          // guarded by mu; until when a placement's repair rests
	sending  map[string]bool               // guarded by mu; servers that are being told; true: tell again
	undone   map[string]bool               // guarded by mu; placements that stopped at an error
}

// report is what a host said last of its containers.
type report struct {
	at         time.Time
	generation int64
	containers map[string]*shoalv1.ContainerStatus
}

// New makes a Runner. Nothing happens before Run.
func New(cfg Config) *Runner {
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{{&cfg.LostAfter, defaultLost}, {&cfg.HealthyWithin, defaultHealthy}, {&cfg.Every, defaultEvery}} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{
		cfg: cfg, driven: map[string]bool{}, changed: map[string]chan struct{}{}, fetching: map[string]map[string]Prepull{},
		reports: map[string]report{}, away: map[string]time.Time{}, rests: map[string]time.Time{}, sending: map[string]bool{}, undone: map[string]bool{},
	}
}

// Run takes up what was begun, and looks after hosts and placements until ctx
// ends. What is in progress then is taken up by the next Run.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.run, r.began = ctx, r.cfg.Now()
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.run = nil
		r.mu.Unlock()
		r.wait.Wait()
	}()
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for first := true; ; first = false {
		if err := r.lookAfter(ctx, first); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("placements were not looked after; it is tried again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// settles reports whether hosts may still be on their way back, for a change
// that began before this supernode did.
func (r *Runner) settles(change time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return change.Before(r.began) && r.cfg.Now().Sub(r.began) < settleFor
}

// patience waits a moment for hosts that are on their way back.
func patience(ctx context.Context) error {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start runs one piece of work for as long as Run lasts; false when it does
// not.
func (r *Runner) start(work func(context.Context)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx := r.run
	if ctx == nil {
		return false
	}
	r.wait.Go(func() { work(ctx) })
	return true
}

// drive takes a placement through its steps, one goroutine for each.
func (r *Runner) drive(name string) {
	r.mu.Lock()
	if _, busy := r.driven[name]; busy {
		r.driven[name] = true
		r.mu.Unlock()
		return
	}
	r.driven[name] = false
	r.mu.Unlock()
	started := r.start(func(ctx context.Context) {
		for again := true; again; {
			err := r.advance(ctx, name)
			if err != nil && ctx.Err() == nil {
				r.cfg.Log.Error("a placement does not go on; it is tried again", "placement", name, "error", err)
			}
			r.mu.Lock()
			if delete(r.undone, name); err != nil {
				r.undone[name] = true
			}
			again = r.driven[name] && ctx.Err() == nil
			if r.driven[name] = false; !again {
				delete(r.driven, name)
			}
			r.mu.Unlock()
		}
	})
	if !started {
		r.mu.Lock()
		delete(r.driven, name)
		r.mu.Unlock()
	}
}

// advance does step after step until nothing is left to do. Each begins with
// what is written down, and the hosts' records are brought in line with it
// first, whoever wrote it.
func (r *Runner) advance(ctx context.Context, name string) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, err := r.load(ctx, name)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		err = r.sync(ctx, &v.value)
		if errors.Is(err, ErrNoRoom) {
			err = r.yield(ctx, v, err)
		}
		if err == nil {
			if v.value.Change == nil && !v.value.Removing {
				return nil
			}
			err = r.step(ctx, v)
		}
		if err != nil && !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
}

// step does what comes next. It returns when that is written down, or when
// the placement was changed by somebody else meanwhile.
func (r *Runner) step(ctx context.Context, v versioned[Record]) error {
	if v.value.Removing {
		return r.forget(ctx, v)
	}
	switch step := v.value.Change.Step; step {
	case stepPlan:
		return r.plan(ctx, v)
	case stepPrepull:
		return r.prepull(ctx, v)
	case stepStart:
		return r.await(ctx, v)
	case stepRoll:
		return r.roll(ctx, v)
	case stepRevert:
		return r.awaitRevert(ctx, v)
	default:
		return fmt.Errorf("placement %s is in a step %q, which this supernode does not know", v.value.Name, step)
	}
}

// forget ends a placement that is to be removed, once its hosts have said that
// nothing of it is left. A host that is lost is not waited for: it is told when
// it is back.
func (r *Runner) forget(ctx context.Context, v versioned[Record]) error {
	for {
		news := r.news(v.value.Name)
		left, err := r.remains(ctx, &v.value)
		if err != nil {
			return err
		}
		if !left {
			break
		}
		timer := time.NewTimer(r.cfg.Every) // that a host is lost is no news
		select {
		case <-news:
			gather(ctx)
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	key := namePrefix + v.value.Name
	_, err := r.cfg.Meta.Commit(ctx, []meta.Compare{{Key: key, Revision: v.revision}}, []meta.Op{meta.Delete(key)})
	r.tellChanged(v.value.Name)
	return err
}

// remains reports whether a host that can be heard still has something of a
// placement.
func (r *Runner) remains(ctx context.Context, record *Record) (bool, error) {
	all, err := r.hostRecords(ctx)
	if err != nil {
		return false, err
	}
	for server, v := range all {
		if !slices.ContainsFunc(v.value.Claims, func(c Claim) bool { return c.Placement == record.Name }) {
			continue
		}
		h, err := r.hostByID(ctx, server)
		if err != nil {
			return false, err
		}
		if !r.lost(server, h) {
			return true, nil
		}
	}
	return false, nil
}

// yield is what follows when a host has no room for what a record wants.
func (r *Runner) yield(ctx context.Context, v versioned[Record], cause error) error {
	c := v.value.Change
	if c == nil {
		return cause
	}
	switch c.Step {
	case stepPrepull: // somebody else claimed it first: plan anew
		if c.Tries++; c.Tries >= planTries {
			return r.undo(ctx, v, cause)
		}
		c.Step, c.Moves, c.Spares, c.Rest = stepPlan, nil, nil, nil
	case stepRoll: // not both at once, then one after the other
		for i := range c.Moves {
			if m := &c.Moves[i]; m.State == moveBoth {
				m.State = v.value.instead(*m)
			}
		}
	default:
		return cause
	}
	_, err := r.save(ctx, v)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", meta.ErrConflict, cause) // look at it anew
}

// tellChanged wakes who waits for news of a placement.
func (r *Runner) tellChanged(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		if ch := r.changed[name]; ch != nil {
			close(ch)
			delete(r.changed, name)
		}
	}
}

// news is closed at the next change of a placement, or report of one of its
// containers. Take it before looking.
func (r *Runner) news(name string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := r.changed[name]
	if ch == nil {
		ch = make(chan struct{})
		r.changed[name] = ch
	}
	return ch
}

// gatherFor lets news that come together be one look: a thousand hosts report
// within seconds of each other.
const gatherFor = 50 * time.Millisecond

func gather(ctx context.Context) {
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// hostByID looks one server up, whatever its pool; nil is one that is not there.
func (r *Runner) hostByID(ctx context.Context, server string) (*Host, error) {
	h, err := r.cfg.World.Host(ctx, server)
	if err != nil {
		return nil, fmt.Errorf("look up server %s: %w", server, err)
	}
	return h, nil
}

// hostsByID reads the servers of a pool, or of all pools for "".
func (r *Runner) hostsByID(ctx context.Context, pool string) (map[string]*Host, error) {
	hosts, err := r.cfg.World.Hosts(ctx, pool, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("list the hosts of pool %q: %w", pool, err)
	}
	return byServer(hosts), nil
}
