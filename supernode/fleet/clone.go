package fleet

import (
	"errors"
	"slices"
)

// ErrCloned is returned to a process that comes with the key of another one
// which lives: somebody copied a host together with its key.
var ErrCloned = errors.New("another host uses this node's key")

// maxInstances bounds what is remembered of one peer.
const maxInstances = 16

// lives is what is known of the processes that came with one key. A process
// that is started again ends the one before it, so that only a copied key
// brings back a process whose line a younger one took over.
type lives struct {
	displaced []string // lost their line to a younger one, the latest last
	refused   []string // were the younger one when the older came back
}

func keep(list []string, instance string) []string {
	if slices.Contains(list, instance) {
		return list
	}
	return append(list[max(0, len(list)-maxInstances+1):], instance)
}

// arrive decides about a process that opens a line while current, if not
// empty, has one. It reports whether it may, and whether current turned out to
// be a clone.
func (l *lives) arrive(instance, current string) (may, currentIsClone bool) {
	switch {
	case slices.Contains(l.refused, instance):
		return false, false
	case current == "" || current == instance:
		return true, false
	case slices.Contains(l.displaced, instance):
		l.refused = keep(l.refused, current)
		return true, true
	}
	l.displaced = keep(l.displaced, current)
	return true, false
}
