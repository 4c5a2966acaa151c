package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/inventory"
)

var systemCaller = inventory.Caller{Name: "admin", Admin: true}

func (s *scene) book(who account) shoalv1connect.InventoryServiceClient {
	return shoalv1connect.NewInventoryServiceClient(s.client(who), s.public.URL+"/api")
}

// newFleet is a scene with the pools web and db, people with roles on web, and
// two servers in each pool that carry its name.
func newFleet(t *testing.T, people ...string) *scene {
	t.Helper()
	s := newScene(t, "nobody of the projects")
	_, err := s.Inventory.AddCluster(t.Context(), systemCaller, "here", inventory.KindMetal, "")
	s.must(err)
	for _, pool := range []string{"web", "db"} {
		_, err := s.Inventory.CreatePool(t.Context(), systemCaller, inventory.Pool{Name: pool, Cluster: "here"})
		s.must(err)
		for _, n := range []string{"1", "2"} {
			_, err = s.Inventory.AdoptServer(t.Context(), systemCaller, inventory.Adoption{Pool: pool, Name: pool + n, Address: "192.0.2." + n, HostKey: "SHA256:x"})
			s.must(err)
		}
	}
	for _, role := range people {
		user := account{"pool-" + role, "a password of pool " + role}
		s.must(s.Auth.CreateUser(t.Context(), user.name, user.password, false))
		if role != "nobody" {
			s.must(s.Inventory.SetRole(t.Context(), systemCaller, "web", user.name, inventory.Role(role)))
		}
		s.who[role] = user
	}
	return s
}

type fleetCall func(ctx context.Context, c shoalv1connect.InventoryServiceClient, pool string) error

// fleetCalls are the calls that name a pool, or a server of it, with the role
// that each needs.
var fleetCalls = map[string]struct {
	need string
	call fleetCall
}{
	"GetPool": {"viewer", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.GetPool(ctx, connect.NewRequest(&shoalv1.GetPoolRequest{Name: p})))
	}},
	"ListFleet": {"viewer", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.ListFleet(ctx, connect.NewRequest(&shoalv1.ListFleetRequest{Pool: p})))
	}},
	"GetFleetServer": {"viewer", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.GetFleetServer(ctx, connect.NewRequest(&shoalv1.GetFleetServerRequest{Id: p + "1"})))
	}},
	"SetPool": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.SetPool(ctx, connect.NewRequest(&shoalv1.SetPoolRequest{Name: p, SetLabels: true})))
	}},
	"SetPoolRole": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.SetPoolRole(ctx, connect.NewRequest(&shoalv1.SetPoolRoleRequest{Pool: p, User: "extra", Role: "viewer"})))
	}},
	"RemovePoolRole": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.RemovePoolRole(ctx, connect.NewRequest(&shoalv1.RemovePoolRoleRequest{Pool: p, User: "extra"})))
	}},
	"CreateServers": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.CreateServers(ctx, connect.NewRequest(&shoalv1.CreateServersRequest{Pool: p, Count: 1, Key: "k"})))
	}},
	"AdoptServer": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.AdoptServer(ctx, connect.NewRequest(&shoalv1.AdoptServerRequest{Pool: p, Name: p + "3", Address: "192.0.2.3", HostKey: "SHA256:x"})))
	}},
	"ImportServers": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.ImportServers(ctx, connect.NewRequest(&shoalv1.ImportServersRequest{Pool: p, Format: "csv", Content: "name,address\n", DryRun: true})))
	}},
	"DrainServer": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.DrainServer(ctx, connect.NewRequest(&shoalv1.DrainServerRequest{Id: p + "1"})))
	}},
	"RetireServer": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.RetireServer(ctx, connect.NewRequest(&shoalv1.RetireServerRequest{Id: p + "2"})))
	}},
	"SetTaint": {"admin", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.SetTaint(ctx, connect.NewRequest(&shoalv1.SetTaintRequest{Id: p + "1", Taint: "x"})))
	}},
	"AddCluster": {"system", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, _ string) error {
		return failed(c.AddCluster(ctx, connect.NewRequest(&shoalv1.AddClusterRequest{Name: "fresh", Kind: "metal"})))
	}},
	"RemoveCluster": {"system", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, _ string) error {
		return failed(c.RemoveCluster(ctx, connect.NewRequest(&shoalv1.RemoveClusterRequest{Name: "fresh"})))
	}},
	"CreatePool": {"system", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, _ string) error {
		return failed(c.CreatePool(ctx, connect.NewRequest(&shoalv1.CreatePoolRequest{Pool: &shoalv1.Pool{Name: "fresh", Cluster: "here"}})))
	}},
	"DeletePool": {"system", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, _ string) error {
		return failed(c.DeletePool(ctx, connect.NewRequest(&shoalv1.DeletePoolRequest{Name: "web"})))
	}},
	"SetPool's price": {"system", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.SetPool(ctx, connect.NewRequest(&shoalv1.SetPoolRequest{Name: p, Price: &shoalv1.Price{Currency: "EUR", HourlyMicro: 1}})))
	}},
	"SetPool's quota": {"system", func(ctx context.Context, c shoalv1connect.InventoryServiceClient, p string) error {
		return failed(c.SetPool(ctx, connect.NewRequest(&shoalv1.SetPoolRequest{Name: p, Quota: &shoalv1.PoolQuota{Servers: 100}})))
	}},
}

