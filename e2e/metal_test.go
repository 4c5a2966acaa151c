package e2e

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/metal"
	"github.com/shoalproject/shoal/e2e/netns"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// administrators is a key that the pool's profile lets in on its hosts.
const administrators = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8rBb0sM8kWw0o7mB6eHqkz1kZ0n0o5iF4mC0l1cQ2e administrators"

// settings are what of the profile can hold on these machines: there is no
// archive to install from, the clock is everybody's, and so are all sysctls
// but those of the network.
var settings = map[string]string{
	"time.skip": "yes", "ca.skip": "yes", "runtime.skip": "yes", "mirror.skip": "yes",
	"disk./": "free=100MB", "disk.data": "free=100MB",
	"sysctl.fs.inotify.max_user_instances": "", "sysctl.fs.inotify.max_user_watches": "", "sysctl.vm.max_map_count": "",
	"sysctl.net.core.somaxconn": "5000", "ssh-keys.keys": administrators,
}

// adopting is a house that adopts bare machines.
type adopting struct {
	*house
	inventory shoalv1connect.InventoryServiceClient
	key       string // of the supernode, for authorized_keys
}

func buildAdopting(t *testing.T) *adopting {
	if _, err := metal.Root(); err != nil {
		t.Skip("NOT RUN:", err)
	}
	h := &adopting{house: build(t, plan{})}
	client := &http.Client{Transport: withBasic{h.supernode.Host.Transport(), cluster.AdminUser, h.supernode.Password}}
	h.inventory = shoalv1connect.NewInventoryServiceClient(client, h.supernode.URL+"/api")
	out, err := exec.CommandContext(h.ctx, filepath.Join(h.bin, "supernode"), "ssh-key", "--data", h.supernode.Data).Output()
	if err != nil {
		t.Fatal(err)
	}
	h.key = strings.TrimSpace(string(out))
	_, err = h.inventory.AddCluster(h.ctx, connect.NewRequest(&shoalv1.AddClusterRequest{Name: "hall", Kind: "metal"}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.inventory.CreatePool(h.ctx, connect.NewRequest(&shoalv1.CreatePoolRequest{Pool: &shoalv1.Pool{
		Name: "metal", Cluster: "hall", Profile: "host", ProfileSettings: settings,
	}}))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *adopting) machine(name string) *metal.Machine {
	h.t.Helper()
	m, err := metal.Start(h.ctx, h.host(name, netns.Link{}), h.key)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

func (h *adopting) adopt(name, address, hostKey string) {
	h.t.Helper()
	_, err := h.inventory.AdoptServer(h.ctx, connect.NewRequest(&shoalv1.AdoptServerRequest{
		Pool: "metal", Name: name, Address: address, User: "root", HostKey: hostKey,
	}))
	if err != nil {
		h.t.Fatal(err)
	}
}

// reaches waits until a server is in a phase.
func (h *adopting) reaches(name, phase string) *shoalv1.FleetServer {
	h.t.Helper()
	var server *shoalv1.FleetServer
	defer func() {
		if server != nil && server.Phase != phase {
			h.t.Logf("%s is %s, at %q for %q\nsteps %v\n%s", name, server.Phase, server.FailedAt, server.Reason, server.Steps, strings.Join(server.Log, "\n"))
		}
	}()
	h.eventually(time.Minute, name+" is "+phase, func() bool {
		answer, err := h.inventory.GetFleetServer(h.ctx, connect.NewRequest(&shoalv1.GetFleetServerRequest{Id: name}))
		if err != nil {
			return false
		}
		server = answer.Msg.Server
		return server.Phase == phase
	})
	return server
}

func (h *adopting) agentsOn(m *metal.Machine, want int) {
	h.t.Helper()
	agents, err := m.Agents(h.ctx)
	if err != nil || len(agents) != want {
		h.t.Errorf("%s runs the agents %q, %v; want %d", m.Host.Name, agents, err, want)
	}
	for _, line := range agents {
		if strings.Contains(line, "shoal-join.") {
			h.t.Errorf("a join token stands in a command line: %s", line)
		}
	}
}

// TestAdoptMetal brings a bare machine to a server that is ready by its pool's
// profile, with the real programs, over a supernode that is killed at three steps of it, and back to a
// machine without an agent.
func TestAdoptMetal(t *testing.T) {
	h := buildAdopting(t)
	m := h.machine("metal1")
	h.adopt("metal1", m.Address, m.HostKey)
	for _, step := range []string{"/etc/shoal/server", "/usr/local/bin/dfagent", "/var/lib/shoal/agent/welcome.pb"} {
		h.eventually(time.Minute, step+" is there", func() bool {
			_, err := m.Run(h.ctx, "test", "-e", step)
			return err == nil
		})
		h.supernode.Kill()
		if err := h.supernode.Restart(h.ctx); err != nil {
			t.Fatal(err)
		}
	}
	server := h.reaches("metal1", "ready")
	h.agentsOn(m, 1)
	for _, step := range server.Steps {
		if step.State != shoalv1.StepStatus_OK && step.State != shoalv1.StepStatus_CHANGED {
			t.Errorf("step %s: %s, %s", step.Name, step.State, step.Error)
		}
	}
	keys, err := m.Run(h.ctx, "cat", "/root/.ssh/authorized_keys", "/proc/sys/net/core/somaxconn")
	if err != nil || !strings.Contains(keys, administrators) || !strings.Contains(keys, h.key) || !strings.Contains(keys, "\n5000\n") {
		t.Errorf("the profile was not applied: %v\n%s", err, keys)
	}
	if server.Provider != "ssh" || server.ProviderId == "" || server.PeerId == "" || server.Facts.GetHostname() != "metal1" {
		t.Errorf("%+v", server)
	}
	if all, err := h.inventory.ListFleet(h.ctx, connect.NewRequest(&shoalv1.ListFleetRequest{})); err != nil || len(all.Msg.Servers) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if log := m.Log(); strings.Count(log, "Accepted publickey for root") < 2 {
		t.Errorf("no bootstrap was cut off and gone on with:\n%s", log)
	}

	// Nobody else gets the machine, also under another name of its address.
	h.adopt("metal1-again", m.Address, m.HostKey)
	if server := h.reaches("metal1-again", "failed"); !strings.Contains(server.Reason, "adopted already") {
		t.Errorf("%+v", server)
	}
	h.agentsOn(m, 1)

	if _, err := h.inventory.RetireServer(h.ctx, connect.NewRequest(&shoalv1.RetireServerRequest{Id: "metal1"})); err != nil {
		t.Fatal(err)
	}
	h.eventually(time.Minute, "the agent is taken away", func() bool {
		_, err := m.Run(h.ctx, "test", "!", "-e", "/etc/shoal")
		return err == nil
	})
	h.agentsOn(m, 0)
	h.adopt("metal1-anew", m.Address, m.HostKey)
	h.reaches("metal1-anew", "ready")
}

// TestAdoptAnotherMachine: a machine that shows another key than it was
// adopted with is told nothing, and the server says why.
func TestAdoptAnotherMachine(t *testing.T) {
	h := buildAdopting(t)
	meant, other := h.machine("metal1"), h.machine("metal2")
	h.adopt("metal1", other.Address, meant.HostKey)
	server := h.reaches("metal1", "failed")
	if !strings.Contains(server.Reason, other.HostKey) || !strings.Contains(server.Reason, "nothing was sent") || server.FailedAt != "machine" {
		t.Errorf("failed at %q: %s", server.FailedAt, server.Reason)
	}
	if log := other.Log(); strings.Contains(log, "publickey") || strings.Contains(log, "root") {
		t.Errorf("the other machine was told who asks:\n%s", log)
	}
	h.agentsOn(other, 0)
}
