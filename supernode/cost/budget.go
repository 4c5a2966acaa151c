package cost

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// What a budget is for: these words before the name.
const (
	OfPool    = "pool:"
	OfProject = "project:"
)

const (
	// maxBudgets and maxAlarms bound what is looked at every few minutes.
	maxBudgets = 1000
	maxAlarms  = 10
	// maxPercent bounds an alarm: ten times the budget.
	maxPercent = 1000
)

// Budget is how much a pool or project should cost at most in a calendar month
// (UTC), in one currency. A pool costs what its servers cost, a project what
// was allocated to it. Nothing is stopped when a budget is spent.
type Budget struct {
	Scope    string `json:"scope"` // OfPool or OfProject with a name
	Currency string `json:"currency"`
	Monthly  int64  `json:"monthly_micro"`
	// Alarms are percents of it, ascending.
	Alarms []int     `json:"alarms"`
	By     string    `json:"by"` // who set it
	Since  time.Time `json:"since"`

	// Raised is the highest alarm of Month.
	Raised int       `json:"raised,omitempty"`
	Month  time.Time `json:"month,omitzero"`

	// Spent is this month's cost so far.
	Spent int64 `json:"-"`
}

// Target cuts a scope into what kind it is, OfPool or OfProject, and the name.
func Target(scope string) (kind, name string, err error) {
	for _, kind := range []string{OfPool, OfProject} {
		name, found := strings.CutPrefix(scope, kind)
		if found && name != "" && len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r > '~' }) {
			return kind, name, nil
		}
	}
	return "", "", fmt.Errorf("the scope %.70q is %w: give pool:NAME or project:NAME", scope, ErrInvalid)
}

func (b Budget) check() error {
	if _, _, err := Target(b.Scope); err != nil {
		return err
	}
	if !currency(b.Currency) {
		return fmt.Errorf("the currency %.10q is %w: give three capital letters, such as EUR", b.Currency, ErrInvalid)
	}
	if b.Monthly < 1 || b.Monthly > MaxMicro {
		return fmt.Errorf("a budget of %d millionths is %w: 1 to %d are taken", b.Monthly, ErrInvalid, int64(MaxMicro))
	}
	if len(b.Alarms) > maxAlarms {
		return fmt.Errorf("%d alarms are %w: at most %d are taken", len(b.Alarms), ErrInvalid, maxAlarms)
	}
	for _, percent := range b.Alarms {
		if percent < 1 || percent > maxPercent {
			return fmt.Errorf("an alarm at %d %% is %w: 1 to %d are taken", percent, ErrInvalid, maxPercent)
		}
	}
	return nil
}

// due is the highest alarm that spending has reached, 0 for none.
func (b Budget) due(spent int64) int {
	reached := 0
	for _, percent := range b.Alarms {
		// Rounded up, so that an alarm is not raised a millionth too early.
		if at := plus(b.Monthly/100*int64(percent), (b.Monthly%100*int64(percent)+99)/100); spent >= at {
			reached = max(reached, percent)
		}
	}
	return reached
}

func budgetKey(scope, currency string) string { return budgetPrefix + scope + "/" + currency }

// SetBudget sets the budget of a scope and currency, in place of another one.
// Its alarms are raised anew. Without alarms there are two, at 80 and 100 %.
func (b *Book) SetBudget(ctx context.Context, budget Budget) error {
	if len(budget.Alarms) == 0 {
		budget.Alarms = []int{80, 100}
	}
	budget.Alarms = slices.Compact(slices.Sorted(slices.Values(budget.Alarms)))
	budget.Raised, budget.Month, budget.Since = 0, time.Time{}, milli(b.cfg.Now())
	if err := budget.check(); err != nil {
		return err
	}
	b.checking.Lock()
	defer b.checking.Unlock()
	all, err := b.budgets(ctx)
	if err != nil {
		return err
	}
	known := slices.ContainsFunc(all, func(o Budget) bool { return o.Scope == budget.Scope && o.Currency == budget.Currency })
	if !known && len(all) >= maxBudgets {
		return fmt.Errorf("%w: there are %d budgets; remove one", ErrTooMuch, len(all))
	}
	op, err := meta.PutRecord(budgetKey(budget.Scope, budget.Currency), budget)
	if err == nil {
		_, err = b.cfg.Meta.Commit(ctx, nil, []meta.Op{op})
	}
	if err != nil {
		return fmt.Errorf("set the budget of %s: %w", budget.Scope, err)
	}
	return nil
}

