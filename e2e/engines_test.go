package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/runtimes"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	servicePort = 18080
	healthyIn   = time.Minute
)

// TestContainersOnEveryEngine has an agent run what is placed on its host with
// containerd 1.6, containerd 2.4, Docker and the engine that pretends: it comes
// up, its log comes back, it outlives the agent, it is started again when it
// ends while no supernode is there, and it goes when it is removed.
func TestContainersOnEveryEngine(t *testing.T) {
	two, err := runtimes.Containerd2()
	if err != nil {
		t.Skip("NOT RUN:", err)
	}
	h := build(t, plan{commands: append([]string{"ss"}, engines...), upstream: makeImage(t, image.Spec{Line: "from outside", Seed: 93})})
	h.push("demo/app", "v1", image.Spec{Line: "the first version", Layers: []int64{1 << 20}, Seed: 91})
	h.push("demo/app", "v2", image.Spec{Line: "the second version", Layers: []int64{1 << 20}, Seed: 92})
	var hosts []*engineHost
	for name, start := range map[string]func(*netns.Host) ([]string, error){
		"old": func(on *netns.Host) ([]string, error) { return containerdFor(h, on, "") },
		"new": func(on *netns.Host) ([]string, error) { return containerdFor(h, on, two) },
		"docker": func(on *netns.Host) ([]string, error) {
			d, err := runtimes.StartDocker(h.ctx, on)
			if err != nil {
				return nil, err
			}
			return []string{"--docker", d.Socket}, nil
		},
		"memory": func(*netns.Host) ([]string, error) { return []string{"--engine", "memory"}, nil },
	} {
		on := h.host(name, netns.Link{})
		args, err := start(on)
		if err != nil {
			t.Fatal(err)
		}
		token, err := h.supernode.JoinToken(h.ctx, 1, "--pool", name)
		if err != nil {
			t.Fatal(err)
		}
		a, err := h.supernode.StartAgent(h.ctx, on, token, args...)
		if err != nil {
			t.Fatal(err)
		}
		h.agents = append(h.agents, a)
		hosts = append(hosts, &engineHost{house: h, pool: name, agent: a, pretends: name == "memory"})
	}
	each := func(step string, do func(*engineHost) error) {
		t.Helper()
		var wait sync.WaitGroup
		for _, e := range hosts {
			wait.Go(func() {
				if err := do(e); err != nil {
					t.Errorf("%s, on %s: %v", step, e.pool, err)
				}
			})
		}
		wait.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	defer each("remove", (*engineHost).removed)
	each("place an image of another registry", (*engineHost).fromOutside)
	each("see one end", func(e *engineHost) error {
		return e.ends([]string{"exit", "7"}, func(s *shoalv1.ContainerStatus) bool { return s.ExitCode == 7 && s.Restarts > 0 })
	})
	each("see one take too much memory", func(e *engineHost) error {
		return e.ends([]string{"fill", strconv.Itoa(96 << 20)}, func(s *shoalv1.ContainerStatus) bool {
			return s.ExitCode == 137 && strings.Contains(s.Error, "memory")
		})
	})
	each("place", (*engineHost).place)
	each("read its log", (*engineHost).log)
	each("kill the agent", (*engineHost).agentKilled)
	each("a new version", (*engineHost).updated)
	h.supernode.Kill()
	each("end it while no supernode is there", (*engineHost).endedAlone)
	if err := h.supernode.Restart(h.ctx); err != nil {
		t.Fatal(err)
	}
	each("the supernode is back", (*engineHost).healthy)
}

func containerdFor(h *house, on *netns.Host, bin string) ([]string, error) {
	c, err := runtimes.StartContainerd(h.ctx, on, bin)
	if err != nil {
		return nil, err
	}
	return []string{"--containerd", c.Socket}, nil
}

// engineHost is a host alone in its pool.
type engineHost struct {
	*house
	pool     string
	agent    *cluster.Agent
	pretends bool
}

func (e *engineHost) placements() shoalv1connect.PlacementServiceClient {
	client := &http.Client{Transport: withBasic{e.supernode.Host.Transport(), cluster.AdminUser, e.supernode.Password}}
	return shoalv1connect.NewPlacementServiceClient(client, e.supernode.URL+"/api")
}

func (e *engineHost) name() string { return "app-" + e.pool }

// until follows a change to its end.
func until(stream *connect.ServerStreamForClient[shoalv1.PlaceUpdate], err error) error {
	if err != nil {
		return err
	}
	defer stream.Close()
	var last *shoalv1.PlaceUpdate
	for stream.Receive() {
		last = stream.Msg()
	}
	switch {
	case stream.Err() != nil:
		return stream.Err()
	case last == nil || !last.Done:
		return errors.New("the report broke off")
	case last.Error != "":
		return fmt.Errorf("%s: %s", last.Phase, last.Error)
	}
	return nil
}

// fromOutside runs an image that Docker cannot name to a mirror, and takes it
// away again.
func (e *engineHost) fromOutside() error {
	// The host's facts may still be on their way.
	service := &shoalv1.Service{Image: e.registryName() + "/library/app:v1", Args: []string{"serve"}}
	request := &shoalv1.PlaceRequest{Name: e.name(), Pool: e.pool, Replicas: 1, DryRun: true, Service: service}
	deadline := time.Now().Add(healthyIn)
	for until(e.placements().Place(e.ctx, connect.NewRequest(request))) != nil && time.Now().Before(deadline) {
		<-time.After(200 * time.Millisecond)
	}
	request.DryRun = false
	if err := until(e.placements().Place(e.ctx, connect.NewRequest(request))); err != nil {
		return err
	}
	if err := e.says("from outside"); err != nil {
		return err
	}
	return e.takenAway()
}

func (e *engineHost) takenAway() error {
	_, err := e.placements().RemovePlacement(e.ctx, connect.NewRequest(&shoalv1.RemovePlacementRequest{Name: e.name()}))
	for deadline := time.Now().Add(healthyIn); err == nil && time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if _, gone := e.status(); connect.CodeOf(gone) == connect.CodeNotFound {
			return nil
		}
	}
	return fmt.Errorf("it was not removed: %w", err)
}

