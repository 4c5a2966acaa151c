package provision

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// counted counts the calls to a provider by what came of them.
type counted struct {
	Provider
	name  string
	calls *prometheus.CounterVec
}

func newCounted(p Provider, name string, reg prometheus.Registerer) counted {
	c := counted{Provider: p, name: name, calls: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shoal_machine_calls_total", Help: "Calls to the providers of machines.",
	}, []string{"provider", "call", "outcome"})}
	if reg != nil {
		reg.MustRegister(c.calls)
	}
	return c
}

// outcome is a word for what came of a call.
func outcome(err error) string {
	var busy *BusyError
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &busy):
		return "busy"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrNoMachine):
		return "none"
	}
	return "fault"
}

func (c counted) count(call string, err error) {
	c.calls.WithLabelValues(c.name, call, outcome(err)).Inc()
}

func (c counted) Create(ctx context.Context, key string, spec Spec) (Machine, error) {
	m, err := c.Provider.Create(ctx, key, spec)
	c.count("create", err)
	return m, err
}

func (c counted) Get(ctx context.Context, id string) (Machine, error) {
	m, err := c.Provider.Get(ctx, id)
	c.count("get", err)
	return m, err
}

func (c counted) List(ctx context.Context, tag string) ([]Machine, error) {
	list, err := c.Provider.List(ctx, tag)
	c.count("list", err)
	return list, err
}

func (c counted) Delete(ctx context.Context, id string) error {
	err := c.Provider.Delete(ctx, id)
	c.count("delete", err)
	return err
}
