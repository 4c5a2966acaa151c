package main

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/placement"
)

// TestADayOfTheFleetEqualsASumByHand has the inventory and the hosts' records
// tell of a day, as they do when the supernode serves, and adds it up with
// pencil and paper.
func TestADayOfTheFleetEqualsASumByHand(t *testing.T) {
	day := time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC)
	now, ctx := day, t.Context()
	at := func(hour, minute int) {
		now = day.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h := &house{log: slog.New(slog.DiscardHandler)}
	store := meta.NewMemory()
	clock := func() time.Time { return now }
	var err error
	h.book, err = inventory.New(inventory.Config{
		Meta: store, Now: clock, Log: h.log, UserID: func(context.Context, string) (string, error) { return "", nil }, OnChange: h.serverChanged,
	})
	must(err)
	h.cost, err = cost.New(ctx, cost.Config{Meta: store, Terms: h.terms, Now: clock, Log: h.log})
	must(err)

	// Old machines were bought: 876 € over 24 months are 36.50 € a month, with
	// 36.50 € for power 73 € through 730 hours, 0.10 € an hour. New ones are
	// rented for 0.40 € an hour, and a core weighs only 2 GiB there.
	root := inventory.Caller{Name: "admin", Admin: true}
	_, err = h.book.AddCluster(ctx, root, "here", "metal", "")
	must(err)
	for _, p := range []inventory.Pool{
		{Name: "old", Tier: "light", Price: inventory.Price{Currency: "EUR", PurchaseMicro: 876_000_000, AmortisationMonths: 24, PowerMonthlyMicro: 36_500_000}},
		{Name: "new", Tier: "core", CPUWeight: 2, Price: inventory.Price{Currency: "EUR", HourlyMicro: 400_000}},
	} {
		p.Cluster = "here"
		_, err := h.book.CreatePool(ctx, root, p)
		must(err)
	}
	join := func(peer, pool string, cores, gib int64) string {
		s, err := h.book.Arrived(ctx, inventory.Arrival{PeerID: peer, Hostname: "host-" + peer, Pool: pool})
		must(err)
		must(h.book.SetFacts(ctx, peer, &shoalv1.Facts{Hostname: "host-" + peer, CpuMilli: cores * 1000, MemoryBytes: gib << 30}))
		return s.ID
	}
	claim := func(id, service, project string, cores, gib int64) placement.Claim {
		return placement.Claim{ID: id, Placement: service, Project: project, Need: placement.Need{CPU: cores * 1000, Memory: gib << 30}, Open: true, Run: true}
	}
	records := map[string]placement.HostRecord{}
	run := func(server, pool string, claims ...placement.Claim) {
		after := placement.HostRecord{Server: server, Pool: pool, Claims: claims}
		h.notePlaced(ctx, records[server], after)
		records[server] = after
	}

	// Both are there from midnight. old weighs 12 × 4 + 16 = 64, new
	// 32 × 2 + 64 = 128. They cost 24 × 0.10 = 2.40 € and 24 × 0.40 = 9.60 €.
	old, fresh := join("o", "old", 12, 16), join("n", "new", 32, 64)
	front := claim("c1", "front", "shop", 4, 16) // on new 4 × 2 + 16 = 24 of 128: 0.075 € an hour
	batch := claim("c2", "batch", "lab", 6, 8)   // on old 6 × 4 + 8 = 32 of 64: 0.05 € an hour
	waits := claim("c3", "front", "shop", 4, 16) // behind its gate: nothing
	waits.Open = false
	at(6, 0)
	run(fresh, "new", front, waits)
	at(8, 0)
	run(old, "old", batch)
	at(8, 30)
	waits.Open = true // now it costs 0.075 € an hour as well
	run(fresh, "new", front, waits)
	at(18, 0)
	run(old, "old") // batch was there for 10 h: 0.50 €
	at(20, 0)
	run(fresh, "new", waits) // c1 was there for 14 h: 1.05 €
	at(21, 0)
	_, err = h.book.Retire(ctx, root, old) // 21 h instead of 24: 2.10 €
	must(err)
	at(24, 0) // c3 was there for 15.5 h: 1.1625 €

	report, err := h.cost.Report(ctx, cost.ByService, cost.Question{From: day, To: now}, cost.Sight{All: true})
	must(err)
	got := map[string]int64{}
	for _, r := range report.Rows {
		got[r.Pool+" "+r.Name] = r.Micro
	}
	want := map[string]int64{
		"new new/front": 1_050_000 + 1_162_500, "new (idle)": 9_600_000 - 2_212_500,
		"old old/batch": 500_000, "old (idle)": 2_100_000 - 500_000,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, by hand it is %v", got, want)
	}
}
