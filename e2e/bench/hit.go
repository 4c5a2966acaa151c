package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/pull"
)

// hitRounds is how often each of the two is read; they take turns, so that
// both see the same machine.
const hitRounds = 5

// compareHit reads a blob of 1 GiB that lies on the host already, by one
// client, from the agent and from nginx, and says what the ratio is.
func compareHit(ctx context.Context, p params, work string) (string, error) {
	if err := netns.Missing("nginx"); err != nil {
		return "", err
	}
	c, err := load(ctx, work, 1, 1<<30)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	p.n, p.mbit, p.cold = 1, 0, false
	s, err := newStage(ctx, dir, p, c)
	if err != nil {
		return "", err
	}
	defer s.net.Close()
	e := &exchange{}
	if err := e.prepare(ctx, s); err != nil {
		return "", err
	}
	if err := startNginx(ctx, s, s.hosts[0]); err != nil {
		return "", err
	}
	digest, err := c.image.Digest()
	if err != nil {
		return "", err
	}
	agent := pull.Image{Base: e.agents[0].Mirror, Repository: "bench/image", Reference: digest.String(),
		User: cluster.AdminUser, Password: e.supernode.Password}
	nginx := pull.Image{Base: "http://127.0.0.1:8080", Repository: "bench/image", Reference: digest.String()}
	ours, theirs, err := takeTurns(ctx, s.hosts[0], agent, nginx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("## A local cache hit\n\nOne client reads a blob of 1 GiB that the host holds, %d times each in turn: "+
		"the agent gives %.2f GiB/s, nginx with sendfile %.2f GiB/s for the same bytes (medians). **Ratio %.2f.**",
		hitRounds, ours, theirs, ours/theirs), nil
}

// takeTurns returns the median rates in GiB/s. The first read of each fills
// caches and is not counted.
func takeTurns(ctx context.Context, h *netns.Host, images ...pull.Image) (a, b float64, err error) {
	rates := make([][]float64, len(images))
	for round := range hitRounds + 1 {
		for i, img := range images {
			img.Client = &http.Client{Transport: h.Transport()}
			r, err := pull.Pull(ctx, img)
			img.Client.CloseIdleConnections()
			if err != nil {
				return 0, 0, err
			}
			if round > 0 {
				rates[i] = append(rates[i], float64(r.Bytes)/(1<<30)/r.Done.Sub(r.FirstByte).Seconds())
			}
		}
	}
	for _, r := range rates {
		slices.Sort(r)
	}
	return rates[0][hitRounds/2], rates[1][hitRounds/2], nil
}

const nginxConfig = `worker_processes auto;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx-error.log;
daemon off;
events {}
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  server {
    listen 127.0.0.1:8080;
    location ~ "^/v2/.+/(manifests|blobs)/sha256:([0-9a-f]{64})$" { alias %[2]s/blobs/sha256/$2; }
  }
}
`

func startNginx(ctx context.Context, s *stage, h *netns.Host) error {
	config := filepath.Join(h.Dir, "nginx.conf")
	// Its workers give up root, and must still reach the image.
	text := fmt.Sprintf("user root;\n"+nginxConfig, h.Dir, s.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("nginx: %w", err)
	}
	p, err := h.Start(ctx, "nginx", nil, "nginx", "-c", config, "-p", h.Dir)
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, h, "http://127.0.0.1:8080/v2/x/blobs/sha256:"+filepath.Base(s.blobs[0]))
}
