package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/retention"
)

// Retention is the rules by which a project lets tags go, for its admins.
func (a *Auth) Retention(ctx context.Context, by User, project string) ([]retention.Rule, error) {
	at, err := a.allowed(ctx, by, project, manageProject)
	if err != nil {
		return nil, fmt.Errorf("retention rules of project %q: %w", project, err)
	}
	return at.project.Settings.Retention, nil
}

// SetRetention puts a rule in the place of the one about the same pattern of
// repositories, or adds it, and returns all of them.
func (a *Auth) SetRetention(ctx context.Context, by User, project string, rule retention.Rule) ([]retention.Rule, error) {
	p, err := a.SetSettings(ctx, by, project, func(s *Settings) { s.Retention = WithRule(s.Retention, rule) })
	return p.Settings.Retention, err
}

// ClearRetention removes the rule about a pattern of repositories, or all.
// ErrNoRule when there is none.
func (a *Auth) ClearRetention(ctx context.Context, by User, project, repositories string, all bool) ([]retention.Rule, error) {
	found := false
	p, err := a.SetSettings(ctx, by, project, func(s *Settings) {
		rest := slices.DeleteFunc(slices.Clone(s.Retention), func(r retention.Rule) bool { return all || r.Repositories == repositories })
		found = len(rest) < len(s.Retention)
		s.Retention = rest
	})
	if err == nil && !found && !all {
		err = fmt.Errorf("retention rules of project %q: %w", project, ErrNoRule)
	}
	return p.Settings.Retention, err
}

// WithRule is rules with one more, or in the place of the one about the same
// repositories.
func WithRule(rules []retention.Rule, rule retention.Rule) []retention.Rule {
	out := slices.Clone(rules)
	for i, r := range out {
		if r.Repositories == rule.Repositories {
			out[i] = rule
			return out
		}
	}
	return append(out, rule)
}

// Retentions are the rules of all projects that have some, for the
// supernode's own rounds.
func (a *Auth) Retentions(ctx context.Context) (map[string][]retention.Rule, error) {
	all, err := meta.Records[Project](ctx, a.cfg.Meta, projectPrefix)
	if err != nil {
		return nil, fmt.Errorf("look for retention rules: %w", err)
	}
	out := map[string][]retention.Rule{}
	for _, p := range all {
		if len(p.Settings.Retention) > 0 {
			out[p.Name] = p.Settings.Retention
		}
	}
	return out, nil
}

// checkRetention refuses rules that cannot be taken.
func checkRetention(rules []retention.Rule) error {
	if len(rules) > retention.MaxRules {
		return fmt.Errorf("%d retention rules are %w: give at most %d", len(rules), ErrInvalid, retention.MaxRules)
	}
	for _, r := range rules {
		if err := r.Check(); err != nil {
			return err
		}
	}
	return nil
}
