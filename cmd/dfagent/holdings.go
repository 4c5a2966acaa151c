package main

import (
	"context"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/discovery/tracker"
	"github.com/shoalproject/shoal/pkg/store"
	"github.com/shoalproject/shoal/pkg/swarm"
)

// lookup finds what this host can give to neighbours: its own store first,
// then what the container runtime holds.
func (a *agent) lookup(_ context.Context, d blob.Digest) (swarm.Content, error) {
	b, err := a.store.Get(d)
	if err == nil {
		return b, nil
	}
	if content := a.runtimeContent(d); content != nil {
		return content, nil
	}
	return nil, err
}

// allow decides whether a neighbour may have a blob: by a supernode's grant,
// or, while no supernode can be asked for one, by its membership alone.
func (a *agent) allow(_ context.Context, peerID string, d blob.Digest, grant []byte) error {
	err := a.grants.Check(grant, peerID, d)
	if err != nil && a.onItsOwn() {
		return nil
	}
	return err
}

// onItsOwn reports whether no supernode has been reached for a moment, and one
// was within the grace.
func (a *agent) onItsOwn() bool {
	away := a.line.Away()
	return away > 0 && away < time.Duration(a.line.Welcome().OfflineGraceSeconds)*time.Second
}

// holding says to the DHT what this host has of a blob.
func (a *agent) holding(d blob.Digest) (dht.Holding, bool) {
	content, err := a.lookup(context.Background(), d)
	if err != nil {
		return dht.Holding{}, false
	}
	defer content.Close()
	have, _ := content.Progress()
	return dht.Holding{Size: content.Size(), Complete: have.Full(), Have: have}, have.Count() > 0
}

// holdings lists for the tracker all that this host has whole. When the
// container runtime cannot be listed in time, it returns what was found and
// the error.
func (a *agent) holdings(ctx context.Context) ([]tracker.Held, error) {
	var out []tracker.Held
	for _, info := range a.store.List() {
		if info.Complete {
			out = append(out, tracker.Held{Digest: info.Digest, Size: info.Size})
		}
	}
	runtime, err := a.runtimeHoldings(ctx)
	return append(out, runtime...), err
}

func (a *agent) tagRecords(ref blob.Ref, tag string) []*blob.TagRecord {
	r, err := a.records.Tag(ref, tag)
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
			if e.Kind == store.Committed || !a.runtimeHolds(e.Digest) {
				a.tell(ctx, tracker.Held{Digest: e.Digest, Size: e.Size, Gone: e.Kind != store.Committed})
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tell gives one piece of news to tracker and DHT.
func (a *agent) tell(ctx context.Context, held tracker.Held) {
	select {
	case a.held <- held:
	case <-ctx.Done():
		return
	}
	switch {
	case a.dht == nil:
	case held.Gone:
		a.dht.Withdraw(held.Digest)
	default:
		if err := a.dht.Announce(ctx, held.Digest); err != nil && ctx.Err() == nil {
			a.log.Warn("a blob was not announced in the DHT", "digest", held.Digest, "error", err)
		}
	}
}
