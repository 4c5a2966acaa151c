package main

import (
	"context"

	"github.com/shoalproject/shoal/pkg/facts"
)

// keepFacts tells the supernode what this host is, until ctx ends.
func (a *agent) keepFacts(ctx context.Context) {
	host := facts.Host{
		Data: a.config.Data, Hostname: a.config.Hostname, Rack: a.config.Rack, Zone: a.config.Zone, Version: version,
		Engine: a.engineFacts,
	}
	facts.Keep(ctx, a.line, host.Look, a.log)
}
