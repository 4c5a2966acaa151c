package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/placement"
)

// placeIn gives a front what carries placements out, with pretended hosts.
func (f *front) placeIn() {
	f.twin = placement.NewMemory(func(server string, m *shoalv1.ReportContainersRequest) {
		_ = f.Placements.Report(context.Background(), server, m)
	})
	world := World{Inventory: f.Inventory, Fleet: f.Fleet, Tracker: f.Tracker, Now: f.now,
		Manifest: func(context.Context, blob.Ref, blob.Digest) ([]byte, error) { return []byte(emptyList), nil },
	}
	f.Placements = placement.New(placement.Config{Meta: f.meta, World: world, Engine: f.twin, Now: f.now, Every: 50 * time.Millisecond, Log: f.Log})
	f.Foreign = func(_ context.Context, subject string, ref blob.Ref, _ string) (blob.Digest, []byte, error) {
		if between := f.between; between != nil {
			f.between = nil
			between()
		}
		if ref.Registry == "private.example" && subject != "admin" {
			return "", nil, fetch.ErrDenied
		}
		return f.outside.digest, nil, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Placements.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	})
}

// host puts up a server with a pretended agent.
func (f *front) host(name, pool string) inventory.Server {
	f.t.Helper()
	server, err := f.Inventory.Arrived(f.t.Context(), inventory.Arrival{PeerID: "peer-" + name, Hostname: name, Pool: pool})
	f.must(err)
	f.must(f.Inventory.SetFacts(f.t.Context(), "peer-"+name, &shoalv1.Facts{
		Hostname: name, Arch: "amd64", CpuMilli: 4000, MemoryBytes: 8 << 30, Engine: "memory",
	}))
	line, _, err := f.Fleet.Connect(fleet.Host{PeerID: "peer-" + name, Instance: name, Hostname: name, Pool: pool})
	f.must(err)
	f.t.Cleanup(line.Close)
	f.twin.Add(server.ID)
	return server
}

func (s *scene) placements(who account) shoalv1connect.PlacementServiceClient {
	return shoalv1connect.NewPlacementServiceClient(s.client(who), s.public.URL+"/api")
}

// follow reads how a change comes out.
func follow(stream *connect.ServerStreamForClient[shoalv1.PlaceUpdate], err error) (*shoalv1.PlaceUpdate, error) {
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var last *shoalv1.PlaceUpdate
	for stream.Receive() {
		last = stream.Msg()
	}
	return last, stream.Err()
}

// aPool is one with two hosts, and roles by person.
func (s *scene) aPool(roles map[string]inventory.Role) {
	s.t.Helper()
	by := inventory.Caller{Name: "admin", Admin: true}
	_, err := s.Inventory.AddCluster(s.t.Context(), by, "here", "metal", "")
	s.must(err)
	_, err = s.Inventory.CreatePool(s.t.Context(), by, inventory.Pool{Name: "web", Cluster: "here", Tier: "core"})
	s.must(err)
	for who, role := range roles {
		s.must(s.Inventory.SetRole(s.t.Context(), by, "web", who, role))
	}
	s.host("h1", "web")
	s.host("h2", "web")
}

func aPlace(image string) *connect.Request[shoalv1.PlaceRequest] {
	return connect.NewRequest(&shoalv1.PlaceRequest{
		Pool: "web", Replicas: 2, Spread: "host", Spares: -1,
		Service: &shoalv1.Service{Image: image, CpuMilli: 500, Env: []string{"PASSWORD=do-not-tell"}},
	})
}

