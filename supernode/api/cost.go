package api

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// costService is for everybody who is logged in: who views a pool sees all
// about it, a project's member what that project used anywhere.
type costService struct{ Config }

// sight is what the caller may see. Who asks for a pool or project by its name
// that they may see nothing of hears that it is not there.
func (s costService) sight(ctx context.Context, pool, project string) (cost.Sight, error) {
	by := userOf(ctx)
	if by.Admin {
		return cost.Sight{All: true}, nil
	}
	sight := cost.Sight{Pools: map[string]bool{}, Projects: map[string]time.Time{}}
	pools, err := s.Inventory.Pools(ctx, inventoryCaller(ctx))
	if err != nil {
		return sight, err
	}
	for _, p := range pools {
		sight.Pools[p.Name] = true
	}
	projects, roles, err := s.Auth.Projects(ctx, by.User)
	if err != nil {
		return sight, err
	}
	for i, p := range projects {
		if roles[i] != "" { // others may pull from a public one, and are no members
			sight.Projects[p.Name] = p.Created
		}
	}
	return sight, seen(sight, pool, project)
}

// seen refuses a question about a pool or project by its name that somebody
// sees nothing of, in the words for one that is not there.
func seen(sight cost.Sight, pool, project string) error {
	_, member := sight.Projects[project]
	switch {
	case member, sight.Pools[pool], pool == "" && project == "":
	case project == "" && len(sight.Projects) > 0: // what their projects used of the pool
	case pool == "" && len(sight.Pools) > 0: // what the project used of their pools
	case pool != "":
		return fmt.Errorf("the costs of pool %q: %w", pool, inventory.ErrNoPool)
	default:
		return fmt.Errorf("the costs of project %q: %w", project, auth.ErrNoProject)
	}
	return nil
}

// question is what the caller asks for, and how much of it they may see.
func (s costService) question(ctx context.Context, from, to *timestamppb.Timestamp, pool, project string) (q cost.Question, sight cost.Sight, err error) {
	q = cost.Question{Pool: pool, Project: project}
	if q.From, q.To, err = cost.Window(timeOf(from), timeOf(to), s.Now()); err != nil {
		return q, sight, err
	}
	sight, err = s.sight(ctx, pool, project)
	return q, sight, err
}

func (s costService) GetCost(ctx context.Context, req *connect.Request[shoalv1.GetCostRequest]) (*connect.Response[shoalv1.GetCostResponse], error) {
	m := req.Msg
	q, sight, err := s.question(ctx, m.From, m.To, m.Pool, m.Project)
	if err != nil {
		return nil, coded(err)
	}
	report, err := s.Cost.Report(ctx, m.By, q, sight)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.GetCostResponse{From: timestamppb.New(q.From), To: timestamppb.New(q.To)}
	for _, r := range report.Rows {
		out.Rows = append(out.Rows, &shoalv1.CostRow{
			Name: r.Name, Pool: r.Pool, Currency: r.Currency, AmountMicro: r.Micro,
			CpuMilliSeconds: r.CPUMilliSeconds, MemoryMibSeconds: r.MemoryMiBSeconds,
		})
	}
	for _, p := range report.Pools {
		out.Pools = append(out.Pools, &shoalv1.PoolCost{
			Pool: p.Pool, Currency: p.Currency, ServersMicro: p.Servers, AllocatedMicro: p.Allocated, IdleMicro: p.Idle,
			PeerBytes: p.Peer, SupernodeBytes: p.Supernode, UpstreamBytes: p.Upstream, LocalBytes: p.Local, SavedMicro: p.Saved,
		})
	}
	return connect.NewResponse(out), nil
}

// costChunks sends what is written to it.
type costChunks struct {
	stream *connect.ServerStream[shoalv1.ExportCostChunk]
}

// Write implements io.Writer.
func (c costChunks) Write(data []byte) (int, error) {
	if err := c.stream.Send(&shoalv1.ExportCostChunk{Data: data}); err != nil {
		return 0, err
	}
	return len(data), nil
}

