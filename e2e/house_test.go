package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/origin"
	"github.com/shoalproject/shoal/e2e/pull"
)

// house is one supernode with its agents, each on a host.
type house struct {
	t         *testing.T
	ctx       context.Context
	bin       string
	dir       string
	net       *netns.Net
	supernode *cluster.Supernode
	agents    []*cluster.Agent
	upstream  *netns.Host // nil when there is none
	origin    *origin.Registry
}

// plan says what house is wanted.
type plan struct {
	hosts    int
	mbit     float64 // of every link, both ways; 0 is unshaped
	upstream v1.Image
	agent    []string // further flags of each agent
	commands []string // that the test needs on the machine
	local    bool     // all on this machine's loopback, which the test reaches itself
	pool     string   // of the agents
}

// registryName is the upstream's name in image references.
func (h *house) registryName() string { return h.upstream.Addr + ":5000" }

// build starts a house, or skips the test where it cannot stand.
func build(t *testing.T, p plan) *house {
	t.Helper()
	if !p.local {
		if err := netns.Missing(p.commands...); err != nil {
			t.Skip("NOT RUN:", err)
		}
	}
	bin, err := filepath.Abs(cmp.Or(os.Getenv("SHOAL_BIN"), "../bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"supernode", "dfagent", "dfget"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			t.Skip("NOT RUN: needs", program, "in", bin, "(make build)")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	h := &house{t: t, ctx: ctx, bin: bin}
	if h.dir, err = os.MkdirTemp("", "shoal-e2e-"); err != nil { // a short path: sockets lie in it
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	if !p.local {
		if h.net, err = netns.New(ctx, h.dir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.net.Close)
	}
	t.Cleanup(h.logs)
	link := netns.Link{UpMbit: p.mbit, DownMbit: p.mbit}
	var options cluster.SupernodeOptions
	seed := h.host("seed", link)
	if p.upstream != nil {
		h.serveUpstream(link, p.upstream)
		options.Upstreams = map[string]string{h.registryName(): "http://" + h.registryName()}
	}
	if h.supernode, err = cluster.StartSupernode(ctx, bin, seed, options); err != nil {
		t.Fatal(err)
	}
	h.join(p, link)
	return h
}

func (h *house) host(name string, link netns.Link) *netns.Host {
	h.t.Helper()
	if h.net == nil {
		host, err := netns.Local(name, h.dir)
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(host.Close)
		return host
	}
	host, err := h.net.AddHost(h.ctx, name, link)
	if err != nil {
		h.t.Fatal(err)
	}
	return host
}

func (h *house) join(p plan, link netns.Link) {
	h.t.Helper()
	if p.hosts == 0 {
		return
	}
	var args []string
	if p.pool != "" {
		args = []string{"--pool", p.pool}
	}
	token, err := h.supernode.JoinToken(h.ctx, p.hosts, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	hosts := make([]*netns.Host, p.hosts)
	for i := range hosts {
		hosts[i] = h.host(fmt.Sprintf("host%d", i+1), link)
	}
	h.agents = make([]*cluster.Agent, p.hosts)
	group, ctx := errgroup.WithContext(h.ctx)
	for i, host := range hosts {
		group.Go(func() (err error) {
			h.agents[i], err = h.supernode.StartAgent(ctx, host, token, p.agent...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		h.t.Fatal(err)
	}
}

// serveUpstream puts a registry that holds the image on a host of its own.
func (h *house) serveUpstream(link netns.Link, img v1.Image) {
	h.t.Helper()
	h.upstream = h.host("upstream", link)
	layout := filepath.Join(h.dir, "upstream-layout")
	if err := image.WriteLayout(layout, "v1", img); err != nil {
		h.t.Fatal(err)
	}
	var err error
	if h.origin, err = origin.New(layout); err != nil {
		h.t.Fatal(err)
	}
	l, err := h.upstream.Listen(h.ctx, h.registryName())
	if err != nil {
		h.t.Fatal(err)
	}
	server := &http.Server{Handler: h.origin}
	go server.Serve(l)
	h.t.Cleanup(func() { server.Close() })
}

// logs shows the ends of all logs after a failure. With $SHOAL_LOGS it also
// writes them there whole, with the goroutines and counters of what still
// runs.
func (h *house) logs() {
	if !h.t.Failed() {
		return
	}
	if to := os.Getenv("SHOAL_LOGS"); to != "" && h.net != nil {
		h.save(filepath.Join(to, h.t.Name()))
	}
	if h.supernode != nil && h.supernode.Process != nil {
		h.t.Logf("supernode's log ends:\n%s", h.supernode.Tail(15))
	}
	for _, a := range h.agents {
		if a != nil && a.Process != nil {
			h.t.Logf("%s's log ends:\n%s", a.Host.Name, a.Tail(3))
		}
	}
}

func (h *house) save(to string) {
	if err := os.MkdirAll(to, 0o755); err != nil {
		h.t.Log(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	write := func(name string, raw []byte) {
		if err := os.WriteFile(filepath.Join(to, name), raw, 0o644); err != nil {
			h.t.Log(err)
		}
	}
	for _, host := range h.net.Hosts() {
		files, _ := filepath.Glob(filepath.Join(host.Dir, "*.log"))
		for _, f := range files {
			if raw, err := os.ReadFile(f); err == nil {
				write(host.Name+"-"+filepath.Base(f), raw)
			}
		}
		for _, port := range []string{"9090", "9091"} {
			for name, page := range map[string]string{"goroutines": "/debug/pprof/goroutine?debug=1", "metrics": "/metrics"} {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+page, nil)
				if err != nil {
					continue
				}
				client := host.HTTP()
				client.Timeout = 2 * time.Second
				if resp, err := client.Do(req); err == nil {
					raw, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					write(host.Name+"-"+name+".txt", raw)
				}
			}
		}
	}
}

// push makes an image and pushes it to the supernode.
func (h *house) push(repository, tag string, spec image.Spec) v1.Image {
	h.t.Helper()
	img := makeImage(h.t, spec)
	if err := h.supernode.Push(h.ctx, repository, tag, img); err != nil {
		h.t.Fatal(err)
	}
	return img
}

func makeImage(t *testing.T, spec image.Spec) v1.Image {
	t.Helper()
	img, err := image.Build(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func sizeOf(t *testing.T, img v1.Image) int64 {
	t.Helper()
	size, err := image.Size(img)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// order is what the small client asks a mirror for.
type order struct {
	repository, reference string
	upstream              bool // from the upstream, without a login
}

// pull pulls through one agent's mirror, every byte verified.
func (h *house) pull(ctx context.Context, a *cluster.Agent, o order) (pull.Result, error) {
	transport := a.Host.Transport()
	defer transport.CloseIdleConnections()
	img := pull.Image{
		Base: a.Mirror, Repository: o.repository, Reference: o.reference, Verify: true,
		Client: &http.Client{Transport: transport},
	}
	if o.upstream {
		img.Registry = h.registryName()
	} else {
		img.User, img.Password = cluster.AdminUser, h.supernode.Password
	}
	r, err := pull.Pull(ctx, img)
	if err != nil {
		return r, fmt.Errorf("through %s: %w", a.Host.Name, err)
	}
	return r, nil
}

// pullAll pulls through all the given agents at the same moment.
func (h *house) pullAll(agents []*cluster.Agent, o order) ([]pull.Result, error) {
	var (
		wait    sync.WaitGroup
		results = make([]pull.Result, len(agents))
		errs    = make([]error, len(agents))
	)
	for i, a := range agents {
		wait.Go(func() { results[i], errs[i] = h.pull(h.ctx, a, o) })
	}
	wait.Wait()
	return results, errors.Join(errs...)
}

// sent is how many bytes left the host since the snapshot.
func (h *house) traffic() map[string]netns.Traffic {
	h.t.Helper()
	all, err := h.net.Traffic(h.ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// bytesBySource are the agent's counters.
func (h *house) bytesBySource(a *cluster.Agent) (fromPeers, fromSupernode, fromUpstream float64) {
	h.t.Helper()
	m, err := a.Counters(h.ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	const name = "shoal_fetch_bytes_total"
	return m.Sum(name, `source="peer"`), m.Sum(name, `source="supernode"`), m.Sum(name, `source="upstream"`)
}

// eventually polls until good; what is said in the failure.
func (h *house) eventually(within time.Duration, what string, good func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !good() {
		select {
		case <-tick.C:
		case <-deadline.C:
			h.t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// slow is a link that nobody would choose.
var slow = netns.Link{UpMbit: 8, DownMbit: 80}

// peerID asks the agent who it is.
func peerID(t *testing.T, h *house, a *cluster.Agent) string {
	t.Helper()
	out, err := a.Host.Command(h.ctx, filepath.Join(h.bin, "dfagent"), "status", "--json", "--data", a.Data).Output()
	var status struct {
		PeerID string `json:"peer_id"`
	}
	if err == nil {
		err = json.Unmarshal(out, &status)
	}
	if err != nil || status.PeerID == "" {
		t.Fatalf("who is %s: %v: %s", a.Host.Name, err, out)
	}
	return status.PeerID
}