func TestPlaceAndEverythingElse(t *testing.T) {
	s := newScene(t, "developer", "guest")
	s.aPool(map[string]inventory.Role{"developer": inventory.RoleDeployer, "guest": inventory.RoleViewer})
	s.set("own/app")
	c := s.placements(s.who["developer"])
	last, err := follow(c.Place(t.Context(), aPlace("own/app:v1")))
	if err != nil || !last.Done || last.Phase != "running" || last.Error != "" {
		t.Fatalf("%v, %v", last, err)
	}
	p := last.Placement
	if p.Name != "app" || p.Project != "own" || p.Healthy != 2 || len(p.Prepulls) != 2 || p.Containers[0].Ordered == nil {
		t.Errorf("%v", p)
	}
	for _, one := range p.Prepulls {
		if first := p.Containers[0].Ordered.AsTime(); one.Ready.AsTime().After(first) {
			t.Errorf("%s was ready at %v, the first was ordered at %v", one.Server, one.Ready.AsTime(), first)
		}
	}
	// A viewer sees it, without what the environment holds.
	got, err := s.placements(s.who["guest"]).GetPlacement(t.Context(), connect.NewRequest(&shoalv1.GetPlacementRequest{Name: "app"}))
	if err != nil || got.Msg.Placement.Revisions[0].Service.Env[0] != "PASSWORD=…" {
		t.Errorf("%v, %v", got, err)
	}
	list, err := s.placements(s.who["guest"]).ListPlacements(t.Context(), connect.NewRequest(&shoalv1.ListPlacementsRequest{}))
	if err != nil || len(list.Msg.Placements) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if last, err = follow(c.ScalePlacement(t.Context(), connect.NewRequest(&shoalv1.ScalePlacementRequest{Name: "app", Replicas: 4}))); err != nil || last.Placement.Healthy != 4 {
		t.Errorf("%v, %v", last, err)
	}
	if last, err = follow(c.UpdatePlacement(t.Context(), connect.NewRequest(&shoalv1.UpdatePlacementRequest{
		Name: "app", SetArgs: true, Service: &shoalv1.Service{Args: []string{"serve"}},
	}))); err != nil || last.Phase != "running" || last.Placement.Revisions[1].Service.CpuMilli != 500 {
		t.Errorf("%v, %v", last, err)
	}
	if last, err = follow(c.RevertPlacement(t.Context(), connect.NewRequest(&shoalv1.RevertPlacementRequest{Name: "app"}))); err != nil || last.Placement.Containers[0].Revision != 3 {
		t.Errorf("%v, %v", last, err)
	}
	lines, err := c.ReadLogs(t.Context(), connect.NewRequest(&shoalv1.ReadLogsRequest{Name: "app"}))
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]bool{}
	for lines.Receive() {
		from[lines.Msg().Container] = true
	}
	if len(from) != 4 || lines.Err() != nil {
		t.Errorf("logs of %v, %v", from, lines.Err())
	}
	stopped, err := c.StopPlacement(t.Context(), connect.NewRequest(&shoalv1.StopPlacementRequest{Name: "app"}))
	if err != nil || stopped.Msg.Placement.Phase != "stopped" {
		t.Errorf("%v, %v", stopped, err)
	}
	s.must(failed(c.StartPlacement(t.Context(), connect.NewRequest(&shoalv1.StartPlacementRequest{Name: "app"}))))
	s.must(failed(c.RestartPlacement(t.Context(), connect.NewRequest(&shoalv1.RestartPlacementRequest{Name: "app"}))))
	s.must(failed(c.RemovePlacement(t.Context(), connect.NewRequest(&shoalv1.RemovePlacementRequest{Name: "app"}))))
}

