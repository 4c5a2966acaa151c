package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/shoalproject/shoal/e2e/netns"
)

// Agent is one dfagent on a host.
type Agent struct {
	*netns.Process
	Host    *netns.Host
	Bin     string
	Data    string
	Mirror  string // URL of the registry mirror
	Docker  string // URL of the docker.io mirror
	Swarm   string // host:port of its piece listener
	Metrics string // URL of /metrics

	args []string
}

// StartAgent starts an agent that joins with the token, and waits until it is
// ready. args are further flags.
func (s *Supernode) StartAgent(ctx context.Context, h *netns.Host, token string, args ...string) (*Agent, error) {
	ports, err := choosePorts(h, 65002, 65003, 9091)
	if err != nil {
		return nil, fmt.Errorf("start an agent on %s: %w", h.Name, err)
	}
	local, err := choosePorts(&netns.Host{Addr: "127.0.0.1"}, 65001, 65004)
	if err != nil {
		return nil, fmt.Errorf("start an agent on %s: %w", h.Name, err)
	}
	if h.Namespaced() {
		local = []string{"127.0.0.1:65001", "127.0.0.1:65004"}
	}
	a := &Agent{
		Host: h, Bin: s.Bin, Data: filepath.Join(h.Dir, "agent"),
		Mirror: "http://" + local[0], Docker: "http://" + local[1], Swarm: ports[0],
		Metrics: "http://" + ports[2] + "/metrics",
	}
	a.args = append([]string{filepath.Join(s.Bin, "dfagent"), "serve", "--supernode", s.URL, "--join", token, "--data", a.Data, "--hostname", h.Name,
		"--mirror", local[0], "--docker-mirror", local[1],
		"--swarm-listen", ports[0], "--p2p-listen", ports[1], "--metrics-listen", ports[2]}, args...)
	return a, a.Restart(ctx)
}

// Restart starts the agent (again) on the same data, after it was killed or
// has ended.
func (a *Agent) Restart(ctx context.Context) error {
	p, err := a.Host.Start(ctx, "agent", nil, a.args...)
	if err != nil {
		return err
	}
	a.Process = p
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.WaitReady(ctx, a.Host, strings.TrimSuffix(a.Metrics, "/metrics")+"/readyz")
}

// Counters reads the agent's metrics.
func (a *Agent) Counters(ctx context.Context) (netns.Metrics, error) {
	return a.Host.Metrics(ctx, a.Metrics)
}

// Report is what `dfget pull-report --json` prints.
type Report struct {
	ID      string
	Image   string
	Started time.Time
	Ended   time.Time
	Blobs   []struct {
		Digest  string
		Size    json.Number
		Hedges  int
		Error   string
		Sources []struct {
			Kind, Name string
			Bytes      json.Number
		}
	}
}

// PullReport asks the agent where the bytes of its last pull, or of the named
// one, came from.
func (a *Agent) PullReport(ctx context.Context, pull string) (Report, error) {
	if pull == "" {
		pull = "--last"
	}
	out, err := a.Host.Command(ctx, filepath.Join(a.Bin, "dfget"), "pull-report", pull, "--json", "--agent", filepath.Join(a.Data, "agent.sock")).Output()
	if err != nil {
		return Report{}, fmt.Errorf("pull report on %s: %w", a.Host.Name, err)
	}
	var r Report
	if err := json.Unmarshal(out, &r); err != nil {
		return Report{}, fmt.Errorf("pull report on %s: %w", a.Host.Name, err)
	}
	return r, nil
}

// BySource adds the report's bytes up by kind of source.
func (r Report) BySource() map[string]int64 {
	out := map[string]int64{}
	for _, b := range r.Blobs {
		for _, s := range b.Sources {
			n, err := s.Bytes.Int64()
			if err == nil {
				out[s.Kind] += n
			}
		}
	}
	return out
}