// RemoveBudget removes one; an empty currency means all of the scope.
func (b *Book) RemoveBudget(ctx context.Context, scope, currency string) error {
	if _, _, err := Target(scope); err != nil {
		return err
	}
	b.checking.Lock()
	defer b.checking.Unlock()
	all, err := b.budgets(ctx)
	if err != nil {
		return err
	}
	var ops []meta.Op
	for _, one := range all {
		if one.Scope == scope && (currency == "" || one.Currency == currency) {
			ops = append(ops, meta.Delete(budgetKey(scope, one.Currency)))
			b.metrics.forget(one)
		}
	}
	if len(ops) == 0 {
		return fmt.Errorf("%s: %w", strings.TrimSpace(scope+" "+currency), ErrNoBudget)
	}
	for some := range slices.Chunk(ops, meta.MaxOps) {
		if _, err := b.cfg.Meta.Commit(ctx, nil, some); err != nil {
			return fmt.Errorf("remove the budget of %s: %w", scope, err)
		}
	}
	return nil
}

// budgets are all of them as they are kept, by scope.
func (b *Book) budgets(ctx context.Context) ([]Budget, error) {
	var out []Budget
	for v, err := range meta.Scan(ctx, b.cfg.Meta, budgetPrefix) {
		if err != nil {
			return nil, fmt.Errorf("read the budgets: %w", err)
		}
		var one Budget
		if err := json.Unmarshal(v.Data, &one); err != nil {
			return nil, fmt.Errorf("read %s: %w", v.Key, err)
		}
		out = append(out, one)
	}
	return out, nil
}

// Budgets lists the budgets that somebody may see, by scope, with what has been
// spent this month.
func (b *Book) Budgets(ctx context.Context, sight Sight) ([]Budget, error) {
	all, err := b.budgets(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(one Budget) bool { return !sight.budget(one.Scope) })
	if len(all) == 0 {
		return nil, nil
	}
	spent, err := b.spent(ctx, all)
	if err != nil {
		return nil, err
	}
	now := month(b.cfg.Now())
	for i := range all {
		all[i].Spent = spent[rowKey{name: all[i].Scope, currency: all[i].Currency}]
		if !all[i].Month.Equal(now) {
			all[i].Raised = 0
		}
	}
	return all, nil
}

// budget reports whether the budget of a scope may be seen.
func (s Sight) budget(scope string) bool {
	kind, name, err := Target(scope)
	_, member := s.Projects[name]
	return s.All || err == nil && (kind == OfPool && s.Pools[name] || kind == OfProject && member)
}

// spent adds up what this month has cost those scopes so far, by scope and
// currency.
func (b *Book) spent(ctx context.Context, budgets []Budget) (map[rowKey]int64, error) {
	out := map[rowKey]int64{}
	now := milli(b.cfg.Now())
	pools, projects := []string{}, false
	for _, one := range budgets {
		switch kind, name, _ := Target(one.Scope); kind {
		case OfPool:
			pools = append(pools, name)
		case OfProject:
			projects = true
		}
	}
	if projects {
		all, err := b.pools(ctx)
		if err != nil {
			return nil, err
		}
		pools = append(pools, all...)
	}
	slices.Sort(pools)
	for _, pool := range slices.Compact(pools) {
		err := b.Charges(ctx, pool, Question{From: month(now), To: now}, Sight{All: true}, func(c Charge) {
			key := rowKey{name: OfPool + pool, currency: c.Server.Currency}
			out[key] = plus(out[key], c.Micro)
			if !c.Idle() && c.Container.Project != "" {
				key.name = OfProject + c.Container.Project
				out[key] = plus(out[key], c.Micro)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// CheckBudgets raises the alarms that are due. One is told before it is put
// down as raised: when that fails it is told again rather than never.
func (b *Book) CheckBudgets(ctx context.Context) error {
	b.checking.Lock()
	defer b.checking.Unlock()
	all, err := b.budgets(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	spent, err := b.spent(ctx, all)
	if err != nil {
		return err
	}
	now := month(b.cfg.Now())
	var errs []error
	for _, one := range all {
		if !one.Month.Equal(now) {
			one.Raised, one.Month = 0, now
		}
		one.Spent = spent[rowKey{name: one.Scope, currency: one.Currency}]
		b.metrics.show(one)
		percent := one.due(one.Spent)
		if percent <= one.Raised {
			continue
		}
		one.Raised = percent
		b.alarm(ctx, Alarm{one, percent})
		op, err := meta.PutRecord(budgetKey(one.Scope, one.Currency), one)
		if err == nil {
			_, err = b.cfg.Meta.Commit(ctx, nil, []meta.Op{op})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("note the alarm of %s: %w", one.Scope, err))
		}
	}
	return errors.Join(errs...)
}

func (b *Book) alarm(ctx context.Context, a Alarm) {
	b.metrics.alarms.Inc()
	b.cfg.Log.Warn("a budget's alarm: so much of it is spent this month",
		"scope", a.Scope, "alarm_percent", a.Percent, "spent", Amount(a.Spent), "budget", Amount(a.Monthly), "currency", a.Currency)
	if b.cfg.Alarm != nil {
		b.cfg.Alarm(ctx, a)
	}
}

// part is how much of a budget is spent, 1 for all; for a gauge only.
func (b Budget) part() float64 {
	return float64(b.Spent) / math.Max(float64(cmp.Or(b.Monthly, 1)), 1)
}