// A supernode may be killed while it tells how a change goes on, and a caller
// leave: the change has its row by then, and goes on.
func TestAChangeHasItsRowBeforeItIsOver(t *testing.T) {
	s := newScene(t, "developer")
	s.aPool(map[string]inventory.Role{"developer": inventory.RoleDeployer})
	s.set("own/app")
	s.twin.Set(string(digest.FromString(emptyList)), placement.Behaviour{Fetch: time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := s.placements(s.who["developer"]).Place(ctx, aPlace("own/app:v1"))
	s.must(err)
	defer stream.Close()
	once := func(when string) {
		t.Helper()
		rows := s.rows(audit.Query{Subject: "developer", Action: "placement.place"})
		if len(rows) != 1 || !rows[0].Allowed || rows[0].Reason != "" || rows[0].Detail["pull"] != "yes" {
			t.Errorf("%s: %+v", when, rows)
		}
	}
	if !stream.Receive() || stream.Msg().Done {
		t.Fatalf("%v, %v", stream.Msg(), stream.Err())
	}
	once("in the middle")
	leave()
	for stream.Receive() {
	}
	s.public.Close() // waits for the handlers
	once("after the caller left")
}

func TestADryRunPlacesNothing(t *testing.T) {
	s := newScene(t, "developer")
	s.aPool(map[string]inventory.Role{"developer": inventory.RoleDeployer})
	s.set("own/app")
	req := aPlace("own/app:v1")
	req.Msg.DryRun = true
	last, err := follow(s.placements(s.who["developer"]).Place(t.Context(), req))
	if err != nil || len(last.Verdicts) != 2 || last.Verdicts[0].Outcome != "chosen" {
		t.Errorf("%v, %v", last, err)
	}
	req.Msg.Service.MemoryBytes = 1 << 40
	last, err = follow(s.placements(s.who["developer"]).Place(t.Context(), req))
	if err != nil || last.Error == "" || !strings.Contains(last.Verdicts[0].Reason, "of memory") {
		t.Errorf("%v, %v", last, err)
	}
	if list, err := s.Placements.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// Placing needs pull on the image's project and deploy on the pool. Who lacks
// one of them gets one row that says which, and hears no more than they may
// know.
func TestWhoMayPlace(t *testing.T) {
	s := newScene(t, "developer", "guest", "no member")
	s.aPool(map[string]inventory.Role{"developer": inventory.RoleDeployer, "guest": inventory.RoleViewer, "no-member": inventory.RoleDeployer})
	s.set("own/app")
	s.set("other/app")
	for _, c := range []struct {
		who, subject, image string
		pool                string
		want                connect.Code
		pull, deploy        string
	}{
		{"developer", "developer", "own/app:v1", "web", 0, "yes", "yes"},
		{"developer", "developer", "other/app:v1", "web", connect.CodeNotFound, "no", "yes"},
		{"developer", "developer", "own/app:v1", "none", connect.CodeNotFound, "yes", "no"},
		{"developer", "developer", "own/app:none", "web", connect.CodeNotFound, "no", "yes"},
		{"developer", "developer", "private.example/app:1", "web", connect.CodePermissionDenied, "no", "yes"},
		{"developer", "developer", "docker.io/library/app:1", "web", 0, "yes", "yes"},
		{"no member", "no-member", "own/app:v1", "web", connect.CodeNotFound, "no", "yes"},
		{"guest", "guest", "own/app:v1", "web", connect.CodePermissionDenied, "yes", "no"},
		{"system administrator", "admin", "other/app:v1", "web", 0, "yes", "yes"},
	} {
		req := aPlace(c.image)
		req.Msg.Pool, req.Msg.DryRun = c.pool, true
		before := len(s.rows(audit.Query{Subject: c.subject, Action: "placement.place"}))
		_, err := follow(s.placements(s.who[c.who]).Place(t.Context(), req))
		if code(err) != c.want {
			t.Errorf("%s places %s on %s: %v, want %v", c.who, c.image, c.pool, err, c.want)
		}
		rows := s.rows(audit.Query{Subject: c.subject, Action: "placement.place"})
		if len(rows) != before+1 {
			t.Errorf("%s places %s: %d rows", c.who, c.image, len(rows)-before)
			continue
		}
		newest := rows[0]
		for _, r := range rows {
			if r.Sequence > newest.Sequence {
				newest = r
			}
		}
		if got := newest.Detail; got["pull"] != c.pull || got["deploy"] != c.deploy || newest.Object != "placement:app" || newest.Allowed != (c.want == 0 || c.image == "own/app:none") {
			t.Errorf("%s places %s on %s: %+v", c.who, c.image, c.pool, newest)
		}
		if strings.Contains(fmt.Sprint(newest), "do-not-tell") {
			t.Errorf("the row tells the environment: %+v", newest)
		}
	}
}

// To do something to a placement needs a role on its pool; to start an image
// anew, the right to pull it too.
func TestWhoMayChangeAPlacement(t *testing.T) {
	s := newScene(t, "developer", "guest", "no member", "project admin")
	s.aPool(map[string]inventory.Role{"developer": inventory.RoleDeployer, "guest": inventory.RoleViewer, "no-member": inventory.RoleDeployer})
	s.set("own/app")
	if _, err := follow(s.placements(s.who["developer"]).Place(t.Context(), aPlace("own/app:v1"))); err != nil {
		t.Fatal(err)
	}
	name := "app"
	calls := map[string]func(c shoalv1connect.PlacementServiceClient) error{
		"see": func(c shoalv1connect.PlacementServiceClient) error {
			return failed(c.GetPlacement(t.Context(), connect.NewRequest(&shoalv1.GetPlacementRequest{Name: name})))
		},
		"read logs": func(c shoalv1connect.PlacementServiceClient) error {
			stream, err := c.ReadLogs(t.Context(), connect.NewRequest(&shoalv1.ReadLogsRequest{Name: name}))
			if err != nil {
				return err
			}
			for stream.Receive() {
			}
			return stream.Err()
		},
		"restart": func(c shoalv1connect.PlacementServiceClient) error {
			return failed(c.RestartPlacement(t.Context(), connect.NewRequest(&shoalv1.RestartPlacementRequest{Name: name})))
		},
		"start": func(c shoalv1connect.PlacementServiceClient) error {
			return failed(c.StartPlacement(t.Context(), connect.NewRequest(&shoalv1.StartPlacementRequest{Name: name})))
		},
		"scale": func(c shoalv1connect.PlacementServiceClient) error {
			_, err := follow(c.ScalePlacement(t.Context(), connect.NewRequest(&shoalv1.ScalePlacementRequest{Name: name, Replicas: 2})))
			return err
		},
		"update": func(c shoalv1connect.PlacementServiceClient) error {
			_, err := follow(c.UpdatePlacement(t.Context(), connect.NewRequest(&shoalv1.UpdatePlacementRequest{Name: name, SetEnv: true})))
			return err
		},
		"revert": func(c shoalv1connect.PlacementServiceClient) error {
			_, err := follow(c.RevertPlacement(t.Context(), connect.NewRequest(&shoalv1.RevertPlacementRequest{Name: name})))
			return err
		},
	}
	const ok, denied, hidden = connect.Code(0), connect.CodePermissionDenied, connect.CodeNotFound
	for who, want := range map[string]map[string]connect.Code{
		"developer":     {"see": ok, "read logs": ok, "restart": ok, "start": ok, "scale": ok, "update": ok},
		"guest":         {"see": ok, "read logs": denied, "restart": denied, "start": denied, "scale": denied, "update": denied, "revert": denied},
		"no member":     {"see": ok, "read logs": ok, "restart": ok, "start": hidden, "scale": hidden, "update": hidden},
		"project admin": {"see": hidden, "read logs": hidden, "restart": hidden, "start": hidden, "scale": hidden, "update": hidden, "revert": hidden},
	} {
		c := s.placements(s.who[who])
		for call, wanted := range want {
			if err := calls[call](c); code(err) != wanted {
				t.Errorf("%s may %s: %v, want %v", who, call, err, wanted)
			}
		}
		if want["see"] == hidden {
			real := calls["see"](c)
			name = "none"
			none := calls["see"](c)
			name = "app"
			if strings.ReplaceAll(none.Error(), "none", "app") != real.Error() {
				t.Errorf("%s can tell that it is there: %q, %q", who, real, none)
			}
		}
	}
	if response, _ := s.do(http.MethodPost, "/api/shoal.v1.PlacementService/ListPlacements", strings.NewReader("{}"), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/json")
	}); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger lists: %s", response.Status)
	}
}

// Who follows a change sees nothing of another pool's placement that has got
// the name meanwhile.
func TestFollowingEndsAtThePool(t *testing.T) {
	v := placement.View{Record: placement.Record{
		Name: "app", Pool: "other", Revisions: []placement.Revision{{Service: placement.Service{Env: []string{"PASSWORD=do-not-tell"}}}},
		Verdicts: []placement.Verdict{{Name: "h9"}}, Prepulls: []placement.Prepull{{Host: "h9"}},
	}}
	if m := updateMessage(v, "other", "old"); m.Placement.GetName() != "app" || len(m.Verdicts)+len(m.Prepulls) != 2 {
		t.Errorf("%v", m)
	}
	if m := updateMessage(v, "web", "old"); !m.Done || m.Error == "" || m.Placement != nil || len(m.Verdicts)+len(m.Prepulls) != 0 {
		t.Errorf("%v", m)
	}
}

// An update is of the version that its caller saw and may have.
func TestAnUpdateTakesNoOtherBack(t *testing.T) {
	s := newScene(t, "developer")
	s.aPool(map[string]inventory.Role{"developer": inventory.RoleDeployer})
	c := s.placements(s.who["developer"])
	if last, err := follow(c.Place(t.Context(), aPlace("docker.io/library/app:1"))); err != nil || last.Error != "" {
		t.Fatalf("%v, %v", last, err)
	}
	update := connect.NewRequest(&shoalv1.UpdatePlacementRequest{Name: "app", SetEnv: true, Service: &shoalv1.Service{}})
	s.between = func() {
		record, err := s.Placements.Update(t.Context(), "app", "eve", 0, func(_ placement.Record, was placement.Service) (placement.Service, error) {
			was.Args = []string{"other"}
			return was, nil
		})
		s.must(err)
		for range s.Placements.Watch(t.Context(), "app", record.Change.ID) {
		}
	}
	if _, err := follow(c.UpdatePlacement(t.Context(), update)); code(err) != connect.CodeFailedPrecondition {
		t.Errorf("an update of a version that is gone: %v", err)
	}
	if last, err := follow(c.UpdatePlacement(t.Context(), update)); err != nil || len(last.Placement.Revisions) != 3 || last.Placement.Revisions[2].Service.Args[0] != "other" {
		t.Errorf("%v, %v", last, err)
	}
}
