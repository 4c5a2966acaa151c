package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// quick is a link on which an image of some MB takes a second or two.
var quick = netns.Link{UpMbit: 100, DownMbit: 100}

// TestPlaceWhereTheImageIs places a service on three pools whose hosts lack
// its image, each with another engine: no container starts before every host
// that is to run one has the image, by the supernode's word and by the hosts'.
func TestPlaceWhereTheImageIs(t *testing.T) {
	f := buildFleet(t,
		poolPlan{name: "light", tier: "light", engine: "containerd-1.6", hosts: 3, link: quick},
		poolPlan{name: "core", tier: "core", engine: "containerd-2.4", hosts: 3, link: quick},
		poolPlan{name: "dock", tier: "light", engine: "docker", hosts: 2, link: quick},
	)
	f.push("demo/service", "v1", image.Spec{Line: "at your service", Layers: []int64{8 << 20, 4 << 20}, Seed: 71})
	ref := f.supernode.Ref("demo/service", "v1")
	var wait sync.WaitGroup
	for pool := range f.pools {
		wait.Go(func() {
			out, status := f.run(cluster.AdminUser, "place", ref, "--name", "svc-"+pool, "--pool", pool, "--replicas", "2",
				"--cpu", "0.25", "--memory", "64MiB", "--env", "GREETING=hello from "+pool, "--port", "8080", "--", "serve", "8080")
			if status != 0 {
				t.Errorf("place on %s: exit status %d: %s", pool, status, out)
			}
		})
	}
	wait.Wait()
	for pool, agents := range f.pools {
		p := f.placement("svc-" + pool)
		if p.Phase != "running" || p.Healthy != 2 || len(p.Containers) != 2 {
			t.Errorf("on %s: %s", pool, describe(p))
			continue
		}
		f.startedAfterAll(p)
		for _, c := range p.Containers {
			if !slices.ContainsFunc(agents, func(a *cluster.Agent) bool { return a.Host.Name == c.Server }) {
				t.Errorf("%s runs outside its pool, on %s", p.Name, c.Server)
			}
			if said := f.greeting(c.Server, 8080); said != "hello from "+pool {
				t.Errorf("the service on %s says %q", c.Server, said)
			}
		}
		if out := f.must(cluster.AdminUser, "place", "logs", p.Name); strings.Count(out, "at your service") != 2 {
			t.Errorf("logs of %s: %q", p.Name, out)
		}
	}
	if out, status := f.run(cluster.AdminUser, "place", ref, "--name", "heavy", "--pool", "light", "--tier", "core"); status != exitFailed || !strings.Contains(out, "light services only") {
		t.Errorf("a core service on a light pool: exit status %d: %s", status, out)
	}
	f.restartEverything("svc-core")
	for _, name := range f.names() {
		f.must(cluster.AdminUser, "place", "remove", name)
	}
	f.eventually(time.Minute, "everything is removed", func() bool { return len(f.names()) == 0 })
}

// startedAfterAll asks both ledgers: the supernode's, and the hosts' own.
func (f *fleet) startedAfterAll(p *shoalv1.Placement) {
	f.t.Helper()
	f.gated(p)
	for _, c := range p.Containers {
		for _, other := range p.Containers {
			report, err := f.agent(other.Server).PullReport(f.ctx, "")
			if err != nil {
				f.t.Error(err)
				continue
			}
			if started := c.Status.Started.AsTime(); len(report.Blobs) == 0 || !report.Ended.Before(started) {
				f.t.Errorf("%s: on %s a container started at %s, %s had the image at %s", p.Name, c.Server, started, other.Server, report.Ended)
			}
		}
	}
}

// restartEverything kills an agent and the supernode: what runs goes on, and
// is known again.
func (f *fleet) restartEverything(name string) {
	f.t.Helper()
	before := f.placement(name)
	a := f.agent(before.Containers[0].Server)
	a.Kill()
	f.supernode.Kill()
	if err := f.supernode.Restart(f.ctx); err != nil {
		f.t.Fatal(err)
	}
	if err := a.Restart(f.ctx); err != nil {
		f.t.Fatal(err)
	}
	f.eventually(time.Minute, name+" is known to be healthy again", func() bool { return f.placement(name).Healthy == 2 })
	after := f.placement(name)
	for i, c := range after.Containers {
		was := before.Containers[i]
		if c.Id != was.Id || c.Status.Restarts != 0 || !c.Status.Started.AsTime().Equal(was.Status.Started.AsTime()) {
			f.t.Errorf("a restart of agent and supernode touched a container: %s, before %s", c, was)
		}
	}
}

