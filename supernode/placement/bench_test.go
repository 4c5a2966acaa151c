package placement

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

var fleetSizes = []int{1000, 10_000}

// fleetOf is a pool of hosts in racks of 40, a third of which hold a layer.
func fleetOf(n int) []Host {
	hosts := make([]Host, n)
	for i := range hosts {
		hosts[i] = aHost(fmt.Sprintf("node%05d.dc1.example.net", i), at(fmt.Sprint("r", i/40), fmt.Sprint("z", i/400)))
		if i%3 == 0 {
			holds(layerA)(&hosts[i])
		}
	}
	return hosts
}

func BenchmarkMake(b *testing.B) {
	for _, n := range fleetSizes {
		hosts := fleetOf(n)
		for _, s := range []Spread{Packed, SpreadRack} {
			b.Run(fmt.Sprintf("hosts=%d/replicas=%d/spread=%s", n, n/10, s), func(b *testing.B) {
				for b.Loop() {
					if _, err := Make(aRequest(n/10, func(r *Request) { r.Spread, r.Spares = s, n/100 }), hosts); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// fleetWorld is a pond without water.
type fleetWorld struct {
	pond
	hosts []Host
}

func (w *fleetWorld) Hosts(context.Context, string, *Image, *Service) ([]Host, error) {
	return slices.Clone(w.hosts), nil
}

func (w *fleetWorld) Host(_ context.Context, server string) (*Host, error) {
	for _, h := range w.hosts {
		if h.Server == server {
			return &h, nil
		}
	}
	return nil, nil
}

// runnerOf is a Runner with a service of n/10 containers on n hosts, each of
// which has two containers of others, with a port each.
func runnerOf(b *testing.B, n int) (*Runner, *Record) {
	w := &fleetWorld{hosts: fleetOf(n)}
	r := New(Config{Meta: meta.NewMemory(), World: w, Engine: NewMemory(func(string, *shoalv1.ReportContainersRequest) {})})
	record := anOrder("app", n/10).record(time.Now())
	for i, h := range w.hosts {
		host := HostRecord{Server: h.Server, Pool: "web", Generation: 1}
		for _, port := range []int32{81, 82} {
			id := fmt.Sprintf("other-%d-%d", i, port)
			host.Claims = append(host.Claims, Claim{ID: id, Placement: "other", Revision: 1, Need: Need{CPU: 100, Memory: 1 << 20, Ports: []int32{port}}, Open: true, Run: true, Told: true})
		}
		if i%10 == 0 {
			record.Containers = append(record.Containers, Placed{ID: fmt.Sprintf("app-%d", i), Server: h.Server, Host: h.Name, Revision: 1, Ordered: time.Now()})
		}
		op, err := put(hostPrefix+h.Server, host)
		if err == nil {
			_, err = r.cfg.Meta.Commit(b.Context(), nil, []meta.Op{op})
		}
		if err != nil {
			b.Fatal(err)
		}
		r.reports[h.Server] = report{generation: 1 << 40}
	}
	record.Phase = PhaseRunning
	if _, err := r.save(b.Context(), versioned[Record]{value: record}); err != nil {
		b.Fatal(err)
	}
	return r, &record
}

// What every ten seconds cost when nothing is to be done.
func BenchmarkLookAfter(b *testing.B) {
	for _, n := range fleetSizes {
		b.Run(fmt.Sprint("hosts=", n), func(b *testing.B) {
			r, record := runnerOf(b, n)
			if err := r.sync(b.Context(), record); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := r.lookAfter(b.Context(), false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Holding room for a service, and letting go of it.
func BenchmarkSync(b *testing.B) {
	for _, n := range fleetSizes {
		b.Run(fmt.Sprint("hosts=", n), func(b *testing.B) {
			r, record := runnerOf(b, n)
			empty := *record
			empty.Containers = nil
			for b.Loop() {
				for _, one := range []*Record{record, &empty} {
					if err := r.sync(b.Context(), one); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// A pool whose hosts are nearly full: what of a thousand lost containers has
// room is found.
func BenchmarkRepair(b *testing.B) {
	for _, n := range fleetSizes {
		b.Run(fmt.Sprint("hosts=", n), func(b *testing.B) {
			r, record := runnerOf(b, n)
			hosts := fleetOf(n)
			for i := range hosts {
				hosts[i].Connected = i >= n/10 || i%10 != 0
				if i > n/100 {
					hosts[i].Taints = []string{"full"}
				}
			}
			record.Containers = record.Containers[:n/20]
			for i := range record.Containers {
				record.Containers[i].Server = "gone"
			}
			record.Change = &Change{Kind: kindRepair}
			for b.Loop() {
				if _, err := r.planRepair(record, record.request(record.current().Service, Image{}, 0), hosts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
