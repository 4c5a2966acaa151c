package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/runtimes"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	// startRounds is how often each host gets a service; they take turns.
	startRounds = 15
	// startMbit is the rate of the links, so that a missing image costs seconds.
	startMbit = 100
)

// compareStart places services on a host that had the image for long and on
// one that gets it for the occasion, and says how long the containers take to
// start once the host is told to.
func compareStart(ctx context.Context, p params) (string, error) {
	if err := netns.Missing("containerd", "ctr", "runc"); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	net, err := netns.New(ctx, dir)
	if err != nil {
		return "", err
	}
	defer net.Close()
	s := &starter{bin: p.bin, net: net}
	if err := s.open(ctx); err != nil {
		return "", err
	}
	var had, got, whole []time.Duration
	for round := range startRounds {
		after, all, err := s.round(ctx, round)
		if err != nil {
			return "", err
		}
		had, got, whole = append(had, after[0]), append(got, after[1]), append(whole, all)
	}
	a, b := middle(had), middle(got)
	return fmt.Sprintf("## A placed container: from the order to the start\n\n%d services, each on a host that had its image (24 MiB) for long and on one "+
		"that was given it first, over %d Mbit/s; containerd 1.6. From the order to the start: %d ms where it was, %d ms where it was brought (medians). **Ratio %.2f.** "+
		"With the prepull, and what the supernode does, the second took %.1f s from the request to the start.",
		startRounds, startMbit, a.Milliseconds(), b.Milliseconds(), float64(b)/float64(a), middle(whole).Seconds()), nil
}

func middle(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// starter is a supernode and two hosts with containerd, each a pool.
type starter struct {
	bin       string
	net       *netns.Net
	supernode *cluster.Supernode
	admin     *http.Client
}

var startPools = []string{"had", "gets"}

func (s *starter) open(ctx context.Context) error {
	link := netns.Link{UpMbit: startMbit, DownMbit: startMbit}
	seed, err := s.net.AddHost(ctx, "seed", link)
	if err != nil {
		return err
	}
	if s.supernode, err = cluster.StartSupernode(ctx, s.bin, seed, cluster.SupernodeOptions{}); err != nil {
		return err
	}
	s.admin = &http.Client{Transport: asAdmin{seed.Transport(), s.supernode.Password}}
	inventory := shoalv1connect.NewInventoryServiceClient(s.admin, s.supernode.URL+"/api")
	if _, err := inventory.AddCluster(ctx, connect.NewRequest(&shoalv1.AddClusterRequest{Name: "bench", Kind: "metal"})); err != nil {
		return fmt.Errorf("add a cluster: %w", err)
	}
	for _, pool := range startPools {
		_, err := inventory.CreatePool(ctx, connect.NewRequest(&shoalv1.CreatePoolRequest{Pool: &shoalv1.Pool{Name: pool, Cluster: "bench", Tier: "core"}}))
		if err != nil {
			return fmt.Errorf("create a pool: %w", err)
		}
		if err := s.host(ctx, pool, link); err != nil {
			return err
		}
	}
	return nil
}

func (s *starter) host(ctx context.Context, pool string, link netns.Link) error {
	host, err := s.net.AddHost(ctx, pool, link)
	if err != nil {
		return err
	}
	engine, err := runtimes.StartContainerd(ctx, host, "")
	if err != nil {
		return err
	}
	token, err := s.supernode.JoinToken(ctx, 1, "--pool", pool)
	if err != nil {
		return err
	}
	_, err = s.supernode.StartAgent(ctx, host, token, "--containerd", engine.Socket)
	return err
}

// round places one new image on both hosts, and tells how long each took from
// the order to the start, and the second from the request.
func (s *starter) round(ctx context.Context, round int) (after [2]time.Duration, whole time.Duration, err error) {
	img, err := image.Build(ctx, image.Spec{Line: "start", Layers: []int64{24 << 20}, Seed: uint64(round) + 1})
	if err != nil {
		return after, 0, err
	}
	repository := fmt.Sprintf("bench/start-%d", round)
	if err := s.supernode.Push(ctx, repository, "v1", img); err != nil {
		return after, 0, err
	}
	ref := s.supernode.Ref(repository, "v1")
	if err := s.prewarm(ctx, ref, startPools[0]); err != nil {
		return after, 0, err
	}
	order := []int{round % 2, 1 - round%2}
	for _, i := range order {
		began := time.Now()
		c, err := s.place(ctx, ref, startPools[i])
		if err != nil {
			return after, 0, err
		}
		started := c.Status.Started.AsTime()
		after[i] = started.Sub(c.Ordered.AsTime())
		if i == 1 {
			whole = started.Sub(began)
		}
	}
	return after, whole, nil
}

func (s *starter) prewarm(ctx context.Context, ref, pool string) error {
	stream, err := shoalv1connect.NewAdminServiceClient(s.admin, s.supernode.URL+"/api").Prewarm(ctx,
		connect.NewRequest(&shoalv1.PrewarmRequest{Images: []string{ref}, Pool: pool, Unpack: true}))
	if err != nil {
		return fmt.Errorf("prewarm: %w", err)
	}
	defer stream.Close()
	for stream.Receive() {
		if stream.Msg().Error != "" {
			return errors.New("prewarm: " + stream.Msg().Error)
		}
	}
	return stream.Err()
}

// place runs one container on a pool, removes it again, and returns what the
// supernode told of it.
func (s *starter) place(ctx context.Context, ref, pool string) (*shoalv1.PlacedContainer, error) {
	client := shoalv1connect.NewPlacementServiceClient(s.admin, s.supernode.URL+"/api")
	stream, err := client.Place(ctx, connect.NewRequest(&shoalv1.PlaceRequest{
		Name: pool, Pool: pool, Replicas: 1, Service: &shoalv1.Service{Image: ref, Args: []string{"serve"}, CpuMilli: 100, MemoryBytes: 64 << 20},
	}))
	if err != nil {
		return nil, fmt.Errorf("place on %s: %w", pool, err)
	}
	defer stream.Close()
	var last *shoalv1.Placement
	for stream.Receive() {
		if u := stream.Msg(); u.Error != "" {
			return nil, fmt.Errorf("place on %s: %s", pool, u.Error)
		} else if u.Placement != nil {
			last = u.Placement
		}
	}
	if err := stream.Err(); err != nil {
		return nil, fmt.Errorf("place on %s: %w", pool, err)
	}
	if len(last.GetContainers()) != 1 || last.Containers[0].Status.GetStarted() == nil {
		return nil, fmt.Errorf("place on %s: nothing was started: %v", pool, last)
	}
	if _, err := client.RemovePlacement(ctx, connect.NewRequest(&shoalv1.RemovePlacementRequest{Name: pool})); err != nil {
		return nil, fmt.Errorf("remove %s: %w", pool, err)
	}
	return last.Containers[0], s.gone(ctx, client, pool)
}

func (s *starter) gone(ctx context.Context, client shoalv1connect.PlacementServiceClient, name string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := client.GetPlacement(ctx, connect.NewRequest(&shoalv1.GetPlacementRequest{Name: name}))
		if connect.CodeOf(err) == connect.CodeNotFound {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the end of %s: %w", name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// asAdmin logs each request in.
type asAdmin struct {
	http.RoundTripper
	password string
}

func (a asAdmin) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(cluster.AdminUser, a.password)
	return a.RoundTripper.RoundTrip(r)
}
