package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

// The inventory's phases of a server that is to be emptied, or that is no more.
const (
	phaseDraining = "draining"
	phaseRetired  = "retired"
)

// lookAfter takes up what is not finished, puts up again what stood on hosts
// that are gone or drained, and tells hosts what they have not taken on.
func (r *Runner) lookAfter(ctx context.Context, first bool) error {
	records, err := r.records(ctx)
	if err != nil {
		return err
	}
	hostRecords, err := r.hostRecords(ctx)
	if err != nil {
		return err
	}
	hosts, err := r.hostsByID(ctx, "")
	if err != nil {
		return err
	}
	pools := map[string]map[string]*Host{}
	for server, h := range hosts {
		if pools[h.Pool] == nil {
			pools[h.Pool] = map[string]*Host{}
		}
		pools[h.Pool][server] = h
	}
	var errs []error
	for server, v := range hostRecords {
		errs = append(errs, r.lookAfterHost(ctx, v.value, hosts[server]))
	}
	for i := range records {
		if first || records[i].Change != nil || records[i].Removing || r.stopped(records[i].Name) {
			r.drive(records[i].Name)
			continue
		}
		errs = append(errs, r.repair(ctx, &records[i], pools[records[i].Pool]))
	}
	return errors.Join(errs...)
}

// stopped reports whether a placement did not come to where it was going: what
// its hosts are to run may be behind what its record says.
func (r *Runner) stopped(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.undone[name]
}

// lookAfterHost notes whether a host is away and tells it again what it has
// not taken on. Of a server that is no more nothing is held.
func (r *Runner) lookAfterHost(ctx context.Context, record HostRecord, h *Host) error {
	now := r.cfg.Now()
	r.mu.Lock()
	if _, was := r.away[record.Server]; h != nil && h.Connected {
		delete(r.away, record.Server)
	} else if !was {
		r.away[record.Server] = now
	}
	behind := r.reports[record.Server].generation < record.Generation
	r.mu.Unlock()
	if h == nil || h.Phase == phaseRetired {
		return r.release(ctx, record.Server, func(Claim) bool { return true })
	}
	if h.Connected && behind {
		r.assign(record.Server)
	}
	return nil
}

