package placement

import (
	"context"
	"slices"
)

// Use is a container that takes a place on a host from the moment it was
// ordered until it is told to go, whether it runs or is stopped.
type Use struct {
	Container string
	Placement string
	Project   string
	Pool      string
	Server    string
	Need      Need
	Ended     bool
}

// uses are those of one host.
func (h HostRecord) uses() []Use {
	var out []Use
	for _, c := range h.Claims {
		if c.Open {
			out = append(out, Use{Container: c.ID, Placement: c.Placement, Project: c.Project, Pool: h.Pool, Server: h.Server, Need: c.Need})
		}
	}
	return out
}

// UsesChanged says what began, became another, or ended between two states of a
// host's record.
func UsesChanged(before, after HostRecord) []Use {
	old, now := before.uses(), after.uses()
	var out []Use
	for _, u := range now {
		had := slices.IndexFunc(old, func(o Use) bool { return o.Container == u.Container })
		if had < 0 || exceeds(old[had].Need, u.Need) || exceeds(u.Need, old[had].Need) {
			out = append(out, u)
		}
	}
	for _, u := range old {
		if !slices.ContainsFunc(now, func(n Use) bool { return n.Container == u.Container }) {
			u.Ended = true
			out = append(out, u)
		}
	}
	return out
}

// Uses are those of all hosts now.
func (r *Runner) Uses(ctx context.Context) ([]Use, error) {
	records, err := r.hostRecords(ctx)
	if err != nil {
		return nil, err
	}
	var out []Use
	for _, v := range records {
		out = append(out, v.value.uses()...)
	}
	return out, nil
}

// RunningOn counts the containers that a server was ordered to have.
func (r *Runner) RunningOn(ctx context.Context, server string) (int, error) {
	v, err := read[HostRecord](ctx, r.cfg.Meta, hostPrefix+server)
	return len(v.value.uses()), err
}
