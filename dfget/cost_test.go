package dfget

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// costsDouble remembers what it was asked and answers with one row.
type costsDouble struct {
	shoalv1connect.UnimplementedCostServiceHandler
	get    *shoalv1.GetCostRequest
	budget *shoalv1.Budget
	empty  bool // nothing was used
	// A client that has seen enough does not wait for the end of a stream.
	export atomic.Pointer[shoalv1.ExportCostRequest]
	breaks atomic.Bool // the export breaks off
}

func (d *costsDouble) GetCost(_ context.Context, r *connect.Request[shoalv1.GetCostRequest]) (*connect.Response[shoalv1.GetCostResponse], error) {
	d.get = r.Msg
	day := timestamppb.New(time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC))
	if d.empty {
		return connect.NewResponse(&shoalv1.GetCostResponse{From: day, To: day}), nil
	}
	return connect.NewResponse(&shoalv1.GetCostResponse{
		From: day, To: day,
		Rows:  []*shoalv1.CostRow{{Name: "sh\x1bop", Currency: "EUR", AmountMicro: 15_120_000, CpuMilliSeconds: 5000 * 3600, MemoryMibSeconds: 2048 * 3600}, {Name: "(idle)"}},
		Pools: []*shoalv1.PoolCost{{Pool: "web", Currency: "EUR", ServersMicro: 57_600_000, AllocatedMicro: 15_120_000, IdleMicro: 42_480_000, PeerBytes: 1e9, SavedMicro: 1}},
	}), nil
}

func (d *costsDouble) ExportCost(_ context.Context, r *connect.Request[shoalv1.ExportCostRequest], stream *connect.ServerStream[shoalv1.ExportCostChunk]) error {
	d.export.Store(r.Msg)
	for _, line := range []string{"one\n", "two\n"} {
		if err := stream.Send(&shoalv1.ExportCostChunk{Data: []byte(line)}); err != nil {
			return err
		}
	}
	if d.breaks.Load() {
		return connect.NewError(connect.CodeUnavailable, errors.New("going"))
	}
	return nil
}

func (d *costsDouble) SetBudget(_ context.Context, r *connect.Request[shoalv1.SetBudgetRequest]) (*connect.Response[shoalv1.SetBudgetResponse], error) {
	d.budget = r.Msg.Budget
	return connect.NewResponse(&shoalv1.SetBudgetResponse{}), nil
}

func (d *costsDouble) ListBudgets(context.Context, *connect.Request[shoalv1.ListBudgetsRequest]) (*connect.Response[shoalv1.ListBudgetsResponse], error) {
	return connect.NewResponse(&shoalv1.ListBudgetsResponse{Budgets: []*shoalv1.Budget{
		{Scope: "pool:web", Currency: "EUR", MonthlyMicro: 1_500_000_000, SpentMicro: 1_350_000_000, Alarms: []int32{50, 80}, Raised: 80}, {Scope: "project:x", Currency: "USD", MonthlyMicro: 1},
	}}), nil
}

func runCosts(t *testing.T, d *costsDouble) func(line string) (int, string, string) {
	return loggedInTo(t, func() (string, http.Handler) { return shoalv1connect.NewCostServiceHandler(d) })
}

