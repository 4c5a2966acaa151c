package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
)

// cargo is the image that is moved, as an OCI layout folder.
type cargo struct {
	dir   string
	image v1.Image
	blobs []string // paths of config and layers
	size  int64    // manifest, config and layers, in bytes
}

// load makes the image under dir, or takes the one that is there.
func load(ctx context.Context, dir string, layers int, layerSize int64) (*cargo, error) {
	spec := image.Spec{Seed: 1, NoProgram: true}
	for range layers {
		spec.Layers = append(spec.Layers, layerSize)
	}
	img, err := image.Build(ctx, spec)
	if err != nil {
		return nil, err
	}
	c := &cargo{dir: filepath.Join(dir, fmt.Sprintf("image-%dx%d", layers, layerSize)), image: img}
	if _, err := os.Stat(filepath.Join(c.dir, "index.json")); err != nil {
		if err := image.WriteLayout(c.dir, "v1", img); err != nil {
			return nil, err
		}
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		c.blobs = append(c.blobs, filepath.Join(c.dir, "blobs", "sha256", d.Digest.Hex))
	}
	c.size, err = image.Size(img)
	return c, err
}

// stage is one run's network: a seed, hosts with equal links, and for a cold
// run an upstream.
type stage struct {
	*cargo
	params
	net      *netns.Net
	seed     *netns.Host
	upstream *netns.Host // nil unless cold
	hosts    []*netns.Host
	engine   map[*netns.Process]string // processes whose cost counts, with their role
}

// params say what is run.
type params struct {
	bin  string  // folder of supernode, dfagent
	self string  // this program
	node string  // torrentnode
	n    int     // hosts
	mbit float64 // of every link, both ways
	cold bool
}

func newStage(ctx context.Context, dir string, p params, c *cargo) (*stage, error) {
	net, err := netns.New(ctx, dir)
	if err != nil {
		return nil, err
	}
	s := &stage{cargo: c, params: p, net: net, engine: map[*netns.Process]string{}}
	link := netns.Link{UpMbit: p.mbit, DownMbit: p.mbit}
	add := func(name string) *netns.Host {
		if err != nil {
			return nil
		}
		var h *netns.Host
		h, err = net.AddHost(ctx, name, link)
		return h
	}
	s.seed = add("seed")
	if p.cold {
		s.upstream = add("upstream")
	}
	for i := range p.n {
		s.hosts = append(s.hosts, add("host"+strconv.Itoa(i+1)))
	}
	if err != nil {
		net.Close()
		return nil, err
	}
	return s, nil
}

// note is the line by which a runner says that it is ready or done.
type note struct {
	Ready bool  `json:"ready"`
	Done  int64 `json:"done"` // Unix time in nanoseconds
	First int64 `json:"first"`
	Bytes int64 `json:"bytes"`
}

// await waits until the process has written a note that satisfies.
func await(ctx context.Context, p *netns.Process, good func(note) bool) (note, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ended := false; ; {
		for line := range strings.Lines(p.Log()) {
			var n note
			if json.Unmarshal([]byte(line), &n) == nil && good(n) {
				return n, nil
			}
		}
		if ended {
			return note{}, fmt.Errorf("%s ended without being done:\n%s", p.Name, p.Tail(10))
		}
		select {
		case <-tick.C:
		case <-p.Done():
			ended = true // read what it wrote last
		case <-ctx.Done():
			return note{}, fmt.Errorf("%s: %w\n%s", p.Name, ctx.Err(), p.Tail(10))
		}
	}
}

func isReady(n note) bool { return n.Ready }
func isDone(n note) bool  { return n.Done > 0 }
