package placement

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// showEvery is how often who watches sees the bytes of a prepull.
const showEvery = 500 * time.Millisecond

// View is a placement and what is known of it besides.
type View struct {
	Record
	// Statuses are what hosts said last, by container.
	Statuses map[string]*shoalv1.ContainerStatus
	// Known are all containers, those of a change in progress included.
	Known   []Placed
	Healthy int
}

// view joins a record with what is in memory only.
func (r *Runner) view(record Record) View {
	v := View{Record: record, Statuses: map[string]*shoalv1.ContainerStatus{}, Known: slices.Clone(record.Containers)}
	if c := record.Change; c != nil {
		gone := map[string]bool{}
		for _, m := range c.Moves {
			p := Placed{ID: m.latest(), Server: m.Server, Host: m.Host, Revision: c.Revision, Ordered: m.Since}
			if m.State == moveBack {
				old, _ := record.container(m.Old)
				p.Server, p.Host, p.Revision = old.Server, old.Host, old.Revision
			}
			if m.State != moveClaimed && m.State != moveDropped {
				v.Known = append(v.Known, p)
			}
			if m.State == moveSwapped || m.State == moveDone || m.State == moveBack {
				gone[m.Old] = true
			}
		}
		v.Known = slices.DeleteFunc(v.Known, func(p Placed) bool { return gone[p.ID] })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range v.Known {
		if s := r.reports[p.Server].containers[p.ID]; s != nil {
			v.Statuses[p.ID] = s
			// A host that spoke since it was found away is back; the next look
			// at all hosts, which says so too, is some time off.
			since, away := r.away[p.Server]
			if s.State == shoalv1.ContainerStatus_RUNNING && (!away || r.reports[p.Server].at.After(since)) {
				v.Healthy++
			}
		}
	}
	if now := r.fetching[record.Name]; record.Change != nil && len(now) > 0 {
		v.Prepulls = nil
		for _, p := range now {
			v.Prepulls = append(v.Prepulls, p)
		}
		sortPrepulls(v.Prepulls)
	}
	v.Phase, v.Reason = v.standing()
	return v
}

// standing is the phase and its reason, by how the containers fare now.
func (v View) standing() (phase, reason string) {
	switch well := v.Healthy >= v.Replicas; {
	case v.Change != nil:
	case v.Phase == PhaseRunning && !well:
		return PhaseDegraded, v.Reason
	case v.Phase == PhaseDegraded && well:
		return PhaseRunning, ""
	}
	return v.Phase, v.Reason
}

// Look is Get with what is known besides.
func (r *Runner) Look(ctx context.Context, name string) (View, error) {
	record, err := r.Get(ctx, name)
	if err != nil {
		return View{}, err
	}
	return r.view(record), nil
}

// Views are all placements, by name.
func (r *Runner) Views(ctx context.Context) ([]View, error) {
	records, err := r.records(ctx)
	var out []View
	for _, record := range records {
		out = append(out, r.view(record))
	}
	return out, err
}

// Watch yields a placement while a change of it goes on, and as it is when the
// change is over; then Ended says how it came out, if it was the last one.
func (r *Runner) Watch(ctx context.Context, name, change string) iter.Seq2[View, error] {
	return func(yield func(View, error) bool) {
		tick := time.NewTicker(showEvery)
		defer tick.Stop()
		for {
			news := r.news(name)
			v, err := r.Look(ctx, name)
			if !yield(v, err) || err != nil || v.Change == nil || v.Change.ID != change {
				return
			}
			select {
			case <-news:
				gather(ctx)
			case <-tick.C:
			case <-ctx.Done():
				yield(v, ctx.Err())
				return
			}
		}
	}
}

// Logs reads what a container wrote; see Engine.Logs.
func (r *Runner) Logs(ctx context.Context, server, container string, tail int, follow bool, write func([]byte) error) error {
	h, err := r.hostByID(ctx, server)
	if err != nil {
		return err
	}
	if h == nil {
		return fmt.Errorf("%w: it is not known any more", ErrUnreachable)
	}
	return r.cfg.Engine.Logs(ctx, *h, container, tail, follow, write)
}
