package placement

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// cover is what either of two containers finds enough.
func (n Need) cover(other Need) Need {
	n.CPU, n.Memory = max(n.CPU, other.CPU), max(n.Memory, other.Memory)
	n.Ports = slices.Concat(n.Ports, other.Ports)
	slices.Sort(n.Ports)
	n.Ports = slices.Compact(n.Ports)
	return n
}

// site is a claim and where it belongs.
type site struct {
	server string
	Claim
}

// wanted says which claims a record asks for. What is on a host and is not
// among them goes.
func wanted(r *Record) []site {
	if r.Removing {
		return nil
	}
	var out []site
	replaced := map[string]bool{}
	if c := r.Change; c != nil {
		for _, m := range c.Moves {
			replaced[m.Old] = true
			out = append(out, m.wants(r, c)...)
		}
	}
	for _, p := range r.Containers {
		if !replaced[p.ID] {
			out = append(out, r.open(p, r.need(p.Revision)))
		}
	}
	return out
}

// open is the claim of a container that runs.
func (r *Record) open(p Placed, n Need) site {
	return site{p.Server, Claim{
		ID: p.ID, Placement: r.Name, Project: r.Project, Revision: p.Revision, Need: n,
		Open: true, Run: !r.Stopped, Restarts: p.Restarts,
	}}
}

// wants are the claims of one move. While an update may still be taken back,
// what the old container had stays held for it.
func (m Move) wants(r *Record, c *Change) []site {
	old, replaces := r.container(m.Old)
	same := replaces && old.Server == m.Server
	keeps := replaces && c.Kind == kindUpdate
	oldNeed, newNeed := r.need(old.Revision), r.need(c.Revision)
	one := r.open(Placed{ID: m.ID, Server: m.Server, Revision: c.Revision}, newNeed)
	before := r.open(old, oldNeed)
	switch m.State {
	case moveClaimed:
		one.Open = false
		if same {
			before.Need = oldNeed.cover(newNeed)
			return []site{before}
		}
	case moveBoth:
	case moveStopping:
		one.Open, one.Need, one.Replaces = false, oldNeed.cover(newNeed), m.Old
		return []site{one}
	case moveSwapped, moveDone:
		if same {
			one.Need, one.Replaces = oldNeed.cover(newNeed), m.Old
			return []site{one}
		}
		if !keeps {
			return []site{one}
		}
		before.Open = false
	case moveReturning, moveBack:
		back := r.open(Placed{ID: m.Back, Server: old.Server, Revision: old.Revision}, oldNeed)
		back.Replaces = m.Old
		if same {
			back.Need, back.Replaces = oldNeed.cover(newNeed), m.ID
		}
		back.Open = m.State == moveBack
		return []site{back}
	case moveDropped:
		one = site{}
	}
	var out []site
	if one.ID != "" {
		out = append(out, one)
	}
	if replaces {
		out = append(out, before)
	}
	return out
}

// settled are the containers when a change is over: each move counts as far as
// it came.
func settled(r *Record) []Placed {
	gone := map[string]bool{}
	var out []Placed
	for _, m := range r.Change.Moves {
		p := Placed{ID: m.ID, Server: m.Server, Host: m.Host, Revision: r.Change.Revision, Ordered: m.Since}
		switch m.State {
		case moveSwapped, moveDone:
			gone[m.Old] = true
			out = append(out, p)
		case moveBack:
			old, _ := r.container(m.Old)
			gone[m.Old] = true
			out = append(out, Placed{ID: m.Back, Server: old.Server, Host: old.Host, Revision: old.Revision, Ordered: m.Since})
		}
	}
	for _, p := range r.Containers {
		if !gone[p.ID] {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Placed) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.ID, b.ID))
	})
	return out
}

// noRoomError says which host has no room for what is wanted there.
type noRoomError struct{ server, why string }

func (e *noRoomError) Error() string { return fmt.Sprintf("%s %s", e.server, e.why) }

// Unwrap makes it an ErrNoRoom.
func (e *noRoomError) Unwrap() error { return ErrNoRoom }

