package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/pull"
)

const (
	repository = "demo/app"
	imageName  = repository + ":v1"
	line       = "hello from the swarm"
	mib        = 1 << 20
)

// show does all of it, in the order in which it is told. The processes that
// it starts live as long as life.
func (h *house) show(life, ctx context.Context) error {
	step("Starting a supernode and %d agents on this host", agents)
	if err := h.start(life); err != nil {
		return err
	}
	step("Making an image: a small program and 3 layers of random bytes")
	img, err := image.Build(ctx, image.Spec{
		Line: line, Layers: []int64{48 * mib, 24 * mib, 8 * mib}, Seed: uint64(time.Now().UnixNano()),
	})
	if err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	size, err := image.Size(img)
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := h.supernode.Push(ctx, repository, "v1", img); err != nil {
		return err
	}
	step("Pushed %s: %.1f MB in %.2f s", imageName, float64(size)/1e6, time.Since(began).Seconds())

	step("Pulling it through all %d agents at once", agents)
	results := make([]pull.Result, agents)
	var group errgroup.Group
	for i, a := range h.agents {
		group.Go(func() (err error) {
			results[i], err = pull.Pull(ctx, pull.Image{
				Base: a.Mirror, Repository: repository, Reference: "v1",
				User: cluster.AdminUser, Password: h.supernode.Password, Verify: true,
			})
			if err != nil {
				return fmt.Errorf("pull through %s: %w", a.Host.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := h.report(ctx, results, digest.String(), size); err != nil {
		return err
	}
	if err := h.roles(ctx); err != nil {
		return err
	}
	if err := h.place(ctx); err != nil {
		return err
	}
	return h.docker(ctx)
}

// report prints who got what from where and fails unless it all adds up.
func (h *house) report(ctx context.Context, results []pull.Result, digest string, size int64) error {
	fmt.Printf("\n  %-9s %8s  %12s  %12s  %12s\n", "agent", "seconds", "from peers", "from seed", "other")
	var fromSeed, fromPeers int64
	for i, a := range h.agents {
		if results[i].Digest != digest || results[i].Bytes != size {
			return fmt.Errorf("%s got %d bytes of %s, not %d of %s", a.Host.Name, results[i].Bytes, results[i].Digest, size, digest)
		}
		told, err := a.PullReport(ctx, "")
		if err != nil {
			return err
		}
		got := told.BySource()
		other := int64(0)
		for kind, n := range got {
			if kind != "peer" && kind != "supernode" {
				other += n
			}
		}
		fmt.Printf("  %-9s %8.2f  %9.1f MB  %9.1f MB  %9.1f MB\n", a.Host.Name, results[i].Done.Sub(results[i].Began).Seconds(),
			float64(got["peer"])/1e6, float64(got["supernode"])/1e6, float64(other)/1e6)
		fromSeed += got["supernode"]
		fromPeers += got["peer"]
	}
	fmt.Printf("\n  The supernode sent %.2f copies of the image to %d hosts; the rest came from neighbours.\n\n",
		float64(fromSeed)/float64(size), agents)
	if fromPeers == 0 {
		return errors.New("no byte came from a neighbour: this was no swarm")
	}
	return nil
}

// docker pulls and runs the image with Docker where one answers.
func (h *house) docker(ctx context.Context) error {
	if err := exec.CommandContext(ctx, "docker", "version").Run(); err != nil {
		step("No Docker answers on this host: that part is left out")
		return nil
	}
	mirror := host(h.agents[0].Mirror)
	ref := mirror + "/" + imageName
	login := exec.CommandContext(ctx, "docker", "login", mirror, "--username", cluster.AdminUser, "--password-stdin")
	login.Stdin = strings.NewReader(h.supernode.Password)
	if out, err := login.CombinedOutput(); err != nil {
		return fmt.Errorf("docker login: %w: %s", err, out)
	}
	defer exec.CommandContext(ctx, "docker", "logout", mirror).Run()         //nolint:errcheck // a courtesy
	defer exec.CommandContext(ctx, "docker", "image", "rm", "-f", ref).Run() //nolint:errcheck // a courtesy
	out, err := exec.CommandContext(ctx, "docker", "run", "--rm", "--network", "none", ref).CombinedOutput()
	if err != nil || !strings.Contains(string(out), line) {
		return fmt.Errorf("docker run %s: %w: %s", ref, err, out)
	}
	step("Docker pulled %s through agent-1 and ran it: %s", ref, line)
	return nil
}

func step(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
