package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/mirror"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// toldEvery is how often the supernode's audit is told what the mirror
	// decided, toldLast how long the last time may take when the agent stops.
	toldEvery = time.Minute
	toldLast  = time.Second
	// maxDecisions bounds the kinds of decisions that wait to be told; as many
	// fit one call.
	maxDecisions = 1000
)

// decided counts what the mirror decided about its readers until the
// supernode's audit was told of it.
type decided struct {
	mu     sync.Mutex
	counts map[mirror.Decision]uint64 // guarded by mu
}

func (d *decided) add(one mirror.Decision) { d.put(one, 1) }

// put counts decisions. Beyond the bound, only the outcome is told apart.
func (d *decided) put(one mirror.Decision, times uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.counts[one]; !known && len(d.counts) >= maxDecisions-2 {
		one = mirror.Decision{Refused: one.Refused}
	}
	d.counts[one] += times
}

// take empties the counts.
func (d *decided) take() map[mirror.Decision]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.counts
	d.counts = map[mirror.Decision]uint64{}
	return out
}

// tell sends the counts now and then, and once more when ctx ends. What a
// supernode did not take is kept for the next time.
func (d *decided) tell(ctx context.Context, send func(context.Context, *shoalv1.TellPullsRequest) error, log *slog.Logger) {
	tick := time.NewTicker(toldEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.tellOnce(ctx, send, log)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), toldLast)
			defer cancel()
			d.tellOnce(last, send, log)
			return
		}
	}
}

func (d *decided) tellOnce(ctx context.Context, send func(context.Context, *shoalv1.TellPullsRequest) error, log *slog.Logger) {
	taken := d.take()
	if len(taken) == 0 {
		return
	}
	request := &shoalv1.TellPullsRequest{}
	for one, times := range taken {
		request.Pulls = append(request.Pulls, &shoalv1.ToldPull{
			Subject: one.Subject, From: one.From, Registry: one.Ref.Registry, Repository: one.Ref.Repository,
			Reference: one.Reference, Refused: one.Refused, Times: times,
		})
	}
	if err := send(ctx, request); err != nil {
		log.Warn("the supernode's audit was not told of pulls; it is tried again", "kinds", len(taken), "error", err)
		for one, times := range taken {
			d.put(one, times)
		}
	}
}
