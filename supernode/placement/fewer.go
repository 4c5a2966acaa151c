package placement

import (
	"cmp"
	"slices"
	"strings"
)

// running is a container as fewer looks at it.
type running struct {
	id      string
	server  string
	healthy bool
	gone    bool // its host is
}

// fewer chooses which n of a service's containers end: those on hosts that are
// gone, then those that are not healthy, then where the most stand together.
func fewer(s Spread, list []running, hosts []Host, n int) []string {
	at := map[string]Host{}
	for _, h := range hosts {
		at[h.Server] = h
	}
	groups, onHost := map[string]int{}, map[string]int{}
	group := func(c running) string {
		h, ok := at[c.server]
		if !ok {
			h.Server = c.server
		}
		return groupOf(s, h)
	}
	for _, c := range list {
		groups[group(c)]++
		onHost[c.server]++
	}
	left := slices.Clone(list)
	var out []string
	for range min(n, len(list)) {
		worst := slices.MinFunc(left, func(a, b running) int {
			crowd := cmp.Or(cmp.Compare(groups[group(b)], groups[group(a)]), cmp.Compare(onHost[b.server], onHost[a.server]))
			if s == Packed { // empty the emptiest host first
				crowd = cmp.Compare(onHost[a.server], onHost[b.server])
			}
			return cmp.Or(first(a.gone, b.gone), first(!a.healthy, !b.healthy), crowd, strings.Compare(b.id, a.id))
		})
		out = append(out, worst.id)
		groups[group(worst)]--
		onHost[worst.server]--
		left = slices.DeleteFunc(left, func(c running) bool { return c.id == worst.id })
	}
	return out
}

// first orders what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