// adjust makes a host's record hold what one placement wants there and says
// whether that changed it, and whether more is held than before. What may be
// running goes only when the host says so. host is nil for a server that is
// not known any more: nothing is added there.
func adjust(record HostRecord, placement string, want []Claim, host *Host) (out HostRecord, changed, more bool, err error) {
	byID, taken := map[string]Claim{}, map[string]bool{}
	for _, c := range want {
		byID[c.ID], taken[c.Replaces] = c, true
	}
	out = record
	out.Claims = nil
	var grown []Claim
	told := false // what the host is to run is another thing now
	for _, had := range record.Claims {
		want, wanted := byID[had.ID]
		delete(byID, had.ID)
		switch {
		case had.Placement != placement, had.Gone > 0 && !wanted && !taken[had.ID]:
			out.Claims = append(out.Claims, had)
			continue
		case !wanted && !had.Told: // it never ran
		case !wanted:
			next := had
			if taken[had.ID] {
				next.Need = Need{}
			}
			if had.Gone == 0 {
				next.Open, next.Gone = false, record.Generation
				if had.Open {
					told, next.Gone = true, record.Generation+1
				}
			}
			out.Claims = append(out.Claims, next)
			changed = changed || !sameClaim(had, next)
			continue
		default:
			want = want.inTurn(had, record)
			want.Told = had.Told || want.Open
			told = told || had.Open != want.Open || had.Run != want.Run || had.Restarts != want.Restarts
			changed = changed || !sameClaim(had, want)
			if exceeds(want.Need, had.Need) {
				grown = append(grown, want)
			}
			out.Claims = append(out.Claims, want)
			continue
		}
		changed = true
	}
	for _, c := range byID {
		c = c.inTurn(Claim{}, record)
		c.Told = c.Open
		told = told || c.Open
		changed = true
		grown = append(grown, c)
		out.Claims = append(out.Claims, c)
	}
	slices.SortFunc(out.Claims, func(a, b Claim) int { return strings.Compare(a.ID, b.ID) })
	if told {
		out.Generation++
	}
	if len(grown) > 0 {
		if why := overfull(record, out, host); why != "" {
			return record, false, false, &noRoomError{cmp.Or(labelOf(host), record.Server), why}
		}
	}
	return out, changed, len(grown) > 0, nil
}

// inTurn leaves a claim closed that takes the place of another one, for as long
// as that one may still run: both would want the same ports.
func (c Claim) inTurn(had Claim, record HostRecord) Claim {
	c.Replaces = cmp.Or(c.Replaces, had.Replaces)
	i := slices.IndexFunc(record.Claims, func(o Claim) bool { return o.ID == c.Replaces })
	if i < 0 {
		c.Replaces = ""
	} else if record.Claims[i].Told && !had.Open {
		c.Open = false
	}
	return c
}

func labelOf(h *Host) string {
	if h == nil {
		return ""
	}
	return h.label()
}

// overfull says why a host cannot hold what its record would. What it held
// already is not asked about again: its owner may have lowered its capacity.
func overfull(before, after HostRecord, h *Host) string {
	if h == nil {
		return "is not known any more"
	}
	was, is := before.used(), after.used()
	switch {
	case len(after.Claims) > MaxClaims:
		return fmt.Sprintf("would hold %d containers, at most %d fit", len(after.Claims), MaxClaims)
	case is.CPU > h.CPU && is.CPU > was.CPU:
		return fmt.Sprintf("has %dm of CPU, %dm would be taken", h.CPU, is.CPU)
	case is.Memory > h.Memory && is.Memory > was.Memory:
		return fmt.Sprintf("has %d MiB of memory, %d would be taken", h.Memory>>20, is.Memory>>20)
	}
	seen := map[int32]bool{}
	for _, p := range is.Ports {
		if seen[p] {
			return fmt.Sprintf("has port %d taken", p)
		}
		seen[p] = true
	}
	return ""
}

func exceeds(a, b Need) bool {
	more := a.CPU > b.CPU || a.Memory > b.Memory
	for _, p := range a.Ports {
		more = more || !slices.Contains(b.Ports, p)
	}
	return more
}

func sameClaim(a, b Claim) bool {
	if len(a.Need.Ports) == 0 && len(b.Need.Ports) == 0 {
		a.Need.Ports, b.Need.Ports = nil, nil
	}
	return reflect.DeepEqual(a, b)
}
