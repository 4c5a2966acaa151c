package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"github.com/shoalproject/shoal/pkg/fetch"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// trafficEvery is how often the supernode is told where bytes came from,
	// trafficLast how long the last time may take when the agent stops.
	trafficEvery = time.Minute
	trafficLast  = time.Second
)

// traffic tells the supernode where this host's bytes came from. What is told
// is the sum since the start, so that a report that is lost is made good by
// the next one.
type traffic struct {
	instance string
	totals   func() fetch.Totals
	told     fetch.Totals // owned by run
}

func newTraffic(totals func() fetch.Totals) *traffic {
	return &traffic{instance: rand.Text(), totals: totals}
}

// run reports now and then, and once more when ctx ends.
func (t *traffic) run(ctx context.Context, send func(context.Context, *shoalv1.ReportTrafficRequest) error, log *slog.Logger) {
	tick := time.NewTicker(trafficEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.report(ctx, send, log)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), trafficLast)
			defer cancel()
			t.report(last, send, log)
			return
		}
	}
}

// report says nothing when nothing came since a supernode heard it last.
func (t *traffic) report(ctx context.Context, send func(context.Context, *shoalv1.ReportTrafficRequest) error, log *slog.Logger) {
	now := t.totals()
	if now == t.told {
		return
	}
	err := send(ctx, &shoalv1.ReportTrafficRequest{
		Instance: t.instance, PeerBytes: now.Peer, SupernodeBytes: now.Supernode, UpstreamBytes: now.Upstream, LocalBytes: now.Local,
	})
	if err != nil {
		log.Warn("the supernode was not told where bytes came from; it is told next time", "error", err)
		return
	}
	t.told = now
}