// ends places what cannot stay, waits until the supernode is told how it ended,
// and takes it away.
func (e *engineHost) ends(args []string, told func(*shoalv1.ContainerStatus) bool) error {
	if e.pretends {
		return nil
	}
	service := e.service("v1")
	service.Args, service.Ports = args, nil
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	stream, err := e.placements().Place(ctx, connect.NewRequest(&shoalv1.PlaceRequest{
		Name: e.name(), Pool: e.pool, Replicas: 1, Service: service,
	}))
	if err != nil {
		return err
	}
	defer stream.Close()
	var last any
	for deadline := time.Now().Add(healthyIn); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		c, err := e.status()
		if last = c; err != nil {
			last = err
		} else if c.Status != nil && told(c.Status) {
			return e.takenAway()
		}
	}
	return fmt.Errorf("it stands at %v", last)
}

func (e *engineHost) place() error {
	err := until(e.placements().Place(e.ctx, connect.NewRequest(&shoalv1.PlaceRequest{
		Name: e.name(), Pool: e.pool, Replicas: 1, Service: e.service("v1"),
	})))
	if err != nil {
		return err
	}
	return e.healthy()
}

func (e *engineHost) service(tag string) *shoalv1.Service {
	return &shoalv1.Service{
		Image: e.supernode.Ref("demo/app", tag), Args: []string{"serve", strconv.Itoa(servicePort)}, Env: []string{"GREETING=moin"},
		CpuMilli: 200, MemoryBytes: 64 << 20, Ports: []int32{servicePort},
	}
}

// status is the one container that is placed on the host.
func (e *engineHost) status() (*shoalv1.PlacedContainer, error) {
	answer, err := e.placements().GetPlacement(e.ctx, connect.NewRequest(&shoalv1.GetPlacementRequest{Name: e.name()}))
	if err != nil {
		return nil, err
	}
	if n := len(answer.Msg.Placement.Containers); n != 1 {
		return nil, fmt.Errorf("%d containers, %s: %s", n, answer.Msg.Placement.Phase, answer.Msg.Placement.Reason)
	}
	return answer.Msg.Placement.Containers[0], nil
}

// healthy waits until the supernode is told that the container runs, and sees
// that it does.
func (e *engineHost) healthy() error {
	var last any
	for deadline := time.Now().Add(healthyIn); time.Now().Before(deadline); <-time.After(200 * time.Millisecond) {
		c, err := e.status()
		if last = c; err != nil {
			last = err
			continue
		}
		if c.Status.GetState() == shoalv1.ContainerStatus_RUNNING {
			return e.greets()
		}
	}
	return fmt.Errorf("it did not become healthy: %v", last)
}

