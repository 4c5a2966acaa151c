package main

import (
	"context"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/discovery/tracker"
	"github.com/shoalproject/shoal/pkg/store"
	"github.com/shoalproject/shoal/pkg/swarm"
)

// lookup finds what this host can give to neighbours.
func (a *agent) lookup(_ context.Context, d blob.Digest) (swarm.Content, error) {
	b, err := a.store.Get(d)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// holding says to the DHT what this host has of a blob.
func (a *agent) holding(d blob.Digest) (dht.Holding, bool) {
	b, err := a.store.Get(d)
	if err != nil {
		return dht.Holding{}, false
	}
	defer b.Close() //nolint:errcheck // returns nil
	have, _ := b.Progress()
	return dht.Holding{Size: b.Size(), Complete: b.Complete(), Have: have}, have.Count() > 0 || b.Complete()
}

// holdings lists for the tracker all that this host has whole.
func (a *agent) holdings() []tracker.Held {
	var out []tracker.Held
	for _, info := range a.store.List() {
		if info.Complete {
			out = append(out, tracker.Held{Digest: info.Digest, Size: info.Size})
		}
	}
	return out
}

func (a *agent) tagRecords(ref blob.Ref, tag string) []*blob.TagRecord {
	r, err := a.tags.Tag(ref, tag)
	if err != nil {
		a.log.Warn("a tag record was not read", "error", err)
	}
	if r == nil {
		return nil
	}
	return []*blob.TagRecord{r}
}

// spread tells tracker and DHT of what the store committed or dropped, until
// ctx ends.
func (a *agent) spread(ctx context.Context) error {
	events, cancel := a.store.Events()
	defer cancel()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return nil
			}
			gone := e.Kind != store.Committed
			select {
			case a.held <- tracker.Held{Digest: e.Digest, Size: e.Size, Gone: gone}:
			case <-ctx.Done():
				return nil
			}
			a.spreadDHT(ctx, e.Digest, gone)
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *agent) spreadDHT(ctx context.Context, d blob.Digest, gone bool) {
	if a.dht == nil {
		return
	}
	if gone {
		a.dht.Withdraw(d)
	} else if err := a.dht.Announce(ctx, d); err != nil {
		a.log.Warn("a blob was not announced in the DHT", "digest", d, "error", err)
	}
}
