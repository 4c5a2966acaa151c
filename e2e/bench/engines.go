package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/e2e/netns"
)

// engine is a way of bringing one image onto many hosts.
type engine interface {
	name() string
	// prepare starts what must run beforehand.
	prepare(ctx context.Context, s *stage) error
	// launch starts one runner on each host; they begin at the given time
	// and write a note when they have everything.
	launch(ctx context.Context, s *stage, begin time.Time) ([]*netns.Process, error)
}

// direct is a pull straight from a registry, every host for itself.
type direct struct{}

func (direct) name() string { return "straight from a registry" }

func (direct) prepare(ctx context.Context, s *stage) error {
	p, err := startOrigin(ctx, s, s.seed)
	if err != nil {
		return err
	}
	s.engine[p] = "seed"
	return nil
}

// startOrigin serves the image from a host at port 5000.
func startOrigin(ctx context.Context, s *stage, h *netns.Host) (*netns.Process, error) {
	p, err := h.Start(ctx, "origin", nil, s.self, "origin", "-layout", s.dir, "-listen", h.Addr+":5000")
	if err != nil {
		return nil, err
	}
	return p, p.WaitReady(ctx, h, "http://"+h.Addr+":5000/v2/")
}

func (direct) launch(ctx context.Context, s *stage, begin time.Time) ([]*netns.Process, error) {
	return launchPullers(ctx, s, begin, nil, "-base", "http://"+s.seed.Addr+":5000")
}

// launchPullers starts the small client on every host.
func launchPullers(ctx context.Context, s *stage, begin time.Time, env []string, args ...string) ([]*netns.Process, error) {
	var all []*netns.Process
	for _, h := range s.hosts {
		argv := append([]string{s.self, "pull", "-repo", "bench/image", "-ref", "v1",
			"-start", strconv.FormatInt(begin.UnixNano(), 10)}, args...)
		p, err := h.Start(ctx, "pull", env, argv...)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// torrentEngine is anacrolix/torrent; args are its tuning.
type torrentEngine struct {
	label string
	piece int64
	args  []string
}

func (e torrentEngine) name() string { return e.label }

func (e torrentEngine) prepare(ctx context.Context, s *stage) error {
	dir := filepath.Join(s.seed.Dir, "torrents")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("torrents: %w", err)
	}
	_, err := s.seed.Run(ctx, s.node, "-make", strings.Join(s.blobs, ","), "-torrents", dir, "-piece", strconv.FormatInt(e.piece, 10))
	if err != nil {
		return err
	}
	argv := append([]string{s.node, "-seed", "-torrents", dir, "-listen", s.seed.Addr + ":6881",
		"-data", filepath.Join(s.dir, "blobs", "sha256")}, e.args...)
	p, err := s.seed.Start(ctx, "torrent", nil, argv...)
	if err != nil {
		return err
	}
	s.engine[p] = "seed"
	_, err = await(ctx, p, isReady)
	return err
}

func (e torrentEngine) launch(ctx context.Context, s *stage, begin time.Time) ([]*netns.Process, error) {
	var all []*netns.Process
	for i, h := range s.hosts {
		peers := []string{s.seed.Addr + ":6881"}
		for j, other := range s.hosts {
			if j != i {
				peers = append(peers, other.Addr+":6881")
			}
		}
		data := filepath.Join(h.Dir, "data")
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, fmt.Errorf("torrent host: %w", err)
		}
		argv := append([]string{s.node, "-torrents", filepath.Join(s.seed.Dir, "torrents"), "-listen", h.Addr + ":6881",
			"-data", data, "-peers", strings.Join(peers, ","),
			"-start", strconv.FormatInt(begin.UnixNano(), 10)}, e.args...)
		p, err := h.Start(ctx, "torrent", nil, argv...)
		if err != nil {
			return nil, err
		}
		s.engine[p] = "host"
		all = append(all, p)
	}
	for _, p := range all {
		if _, err := await(ctx, p, isReady); err != nil {
			return nil, err
		}
	}
	return all, nil
}
