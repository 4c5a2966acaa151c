package differential

import (
	"slices"
	"strings"
)

// intended is a difference that is meant. The comparer goes by the first
// fields, where "*" is anything and "|" separates what may be; people go by
// the last three.
type intended struct {
	name         string
	kinds        []kind
	flaw         string
	aspect       string
	ours, theirs string

	what string
	why  string
	spec string // section of the OCI distribution-spec 1.1 unless it says otherwise
}

func (e *intended) covers(r request, d difference) bool {
	return slices.Contains(e.kinds, r.kind) && matches(e.flaw, r.flaw) && matches(e.aspect, d.aspect) &&
		matches(e.ours, d.ours) && matches(e.theirs, d.theirs)
}

func matches(pattern, text string) bool {
	alternatives := strings.Split(pattern, "|")
	return slices.Contains(alternatives, text) || slices.Contains(alternatives, "*")
}

// intendedFor is the entry that explains a difference, or nil.
func intendedFor(r request, d difference) *intended {
	for i := range table {
		if table[i].covers(r, d) {
			return &table[i]
		}
	}
	return nil
}