// TestPlaceWhenThingsGoWrong loses hosts, images and the supernode while it
// places.
func TestPlaceWhenThingsGoWrong(t *testing.T) {
	slowLink := netns.Link{UpMbit: 40, DownMbit: 16} // 8 MB in 4 s
	f := buildFleet(t, poolPlan{name: "core", tier: "core", engine: "containerd-1.6", hosts: 3, link: slowLink})
	ref := f.supernode.Ref("demo/service", "v1")

	// An image that is not there.
	if out, status := f.run(cluster.AdminUser, "place", f.supernode.Ref("demo/none", "v1"), "--pool", "core"); status != exitNotFound || !strings.Contains(out, "demo/none") {
		t.Errorf("an image that is not there: exit status %d: %s", status, out)
	}
	if names := f.names(); len(names) != 0 {
		t.Errorf("after that there are %v", names)
	}

	// A host that dies while it prepulls is replaced by the spare.
	f.push("demo/service", "v1", image.Spec{Line: "one", Layers: []int64{8 << 20}, Seed: 72})
	placed := make(chan string, 1)
	go func() {
		out, status := f.run(cluster.AdminUser, "place", ref, "--name", "svc", "--pool", "core", "--replicas", "2", "--spares", "1", "--port", "8080", "--", "serve", "8080")
		placed <- fmt.Sprint(status, " ", out)
	}()
	var victim string
	f.eventually(30*time.Second, "a host is in the middle of the prepull", func() bool {
		if !slices.Contains(f.names(), "svc") {
			return false
		}
		p := f.placement("svc")
		for _, v := range p.Verdicts {
			for _, h := range p.Prepulls {
				if v.Outcome == "chosen" && h.Server == v.Server && h.BytesDone > 0 && h.Ready == nil {
					victim = h.Server
				}
			}
		}
		return victim != ""
	})
	f.agent(victim).Kill()
	if out := <-placed; !strings.HasPrefix(out, "0 ") {
		t.Fatalf("place, with a host that died: exit status %s", out)
	}
	p := f.placement("svc")
	if p.Phase != "running" || p.Healthy != 2 || slices.ContainsFunc(p.Containers, func(c *shoalv1.PlacedContainer) bool { return c.Server == victim }) {
		t.Errorf("%s died in the middle of the prepull: %s", victim, describe(p))
	}
	f.startedAfterAll(p)
	if err := f.agent(victim).Restart(f.ctx); err != nil {
		t.Fatal(err)
	}

	f.killSupernodeWhilePlacing()
	f.overcommit()
	f.loseAHost()
}

