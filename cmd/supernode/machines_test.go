package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/provision"
	"github.com/shoalproject/shoal/supernode/provision/provisiontest"
)

// made is a fleet whose machines a cloud in memory makes: all that outlives a
// supernode.
type made struct {
	t     *testing.T
	store *meta.Memory
	cloud *provisiontest.Twin
	admin inventory.Caller
}

func (m *made) open(r **provision.Reconciler) *inventory.Inventory {
	book, err := inventory.New(inventory.Config{
		Meta: m.store, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		UserID:      func(_ context.Context, name string) (string, error) { return name, nil },
		ProviderFor: func(string) (string, error) { return "twin", nil },
		OnChange: func(context.Context, inventory.Server, inventory.Server) {
			if *r != nil {
				(*r).Kick()
			}
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return book
}

// live is one supernode, from its start until it is done or its time is over.
func (m *made) live(book **inventory.Inventory, lasts time.Duration, done func([]inventory.Server) bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), lasts)
	defer cancel()
	var r *provision.Reconciler
	*book = m.open(&r)
	reconciler, err := provision.New(provision.Config{
		Provider: m.cloud, Inventory: &managed{book: *book, provider: "twin"}, Tag: "fleet-a", Parallel: 16, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	r = reconciler
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-second.C:
		case <-ended:
			return
		}
		list, err := (*book).Servers(m.t.Context(), "")
		if err != nil {
			m.t.Fatal(err)
		}
		if done(list) {
			cancel()
		}
	}
}

// TestMachinesOfTheBook brings the inventory as it is and the machines
// together: 300 servers at once, by supernodes that end at any moment.
func TestMachinesOfTheBook(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("SHOAL_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SHOAL_SEED=%d", seed)
	draw := rand.New(rand.NewPCG(seed, 3))
	synctest.Test(t, func(t *testing.T) {
		const servers = 300
		var book *inventory.Inventory
		m := &made{t: t, store: meta.NewMemory(), admin: inventory.Caller{Name: "admin", Admin: true}}
		defer m.store.Close()
		up := func(machine provision.Machine, _ provision.Spec) {
			peer := "peer-" + machine.ID
			_, err := book.Arrived(t.Context(), inventory.Arrival{PeerID: peer, Hostname: machine.ID, Pool: "web", Server: machine.Key})
			if err == nil {
				err = book.SetFacts(t.Context(), peer, &shoalv1.Facts{Arch: "amd64"})
			}
			if err != nil {
				t.Errorf("arrive: %v", err)
			}
		}
		m.cloud = provisiontest.NewTwin(provisiontest.Cloud{
			Forgetful: true, Latency: 100 * time.Millisecond, Boot: 10 * time.Second, End: 5 * time.Second,
			Fault: provisiontest.Weather(seed, 0.1, false), Up: up,
		})
		var none *provision.Reconciler
		book = m.open(&none)
		if _, err := book.AddCluster(t.Context(), m.admin, "cloud", inventory.KindOpenStack, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := book.CreatePool(t.Context(), m.admin, inventory.Pool{Name: "web", Cluster: "cloud"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the same key asks for the same servers
			if _, err := book.CreateServers(t.Context(), m.admin, "web", servers, "first"); err != nil {
				t.Fatal(err)
			}
		}
		lives := func(done func([]inventory.Server) bool) {
			for range 5 {
				m.live(&book, time.Duration(1+draw.IntN(15_000))*time.Millisecond, done)
			}
			m.live(&book, time.Hour, done)
		}
		lives(func(list []inventory.Server) bool { return all(list, inventory.Ready, true) })
		list, err := book.Servers(t.Context(), "")
		if err != nil || len(list) != servers || !all(list, inventory.Ready, true) || len(m.cloud.Alive()) != servers {
			t.Fatalf("%d servers, %d machines, %v; the first is %+v", len(list), len(m.cloud.Alive()), err, list[0])
		}
		for _, s := range list {
			if _, err := book.Retire(t.Context(), m.admin, s.ID); err != nil {
				t.Fatal(err)
			}
		}
		lives(func(list []inventory.Server) bool { return all(list, inventory.Retired, false) })
		if alive := m.cloud.Alive(); len(alive) > 0 {
			t.Errorf("%d machines are left", len(alive))
		}
		if doubles := m.cloud.Doubles(); len(doubles) > 0 {
			t.Errorf("two machines for %v", doubles)
		}
	})
}

// all reports whether the servers are in a phase, and have a machine or are
// done with it.
func all(list []inventory.Server, phase inventory.Phase, machine bool) bool {
	for _, s := range list {
		if s.Phase != phase || (s.ProviderID != "") != machine || s.Released == machine {
			return false
		}
	}
	return true
}

// TestManagedFails: a failure is written down once, with its reason, and not
// over a server that was retired.
func TestManagedFails(t *testing.T) {
	var none *provision.Reconciler
	m := &made{t: t, store: meta.NewMemory()}
	book := m.open(&none)
	admin := inventory.Caller{Name: "admin", Admin: true}
	if _, err := book.AddCluster(t.Context(), admin, "metal", inventory.KindMetal, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := book.CreatePool(t.Context(), admin, inventory.Pool{Name: "web", Cluster: "metal"}); err != nil {
		t.Fatal(err)
	}
	made, err := book.CreateServers(t.Context(), admin, "web", 1, "k")
	if err != nil {
		t.Fatal(err)
	}
	id := made[0].ID
	inv := &managed{book: book, provider: "twin"}
	if err := inv.Intend(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := inv.Fail(t.Context(), id, "machine", "the host key is another one"); err != nil {
		t.Fatal(err)
	}
	s, err := book.Server(t.Context(), id)
	if err != nil || s.Phase != inventory.Failed || s.FailedAt != "machine" || s.Reason != "the host key is another one" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := book.Retire(t.Context(), admin, id); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Intend": inv.Intend(t.Context(), id), "Fail": inv.Fail(t.Context(), id, "machine", "late")} {
		if !errors.Is(err, provision.ErrChanged) {
			t.Errorf("%s of a retired server: %v", what, err)
		}
	}
	if list, err := inv.Managed(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := inv.Gone(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	if list, err := inv.Managed(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