func TestACostIsShown(t *testing.T) {
	d := &costsDouble{}
	run := runCosts(t, d)
	status, out, said := run("cost --by service --pool web --project shop --from 2030-03-01 --to 2030-04-01T12:00:00Z")
	want := &shoalv1.GetCostRequest{
		By: "service", Pool: "web", Project: "shop", From: timestamppb.New(time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC)), To: timestamppb.New(time.Date(2030, 4, 1, 12, 0, 0, 0, time.UTC)),
	}
	if status != exitDone || !proto.Equal(d.get, want) {
		t.Errorf("status %d, asked for %v, said %s", status, d.get, said)
	}
	for _, pattern := range []string{
		`(?m)^sh\?op +- +15\.12 +EUR +5\.0 +2\.0$`, `(?m)^\(idle\) +- +0 +- +0\.0 +0\.0$`,
		`(?m)^POOL +COST +ALLOCATED +IDLE`, `(?m)^web +57\.6 +15\.12 +42\.48 +EUR +1\.0 GB +0 B +0 B +0\.000001$`,
	} {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("%s is not in\n%s", pattern, out)
		}
	}
	if status, out, _ := run("cost --json"); status != exitDone || !strings.Contains(out, `"amount_micro"`) || d.get.By != "project" || d.get.From != nil {
		t.Errorf("status %d, %v, %s", status, d.get, out)
	}
	d.empty = true
	for line, want := range map[string]bool{"cost --pool none": true, "cost --project none": true, "cost": false} {
		if status, _, said := run(line); status != exitDone || strings.Contains(said, "Nothing is known") != want {
			t.Errorf("%s without rows: status %d, %s", line, status, said)
		}
	}
	for _, line := range []string{"cost --from yesterday", "cost --to x", "cost web", "cost -O file"} {
		if status, _, said := run(line); status != exitUsage {
			t.Errorf("%s: status %d, %s", line, status, said)
		}
	}
}

func TestACostIsExported(t *testing.T) {
	d := &costsDouble{}
	run := runCosts(t, d)
	if status, out, said := run("cost --format csv --pool web"); status != exitDone || out != "one\ntwo\n" || d.export.Load().GetFormat() != "csv" || d.export.Load().GetPool() != "web" {
		t.Errorf("status %d, %v, %q, %s", status, d.export.Load(), out, said)
	}
	file := filepath.Join(t.TempDir(), "x.jsonl")
	if status, out, said := run("cost --format json -O " + file); status != exitDone || out != "" {
		t.Errorf("status %d, %q, %s", status, out, said)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "one\ntwo\n" {
		t.Errorf("%q, %v", raw, err)
	}
	if status, _, _ := run("cost --format json -O " + file); status != exitFailed {
		t.Errorf("a file that is there was written over: status %d", status)
	}
	d.breaks.Store(true)
	part := filepath.Join(t.TempDir(), "part.csv")
	if status, _, _ := run("cost --format csv -O " + part); status != exitFailed {
		t.Errorf("half an export: status %d", status)
	}
	if _, err := os.Stat(part); !os.IsNotExist(err) {
		t.Errorf("half a file stays: %v", err)
	}
}

func TestBudgetsAreSetAndListed(t *testing.T) {
	d := &costsDouble{}
	run := runCosts(t, d)
	want := &shoalv1.Budget{Scope: "pool:web", MonthlyMicro: 1500_250_000, Currency: "EUR", Alarms: []int32{50, 90}}
	if status, _, said := run("budget set pool:web 1500.25 EUR --alarm 50,90"); status != exitDone || !proto.Equal(d.budget, want) || !strings.Contains(said, "1500.25 EUR a month") {
		t.Errorf("status %d, %v, %s", status, d.budget, said)
	}
	if status, _, _ := run("budget set pool:web 1 EUR"); status != exitDone || len(d.budget.Alarms) != 2 {
		t.Errorf("status %d, %v", status, d.budget)
	}
	for _, line := range []string{"budget set pool:web 1,5 EUR", "budget set pool:web -1 EUR", "budget set pool:web 1", "budget remove"} {
		if status, _, said := run(line); status != exitUsage {
			t.Errorf("%s: status %d, %s", line, status, said)
		}
	}
	status, out, _ := run("budget list")
	if status != exitDone || !regexp.MustCompile(`(?m)^pool:web +1500 +1350 +EUR +50% 80% +80%$`).MatchString(out) || !regexp.MustCompile(`(?m)^project:x +0\.000001 +0 +USD +-? +-$`).MatchString(out) {
		t.Errorf("status %d\n%s", status, out)
	}
}
