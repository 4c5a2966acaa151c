package cost

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// lookEvery is how often the whole fleet is looked at and bytes are written
	// down: what began or ended unheard is off by no more than that.
	lookEvery = time.Minute
	// budgetEvery is how often budgets are looked at.
	budgetEvery = 5 * time.Minute
	pruneEvery  = 24 * time.Hour
	// lastWords is how long writing down may take when the supernode stops.
	lastWords = 5 * time.Second
)

// Run keeps the book until ctx ends: it looks at all that is used, writes down
// bytes and raises alarms.
func (b *Book) Run(ctx context.Context, all func(context.Context) ([]Usage, error)) error {
	look, budgets, prune := time.NewTicker(lookEvery), time.NewTicker(budgetEvery), time.NewTicker(pruneEvery)
	defer look.Stop()
	defer budgets.Stop()
	defer prune.Stop()
	b.try(ctx, "look at what is used", func(ctx context.Context) error { return b.look(ctx, all) })
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
			defer cancel()
			return b.Flush(last)
		case <-look.C:
			b.try(ctx, "look at what is used", func(ctx context.Context) error { return errors.Join(b.look(ctx, all), b.Flush(ctx)) })
		case <-budgets.C:
			b.try(ctx, "look at the budgets", b.CheckBudgets)
		case <-prune.C:
			b.try(ctx, "drop old usage", b.Prune)
		}
	}
}

func (b *Book) look(ctx context.Context, all func(context.Context) ([]Usage, error)) error {
	asOf := b.cfg.Now()
	usage, err := all(ctx)
	if err != nil {
		return err
	}
	return b.Reconcile(ctx, asOf, usage)
}

func (b *Book) try(ctx context.Context, what string, do func(context.Context) error) {
	if err := do(ctx); err != nil && ctx.Err() == nil {
		b.cfg.Log.Error("the costs are not up to date; it is tried again", "what", what, "error", err)
	}
}

// bookMetrics is what an operator may watch.
type bookMetrics struct {
	spent  *prometheus.GaugeVec
	alarms prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) bookMetrics {
	m := bookMetrics{
		spent: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shoal_budget_spent_ratio", Help: "This month's cost as a part of the budget; 1 is all of it.",
		}, []string{"scope", "currency"}),
		alarms: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_budget_alarms_total", Help: "Alarms of budgets that were raised.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.spent, m.alarms)
	}
	return m
}

func (m bookMetrics) show(b Budget) { m.spent.WithLabelValues(b.Scope, b.Currency).Set(b.part()) }

func (m bookMetrics) forget(b Budget) { m.spent.DeleteLabelValues(b.Scope, b.Currency) }
