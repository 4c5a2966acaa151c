package placement

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/supernode/meta"
)

// Order is what somebody wants placed.
type Order struct {
	Name, Pool string
	Project    string // the image's; "" for another registry's
	By         string
	Service    Service
	Replicas   int
	Spares     int // less than 0 takes the default
	Spread     Spread
	Tier       string
	Class      string
	Tolerate   []string
	Deadline   time.Duration // 0 takes the default
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// check refuses what cannot be placed.
func (o Order) check() error {
	switch {
	case !nameForm.MatchString(o.Name):
		return fmt.Errorf("the name %.70q is %w: 1 to 40 of a-z, 0-9 and -, which neither begins nor ends it", o.Name, ErrInvalid)
	case o.Pool == "":
		return fmt.Errorf("no pool is %w: name one", ErrInvalid)
	case o.Replicas < 1 || o.Replicas > MaxReplicas:
		return fmt.Errorf("%d replicas are %w: 1 to %d", o.Replicas, ErrInvalid, MaxReplicas)
	case o.Tier != "" && o.Tier != TierCore && o.Tier != TierLight:
		return fmt.Errorf("the tier %.70q is %w: core or light", o.Tier, ErrInvalid)
	case !slices.Contains([]Spread{Packed, SpreadHost, SpreadRack, SpreadZone}, o.Spread):
		return fmt.Errorf("the spread %.70q is %w: rack, zone, host or none", o.Spread, ErrInvalid)
	case o.Spares < -1 || o.Spares > MaxReplicas:
		return fmt.Errorf("%d spares are %w: 0 to %d, or -1 for one and a tenth of the replicas", o.Spares, ErrInvalid, MaxReplicas)
	case len(o.Tolerate) > maxTolerated:
		return fmt.Errorf("%d tolerated taints are %w: at most %d", len(o.Tolerate), ErrInvalid, maxTolerated)
	case len(o.Class) > maxWord || slices.ContainsFunc(o.Tolerate, func(t string) bool { return len(t) > maxWord }):
		return fmt.Errorf("a hardware class or taint is %w: at most %d bytes", ErrInvalid, maxWord)
	}
	if err := checkDeadline(o.Deadline); err != nil {
		return err
	}
	return o.Service.check()
}

const (
	// maxWord bounds a hardware class and a taint, in bytes.
	maxWord = 255
	// maxDeadline keeps a change from holding capacity for ever.
	maxDeadline = 24 * time.Hour
)

func checkDeadline(d time.Duration) error {
	if d < 0 || d > maxDeadline {
		return fmt.Errorf("a deadline of %v is %w: at most %v, or 0 for %v", d, ErrInvalid, maxDeadline, DefaultDeadline)
	}
	return nil
}

func (s Service) check() error {
	size := 0
	for _, e := range s.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return fmt.Errorf("an environment entry is %w: NAME=value", ErrInvalid)
		}
		size += len(e)
	}
	for _, a := range s.Args {
		size += len(a)
	}
	switch n := s.Need; {
	case size > MaxServiceBytes || len(s.Env)+len(s.Args) > 1000:
		return fmt.Errorf("arguments and environment of %d bytes are %w: at most %d", size, ErrInvalid, MaxServiceBytes)
	case n.CPU != 0 && n.CPU < engine.MinCPU || n.Memory != 0 && n.Memory < engine.MinMemory:
		return fmt.Errorf("limits of %dm of CPU and %d bytes are %w: at least %dm and %d MiB, or none", n.CPU, n.Memory, ErrInvalid, engine.MinCPU, engine.MinMemory>>20)
	case len(n.Ports) > 32:
		return fmt.Errorf("%d ports are %w: at most 32", len(n.Ports), ErrInvalid)
	}
	for i, p := range s.Need.Ports {
		if p < 1 || p > 65535 || slices.Contains(s.Need.Ports[:i], p) {
			return fmt.Errorf("port %d is %w: 1 to 65535, each once", p, ErrInvalid)
		}
	}
	return nil
}

// record is a placement that nothing was done for yet.
func (o Order) record(now time.Time) Record {
	if o.Spares < 0 {
		o.Spares = 1 + o.Replicas/10
	}
	slices.Sort(o.Service.Need.Ports)
	return Record{
		Name: o.Name, Pool: o.Pool, Project: o.Project, Replicas: o.Replicas, Spares: o.Spares, Spread: o.Spread, Tier: o.Tier, Class: o.Class,
		Tolerate: o.Tolerate, Phase: PhasePlanning, By: o.By, Created: now, Drawn: 1,
		Revisions: []Revision{{Number: 1, Service: o.Service, By: o.By, At: now}},
	}
}

