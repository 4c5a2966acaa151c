package main

import (
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/inventory"
)

func TestWhatAServerCostsWhen(t *testing.T) {
	since := time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name  string
		phase inventory.Phase
		made  string
		peer  string
		costs bool
	}{
		{"written down only", inventory.Imported, "", "", false},
		{"asked for", inventory.Requested, "", "", false},
		{"asked for again", inventory.Requested, "m1", "", false},
		{"being made", inventory.Provisioning, "", "", false},
		{"made", inventory.Provisioning, "m1", "", true},
		{"joined by itself", inventory.Initialising, "", "peer", true},
		{"ready", inventory.Ready, "m1", "peer", true},
		{"draining", inventory.Draining, "m1", "peer", true},
		{"failed before it was made", inventory.Failed, "", "", false},
		{"failed afterwards", inventory.Failed, "m1", "", true},
		{"retired", inventory.Retired, "m1", "peer", false},
	} {
		s := inventory.Server{
			ID: "s", Name: "host-1", Pool: "web", Phase: c.phase, ProviderID: c.made, PeerID: c.peer, PhaseSince: since,
			Facts: &shoalv1.Facts{CpuMilli: 4000, MemoryBytes: 8},
		}
		want := cost.Usage{Kind: cost.Server, ID: "s", Name: "host-1", Pool: "web", CPUMilli: 4000, MemoryBytes: 8, At: since, Ended: !c.costs}
		if got := serverUsage(s); got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
	}
}
