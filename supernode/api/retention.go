package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/registry"
	"github.com/shoalproject/shoal/supernode/retention"
)

// Collect does a round of what keeps the registry small: it applies every
// project's retention rules and collects the garbage. Rules that fail do not
// keep the collection from its work.
func (c Config) Collect(ctx context.Context) (registry.GCReport, error) {
	projects, err := c.Auth.Retentions(ctx)
	errs := []error{err}
	for name, rules := range projects {
		errs = append(errs, c.Registry.Retain(ctx, name, rules, false, func(r registry.Retained) error {
			c.recordRetained(audit.Supernode, "", r)
			return nil
		}))
	}
	report, err := c.Registry.GC(ctx)
	return report, errors.Join(append(errs, err)...)
}

// retentionService is for everybody who is logged in: the auth gateway decides
// in each call whether the caller is an admin of that project.
type retentionService struct{ Config }

func (s retentionService) GetRetention(ctx context.Context, req *connect.Request[shoalv1.GetRetentionRequest]) (*connect.Response[shoalv1.GetRetentionResponse], error) {
	rules, err := s.Auth.Retention(ctx, userOf(ctx).User, req.Msg.Project)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.GetRetentionResponse{Rules: ruleMessages(rules)}), nil
}

func (s retentionService) SetRetention(ctx context.Context, req *connect.Request[shoalv1.SetRetentionRequest]) (*connect.Response[shoalv1.SetRetentionResponse], error) {
	rules, err := s.Auth.SetRetention(ctx, userOf(ctx).User, req.Msg.Project, ruleOf(req.Msg.Rule))
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetRetentionResponse{Rules: ruleMessages(rules)}), nil
}

func (s retentionService) ClearRetention(ctx context.Context, req *connect.Request[shoalv1.ClearRetentionRequest]) (*connect.Response[shoalv1.ClearRetentionResponse], error) {
	rules, err := s.Auth.ClearRetention(ctx, userOf(ctx).User, req.Msg.Project, req.Msg.Repositories, req.Msg.All)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ClearRetentionResponse{Rules: ruleMessages(rules)}), nil
}

func (s retentionService) RunRetention(ctx context.Context, req *connect.Request[shoalv1.RunRetentionRequest], stream *connect.ServerStream[shoalv1.RetentionVerdict]) error {
	m := req.Msg
	rules, err := s.Auth.Retention(ctx, userOf(ctx).User, m.Project)
	if err != nil {
		return coded(err)
	}
	if m.Try != nil {
		rule := ruleOf(m.Try)
		if err := rule.Check(); err != nil {
			return coded(err)
		}
		if !m.DryRun {
			return coded(fmt.Errorf("a rule that is only tried and no dry run: %w", auth.ErrInvalid))
		}
		rules = auth.WithRule(rules, rule)
	}
	by := userOf(ctx)
	err = s.Registry.Retain(ctx, m.Project, rules, m.DryRun, func(r registry.Retained) error {
		s.recordRetained(by.Name, by.from(), r)
		v := &shoalv1.RetentionVerdict{
			Repository: r.Repository, Tag: r.Name, Digest: string(r.Digest), Pushed: timestamppb.New(r.Set), Goes: r.Goes, Why: r.Why, Removed: r.Removed,
		}
		if !r.Pulled.IsZero() {
			v.Pulled = timestamppb.New(r.Pulled)
		}
		return stream.Send(v)
	})
	if err != nil {
		return coded(err)
	}
	return nil
}

func ruleOf(m *shoalv1.RetentionRule) retention.Rule {
	return retention.Rule{Repositories: m.GetRepositories(), KeepLast: int(m.GetKeepLast()), KeepDays: int(m.GetKeepDays()), Keep: m.GetKeep()}
}

func ruleMessages(rules []retention.Rule) []*shoalv1.RetentionRule {
	var out []*shoalv1.RetentionRule
	for _, r := range rules {
		out = append(out, &shoalv1.RetentionRule{Repositories: r.Repositories, KeepLast: int32(r.KeepLast), KeepDays: int32(r.KeepDays), Keep: r.Keep})
	}
	return out
}