func (e *engineHost) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Second)
	defer cancel()
	return e.agent.Host.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", servicePort))
}

// greets speaks with the container at the host's own address.
func (e *engineHost) greets() error {
	conn, err := e.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	said, err := io.ReadAll(conn)
	if err != nil || string(said) != "moin\n" && !e.pretends {
		return fmt.Errorf("it says %q, %w", said, err)
	}
	return nil
}

func (e *engineHost) log() error { return e.says("the first version") }

func (e *engineHost) says(line string) error {
	if e.pretends {
		line = "pretending to run"
	}
	stream, err := e.placements().ReadLogs(e.ctx, connect.NewRequest(&shoalv1.ReadLogsRequest{Name: e.name()}))
	if err != nil {
		return err
	}
	defer stream.Close()
	var text strings.Builder
	for stream.Receive() {
		text.Write(stream.Msg().Data)
		if stream.Msg().Error != "" {
			return errors.New(stream.Msg().Error)
		}
	}
	if stream.Err() != nil || !strings.Contains(text.String(), line) {
		return fmt.Errorf("its log is %q, %w", text.String(), stream.Err())
	}
	return nil
}

// agentKilled sees that the very same run goes on without the agent and is
// adopted by the next.
func (e *engineHost) agentKilled() error {
	before, err := e.status()
	if err != nil {
		return err
	}
	e.agent.Kill()
	if !e.pretends {
		if err := e.greets(); err != nil {
			return fmt.Errorf("without the agent: %w", err)
		}
	}
	if err := e.agent.Restart(e.ctx); err != nil {
		return err
	}
	// The agent's own status says it too.
	status, err := e.agent.Host.Command(e.ctx, filepath.Join(e.bin, "dfagent"), "status", "--data", e.agent.Data).CombinedOutput()
	if !strings.Contains(string(status), before.Id) {
		return fmt.Errorf("the agent's status does not show the container: %s, %w", status, err)
	}
	if err := e.healthy(); err != nil {
		return err
	}
	after, err := e.status()
	if err != nil || e.pretends { // what it pretends to run ends with it
		return err
	}
	if !after.Status.Started.AsTime().Equal(before.Status.Started.AsTime()) || after.Id != before.Id || after.Status.Restarts != 0 {
		return fmt.Errorf("it stood at %v, it stands at %v", before, after)
	}
	return e.log()
}

func (e *engineHost) updated() error {
	err := until(e.placements().UpdatePlacement(e.ctx, connect.NewRequest(&shoalv1.UpdatePlacementRequest{
		Name: e.name(), Service: &shoalv1.Service{Image: e.supernode.Ref("demo/app", "v2")},
	})))
	if err != nil {
		return err
	}
	if err := e.healthy(); err != nil {
		return err
	}
	return e.says("the second version")
}

// endedAlone ends the container's program behind the agent's back: the agent
// starts it again although nobody tells it to.
func (e *engineHost) endedAlone() error {
	if e.pretends {
		return nil
	}
	pid, err := e.listener()
	if err != nil {
		return err
	}
	if _, err := e.agent.Host.Run(e.ctx, "kill", "-KILL", pid); err != nil {
		return err
	}
	for deadline := time.Now().Add(healthyIn); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		if now, err := e.listener(); err == nil && now != pid {
			return e.greets()
		}
	}
	return errors.New("nobody started it again")
}

// listener is the process that listens on the service's port on this host.
func (e *engineHost) listener() (string, error) {
	out, err := e.agent.Host.Run(e.ctx, "ss", "-Hltnp", fmt.Sprintf("sport = :%d", servicePort))
	if err != nil {
		return "", err
	}
	_, rest, ok := strings.Cut(out, "pid=")
	pid, _, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		return "", fmt.Errorf("nobody listens: %q", out)
	}
	return pid, nil
}

func (e *engineHost) removed() error {
	if _, err := e.placements().RemovePlacement(e.ctx, connect.NewRequest(&shoalv1.RemovePlacementRequest{Name: e.name()})); err != nil {
		return err
	}
	for deadline := time.Now().Add(healthyIn); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		conn, err := e.dial()
		if err != nil {
			return nil //nolint:nilerr // that is what was wanted
		}
		conn.Close()
	}
	return errors.New("it still answers")
}
