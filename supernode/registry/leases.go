package registry

import (
	"context"
	"errors"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// A lease keeps GC from a link that no manifest names yet. Whoever writes one
// compares the link; whoever removes a link compares the lease. So either the
// lease is seen, or whoever asked for it sees that the link is gone.

// leaseOp is the op that renews a lease.
func (g *Registry) leaseOp(repo string, d blob.Digest) meta.Op {
	return put(keyLease(repo, d), leaseRecord{Until: g.Now().Add(g.Lease).UTC()})
}

// fresh reports whether a lease runs for at least half of its time: then it
// is not worth a write to renew it.
func (g *Registry) fresh(l leaseRecord) bool { return l.Until.Sub(g.Now()) >= g.Lease/2 }

// lease renews the lease of a linked blob, or gives BLOB_UNKNOWN. Any error
// but an *Error is the store's: the blob may be there, without a lease.
func (g *Registry) lease(ctx context.Context, repo string, d blob.Digest) error {
	for try := range maxRetries {
		_, linked, err := get[linkRecord](ctx, g.Meta, keyLink(repo, d))
		if err != nil {
			return err
		}
		if linked == 0 {
			return errBlobUnknown(d)
		}
		current, _, err := get[leaseRecord](ctx, g.Meta, keyLease(repo, d))
		if err != nil || g.fresh(current) {
			return err
		}
		_, err = g.Meta.Commit(ctx, []meta.Compare{{Key: keyLink(repo, d), Revision: linked}}, []meta.Op{g.leaseOp(repo, d)})
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
	return errBlobUnknown(d)
}
