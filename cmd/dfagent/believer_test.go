package main

import (
	"fmt"
	"testing"

	"github.com/hashicorp/golang-lru/v2/expirable"
)

// TestFullListOfRefutedSignersDropsOnlyTheOldest keeps a node that invents
// many signers from having all of them believed again.
func TestFullListOfRefutedSignersDropsOnlyTheOldest(t *testing.T) {
	b := &believer{refuted: expirable.NewLRU[string, struct{}](maxRefuted, nil, 0)}
	for i := range maxRefuted + 1 {
		b.blame(fmt.Sprint(i), "")
	}
	if _, refuted := b.refuted.Get("1"); !refuted {
		t.Error("a refuted signer was forgotten although there was room")
	}
	if n := b.refuted.Len(); n != maxRefuted {
		t.Errorf("%d refuted signers are kept, want %d", n, maxRefuted)
	}
}