// begin writes a change into a record.
func (r *Runner) begin(record *Record, kind string, revision int64, deadline time.Duration) *Change {
	if deadline == 0 {
		deadline = DefaultDeadline
	}
	now := r.cfg.Now()
	record.Change = &Change{
		ID: rand.Text(), Kind: kind, Step: stepPlan, Revision: revision, Began: now, Until: now.Add(deadline), Lasts: deadline, Since: now,
	}
	record.Prepulls, record.Verdicts, record.Reason = nil, nil, ""
	return record.Change
}

// Explain says what Place would decide now, and changes nothing.
func (r *Runner) Explain(ctx context.Context, o Order) (Plan, error) {
	if err := o.check(); err != nil {
		return Plan{}, err
	}
	record := o.record(r.cfg.Now())
	image, hosts, room, err := r.survey(ctx, o.Pool, o.Service)
	if err != nil {
		return Plan{}, err
	}
	query := record.request(o.Service, image, o.Replicas)
	query.Room = room
	return Make(query, hosts)
}

// replaceable reports whether nothing of a placement came to be, so that one of
// its name may take its place: on the same pool only, since who deploys on
// another one has no say about it.
func (r *Record) replaceable(pool string) bool {
	return r.Pool == pool && r.Phase == PhaseFailed && r.Change == nil && !r.Removing && len(r.Containers) == 0
}