func (s costService) ExportCost(ctx context.Context, req *connect.Request[shoalv1.ExportCostRequest], stream *connect.ServerStream[shoalv1.ExportCostChunk]) error {
	m := req.Msg
	q, sight, err := s.question(ctx, m.From, m.To, m.Pool, m.Project)
	if err != nil {
		return coded(err)
	}
	to := bufio.NewWriterSize(costChunks{stream}, exportChunk)
	if err := s.Cost.Export(ctx, to, m.Format, s.IDC, q, sight); err != nil {
		return coded(err)
	}
	return to.Flush()
}

// mayBudget decides who sets what a pool or project should cost: who manages
// it.
func (s costService) mayBudget(ctx context.Context, scope string) error {
	kind, name, err := cost.Target(scope)
	if err != nil {
		return err
	}
	if kind == cost.OfPool {
		_, err = s.Inventory.May(ctx, inventoryCaller(ctx), name, inventory.Manage)
		return err
	}
	return s.Auth.MayManage(ctx, userOf(ctx).User, name)
}

func (s costService) SetBudget(ctx context.Context, req *connect.Request[shoalv1.SetBudgetRequest]) (*connect.Response[shoalv1.SetBudgetResponse], error) {
	m := req.Msg.Budget
	if err := s.mayBudget(ctx, m.GetScope()); err != nil {
		return nil, coded(err)
	}
	b := cost.Budget{Scope: m.GetScope(), Currency: m.GetCurrency(), Monthly: m.GetMonthlyMicro(), By: userOf(ctx).Name}
	for _, percent := range m.GetAlarms() {
		b.Alarms = append(b.Alarms, int(percent))
	}
	if err := s.Cost.SetBudget(ctx, b); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetBudgetResponse{}), nil
}

func (s costService) RemoveBudget(ctx context.Context, req *connect.Request[shoalv1.RemoveBudgetRequest]) (*connect.Response[shoalv1.RemoveBudgetResponse], error) {
	// An administrator may remove that of a pool or project which is gone.
	if !userOf(ctx).Admin {
		if err := s.mayBudget(ctx, req.Msg.Scope); err != nil {
			return nil, coded(err)
		}
	}
	if err := s.Cost.RemoveBudget(ctx, req.Msg.Scope, req.Msg.Currency); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemoveBudgetResponse{}), nil
}

func (s costService) ListBudgets(ctx context.Context, _ *connect.Request[shoalv1.ListBudgetsRequest]) (*connect.Response[shoalv1.ListBudgetsResponse], error) {
	sight, err := s.sight(ctx, "", "")
	if err != nil {
		return nil, coded(err)
	}
	list, err := s.Cost.Budgets(ctx, sight)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListBudgetsResponse{}
	for _, b := range list {
		one := &shoalv1.Budget{
			Scope: b.Scope, Currency: b.Currency, MonthlyMicro: b.Monthly, SpentMicro: b.Spent, Raised: int32(b.Raised),
		}
		for _, percent := range b.Alarms {
			one.Alarms = append(one.Alarms, int32(percent))
		}
		out.Budgets = append(out.Budgets, one)
	}
	return connect.NewResponse(out), nil
}

// BudgetAlarm gives each alarm of a budget a row in the audit.
func BudgetAlarm(to *audit.Log) func(context.Context, cost.Alarm) {
	return func(_ context.Context, a cost.Alarm) {
		project, _ := strings.CutPrefix(a.Scope, cost.OfProject)
		if project == a.Scope {
			project = ""
		}
		to.Record(audit.Event{
			Subject: audit.Supernode, Action: "budget.alarm", Object: "budget:" + a.Scope, Project: project, Allowed: true,
			Detail: map[string]string{
				"alarm_percent": strconv.Itoa(a.Percent), "spent": cost.Amount(a.Spent), "monthly": cost.Amount(a.Monthly), "currency": a.Currency,
			},
		})
	}
}

// ReportTraffic counts where a member's bytes came from, for its pool.
func (s hostService) ReportTraffic(ctx context.Context, req *connect.Request[shoalv1.ReportTrafficRequest]) (*connect.Response[shoalv1.ReportTrafficResponse], error) {
	m, from := req.Msg, callerOf(ctx)
	err := s.Cost.Traffic(from.PeerID, from.Membership.Pool, m.Instance, cost.Counters{
		Peer: m.PeerBytes, Supernode: m.SupernodeBytes, Upstream: m.UpstreamBytes, Local: m.LocalBytes,
	})
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ReportTrafficResponse{}), nil
}
