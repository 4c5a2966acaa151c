package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// keepRetired is how long the record of a retired server is kept after its
// provider has nothing of it any more, and how long a request's key is known
// after the last of its servers went.
const keepRetired = 30 * 24 * time.Hour

// Sweep forgets servers that were retired long ago, and the keys of requests
// whose servers are all forgotten. Call it every minute or so.
func (i *Inventory) Sweep(ctx context.Context) error {
	list, err := meta.Records[Server](ctx, i.cfg.Meta, serverPrefix)
	if err != nil {
		return fmt.Errorf("sweep retired servers: %w", err)
	}
	wanted := map[string]bool{} // keys of requests, by pool and key
	for _, s := range list {
		old := i.cfg.Now().Sub(s.PhaseSince) > keepRetired
		if s.Phase == Retired && s.Released && old {
			if err := i.forget(ctx, s.ID); err != nil {
				return fmt.Errorf("sweep server %s: %w", s.ID, err)
			}
		} else if s.Key != "" {
			wanted[request{Pool: s.Pool, Key: s.Key}.key()] = true
		}
	}
	return i.sweepRequests(ctx, wanted)
}

func (i *Inventory) sweepRequests(ctx context.Context, wanted map[string]bool) error {
	open, err := meta.Records[request](ctx, i.cfg.Meta, requestPrefix)
	if err != nil {
		return fmt.Errorf("sweep requests: %w", err)
	}
	for _, r := range open {
		if wanted[r.key()] || r.Made < r.Count || i.cfg.Now().Sub(r.At) <= keepRetired {
			continue
		}
		if _, err := i.cfg.Meta.Commit(ctx, nil, []meta.Op{meta.Delete(r.key())}); err != nil {
			return fmt.Errorf("sweep requests: %w", err)
		}
	}
	return nil
}

// forget removes the record of a server that is still to go.
func (i *Inventory) forget(ctx context.Context, id string) error {
	lock := i.lock(id)
	lock.Lock()
	defer lock.Unlock()
	s, revision, err := i.readServer(ctx, id)
	if err != nil || s == nil || s.Phase != Retired {
		return err
	}
	ops := []meta.Op{meta.Delete(serverPrefix + id), meta.Delete(factsPrefix + id), meta.Delete(stepsPrefix + id)}
	if peer, err := i.idOfPeer(ctx, s.PeerID); err != nil {
		return err
	} else if peer == id {
		ops = append(ops, meta.Delete(peerPrefix+s.PeerID))
	}
	_, err = i.cfg.Meta.Commit(ctx, []meta.Compare{{Key: serverPrefix + id, Revision: revision}}, ops)
	if errors.Is(err, meta.ErrConflict) {
		return nil // the next round looks again
	}
	return err
}
