package dfget

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// rulesDouble remembers what it was asked.
type rulesDouble struct {
	shoalv1connect.UnimplementedRetentionServiceHandler
	set   *shoalv1.SetRetentionRequest
	clear *shoalv1.ClearRetentionRequest
	run   *shoalv1.RunRetentionRequest
}

func (d *rulesDouble) GetRetention(_ context.Context, r *connect.Request[shoalv1.GetRetentionRequest]) (*connect.Response[shoalv1.GetRetentionResponse], error) {
	if r.Msg.Project == "bare" {
		return connect.NewResponse(&shoalv1.GetRetentionResponse{}), nil
	}
	return connect.NewResponse(&shoalv1.GetRetentionResponse{Rules: []*shoalv1.RetentionRule{{KeepLast: 10, Keep: []string{"v*", "x"}}, {Repositories: "ci/*", KeepDays: 7}}}), nil
}

func (d *rulesDouble) SetRetention(_ context.Context, r *connect.Request[shoalv1.SetRetentionRequest]) (*connect.Response[shoalv1.SetRetentionResponse], error) {
	d.set = r.Msg
	return connect.NewResponse(&shoalv1.SetRetentionResponse{Rules: []*shoalv1.RetentionRule{r.Msg.Rule}}), nil
}

func (d *rulesDouble) ClearRetention(_ context.Context, r *connect.Request[shoalv1.ClearRetentionRequest]) (*connect.Response[shoalv1.ClearRetentionResponse], error) {
	d.clear = r.Msg
	return connect.NewResponse(&shoalv1.ClearRetentionResponse{}), nil
}

func (d *rulesDouble) RunRetention(_ context.Context, r *connect.Request[shoalv1.RunRetentionRequest], stream *connect.ServerStream[shoalv1.RetentionVerdict]) error {
	d.run = r.Msg
	for _, v := range []*shoalv1.RetentionVerdict{
		{Repository: "demo/app", Tag: "new", Why: "one of the last 1"},
		{Repository: "demo/app", Tag: "old", Why: "no rule keeps it", Goes: true, Removed: !r.Msg.DryRun},
		{Repository: "demo/app", Tag: "raced", Why: "no rule keeps it", Goes: true},
	} {
		v.Pushed = timestamppb.Now()
		if err := stream.Send(v); err != nil {
			return err
		}
	}
	return nil
}

func rulesServed(t *testing.T) (*rulesDouble, func(line string) (int, string, string)) {
	d := &rulesDouble{}
	return d, loggedInTo(t, func() (string, http.Handler) { return shoalv1connect.NewRetentionServiceHandler(d) })
}

func TestRetentionSet(t *testing.T) {
	d, run := rulesServed(t)
	status, _, said := run("project retention set demo --repository ci/* --keep-last 3 --keep-days 7 --keep v* --keep x")
	want := &shoalv1.RetentionRule{Repositories: "ci/*", KeepLast: 3, KeepDays: 7, Keep: []string{"v*", "x"}}
	if status != exitDone || !proto.Equal(d.set, &shoalv1.SetRetentionRequest{Project: "demo", Rule: want}) || d.run != nil {
		t.Errorf("status %d, asked %v; it said %s", status, d.set, said)
	}
	d.set = nil
	if status, out, _ := run("project retention set --dry-run demo --keep-last 3"); status != exitDone || d.set != nil || !d.run.DryRun || d.run.Try.KeepLast != 3 || !strings.Contains(out, "demo/app:old") {
		t.Errorf("a dry run: status %d, set %v, asked %v; %s", status, d.set, d.run, out)
	}
	for _, line := range []string{"", "--keep v*", "--keep-last -1", "--keep-days 0"} {
		if status, _, said := run("project retention set demo " + line); status != exitUsage || d.set != nil {
			t.Errorf("%q: status %d, asked %v; it said %s", line, status, d.set, said)
		}
	}
}

func TestRetentionRunSaysWhatGoesAndWhy(t *testing.T) {
	d, run := rulesServed(t)
	status, out, said := run("project retention run demo --dry-run")
	if status != exitDone || !d.run.DryRun || strings.Contains(out, ":new") || strings.Count(out, "would go") != 2 || strings.Count(out, "no rule keeps it") != 2 || !strings.Contains(said, "Nothing was removed") {
		t.Errorf("status %d\n%s%s", status, out, said)
	}
	if _, out, _ = run("project retention run demo --dry-run --all"); !strings.Contains(out, "one of the last 1") {
		t.Errorf("with all:\n%s", out)
	}
	if status, out, said = run("project retention run demo"); status != exitDone || d.run.DryRun || !strings.Contains(said, "1 tags are gone, 2 stay") || !strings.Contains(out, "pushed again") {
		t.Errorf("in earnest: status %d\n%s%s", status, out, said)
	}
	_, out, said = run("project retention run demo --json")
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) || !strings.Contains(line, `"goes":true`) && !strings.Contains(line, `"goes": true`) {
			t.Errorf("as JSON: %s", line)
		}
	}
	if strings.Count(out, "\n") != 2 || said != "" {
		t.Errorf("as JSON:\n%s%s", out, said)
	}
}

func TestRetentionShowAndClear(t *testing.T) {
	d, run := rulesServed(t)
	if status, out, _ := run("project retention show demo"); status != exitDone || !strings.Contains(out, "v* x") || !strings.Contains(out, "ci/*") {
		t.Errorf("status %d\n%s", status, out)
	}
	if _, out, said := run("project retention show bare"); out != "" || !strings.Contains(said, "every tag stays") {
		t.Errorf("without rules: %s%s", out, said)
	}
	for line, want := range map[string]*shoalv1.ClearRetentionRequest{
		"":                   {Project: "demo", All: true},
		" --repository ci/*": {Project: "demo", Repositories: "ci/*"},
		" --repository=":     {Project: "demo"},
	} {
		if status, _, said := run("project retention clear demo" + line); status != exitDone || !proto.Equal(d.clear, want) {
			t.Errorf("%q: status %d, asked %v; it said %s", line, status, d.clear, said)
		}
	}
}
