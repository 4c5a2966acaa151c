package main

import (
	"context"
	"errors"
	"time"

	"github.com/shoalproject/shoal/supernode/api"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// openCost opens the book of what was used.
func (h *house) openCost(ctx context.Context) (err error) {
	h.cost, err = cost.New(ctx, cost.Config{
		Meta: h.meta, Terms: h.terms, Alarm: api.BudgetAlarm(h.audit), Metrics: h.metrics, Now: time.Now, Log: h.log,
	})
	return err
}

// terms are what a pool asks for its servers; one that nobody made asks
// nothing.
func (h *house) terms(ctx context.Context, pool string) (cost.Terms, error) {
	p, err := h.book.Pool(ctx, pool)
	if err != nil {
		if errors.Is(err, inventory.ErrNoPool) {
			err = nil
		}
		return cost.Terms{}, err
	}
	return cost.Terms{CPUWeight: int64(p.CPUWeight), Price: cost.Price{
		Currency: p.Price.Currency, Hourly: p.Price.HourlyMicro, Purchase: p.Price.PurchaseMicro,
		AmortisationMonths: int64(p.Price.AmortisationMonths), PowerMonthly: p.Price.PowerMonthlyMicro,
		RackMonthly: p.Price.RackMonthlyMicro, EgressGB: p.Price.EgressGBMicro,
	}}, nil
}

// used is all that is used right now.
func (h *house) used(ctx context.Context) ([]cost.Usage, error) {
	servers, err := h.book.Servers(ctx, "")
	if err != nil {
		return nil, err
	}
	out := make([]cost.Usage, 0, len(servers))
	for _, s := range servers {
		out = append(out, serverUsage(s))
	}
	placed, err := h.placements.Uses(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range placed {
		out = append(out, placedUsage(u))
	}
	return out, nil
}

// serverUsage is how a server is used. It costs from when its machine is there
// (a provider made it, or its host has joined) until it is retired.
func serverUsage(s inventory.Server) cost.Usage {
	u := cost.Usage{Kind: cost.Server, ID: s.ID, Name: s.Name, Pool: s.Pool, At: s.PhaseSince}
	u.CPUMilli, u.MemoryBytes = s.Facts.GetCpuMilli(), s.Facts.GetMemoryBytes()
	switch s.Phase {
	case inventory.Imported, inventory.Requested, inventory.Retired:
		u.Ended = true
	default:
		u.Ended = s.ProviderID == "" && s.PeerID == ""
	}
	return u
}

// noteServer writes down how a server is used now. What fails is made good
// when the whole fleet is looked at.
func (h *house) noteServer(ctx context.Context, after inventory.Server) {
	if err := h.cost.Note(context.WithoutCancel(ctx), serverUsage(after)); err != nil {
		h.log.Warn("the use of a server was not written down; it is tried again", "server", after.Name, "error", err)
	}
}
