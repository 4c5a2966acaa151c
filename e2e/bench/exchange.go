package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/netns"
)

// exchange is our own: a supernode on the seed's host, an agent on each other
// host, and the small client pulling through each agent's mirror. Warm, the
// image was pushed before; cold, it lies in a registry that only the
// supernode is to ask.
type exchange struct {
	supernode *cluster.Supernode
	agents    []*cluster.Agent
}

func (*exchange) name() string { return "Shoal" }

func (e *exchange) prepare(ctx context.Context, s *stage) error {
	var o cluster.SupernodeOptions
	if s.cold {
		if _, err := startOrigin(ctx, s, s.upstream); err != nil {
			return err
		}
		o.Upstreams = map[string]string{e.registry(s): "http://" + e.registry(s)}
	}
	var err error
	if e.supernode, err = cluster.StartSupernode(ctx, s.bin, s.seed, o); err != nil {
		return err
	}
	s.engine[e.supernode.Process] = "seed"
	if !s.cold {
		if err := e.supernode.Push(ctx, "bench/image", "v1", s.image); err != nil {
			return err
		}
	}
	token, err := e.supernode.JoinToken(ctx, s.n)
	if err != nil {
		return err
	}
	e.agents = make([]*cluster.Agent, s.n)
	group, joining := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, h := range s.hosts {
		group.Go(func() error {
			a, err := e.supernode.StartAgent(joining, h, token)
			e.agents[i] = a
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, a := range e.agents {
		s.engine[a.Process] = "host"
	}
	return nil
}

// registry is the upstream's name.
func (*exchange) registry(s *stage) string { return s.upstream.Addr + ":5000" }

func (e *exchange) launch(ctx context.Context, s *stage, begin time.Time) ([]*netns.Process, error) {
	args := []string{"-base", strings.TrimSuffix(e.agents[0].Mirror, "/")} // the same on each host
	if s.cold {
		args = append(args, "-ns", e.registry(s))
	}
	env := []string{"PULL_USER=" + cluster.AdminUser, "PULL_PASSWORD=" + e.supernode.Password}
	return launchPullers(ctx, s, begin, env, args...)
}

// frozen is the exchange with one agent more, which takes part in the pull
// and then accepts and says nothing. What it costs the others is the
// difference to the plain run.
type frozen struct{ exchange }

func (*frozen) name() string { return "Shoal, one host frozen" }

func (f *frozen) launch(ctx context.Context, s *stage, begin time.Time) ([]*netns.Process, error) {
	all, err := f.exchange.launch(ctx, s, begin)
	if err != nil {
		return nil, err
	}
	victim := f.agents[len(f.agents)-1]
	rate := bytesPerSecond(s.mbit)
	half := time.Duration(float64(s.size) / rate / 2 * float64(time.Second))
	time.AfterFunc(time.Until(begin.Add(half)), func() {
		if err := victim.Freeze(); err != nil {
			fmt.Println("freeze:", err)
		}
	})
	return all[:len(all)-1], nil
}