// loseAHost cuts a host off for longer than one is waited for: what ran there is
// placed again, and ended there when the host is back.
func (f *fleet) loseAHost() {
	t := f.t
	for _, name := range []string{"big-0", "big-1"} {
		f.run(cluster.AdminUser, "place", "remove", name)
	}
	f.must(cluster.AdminUser, "place", f.supernode.Ref("demo/service", "v1"), "--name", "stays", "--pool", "core", "--replicas", "1", "--memory", "64MiB", "--", "serve")
	before := f.placement("stays").Containers[0]
	host := f.agent(before.Server).Host
	if err := host.Cut(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.eventually(3*time.Minute, "the container runs on another host", func() bool {
		p := f.placement("stays")
		return p.Phase == "running" && p.Healthy == 1 && p.Containers[0].Server != before.Server
	})
	f.gated(f.placement("stays"))
	if err := host.Join(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.eventually(time.Minute, "the first one is ended on the host that is back", func() bool {
		tasks, err := f.tasks(host)
		return err == nil && !strings.Contains(tasks, before.Id)
	})
}

// tasks lists what runs in a host's containerd.
func (f *fleet) tasks(host *netns.Host) (string, error) {
	return f.engines[host.Name].Ctr(f.ctx, "--namespace", "k8s.io", "task", "list")
}

// killSupernodeWhilePlacing: a placement that was begun is finished or undone
// by the supernode's next life.
func (f *fleet) killSupernodeWhilePlacing() {
	t := f.t
	f.push("demo/second", "v1", image.Spec{Line: "two", Layers: []int64{8 << 20}, Seed: 73})
	go f.run(cluster.AdminUser, "place", f.supernode.Ref("demo/second", "v1"), "--name", "second", "--pool", "core", "--replicas", "1", "--", "serve")
	f.eventually(30*time.Second, "the second placement prepulls", func() bool {
		return slices.Contains(f.names(), "second") && f.placement("second").Phase == "prepulling"
	})
	f.supernode.Kill()
	if err := f.supernode.Restart(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.eventually(2*time.Minute, "the second placement is finished or undone", func() bool {
		switch p := f.placement("second"); p.Phase {
		case "running":
			return p.Healthy == 1
		case "failed":
			return len(p.Containers) == 0
		}
		return false
	})
	if f.placement("second").Phase == "running" {
		f.startedAfterAll(f.placement("second"))
	}
	f.must(cluster.AdminUser, "place", "remove", "second")
}

// overcommit places two services at once of which only one has room.
func (f *fleet) overcommit() {
	t := f.t
	var servers shoalv1.ListFleetResponse
	f.json(cluster.AdminUser, &servers, "server", "list", "--pool", "core")
	memory := fmt.Sprint(servers.Servers[0].Facts.MemoryBytes * 6 / 10)
	var wait sync.WaitGroup
	statuses := make([]int, 2)
	for i := range statuses {
		wait.Go(func() {
			_, statuses[i] = f.run(cluster.AdminUser, "place", f.supernode.Ref("demo/service", "v1"), "--name", fmt.Sprint("big-", i), "--pool", "core", "--replicas", "2", "--memory", memory, "--", "serve")
		})
	}
	wait.Wait()
	slices.Sort(statuses)
	if statuses[0] != 0 || statuses[1] != exitFailed {
		t.Errorf("of two services that do not fit together, the exit statuses are %v", statuses)
	}
	used := map[string]int64{}
	for _, name := range f.names() {
		p := f.placement(name)
		for _, c := range p.Containers {
			used[c.Server] += p.Revisions[len(p.Revisions)-1].Service.MemoryBytes
		}
	}
	for _, s := range servers.Servers {
		if used[s.Name] > s.Facts.MemoryBytes {
			t.Errorf("%s has %d bytes and is to run %d", s.Name, s.Facts.MemoryBytes, used[s.Name])
		}
	}
}

// TestUpdateAndMove brings new versions in, good and bad ones, and empties a
// host: the service answers all the while.
func TestUpdateAndMove(t *testing.T) {
	f := buildFleet(t, poolPlan{name: "core", tier: "core", engine: "containerd-2.4", hosts: 3, link: quick})
	for i, tag := range []string{"v1", "v2"} {
		f.push("demo/service", tag, image.Spec{Line: "this is " + tag, Layers: []int64{4 << 20}, Seed: uint64(74 + i)})
	}
	f.must(cluster.AdminUser, "place", f.supernode.Ref("demo/service", "v1"), "--name", "svc", "--pool", "core", "--replicas", "2",
		"--spread", "host", "--port", "8080", "--env", "GREETING=one", "--memory", "64MiB", "--", "serve", "8080")
	f.must(cluster.AdminUser, "place", "update", "svc", "--image", f.supernode.Ref("demo/service", "v2"), "--env", "GREETING=two")
	p := f.placement("svc")
	f.serves(p, "two")
	f.gated(p)
	if out := f.must(cluster.AdminUser, "place", "logs", "svc"); strings.Count(out, "this is v2") != 2 {
		t.Errorf("logs after the update: %q", out)
	}

	out, status := f.run(cluster.AdminUser, "place", "update", "svc", "--env", "GREETING=three", "--", "exit", "3")
	if status != exitFailed || !strings.Contains(out, "3") {
		t.Errorf("an update that ends at once: exit status %d: %s", status, out)
	}
	p = f.placement("svc")
	f.serves(p, "two")

	leaves := p.Containers[0].Server
	f.must(cluster.AdminUser, "server", "drain", leaves)
	f.eventually(time.Minute, "the service has moved", func() bool {
		p = f.placement("svc")
		return p.Healthy == 2 && len(p.Containers) == 2 && !slices.ContainsFunc(p.Containers, func(c *shoalv1.PlacedContainer) bool { return c.Server == leaves })
	})
	f.serves(p, "two")
	f.must(cluster.AdminUser, "place", "rollback", "svc", "--revision", "1")
	f.serves(f.placement("svc"), "one")
}

// serves checks that both containers run and say the greeting.
func (f *fleet) serves(p *shoalv1.Placement, greeting string) {
	f.t.Helper()
	if p.Phase != "running" || p.Healthy != 2 || len(p.Containers) != 2 {
		f.t.Errorf("%s: %s", p.Name, describe(p))
	}
	for _, c := range p.Containers {
		if said := f.greeting(c.Server, 8080); said != greeting {
			f.t.Errorf("on %s it says %q, not %q", c.Server, said, greeting)
		}
	}
}

// gated: all hosts of a change had the image before the first of them was told
// to start anything, or to end an old container for it.
func (f *fleet) gated(p *shoalv1.Placement) {
	f.t.Helper()
	ready, ordered := gate(p)
	if ready.IsZero() || !ready.Before(ordered) {
		f.t.Errorf("%s: the last host had the image at %s, the first change was ordered at %s", p.Name, ready, ordered)
	}
}
