package seed

import (
	"fmt"
	"testing"
)

// TestFullRightsDropOnlyTheOldest keeps a rush of new readers from making the
// known ones depend on a registry that cannot be asked.
func TestFullRightsDropOnlyTheOldest(t *testing.T) {
	r := newRights()
	key := func(i int) rightKey { return rightKey{reference: fmt.Sprint(i)} }
	for i := range rightsKept + 1 {
		r.note(key(i), true)
	}
	if r.remembered(key(0)) {
		t.Error("more rights are kept than the bound allows")
	}
	if !r.remembered(key(1)) {
		t.Error("a right that still had room was dropped")
	}
}