// notByPool are the calls that name no pool; what they list is looked at below.
var notByPool = []string{"ListClusters", "ListPools", "ListProfiles", "InitialiseServer"}

// Nobody does to a pool what their role there does not allow, and who may not
// see it cannot tell whether it is there.
func TestFleetCallsAreDecidedByThePoolTheyName(t *testing.T) {
	s := newFleet(t, "viewer", "deployer", "admin", "nobody")
	s.must(s.Auth.CreateUser(t.Context(), "extra", "a password of extra", false))
	methods := shoalv1.File_shoal_v1_inventory_proto.Services().ByName("InventoryService").Methods()
	if methods.Len() != len(fleetCalls)-2+len(notByPool) { // SetPool stands there three times
		t.Errorf("%d calls of the service, %d in the table", methods.Len(), len(fleetCalls)-2+len(notByPool))
	}
	levels := map[string][]string{"viewer": {"viewer", "deployer", "admin"}, "admin": {"admin"}, "system": nil}
	for _, name := range []string{"viewer", "deployer", "admin", "nobody"} {
		client := s.book(s.who[name])
		for what, c := range fleetCalls {
			for _, pool := range []string{"web", "db", "absent"} {
				err := c.call(t.Context(), client, pool)
				allowed := pool == "web" && strings.Contains(strings.Join(levels[c.need], " "), name)
				want := connect.CodePermissionDenied
				if byName := what == "AddCluster" || what == "RemoveCluster" || what == "CreatePool" || what == "DeletePool"; !byName && (pool != "web" || name == "nobody") {
					want = connect.CodeNotFound
				}
				refused := code(err) == connect.CodePermissionDenied || errors.Is(err, inventory.ErrNoPool) || code(err) == connect.CodeNotFound && strings.Contains(err.Error(), "that you may see")
				switch {
				case allowed && refused && what != "RemovePoolRole":
					t.Errorf("%s of %s by %s: %v", what, pool, name, err)
				case !allowed && code(err) != want:
					t.Errorf("%s of %s by %s: %v, want %v", what, pool, name, err, want)
				}
			}
			// The same words for what is hidden and what is not there.
			hidden, absent := c.call(t.Context(), client, "db"), c.call(t.Context(), client, "no")
			if hidden == nil || strings.ReplaceAll(hidden.Error(), "db", "no") != absent.Error() {
				t.Errorf("%s by %s: %v where it is, %v where it is not", what, name, hidden, absent)
			}
		}
	}
	if p, err := s.Inventory.Pool(t.Context(), "db"); err != nil || p.Price.Currency != "" || p.Quota.Servers != 0 || len(p.Taints) != 0 {
		t.Errorf("the other pool is %+v, %v", p, err)
	}
	for name, want := range map[string]string{"viewer": "web", "nobody": "", "system administrator": "db web"} {
		answer, err := s.book(s.who[name]).ListPools(t.Context(), connect.NewRequest(&shoalv1.ListPoolsRequest{}))
		s.must(err)
		var got []string
		for _, p := range answer.Msg.Pools {
			got = append(got, p.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s lists %v", name, got)
		}
		fleet, err := s.book(s.who[name]).ListFleet(t.Context(), connect.NewRequest(&shoalv1.ListFleetRequest{}))
		s.must(err)
		for _, server := range fleet.Msg.Servers {
			if !strings.Contains(want, server.Pool) {
				t.Errorf("%s sees %s of pool %s", name, server.Name, server.Pool)
			}
		}
	}
}

// host is the service of hosts, as a member calls it.
func (m *member) host() shoalv1connect.HostServiceClient {
	return shoalv1connect.NewHostServiceClient(m.http, "https://supernode")
}

func (s *scene) server(id string) *shoalv1.FleetServer {
	s.t.Helper()
	answer, err := s.book(s.who["system administrator"]).GetFleetServer(s.t.Context(), connect.NewRequest(&shoalv1.GetFleetServerRequest{Id: id}))
	s.must(err)
	return answer.Msg.Server
}

// A host that joins and opens its line is a server, connected as long as the
// line is open, and ready when it told what it is.
func TestAHostIsAServer(t *testing.T) {
	s := newFleet(t)
	m := s.join()
	if got := s.server("host-1"); got.Phase != "initialising" || got.PeerId != m.id() || got.Pool != "web" || got.Connected {
		t.Errorf("joined: %v", got)
	}
	if _, err := m.host().ReportFacts(t.Context(), connect.NewRequest(&shoalv1.ReportFactsRequest{})); code(err) != connect.CodeInvalidArgument {
		t.Errorf("no facts: %v", err)
	}
	line := m.watch("host-1")
	if _, err := m.host().ReportFacts(t.Context(), connect.NewRequest(&shoalv1.ReportFactsRequest{Facts: &shoalv1.Facts{CpuMilli: 4000, MemoryBytes: 8 << 30}})); err != nil {
		t.Fatal(err)
	}
	if got := s.server("host-1"); got.Phase != "ready" || !got.Connected || got.Facts.GetCpuMilli() != 4000 || got.LastSeen == nil {
		t.Errorf("connected: %v", got)
	}
	pools, err := s.book(s.who["system administrator"]).ListPools(t.Context(), connect.NewRequest(&shoalv1.ListPoolsRequest{}))
	s.must(err)
	if web := pools.Msg.Pools[1]; web.Servers != 3 || web.Ready != 1 || web.CpuMilli != 4000 || web.MemoryBytes != 8<<30 {
		t.Errorf("the pool: %v", web)
	}
	line.Close()
	if _, err := shoalv1connect.NewHostServiceClient(http.DefaultClient, s.public.URL+"/api").ReportFacts(t.Context(), connect.NewRequest(&shoalv1.ReportFactsRequest{})); err == nil {
		t.Error("the service of hosts is open to everybody")
	}
}

// serverToken makes a join token for a server.
func (s *scene) serverToken(id, pool string) string {
	s.t.Helper()
	text, _, err := s.Auth.CreateServerJoin(s.t.Context(), auth.MaxJoinLife, pool, id)
	s.must(err)
	return text
}

// A host that joins with a server's token is that server, also where it is the
// line that tells of it first. When the server was retired, the host is turned
// away.
func TestAHostJoinsAsItsServer(t *testing.T) {
	s := newFleet(t)
	made := s.server("web1")
	key := newKey(t)
	welcome, err := s.knock(key, s.serverToken(made.Id, "web"))
	s.must(err)
	m := s.member(key, s.now, welcome.Membership, welcome.MemberKey)
	if got := s.server(made.Id); got.Phase != "initialising" || got.PeerId != m.id() || got.Name != "web1" {
		t.Errorf("joined: %v", got)
	}
	m.watch("another-name")
	if got := s.server(made.Id); !got.Connected || got.PeerId != m.id() {
		t.Errorf("connected: %v", got)
	}
	// One whose join was not written down: the supernode was killed right then.
	late := newKey(t)
	membership, err := s.Auth.Join(t.Context(), auth.Joining{Token: s.joinTokenFor("db1", "db"), PublicKey: late.Public(), Proof: nil, Hostname: "x"})
	if err == nil {
		t.Fatalf("joined without a proof: %+v", membership)
	}
	text := s.joinTokenFor("db1", "db")
	joined, err := s.Auth.Join(t.Context(), auth.Joining{Token: text, PublicKey: late.Public(), Proof: identity.JoinProof(late, text), Hostname: "x"})
	s.must(err)
	s.member(late, s.now, joined.Membership, s.memberPublic()).watch("x")
	if got := s.server("db1"); got.PeerId != late.PeerID().String() || !got.Connected {
		t.Errorf("known by its line: %v", got)
	}
	// The token outlives the server.
	retired := s.serverToken(made.Id, "web")
	_, err = s.book(s.who["system administrator"]).RetireServer(t.Context(), connect.NewRequest(&shoalv1.RetireServerRequest{Id: made.Id}))
	s.must(err)
	other := newKey(t)
	if _, err := s.knock(other, retired); code(err) != connect.CodePermissionDenied {
		t.Errorf("joined as a retired server: %v", err)
	}
	if _, err := s.Auth.Renew(t.Context(), other.PeerID().String()); !errors.Is(err, auth.ErrRevoked) {
		t.Errorf("its membership: %v", err)
	}
	if rows := s.rows(audit.Query{Action: "node.join"}); len(rows) == 0 || rows[0].Allowed {
		t.Errorf("the audit says: %+v", rows)
	}
}

func (s *scene) joinTokenFor(name, pool string) string {
	s.t.Helper()
	return s.serverToken(s.server(name).Id, pool)
}

// A server's end is its membership's end, and the other way round.
func TestRetireAndRevoke(t *testing.T) {
	s := newFleet(t)
	admin := s.book(s.who["system administrator"])
	retire := func(id string, force bool) error {
		return failed(admin.RetireServer(t.Context(), connect.NewRequest(&shoalv1.RetireServerRequest{Id: id, Force: force})))
	}
	m := s.join()
	line := m.watch("host-1")
	id := s.server("host-1").Id
	// The book knows nothing of containers; it is asked before.
	s.Running = func(_ context.Context, server string) (int, error) {
		if server != id {
			t.Errorf("asked about %s", server)
		}
		return 2, nil
	}
	handler, err := Public(s.Config)
	s.must(err)
	s.public.Config.Handler = handler
	if err := retire("host-1", false); code(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "2 containers") {
		t.Errorf("with containers: %v", err)
	}
	if got := s.server("host-1"); got.Phase != "initialising" {
		t.Errorf("it is %s", got.Phase)
	}
	s.must(retire("host-1", true))
	s.must(retire(id, false))
	if line.Receive() {
		t.Errorf("its line is open: %v", line.Msg())
	}
	if _, err := s.Auth.Renew(t.Context(), m.id()); !errors.Is(err, auth.ErrRevoked) {
		t.Errorf("its membership: %v", err)
	}
	other := s.join()
	s.revoke(other.id())
	if got := s.server(mustOf(s.Inventory.OfPeer(t.Context(), other.id())).ID); got.Phase != "retired" {
		t.Errorf("of a revoked node: %v", got)
	}
	// A supernode that was killed between the two finds it at its next start.
	third := s.join()
	s.must(s.Auth.Revoke(t.Context(), third.id()))
	s.must(s.RetireRevoked(t.Context()))
	if got := mustOf(s.Inventory.OfPeer(t.Context(), third.id())); got.Phase != inventory.Retired {
		t.Errorf("after the start: %+v", got)
	}
	rows := s.rows(audit.Query{Action: "server.retire"})
	if len(rows) != 3 || rows[0].Object != "server:"+id || rows[1].Detail["force"] != "true" || rows[0].Subject != "admin" {
		t.Errorf("the audit says: %+v", rows)
	}
}

func mustOf[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What was done to a server stands in the audit under its name, and the list
// that was imported does not.
func TestFleetCallsInTheAudit(t *testing.T) {
	s := newFleet(t, "viewer")
	admin := s.book(s.who["system administrator"])
	s.must(failed(admin.AdoptServer(t.Context(), connect.NewRequest(&shoalv1.AdoptServerRequest{Pool: "web", Name: "web3", Address: "192.0.2.3", User: "root", HostKey: "SHA256:x"}))))
	s.must(failed(admin.SetTaint(t.Context(), connect.NewRequest(&shoalv1.SetTaintRequest{Id: "web1", Taint: "gpu"}))))
	s.must(failed(admin.ImportServers(t.Context(), connect.NewRequest(&shoalv1.ImportServersRequest{Pool: "web", Format: "csv", Content: "name,address\nthe-list,192.0.2.3\n"}))))
	if err := failed(s.book(s.who["viewer"]).GetPool(t.Context(), connect.NewRequest(&shoalv1.GetPoolRequest{Name: "db"}))); code(err) != connect.CodeNotFound {
		t.Error(err)
	}
	for action, want := range map[string]string{"server.adopt": "server:web3", "taint.set": "server:web1", "servers.import": "pool:web", "pool.get": "pool:db"} {
		rows := s.rows(audit.Query{Action: action})
		if len(rows) != 1 || rows[0].Object != want || rows[0].Allowed != (action != "pool.get") {
			t.Errorf("%s: %+v", action, rows)
			continue
		}
		for key, value := range rows[0].Detail {
			if strings.Contains(value, "the-list") {
				t.Errorf("%s tells %s=%s", action, key, value)
			}
		}
	}
}
