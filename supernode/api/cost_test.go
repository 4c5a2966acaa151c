package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/inventory"
)

func (s *scene) costs(who string) shoalv1connect.CostServiceClient {
	return shoalv1connect.NewCostServiceClient(s.client(s.who[who]), s.public.URL+"/api")
}

// newCostScene has two pools, web and old, with a server each at 2 € an hour;
// for an hour the project own had the half of both, other a half of web, and
// public, from which everybody pulls, a quarter of old.
func newCostScene(t *testing.T) *scene {
	s := newScene(t, "project admin", "guest", "no member")
	if now := s.now(); now.Add(3*time.Hour).UTC().Month() != now.UTC().Month() {
		s.offset.Add(int64(4 * time.Hour)) // all of it in one month
	}
	ctx, root := t.Context(), inventory.Caller{Name: "admin", Admin: true}
	_, err := s.Inventory.AddCluster(ctx, root, "here", "metal", "")
	s.must(err)
	for _, pool := range []string{"web", "old"} {
		_, err := s.Inventory.CreatePool(ctx, root, inventory.Pool{Name: pool, Cluster: "here", Tier: inventory.TierCore})
		s.must(err)
	}
	for name, role := range map[string]inventory.Role{"pool viewer": inventory.RoleViewer, "pool deployer": inventory.RoleDeployer, "pool admin": inventory.RoleAdmin} {
		user := account{strings.ReplaceAll(name, " ", "-"), "a password of " + name}
		s.must(s.Auth.CreateUser(ctx, user.name, user.password, false))
		s.must(s.Inventory.SetRole(ctx, root, "web", user.name, role))
		s.who[name] = user
	}
	for _, u := range []cost.Usage{
		{Kind: cost.Server, ID: "w1", Name: "host-w1", Pool: "web", CPUMilli: 4000},
		{Kind: cost.Server, ID: "o1", Name: "host-o1", Pool: "old", CPUMilli: 4000},
		{Kind: cost.Container, ID: "c1", Server: "w1", Pool: "web", Placement: "app", Project: "own", CPUMilli: 2000},
		{Kind: cost.Container, ID: "c2", Server: "o1", Pool: "old", Placement: "app", Project: "own", CPUMilli: 2000},
		{Kind: cost.Container, ID: "c4", Server: "o1", Pool: "old", Placement: "pub", Project: "public", CPUMilli: 1000},
		{Kind: cost.Container, ID: "c3", Server: "w1", Pool: "web", Placement: "job", Project: "other", CPUMilli: 2000},
	} {
		s.must(s.Cost.Note(ctx, u))
	}
	s.offset.Add(int64(time.Hour))
	return s
}

// TestCostsAreForWhomTheyConcern is the matrix: who × what is asked for.
func TestCostsAreForWhomTheyConcern(t *testing.T) {
	s := newCostScene(t)
	const all, web, own, none = "web/app web/job web/(idle) old/app old/pub old/(idle)", "web/app web/job web/(idle)", "web/app old/app", ""
	viewer := [6]string{web, web, "old!", "web/app", "web/job", "web/app"}
	member := [6]string{own, "web/app", "old/app", own, "other!", "web/app"}
	for name, want := range map[string][6]string{
		//                       everything, pool web, pool old, project own, project other, own in web
		"system administrator": {all, web, "old/app old/pub old/(idle)", own, "web/job", "web/app"},
		"pool admin":           viewer, "pool deployer": viewer, "pool viewer": viewer,
		"project admin": member, "guest": member,
		"no member": {none, "web!", "old!", "own!", "other!", "web!"},
	} {
		for i, asked := range [][2]string{{"", ""}, {"web", ""}, {"old", ""}, {"", "own"}, {"", "other"}, {"web", "own"}} {
			answer, err := s.costs(name).GetCost(t.Context(), connect.NewRequest(&shoalv1.GetCostRequest{By: "service", Pool: asked[0], Project: asked[1]}))
			what := fmt.Sprintf("%s asks about pool %q and project %q", name, asked[0], asked[1])
			exported, exportErr := s.exported(name, asked[0], asked[1])
			if absent, refused := strings.CutSuffix(want[i], "!"); refused {
				if code(err) != connect.CodeNotFound || !strings.Contains(err.Error(), absent) || code(exportErr) != connect.CodeNotFound {
					t.Errorf("%s: %v and %v, want that there is no %s", what, err, exportErr, absent)
				}
				continue
			}
			if err != nil || exportErr != nil {
				t.Errorf("%s: %v and %v", what, err, exportErr)
				continue
			}
			var got []string
			for _, r := range answer.Msg.Rows {
				name := r.Name
				if !strings.Contains(name, "/") {
					name = r.Pool + "/" + name
				}
				got = append(got, name)
			}
			slices.Sort(got)
			wanted := strings.Fields(want[i])
			slices.Sort(wanted)
			if !slices.Equal(got, wanted) || exported != len(wanted) {
				t.Errorf("%s: %q and %d exported rows, want %q", what, got, exported, wanted)
			}
			sees := name == "system administrator" || strings.HasPrefix(name, "pool")
			if (len(answer.Msg.Pools) > 0) != (sees && asked[1] == "") {
				t.Errorf("%s: %d pools", what, len(answer.Msg.Pools))
			}
		}
	}
}

// exported counts the rows of an export.
func (s *scene) exported(who, pool, project string) (int, error) {
	stream, err := s.costs(who).ExportCost(s.t.Context(), connect.NewRequest(&shoalv1.ExportCostRequest{Format: "json", Pool: pool, Project: project}))
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	all := ""
	for stream.Receive() {
		all += string(stream.Msg().Data)
	}
	return strings.Count(all, "\n"), stream.Err()
}