// lost reports whether a host is gone for so long that its containers are
// placed again.
func (r *Runner) lost(server string, h *Host) bool {
	if h == nil || h.Phase == phaseRetired {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	since, away := r.away[server]
	return away && !h.Connected && r.cfg.Now().Sub(since) >= r.cfg.LostAfter
}

// misplaced are the containers on hosts that are gone or drained.
func (r *Runner) misplaced(record *Record, hosts map[string]*Host) []Placed {
	var out []Placed
	for _, p := range record.Containers {
		if h := hosts[p.Server]; r.lost(p.Server, h) || h.Phase == phaseDraining {
			out = append(out, p)
		}
	}
	return out
}

// running are a placement's containers as fewer looks at them.
func (r *Runner) running(record *Record, hosts map[string]*Host) []running {
	var out []running
	for _, p := range record.Containers {
		status := r.status(p.Server, p.ID)
		out = append(out, running{
			id: p.ID, server: p.Server, gone: r.lost(p.Server, hosts[p.Server]),
			healthy: status.GetState() == shoalv1.ContainerStatus_RUNNING,
		})
	}
	return out
}

// repair begins to put up again what stood on hosts that are gone or drained.
func (r *Runner) repair(ctx context.Context, record *Record, hosts map[string]*Host) error {
	r.mu.Lock()
	rests := r.cfg.Now().Before(r.rests[record.Name])
	r.mu.Unlock()
	if rests || len(record.Revisions) == 0 || len(r.misplaced(record, hosts)) == 0 {
		return nil
	}
	_, err := r.change(ctx, record.Name, func(now *Record) error {
		if err := now.idle(); err != nil {
			return err
		}
		r.begin(now, kindRepair, now.current().Number, 0)
		return nil
	})
	if errors.Is(err, ErrBusy) || errors.Is(err, ErrNotPlaced) || errors.Is(err, ErrNotFound) {
		return nil // somebody was faster
	}
	r.drive(record.Name)
	return err
}

// restRepair lets a repair that came to nothing wait before the next.
func (r *Runner) restRepair(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rests[name] = r.cfg.Now().Add(max(repairPause, r.cfg.Every))
}

// release lets go of claims whose containers are gone for good.
func (r *Runner) release(ctx context.Context, server string, gone func(Claim) bool) error {
	for range conflictTries {
		v, err := read[HostRecord](ctx, r.cfg.Meta, hostPrefix+server)
		if err != nil {
			return err
		}
		next := v.value
		next.Claims = slices.DeleteFunc(slices.Clone(v.value.Claims), func(c Claim) bool { return c.Gone > 0 && gone(c) })
		if len(next.Claims) == len(v.value.Claims) {
			return nil
		}
		op, err := put(hostPrefix+server, next)
		if err != nil {
			return err
		}
		_, err = r.cfg.Meta.Commit(ctx, []meta.Compare{{Key: op.Key, Revision: v.revision}}, []meta.Op{op})
		if errors.Is(err, meta.ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("let go of what is gone from %s: %w", server, err)
		}
		r.hostChanged(ctx, v.value, next)
		for _, c := range next.Claims { // what waits for that
			if !c.Open && c.Gone == 0 {
				r.drive(c.Placement)
			}
		}
		return nil
	}
	return fmt.Errorf("let go of what is gone from %s: %w", server, meta.ErrConflict)
}

func (r *Runner) hostChanged(ctx context.Context, before, after HostRecord) {
	if r.cfg.OnHost != nil {
		r.cfg.OnHost(ctx, before, after)
	}
}

// Connected tells a host that came back what it is to run.
func (r *Runner) Connected(server string) { r.assign(server) }

// The bounds of a report.
const (
	maxGeneration = int64(1) << 62
	maxSaid       = 1 << 10 // bytes of an error
)

// Report takes what a host says of its containers. It takes the place of the
// report before. What is said of containers that are not the host's is not
// listened to.
func (r *Runner) Report(ctx context.Context, server string, m *shoalv1.ReportContainersRequest) error {
	if m.Generation < 0 || m.Generation > maxGeneration {
		return fmt.Errorf("a report of generation %d is %w", m.Generation, ErrInvalid)
	}
	v, err := read[HostRecord](ctx, r.cfg.Meta, hostPrefix+server)
	if err != nil {
		return err
	}
	if v.revision == 0 {
		return nil // nothing was ever placed there by this house: what runs is not touched
	}
	next := report{at: r.cfg.Now(), generation: m.Generation, containers: map[string]*shoalv1.ContainerStatus{}}
	for _, c := range m.Containers {
		if slices.ContainsFunc(v.value.Claims, func(own Claim) bool { return own.ID == c.Id }) {
			c.Error = strings.ToValidUTF8(c.Error[:min(len(c.Error), maxSaid)], "?")
			c.ProtoReflect().SetUnknown(nil) // it is kept: nothing of any length
			next.containers[c.Id] = c
		}
	}
	r.mu.Lock()
	r.reports[server] = next
	r.mu.Unlock()
	var names []string
	ended := false
	for _, c := range v.value.Claims {
		names = append(names, c.Placement)
		ended = ended || over(c, next)
	}
	defer r.tellChanged(names...)
	if m.Generation > v.value.Generation {
		return r.overtake(ctx, v, m.Generation)
	}
	if m.Generation < v.value.Generation {
		r.assign(server)
	}
	if ended {
		return r.release(ctx, server, func(c Claim) bool { return over(c, next) })
	}
	return nil
}

// over reports whether a host has said that a container is gone.
func over(c Claim, said report) bool {
	_, there := said.containers[c.ID]
	return c.Gone > 0 && said.generation >= c.Gone && !there
}

// overtake numbers what a host is to run higher than what it has: this
// metadata is older than the host, as after a restore.
func (r *Runner) overtake(ctx context.Context, v versioned[HostRecord], generation int64) error {
	next := v.value
	next.Generation = generation + 1
	op, err := put(hostPrefix+next.Server, next)
	if err != nil {
		return err
	}
	if _, err := r.cfg.Meta.Commit(ctx, []meta.Compare{{Key: op.Key, Revision: v.revision}}, []meta.Op{op}); err != nil {
		return fmt.Errorf("number anew what %s is to run: %w", next.Server, err)
	}
	r.cfg.Log.Warn("a host has a newer order than this supernode gave; it is given the present one", "server", next.Server, "generation", generation)
	r.assign(next.Server)
	return nil
}

// assign tells hosts what they are to run, each in the background and one
// order at a time. A host that cannot be reached is told when it is back.
func (r *Runner) assign(servers ...string) {
	for _, server := range servers {
		r.mu.Lock()
		_, busy := r.sending[server]
		r.sending[server] = busy
		r.mu.Unlock()
		if busy {
			continue
		}
		done := func() (again bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			again = r.sending[server]
			r.sending[server] = false
			if !again {
				delete(r.sending, server)
			}
			return again
		}
		if !r.start(func(ctx context.Context) {
			for again := true; again; again = done() && ctx.Err() == nil {
				if err := r.assignOne(ctx, server); err != nil && ctx.Err() == nil && !errors.Is(err, ErrUnreachable) {
					r.cfg.Log.Error("a host was not told what it is to run; it is tried again", "server", server, "error", err)
				}
			}
		}) {
			for done() {
			}
		}
	}
}

// assignWithin bounds one order.
const assignWithin = 10 * time.Second

func (r *Runner) assignOne(ctx context.Context, server string) error {
	v, err := read[HostRecord](ctx, r.cfg.Meta, hostPrefix+server)
	if err != nil || v.revision == 0 {
		return err
	}
	desired, err := r.desired(ctx, v.value)
	if err != nil {
		return err
	}
	h, err := r.hostByID(ctx, server)
	if err != nil {
		return err
	}
	if h == nil || !h.Connected {
		return nil // it is told when it is back
	}
	ctx, cancel := context.WithTimeout(ctx, assignWithin)
	defer cancel()
	return r.cfg.Engine.Assign(ctx, *h, desired)
}

// desired is all that a host is to run.
func (r *Runner) desired(ctx context.Context, record HostRecord) (*shoalv1.Desired, error) {
	out := &shoalv1.Desired{Generation: record.Generation}
	placements := map[string]Record{}
	for _, c := range record.Claims {
		if !c.Open {
			continue
		}
		p, ok := placements[c.Placement]
		if !ok {
			v, err := r.load(ctx, c.Placement)
			if errors.Is(err, ErrNotFound) {
				continue // it is going
			}
			if err != nil {
				return nil, err
			}
			p = v.value
			placements[c.Placement] = p
		}
		version, ok := p.revision(c.Revision)
		if !ok {
			continue // an update that was taken back
		}
		s := version.Service
		out.Containers = append(out.Containers, &shoalv1.Container{
			Id: c.ID, Placement: c.Placement, Revision: c.Revision, Registry: s.Image.Registry, Repository: s.Image.Repository, Tag: s.Image.Tag,
			Digest: s.Digest, Args: s.Args, Env: s.Env, CpuMilli: s.Need.CPU, MemoryBytes: s.Need.Memory, Ports: s.Need.Ports,
			Run: c.Run, RestartsWanted: c.Restarts,
		})
	}
	return out, nil
}
