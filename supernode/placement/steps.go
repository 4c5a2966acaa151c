package placement

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
)

// newID is a container's: drawn once, never used again.
func newID(placement string) string { return placement + "-" + strings.ToLower(rand.Text()[:10]) }

// survey looks at the hosts of a pool, with what is claimed there and how they
// stand to an image.
func (r *Runner) survey(ctx context.Context, pool string, s Service) (Image, []Host, *Need, error) {
	image, err := r.cfg.World.Image(ctx, s)
	if err != nil {
		return image, nil, nil, fmt.Errorf("look at the image: %w", err)
	}
	hosts, err := r.cfg.World.Hosts(ctx, pool, &image, &s)
	if err != nil {
		return image, nil, nil, fmt.Errorf("list the hosts of pool %s: %w", pool, err)
	}
	records, err := r.hostRecords(ctx)
	if err != nil {
		return image, nil, nil, err
	}
	quota, err := r.cfg.World.Quota(ctx, pool)
	if err != nil {
		return image, nil, nil, fmt.Errorf("look up the quota of pool %s: %w", pool, err)
	}
	var used Need
	for _, v := range records {
		if v.value.Pool == pool {
			used = used.plus(v.value.takes())
		}
	}
	for i := range hosts {
		v := records[hosts[i].Server].value
		hosts[i].used, hosts[i].containers = v.used(), len(v.Claims)
	}
	return image, hosts, roomIn(quota, used), nil
}

// roomIn is what a quota leaves; nil when there is none.
func roomIn(quota, used Need) *Need {
	if quota.CPU == 0 && quota.Memory == 0 {
		return nil
	}
	const unlimited = int64(1) << 60
	return &Need{CPU: cmp.Or(quota.CPU, unlimited) - used.CPU, Memory: cmp.Or(quota.Memory, unlimited) - used.Memory}
}

// request is what a placement asks of its pool.
func (r *Record) request(s Service, image Image, n int) Request {
	q := Request{
		Pool: r.Pool, Replicas: n, Spares: r.Spares, Need: s.Need, Tier: r.Tier, Class: r.Class, Tolerate: r.Tolerate, Spread: r.Spread,
		Platforms: image.Platforms, Parts: image.Parts, Has: map[string]int{}, Avoid: map[string]string{},
	}
	for _, p := range r.Containers {
		q.Has[p.Server]++
	}
	return q
}

// plan chooses the hosts of a change and writes them down; what is held for it
// follows from that.
func (r *Runner) plan(ctx context.Context, v versioned[Record]) error {
	record := &v.value
	c := record.Change
	version, ok := record.revision(c.Revision)
	if !ok {
		return r.undo(ctx, v, fmt.Errorf("%w: revision %d is not kept any more", ErrNotFound, c.Revision))
	}
	image, hosts, room, err := r.survey(ctx, record.Pool, version.Service)
	if err != nil {
		return r.undo(ctx, v, err)
	}
	if r.settles(c.Began) && slices.ContainsFunc(hosts, func(h Host) bool { return h.Phase == phaseReady && !h.Connected }) {
		return patience(ctx) // then it is looked at anew
	}
	query := record.request(version.Service, image, 0)
	query.Room = room
	for server, why := range c.Avoid {
		query.Avoid[server] = why
	}
	var p Plan
	switch c.Kind {
	case kindPlace, kindScale:
		query.Replicas = record.Replicas - len(record.Containers)
		p, err = Make(query, hosts)
		c.Moves = movesTo(record, nil, p.Chosen, hosts)
	case kindUpdate:
		p, err = r.planUpdate(record, query, hosts)
	case kindRepair:
		p, err = r.planRepair(record, query, hosts)
	}
	record.Verdicts = kept(p.Verdicts)
	if err != nil {
		return r.undo(ctx, v, err)
	}
	if len(c.Moves) == 0 {
		return r.finish(ctx, v, "")
	}
	c.Spares, c.Rest = p.Spares, p.Rest[:min(len(p.Rest), keptVerdicts)]
	c.Step, c.Since = stepPrepull, r.cfg.Now()
	if c.Kind == kindPlace || c.Kind == kindScale {
		record.Phase = PhasePrepulling
	}
	_, err = r.save(ctx, v)
	return err
}

// movesTo makes a move for each chosen server, in place of the old containers
// where there are any.
func movesTo(record *Record, olds []Placed, chosen []string, hosts []Host) []Move {
	var out []Move
	for i, server := range chosen {
		m := Move{ID: newID(record.Name), Server: server, Host: nameIn(hosts, server)}
		if i < len(olds) {
			m.Old = olds[i].ID
		}
		out = append(out, m)
	}
	return out
}

func nameIn(hosts []Host, server string) string {
	for _, h := range hosts {
		if h.Server == server {
			return h.label()
		}
	}
	return server
}