func TestWhatACostAnswers(t *testing.T) {
	s := newCostScene(t)
	answer, err := s.costs("system administrator").GetCost(t.Context(), connect.NewRequest(&shoalv1.GetCostRequest{By: "pool"}))
	s.must(err)
	for _, p := range answer.Msg.Pools {
		if p.AllocatedMicro+p.IdleMicro != p.ServersMicro || p.ServersMicro < 2_000_000 || p.Currency != "EUR" {
			t.Errorf("%v", p)
		}
	}
	if to := answer.Msg.To.AsTime(); to.After(s.now()) || answer.Msg.From.AsTime().Day() != 1 {
		t.Errorf("from %v to %v", answer.Msg.From.AsTime(), to)
	}
	for name, wrong := range map[string]*shoalv1.GetCostRequest{"by colour": {By: "colour"}, "by nothing": {}} {
		if _, err := s.costs("system administrator").GetCost(t.Context(), connect.NewRequest(wrong)); code(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func setBudget(scope string) func(context.Context, shoalv1connect.CostServiceClient) error {
	return func(ctx context.Context, c shoalv1connect.CostServiceClient) error {
		return failed(c.SetBudget(ctx, connect.NewRequest(&shoalv1.SetBudgetRequest{
			Budget: &shoalv1.Budget{Scope: scope, Currency: "EUR", MonthlyMicro: 1_000_000, Alarms: []int32{50}},
		})))
	}
}

// TestBudgetsAreSetByWhoManages: a pool's or a project's admins, and system
// administrators.
func TestBudgetsAreSetByWhoManages(t *testing.T) {
	s := newCostScene(t)
	const denied, absent = connect.CodePermissionDenied, connect.CodeNotFound
	for name, want := range map[string][5]connect.Code{
		//                       pool:web, pool:old, project:own, project:other, project:none
		"system administrator": {0, 0, 0, 0, absent},
		"pool admin":           {0, absent, absent, absent, absent},
		"pool deployer":        {denied, absent, absent, absent, absent},
		"pool viewer":          {denied, absent, absent, absent, absent},
		"project admin":        {absent, absent, 0, absent, absent},
		"guest":                {absent, absent, denied, absent, absent},
		"no member":            {absent, absent, absent, absent, absent},
	} {
		for i, scope := range []string{"pool:web", "pool:old", "project:own", "project:other", "project:none"} {
			if err := setBudget(scope)(t.Context(), s.costs(name)); code(err) != want[i] {
				t.Errorf("%s sets %s: %v, want %v", name, scope, err, want[i])
			}
			if want[i] != 0 {
				s.must(s.Cost.SetBudget(t.Context(), cost.Budget{Scope: scope, Currency: "EUR", Monthly: 1}))
			}
			err := failed(s.costs(name).RemoveBudget(t.Context(), connect.NewRequest(&shoalv1.RemoveBudgetRequest{Scope: scope})))
			if name == "system administrator" { // of what is gone, too
				want[i] = 0
			}
			if code(err) != want[i] {
				t.Errorf("%s removes %s: %v, want %v", name, scope, err, want[i])
			}
		}
	}
}

// TestAnAlarmIsInTheAudit: who set a budget, and that it is spent.
func TestAnAlarmIsInTheAudit(t *testing.T) {
	s := newCostScene(t)
	s.must(setBudget("project:own")(t.Context(), s.costs("project admin")))
	s.must(s.Cost.CheckBudgets(t.Context()))
	answer, err := s.costs("guest").ListBudgets(t.Context(), connect.NewRequest(&shoalv1.ListBudgetsRequest{}))
	s.must(err)
	if list := answer.Msg.Budgets; len(list) != 1 || list[0].Raised != 50 || list[0].SpentMicro < 2_000_000 {
		t.Errorf("%v", list)
	}
	rows, _, err := s.Audit.Search(t.Context(), audit.Query{Action: "budget"}, 0, 10)
	s.must(err)
	if len(rows) != 2 || rows[0].Action != "budget.alarm" || rows[0].Project != "own" || rows[0].Detail["alarm_percent"] != "50" ||
		rows[1].Action != "budget.set" || rows[1].Subject != "project-admin" || rows[1].Object != "budget:project:own" || rows[1].Detail["monthly_micro"] != "1000000" {
		t.Errorf("%+v", rows)
	}
}

// TestBytesAreCountedForTheMembersOwnPool: whatever a host says, its pool is
// that of its membership.
func TestBytesAreCountedForTheMembersOwnPool(t *testing.T) {
	s := newCostScene(t)
	m := s.join()
	hosts := shoalv1connect.NewHostServiceClient(m.http, "https://supernode")
	report := &shoalv1.ReportTrafficRequest{Instance: "run", PeerBytes: 3_000_000_000, SupernodeBytes: 2, UpstreamBytes: 1, LocalBytes: 4}
	s.must(failed(hosts.ReportTraffic(t.Context(), connect.NewRequest(report))))
	s.must(s.Cost.Flush(t.Context()))
	s.offset.Add(int64(time.Hour))
	answer, err := s.costs("pool viewer").GetCost(t.Context(), connect.NewRequest(&shoalv1.GetCostRequest{By: "pool"}))
	s.must(err)
	if p := answer.Msg.Pools[0]; p.Pool != "web" || p.PeerBytes != 3_000_000_000 || p.SupernodeBytes != 2 || p.UpstreamBytes != 1 || p.LocalBytes != 4 || p.SavedMicro != 3_000_000 {
		t.Errorf("%v", p)
	}
	report.PeerBytes = -1
	if err := failed(hosts.ReportTraffic(t.Context(), connect.NewRequest(report))); code(err) != connect.CodeInvalidArgument {
		t.Errorf("below nothing: %v", err)
	}
}
