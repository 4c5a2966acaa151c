package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/netns"
)

// grace is how long a process has to stop by itself.
const grace = 10 * time.Second

// house is one supernode and its agents, as processes of this machine.
type house struct {
	bin, dir   string
	containerd bool // runs the containers; else the engine in memory pretends
	placed     bool // a service, perhaps
	hosts      []*netns.Host
	supernode  *cluster.Supernode
	agents     []*cluster.Agent
}

func (h *house) host(name string) (*netns.Host, error) {
	host, err := netns.Local(name, h.dir)
	if err == nil {
		h.hosts = append(h.hosts, host)
	}
	return host, err
}

// start brings up the supernode and joins the agents with one token.
func (h *house) start(ctx context.Context) error {
	host, err := h.host("supernode")
	if err != nil {
		return err
	}
	h.supernode, err = cluster.StartSupernode(ctx, h.bin, host, cluster.SupernodeOptions{Password: rand.Text()})
	if err != nil {
		return err
	}
	token, err := h.enrol(ctx)
	if err != nil {
		return err
	}
	h.agents = make([]*cluster.Agent, agents)
	for i := range agents {
		host, err := h.host(fmt.Sprintf("agent-%d", i+1))
		if err != nil {
			return err
		}
		engine, err := h.engine(ctx, host)
		if err != nil {
			return err
		}
		if h.agents[i], err = h.supernode.StartAgent(ctx, host, token, engine...); err != nil {
			return err
		}
	}
	return nil
}

// close ends what was placed, since containers outlive what started them, then
// the agents and at last the supernode.
func (h *house) close() {
	if h.placed {
		ctx, cancel := context.WithTimeout(context.Background(), 2*grace)
		defer cancel()
		if err := h.unplace(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "demo: the service was not removed: %v\n", err)
		}
	}
	var group errgroup.Group
	for _, a := range h.agents {
		if a != nil {
			group.Go(func() error { return a.Terminate(grace) })
		}
	}
	group.Wait() //nolint:errcheck // what did not stop by itself was killed
	if h.supernode != nil {
		h.supernode.Terminate(grace) //nolint:errcheck // the same
	}
	for _, host := range h.hosts {
		host.Close()
	}
}

// logs is the end of each process's log, for the reader of a failure.
func (h *house) logs() error {
	var out strings.Builder
	if h.supernode != nil {
		fmt.Fprintf(&out, "\n--- the supernode said last:\n%s\n", h.supernode.Tail(12))
	}
	for _, a := range h.agents {
		if a != nil {
			fmt.Fprintf(&out, "\n--- %s said last:\n%s\n", a.Host.Name, a.Tail(12))
		}
	}
	return errors.New(out.String())
}

// host is the host:port of a URL of ours.
func host(url string) string { return strings.TrimPrefix(url, "http://") }