// planUpdate leaves each container on its host where the new version has room
// there, and finds another host for the rest.
func (r *Runner) planUpdate(record *Record, query Request, hosts []Host) (Plan, error) {
	c := record.Change
	query.Spares = 0
	var elsewhere []Placed
	stays := map[string]int{}
	c.Moves = nil
	for _, old := range record.Containers {
		i := slices.IndexFunc(hosts, func(h Host) bool { return h.Server == old.Server })
		if i < 0 || !inPlace(&hosts[i], record.need(old.Revision), query) {
			elsewhere = append(elsewhere, old)
			query.Has[old.Server]--
			continue
		}
		stays[old.Server]++
		c.Moves = append(c.Moves, Move{ID: newID(record.Name), Server: old.Server, Host: hosts[i].label(), Old: old.ID})
	}
	query.Replicas = len(elsewhere)
	p, err := Make(query, hosts)
	c.Moves = append(c.Moves, movesTo(record, elsewhere, p.Chosen, hosts)...)
	for i := range p.Verdicts {
		if n := stays[p.Verdicts[i].Server]; n > 0 {
			p.Verdicts[i].Outcome, p.Verdicts[i].Reason = OutcomeChosen, fmt.Sprintf("%d are replaced where they are", n)
		}
	}
	return p, err
}

// inPlace reports whether a container of a new version has room where the old
// one is, and counts it.
func inPlace(h *Host, old Need, query Request) bool {
	need := old.cover(query.Need)
	after := *h
	after.used.CPU -= old.CPU
	after.used.Memory -= old.Memory
	after.used.Ports = nil
	for _, port := range h.used.Ports {
		if !slices.Contains(old.Ports, port) {
			after.used.Ports = append(after.used.Ports, port)
		}
	}
	after.containers--
	query.Need = need
	if refusal(query, after) != "" {
		return false
	}
	after.used = after.used.plus(need)
	after.containers++
	*h = after
	return true
}

// planRepair finds hosts for what stands on hosts that are gone or drained:
// for as much of it as there is room.
func (r *Runner) planRepair(record *Record, query Request, hosts []Host) (p Plan, err error) {
	olds := r.misplaced(record, byServer(hosts))
	for _, old := range olds {
		query.Has[old.Server]--
	}
	query.Replicas, query.Partly = len(olds), true
	if len(olds) > 0 {
		p, err = Make(query, hosts)
	}
	record.Change.Moves = movesTo(record, olds, p.Chosen, hosts)
	return p, err
}

func byServer(hosts []Host) map[string]*Host {
	out := make(map[string]*Host, len(hosts))
	for i := range hosts {
		out[hosts[i].Server] = &hosts[i]
	}
	return out
}

// kept are the verdicts that are written down: those that say most.
func kept(list []Verdict) []Verdict {
	list = slices.Clone(list)
	rank := map[string]int{OutcomeChosen: 0, OutcomeSpare: 1, OutcomeRefused: 2, OutcomeRank: 3}
	slices.SortStableFunc(list, func(a, b Verdict) int { return cmp.Compare(rank[a.Outcome], rank[b.Outcome]) })
	return list[:min(len(list), keptVerdicts)]
}

// undo ends a change before its gate: what was held for it is let go, and all
// is as it was.
func (r *Runner) undo(ctx context.Context, v versioned[Record], cause error) error {
	record := &v.value
	c := record.Change
	if ctx.Err() != nil {
		return ctx.Err() // it was not the change that failed
	}
	record.Change, record.Reason = nil, cause.Error()
	record.Phase = record.restingPhase()
	record.Ended = Ended{c.ID, EndedUndone, record.Reason}
	switch c.Kind {
	case kindPlace:
		record.Phase, record.Ended.Outcome = PhaseFailed, EndedFailed
	case kindScale:
		record.Replicas = c.Was
	case kindUpdate:
		record.forgetRevision(c.Revision)
	case kindRepair:
		record.Phase = PhaseDegraded
		r.restRepair(record.Name)
	}
	r.cfg.Log.Warn("a placement was not changed", "placement", record.Name, "change", c.Kind, "reason", cause)
	_, err := r.save(ctx, v)
	return err
}

// finish ends a change behind its gate. why is what is not as it should be.
func (r *Runner) finish(ctx context.Context, v versioned[Record], why string) error {
	record := &v.value
	c := record.Change
	record.Containers = settled(record)
	record.Change, record.Reason = nil, why
	record.Phase = record.restingPhase()
	record.Ended = Ended{c.ID, EndedRunning, why}
	switch {
	case c.Step == stepRevert:
		record.Ended.Outcome = EndedRolledBack
		record.forgetRevision(c.Revision)
	case why != "":
		record.Phase, record.Ended.Outcome = PhaseDegraded, EndedFailed
	}
	record.trim()
	r.cfg.Log.Info("a placement was changed", "placement", record.Name, "change", c.Kind, "containers", len(record.Containers), "reason", why)
	_, err := r.save(ctx, v)
	return err
}

// restingPhase is the phase of a placement that is not being changed.
func (r *Record) restingPhase() string {
	if r.Stopped {
		return PhaseStopped
	}
	return PhaseRunning
}

// forgetRevision drops one that was never in force.
func (r *Record) forgetRevision(number int64) {
	r.Revisions = slices.DeleteFunc(r.Revisions, func(v Revision) bool { return v.Number == number })
}
