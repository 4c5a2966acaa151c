package e2e

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/runtimes"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// fleet is a house whose hosts belong to pools and run containers.
type fleet struct {
	*house
	pools   map[string][]*cluster.Agent
	engines map[string]*runtimes.Containerd // by the host's name
	homes   string                          // of the people, a folder for each
}

// poolPlan is a pool that is wanted.
type poolPlan struct {
	name, tier, engine string // containerd-1.6, containerd-2.4, docker or memory
	hosts              int
	link               netns.Link
	args               []string // further flags of each agent
	make               []string // further flags of dfget pool create
}

// exit statuses of dfget.
const (
	exitFailed = 1 + iota
	exitUsage
	exitDenied
	exitNotFound
)

func buildFleet(t *testing.T, pools ...poolPlan) *fleet {
	t.Helper()
	h := build(t, plan{commands: []string{"containerd", "ctr", "runc", "dockerd", "docker"}})
	f := &fleet{house: h, pools: map[string][]*cluster.Agent{}, engines: map[string]*runtimes.Containerd{}, homes: filepath.Join(h.dir, "homes")}
	f.login(cluster.AdminUser, h.supernode.Password)
	f.must(cluster.AdminUser, "cluster", "add", "rack-room", "--kind", "metal")
	for _, p := range pools {
		f.addPool(p)
	}
	return f
}

func (f *fleet) addPool(p poolPlan) {
	f.t.Helper()
	f.must(cluster.AdminUser, append([]string{"pool", "create", p.name, "--cluster", "rack-room", "--tier", p.tier}, p.make...)...)
	token, err := f.supernode.JoinToken(f.ctx, p.hosts, "--pool", p.name)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := range p.hosts {
		host := f.host(fmt.Sprintf("%s-%d", p.name, i+1), p.link)
		a, err := f.supernode.StartAgent(f.ctx, host, token, append(f.startEngine(host, p.engine), p.args...)...)
		if err != nil {
			f.t.Fatal(err)
		}
		f.agents = append(f.agents, a)
		f.pools[p.name] = append(f.pools[p.name], a)
	}
	f.eventually(time.Minute, "the hosts of "+p.name+" are ready", func() bool {
		var pool shoalv1.GetPoolResponse
		f.json(cluster.AdminUser, &pool, "pool", "show", p.name)
		return int(pool.Pool.GetReady()) == p.hosts
	})
}

// startEngine starts what runs containers on a host, and returns the flags by
// which its agent finds it.
func (f *fleet) startEngine(host *netns.Host, engine string) []string {
	f.t.Helper()
	bin := ""
	switch engine {
	case "memory":
		return []string{"--engine", "memory"}
	case "docker":
		d, err := runtimes.StartDocker(f.ctx, host)
		if err != nil {
			f.t.Fatal(err)
		}
		return []string{"--docker", d.Socket}
	case "containerd-2.4":
		var err error
		if bin, err = runtimes.Containerd2(); err != nil {
			f.t.Skip("NOT RUN:", err)
		}
	}
	c, err := runtimes.StartContainerd(f.ctx, host, bin)
	if err != nil {
		f.t.Fatal(err)
	}
	f.engines[host.Name] = c
	return []string{"--containerd", c.Socket}
}

// login logs somebody in on the supernode's own host.
func (f *fleet) login(user, password string) {
	f.t.Helper()
	home := filepath.Join(f.homes, user)
	if err := os.MkdirAll(home, 0o700); err != nil {
		f.t.Fatal(err)
	}
	cmd := f.command(user, "login", "-u", user, "--password-stdin", f.supernode.URL)
	cmd.Stdin = strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("log %s in: %v: %s", user, err, out)
	}
}

func (f *fleet) command(user string, args ...string) *exec.Cmd {
	home := filepath.Join(f.homes, user)
	argv := []string{"env", "HOME=" + home, "XDG_CONFIG_HOME=" + home, "SHOAL_CA=" + filepath.Join(f.supernode.Data, "ca.pem"), filepath.Join(f.bin, "dfget")}
	return f.supernode.Host.Command(f.ctx, append(argv, args...)...)
}

// run runs dfget as somebody, and returns what it printed and its exit status,
// -1 when it could not be run. It may be called beside the test's goroutine.
func (f *fleet) run(user string, args ...string) (out string, status int) {
	cmd := f.command(user, args...)
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err.Error(), -1
	}
	return all.String(), cmd.ProcessState.ExitCode()
}

// must is run for what has to succeed.
func (f *fleet) must(user string, args ...string) string {
	f.t.Helper()
	out, status := f.run(user, args...)
	if status != 0 {
		f.t.Fatalf("dfget %s as %s: exit status %d: %s", strings.Join(args, " "), user, status, out)
	}
	return out
}

// json is must for an answer in JSON.
func (f *fleet) json(user string, into proto.Message, args ...string) {
	f.t.Helper()
	cmd := f.command(user, append(args, "--json")...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err == nil {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(out, into)
	}
	if err != nil {
		f.t.Fatalf("dfget %s: %v: %s%s", strings.Join(args, " "), err, out, complaint.String())
	}
}

// placement is what the supernode says of one.
func (f *fleet) placement(name string) *shoalv1.Placement {
	f.t.Helper()
	var answer shoalv1.GetPlacementResponse
	f.json(cluster.AdminUser, &answer, "place", "show", name)
	return answer.Placement
}

// names lists the placements that there are.
func (f *fleet) names() (names []string) {
	f.t.Helper()
	var answer shoalv1.ListPlacementsResponse
	f.json(cluster.AdminUser, &answer, "place", "list")
	for _, p := range answer.Placements {
		names = append(names, p.Name)
	}
	return names
}

// agent is the host of a name.
func (f *fleet) agent(name string) *cluster.Agent {
	f.t.Helper()
	for _, a := range f.agents {
		if a.Host.Name == name {
			return a
		}
	}
	f.t.Fatalf("no host is named %q", name)
	return nil
}

// greeting connects to a service on a host and reads what it says.
func (f *fleet) greeting(host string, port int) string {
	f.t.Helper()
	conn, err := f.supernode.Host.DialContext(f.ctx, "tcp", net.JoinHostPort(f.agent(host).Host.Addr, fmt.Sprint(port)))
	if err != nil {
		f.t.Errorf("connect to the service on %s: %v", host, err)
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a failure shows in the read
	said, err := io.ReadAll(conn)
	if err != nil {
		f.t.Errorf("read from the service on %s: %v", host, err)
	}
	return strings.TrimSpace(string(said))
}

// ready is when the last of the hosts that run containers had the image, and
// ordered when the first of them was told to start one.
func gate(p *shoalv1.Placement) (ready, ordered time.Time) {
	runs := map[string]bool{}
	for _, c := range p.Containers {
		runs[c.Server] = true
		if at := c.Ordered.AsTime(); ordered.IsZero() || at.Before(ordered) {
			ordered = at
		}
	}
	for _, h := range p.Prepulls {
		if at := h.Ready.AsTime(); h.Ready != nil && runs[h.Server] && at.After(ready) {
			ready = at
		}
	}
	return ready, ordered
}

func describe(p *shoalv1.Placement) string { return cmp.Or(protojson.Format(p), "none") }
