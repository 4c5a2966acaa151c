package placement

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestALife lets everything happen to a pool in random order: changes, hosts
// that go and come back, images that are missing or sick, a supernode that is
// killed at any commit. At no time is a host over its capacity, a container
// without its image or two on one port; when all is well again, exactly what
// the placements have runs. SHOAL_SEED plays one life again.
func TestALife(t *testing.T) {
	seeds := []uint64{}
	if s, err := strconv.ParseUint(os.Getenv("SHOAL_SEED"), 10, 64); err == nil {
		seeds = append(seeds, s)
	}
	for len(seeds) == 0 || len(seeds) < 25 && os.Getenv("SHOAL_SEED") == "" {
		seeds = append(seeds, rand.Uint64())
	}
	for _, seed := range seeds {
		if t.Failed() {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			p := newPond(t, 5)
			live(p, rand.New(rand.NewPCG(seed, 0)))
			if t.Failed() {
				t.Logf("SHOAL_SEED=%d", seed)
			}
		})
	}
}

// live plays sixty things and then makes all well.
func live(p *pond, rng *rand.Rand) {
	p.start(0, false)
	for range 60 {
		happens(p, rng)
		for range rng.IntN(30) {
			tickOver()
		}
		p.sound()
	}
	p.stop()
	for _, d := range []string{image1, image2} {
		p.twin.Set(d, Behaviour{Size: 100, Fetch: time.Second, Start: time.Second, Stop: time.Second})
	}
	p.start(0, false)
	for _, h := range p.hosts {
		p.edit(h.Name, func(h *Host) { h.Phase = phaseReady })
		p.twin.Mend(h.Server)
	}
	<-time.After(30 * time.Minute)
	synctest.Wait()
	p.sound()
	p.allWell()
	p.stop()
}

func happens(p *pond, rng *rand.Rand) {
	ctx, name := context.Background(), fmt.Sprint("app-", rng.IntN(3))
	host := p.hosts[rng.IntN(len(p.hosts))]
	digest := []string{image1, image2}[rng.IntN(2)]
	switch rng.IntN(14) {
	case 0, 1, 2:
		_, _ = p.runner.Place(ctx, anOrder(name, 1+rng.IntN(4), func(o *Order) {
			o.Spread = []Spread{Packed, SpreadHost}[rng.IntN(2)]
			o.Service.Digest, o.Deadline = digest, time.Minute
			if rng.IntN(2) == 0 {
				o.Service.Need.Ports = []int32{80}
			}
		}))
	case 3:
		_, _ = p.runner.Scale(ctx, name, 1+rng.IntN(4))
	case 4, 5:
		_, _ = p.runner.Update(ctx, name, "eve", time.Minute, to(digest, func(s *Service) { s.Need.CPU = 500 * int64(1+rng.IntN(5)) }))
	case 6:
		if rng.IntN(4) == 0 {
			_ = p.runner.Remove(ctx, name)
		}
	case 7:
		_, _ = []func(context.Context, string) (Record, error){p.runner.Stop, p.runner.Start, p.runner.Start, p.runner.Restart}[rng.IntN(4)](ctx, name)
	case 8:
		p.twin.Cut(host.Server)
	case 9, 10:
		p.twin.Mend(host.Server)
	case 11:
		p.edit(host.Name, func(h *Host) { h.Phase = []string{phaseReady, phaseReady, phaseDraining}[rng.IntN(3)] })
	case 12:
		p.twin.Set(digest, []Behaviour{
			{Fetch: time.Second, Start: time.Second, Stop: 3 * time.Second}, {Missing: true}, {Sick: true}, {Fetch: time.Hour}, {Start: time.Second}, {},
		}[rng.IntN(6)])
	case 13:
		p.stop()
		p.start(rng.IntN(10), rng.IntN(2) == 0)
		if rng.IntN(2) == 0 { // the commits at which it dies are yet to come
			<-time.After(time.Duration(rng.IntN(120)) * time.Second)
			p.stop()
			p.start(0, false)
		}
	}
}

// allWell checks that hosts hold and run what the placements have, and
// nothing else.
func (p *pond) allWell() {
	p.t.Helper()
	views, err := p.runner.Views(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	want := map[string]string{} // container to server
	for _, v := range views {
		if v.Change != nil || v.Removing {
			p.t.Errorf("%s is in a change for half an hour: %+v", v.Name, v.Change)
		}
		if v.Phase != PhaseFailed && len(v.Containers) != v.Replicas {
			p.t.Errorf("%s is %s with %d of %d containers", v.Name, v.Phase, len(v.Containers), v.Replicas)
		}
		if !v.Stopped && v.Phase != PhaseFailed && v.Healthy != v.Replicas {
			p.t.Errorf("%s is %s (%s) with %d of %d healthy", v.Name, v.Phase, v.Reason, v.Healthy, v.Replicas)
		}
		for _, c := range v.Containers {
			want[c.ID] = c.Server
		}
	}
	held := 0
	for server, h := range p.claims() {
		for _, c := range h.Claims {
			held++
			if want[c.ID] != server || !c.Open {
				p.t.Errorf("%s holds %+v, which nothing has", server, c)
			}
		}
		for _, c := range p.twin.Containers(server) {
			if want[c.Id] != server {
				p.t.Errorf("%s runs %s, which nothing has", server, c.Id)
			}
		}
	}
	if held != len(want) {
		p.t.Errorf("%d claims for %d containers: %s", held, len(want), strings.TrimSpace(fmt.Sprint(want)))
	}
}
