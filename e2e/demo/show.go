package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/pull"
)

const (
	repository = "demo/app"
	imageName  = repository + ":v1"
	mib        = 1 << 20
)

// show does all of it, in the order in which it is told.
func (h *house) show(ctx context.Context) error {
	step("Starting a supernode and %d agents on this host", agents)
	if err := h.startSupernode(ctx); err != nil {
		return err
	}
	if err := h.startAgents(ctx); err != nil {
		return err
	}
	step("Making an image: a small program and 3 layers of random bytes")
	img, err := image.Build(ctx, image.Spec{
		Line: "hello from the swarm", Layers: []int64{48 * mib, 24 * mib, 8 * mib}, Seed: uint64(time.Now().UnixNano()),
	})
	if err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	size, err := image.Size(img)
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(h.registry+"/"+imageName, name.Insecure)
	if err != nil {
		return err
	}
	began := time.Now()
	login := &authn.Basic{Username: "admin", Password: h.password}
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuth(login)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	step("Pushed %s: %.1f MB in %.2f s", imageName, float64(size)/1e6, time.Since(began).Seconds())

	step("Pulling it through all %d agents at once", agents)
	results := make([]pull.Result, agents)
	var group errgroup.Group
	for i, host := range h.hosts {
		group.Go(func() (err error) {
			results[i], err = pull.Pull(ctx, pull.Image{
				Base: "http://" + host.mirror, Repository: repository, Reference: "v1",
				User: "admin", Password: h.password, Verify: true,
			})
			if err != nil {
				return fmt.Errorf("pull through %s: %w", host.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	return h.report(ctx, results, digest.String(), size)
}

// sources are a pull's bytes by where they came from.
type sources map[string]int64

// report prints who got what from where and fails unless it all adds up.
func (h *house) report(ctx context.Context, results []pull.Result, digest string, size int64) error {
	fmt.Printf("\n  %-9s %8s  %12s  %12s  %12s\n", "agent", "seconds", "from peers", "from seed", "other")
	var fromSeed, fromPeers int64
	for i, host := range h.hosts {
		got, err := h.pullReport(ctx, host)
		if err != nil {
			return err
		}
		if results[i].Digest != digest || results[i].Bytes != size {
			return fmt.Errorf("%s got %d bytes of %s, not %d of %s", host.name, results[i].Bytes, results[i].Digest, size, digest)
		}
		other := int64(0)
		for kind, n := range got {
			if kind != "peer" && kind != "supernode" {
				other += n
			}
		}
		fmt.Printf("  %-9s %8.2f  %9.1f MB  %9.1f MB  %9.1f MB\n", host.name, results[i].Done.Sub(results[i].Began).Seconds(),
			float64(got["peer"])/1e6, float64(got["supernode"])/1e6, float64(other)/1e6)
		fromSeed += got["supernode"]
		fromPeers += got["peer"]
	}
	fmt.Printf("\n  The supernode sent %.2f copies of the image to %d hosts; the rest came from neighbours.\n",
		float64(fromSeed)/float64(size), agents)
	if fromPeers == 0 {
		return fmt.Errorf("no byte came from a neighbour: this was no swarm")
	}
	return nil
}

// pullReport asks dfget, as a person would.
func (h *house) pullReport(ctx context.Context, host host) (sources, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(h.bin, "dfget"), "--agent", host.socket(), "--json", "pull-report", "--last").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s where its bytes came from: %w", host.name, err)
	}
	var parsed struct {
		Blobs []struct {
			Sources []struct {
				Kind  string
				Bytes int64 `json:",string"`
			}
		}
	}
	if err := json.Unmarshal(out, &parsed); err != nil {
		return nil, fmt.Errorf("read the pull report of %s: %w", host.name, err)
	}
	got := sources{}
	for _, b := range parsed.Blobs {
		for _, s := range b.Sources {
			got[s.Kind] += s.Bytes
		}
	}
	return got, nil
}

func step(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