// mayHaveMore refuses a pool another placement when it has as many as it may.
func (r *Runner) mayHaveMore(ctx context.Context, pool string) error {
	all, err := r.records(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, one := range all {
		if one.Pool == pool {
			n++
		}
	}
	if n >= MaxPlacements {
		return fmt.Errorf("%w on pool %s: it has %d, failed ones among them; remove some", ErrTooMany, pool, n)
	}
	return nil
}

// Place begins a placement. A failed one of that name and pool is replaced. It
// returns when that is written down; Watch says how it goes on.
func (r *Runner) Place(ctx context.Context, o Order) (Record, error) {
	if err := o.check(); err != nil {
		return Record{}, err
	}
	v, err := read[Record](ctx, r.cfg.Meta, namePrefix+o.Name)
	if err != nil {
		return Record{}, err
	}
	if v.revision != 0 && !v.value.replaceable(o.Pool) {
		return Record{}, nameTaken(o.Name)
	}
	if v.revision == 0 {
		if err := r.mayHaveMore(ctx, o.Pool); err != nil {
			return Record{}, err
		}
	}
	v.value = o.record(r.cfg.Now())
	r.begin(&v.value, kindPlace, 1, o.Deadline)
	if v, err = r.save(ctx, v); errors.Is(err, meta.ErrConflict) {
		err = nameTaken(o.Name)
	}
	r.drive(o.Name)
	return v.value, err
}

func nameTaken(name string) error {
	return fmt.Errorf("%w: %q; update or scale that one, or choose another name", ErrExists, name)
}

// idle refuses a change while another one is in progress, or when there is
// nothing to change.
func (r *Record) idle() error {
	switch {
	case r.Removing:
		return fmt.Errorf("%w: %q is being removed", ErrBusy, r.Name)
	case r.Change != nil:
		return fmt.Errorf("%w: %q is in the middle of a change (%s); wait until it is over, or remove the placement", ErrBusy, r.Name, r.Change.Kind)
	case r.Phase == PhaseFailed:
		return fmt.Errorf("%w of %q; place it again", ErrNotPlaced, r.Name)
	}
	return nil
}

// Scale changes how many containers there are.
func (r *Runner) Scale(ctx context.Context, name string, replicas int) (Record, error) {
	if replicas < 1 || replicas > MaxReplicas {
		return Record{}, fmt.Errorf("%d replicas are %w: 1 to %d; to have none, stop or remove the placement", replicas, ErrInvalid, MaxReplicas)
	}
	v, err := r.load(ctx, name)
	if err != nil {
		return Record{}, err
	}
	hosts, err := r.cfg.World.Hosts(ctx, v.value.Pool, nil, nil)
	if err != nil {
		return Record{}, fmt.Errorf("list the hosts of pool %s: %w", v.value.Pool, err)
	}
	record, err := r.change(ctx, name, func(record *Record) error {
		if err := record.idle(); err != nil {
			return err
		}
		was := record.Replicas
		record.Replicas = replicas
		if more := replicas - len(record.Containers); more > 0 {
			r.begin(record, kindScale, record.current().Number, 0).Was = was
			return nil
		}
		record.Reason, record.Ended = "", Ended{ID: rand.Text(), Outcome: EndedRunning}
		record.Phase = record.restingPhase()
		gone := fewer(record.Spread, r.running(record, byServer(hosts)), hosts, len(record.Containers)-replicas)
		record.Containers = slices.DeleteFunc(record.Containers, func(p Placed) bool { return slices.Contains(gone, p.ID) })
		return nil
	})
	r.drive(name)
	return record, err
}

// Update brings in a new version of the service, as edit makes it of the one
// that is in force.
func (r *Runner) Update(ctx context.Context, name, by string, deadline time.Duration, edit func(Record, Service) (Service, error)) (Record, error) {
	if err := checkDeadline(deadline); err != nil {
		return Record{}, err
	}
	record, err := r.change(ctx, name, func(record *Record) error {
		if err := record.idle(); err != nil {
			return err
		}
		before := record.current()
		next, err := edit(*record, before.Service)
		if err != nil {
			return err
		}
		slices.Sort(next.Need.Ports)
		if err := next.check(); err != nil {
			return err
		}
		record.Drawn++
		record.Revisions = append(record.Revisions, Revision{Number: record.Drawn, Service: next, By: by, At: r.cfg.Now()})
		r.begin(record, kindUpdate, record.Drawn, deadline).Before = before.Number
		return nil
	})
	r.drive(name)
	return record, err
}

// RollBack is Update with the service of an earlier revision; 0 is the one
// before.
func (r *Runner) RollBack(ctx context.Context, name, by string, revision int64, may func(Service) error) (Record, error) {
	return r.Update(ctx, name, by, 0, func(record Record, _ Service) (Service, error) {
		if revision == 0 {
			if len(record.Revisions) < 2 {
				return Service{}, fmt.Errorf("%w: placement %s has had one only", ErrNoRevision, name)
			}
			revision = record.Revisions[len(record.Revisions)-2].Number
		}
		v, ok := record.revision(revision)
		if !ok {
			return Service{}, fmt.Errorf("%w: placement %s keeps no revision %d; see those it keeps with 'dfget place show'", ErrNoRevision, name, revision)
		}
		return v.Service, may(v.Service)
	})
}

// Stop ends the containers and keeps their places.
func (r *Runner) Stop(ctx context.Context, name string) (Record, error) {
	return r.turn(ctx, name, func(record *Record) error { record.Stopped = true; return nil })
}

// Start is Stop taken back.
func (r *Runner) Start(ctx context.Context, name string) (Record, error) {
	return r.turn(ctx, name, func(record *Record) error { record.Stopped = false; return nil })
}

// Restart ends each container and starts it again, all at once. It does not
// start what was stopped.
func (r *Runner) Restart(ctx context.Context, name string) (Record, error) {
	return r.turn(ctx, name, func(record *Record) error {
		if record.Stopped {
			return fmt.Errorf("%w: %q; start it instead", ErrStopped, name)
		}
		for i := range record.Containers {
			record.Containers[i].Restarts++
		}
		return nil
	})
}

func (r *Runner) turn(ctx context.Context, name string, edit func(*Record) error) (Record, error) {
	record, err := r.change(ctx, name, func(record *Record) error {
		if err := record.idle(); err != nil {
			return err
		}
		if err := edit(record); err != nil {
			return err
		}
		record.Phase, record.Reason = record.restingPhase(), ""
		return nil
	})
	r.drive(name)
	return record, err
}

// Remove ends a placement, in the middle of a change too. It returns when that
// is written down; the placement is there until its hosts have ended what runs.
func (r *Runner) Remove(ctx context.Context, name string) error {
	_, err := r.change(ctx, name, func(record *Record) error {
		record.Removing, record.Phase, record.Change = true, PhaseRemoving, nil
		return nil
	})
	r.drive(name)
	return err
}

// Gone waits until a placement that is being removed is forgotten, or ctx
// ends.
func (r *Runner) Gone(ctx context.Context, name string) error {
	for {
		news := r.news(name)
		v, err := r.load(ctx, name)
		if errors.Is(err, ErrNotFound) || err == nil && !v.value.Removing {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Get reads a placement. The error wraps ErrNotFound.
func (r *Runner) Get(ctx context.Context, name string) (Record, error) {
	v, err := r.load(ctx, name)
	return v.value, err
}

// List reads all placements, by name.
func (r *Runner) List(ctx context.Context) ([]Record, error) { return r.records(ctx) }
