package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/runtimes"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	poolName    = "demo"
	serviceName = "greeter"
	replicas    = 2
)

// engine starts what is to run containers on a host, and returns the agent's
// flags for it: containerd where this is root and it is installed, else the
// engine that only pretends.
func (h *house) engine(ctx context.Context, host *netns.Host) ([]string, error) {
	if !h.containerd {
		return []string{"--engine", "memory"}, nil
	}
	c, err := runtimes.StartContainerd(ctx, host, "")
	if err != nil {
		return nil, err
	}
	return []string{"--containerd", c.Socket}, nil
}

// hasContainerd reports whether real containers can run here.
func hasContainerd() bool {
	for _, program := range []string{"containerd", "ctr", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return false
		}
	}
	return os.Getuid() == 0
}

// place shows that a container starts only where its image is already.
func (h *house) place(ctx context.Context) error {
	with := "containerd, one for each host"
	if !h.containerd {
		with = "the engine in memory, which only pretends to run containers (real ones need root and containerd)"
	}
	step("Placing a service on %d of the %d hosts, none of which has its image; they run it with %s", replicas, agents, with)
	img, err := image.Build(ctx, image.Spec{Line: line, Layers: []int64{24 * mib}, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		return fmt.Errorf("make the service's image: %w", err)
	}
	if err := h.supernode.Push(ctx, "demo/"+serviceName, "v1", img); err != nil {
		return err
	}
	h.placed = true
	p, err := place(ctx, h.placements(), &shoalv1.PlaceRequest{
		Name: serviceName, Pool: poolName, Replicas: replicas, Spares: -1, Spread: "host",
		Service: &shoalv1.Service{Image: h.supernode.Ref("demo/"+serviceName, "v1"), Args: []string{"serve"}, CpuMilli: 100, MemoryBytes: 64 << 20},
	})
	if err != nil {
		return fmt.Errorf("place the service: %w", err)
	}
	return ledger(p)
}

func (h *house) placements() shoalv1connect.PlacementServiceClient {
	return shoalv1connect.NewPlacementServiceClient(&http.Client{Transport: asAdmin{h.supernode.Password}}, h.supernode.URL+"/api")
}

// unplace removes the service and waits until nothing of it is left.
func (h *house) unplace(ctx context.Context) error {
	_, err := h.placements().RemovePlacement(ctx, connect.NewRequest(&shoalv1.RemovePlacementRequest{Name: serviceName}))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for err == nil {
		_, err = h.placements().GetPlacement(ctx, connect.NewRequest(&shoalv1.GetPlacementRequest{Name: serviceName}))
		if err == nil {
			<-tick.C
		}
	}
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil
	}
	return err
}

// place follows a placement to its end.
func place(ctx context.Context, client shoalv1connect.PlacementServiceClient, request *shoalv1.PlaceRequest) (last *shoalv1.Placement, err error) {
	updates, err := client.Place(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, err
	}
	defer updates.Close()
	for updates.Receive() {
		u := updates.Msg()
		if u.Error != "" {
			return nil, errors.New(u.Error)
		}
		if u.Placement != nil {
			last = u.Placement
		}
	}
	if err := updates.Err(); err != nil {
		return nil, err
	}
	if last == nil {
		return nil, errors.New("the supernode did not say where it was placed")
	}
	return last, nil
}

// ledger prints when each host had the image and when its container started,
// and fails unless every start came after the last of the others.
func ledger(p *shoalv1.Placement) error {
	const clock = "15:04:05.000"
	fmt.Printf("\n  %-9s  %-12s  %-12s  %s\n", "host", "image asked", "image ready", "container started")
	var ready, started time.Time
	for _, h := range p.Prepulls {
		did := "(a spare: it only has the image)"
		i := slices.IndexFunc(p.Containers, func(c *shoalv1.PlacedContainer) bool { return c.Server == h.Server })
		if i >= 0 {
			at := p.Containers[i].Status.GetStarted().AsTime()
			did = at.Local().Format(clock)
			if started.IsZero() || at.Before(started) {
				started = at
			}
			if h.Ready.AsTime().After(ready) {
				ready = h.Ready.AsTime()
			}
		}
		fmt.Printf("  %-9s  %-12s  %-12s  %s\n", h.Server, h.Asked.AsTime().Local().Format(clock), h.Ready.AsTime().Local().Format(clock), did)
	}
	if int(p.Healthy) != replicas || !ready.Before(started) {
		return fmt.Errorf("%d of %d run; the last image came at %s, the first start at %s", p.Healthy, replicas, ready, started)
	}
	fmt.Printf("\n  The first container started %d ms after the last of these hosts had the image.\n\n", started.Sub(ready).Milliseconds())
	return nil
}

// enrol makes the pool that the agents are to join, and a token for it.
func (h *house) enrol(ctx context.Context) (token string, err error) {
	client := shoalv1connect.NewInventoryServiceClient(&http.Client{Transport: asAdmin{h.supernode.Password}}, h.supernode.URL+"/api")
	if _, err := client.AddCluster(ctx, connect.NewRequest(&shoalv1.AddClusterRequest{Name: "here", Kind: "metal"})); err != nil {
		return "", fmt.Errorf("add a cluster: %w", err)
	}
	if _, err := client.CreatePool(ctx, connect.NewRequest(&shoalv1.CreatePoolRequest{Pool: &shoalv1.Pool{
		Name: poolName, Cluster: "here", Tier: "light", Price: &shoalv1.Price{Currency: "EUR", HourlyMicro: 400_000},
	}})); err != nil {
		return "", fmt.Errorf("create a pool: %w", err)
	}
	return h.supernode.JoinToken(ctx, agents, "--pool", poolName)
}
