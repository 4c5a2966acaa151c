package seed

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
)

const (
	// rightsGrace is for how long a registry's yes is believed when it cannot
	// be asked again.
	rightsGrace = time.Hour
	// rightsKept bounds what is remembered.
	rightsKept = 8192
)

// Reader is who wants to read through.
type Reader struct {
	// Subject is the user or member, "" for nobody in particular.
	Subject string
	// Token is the reader's pull token of the registry outside, "" without one.
	Token string
	// Operator reads for the operator, who made the supernode's logins.
	Operator bool
}

// rights remembers whom registries let read, for while they are down.
type rights struct {
	yes *expirable.LRU[rightKey, time.Time]
}

type rightKey struct {
	ref       blob.Ref
	reference string
	token     [sha256.Size]byte
}

func newRights() *rights {
	return &rights{yes: expirable.NewLRU[rightKey, time.Time](rightsKept, nil, 0)}
}

func (r *rights) note(k rightKey, yes bool) {
	if !yes {
		r.yes.Remove(k)
		return
	}
	r.yes.Add(k, time.Now())
}

func (r *rights) remembered(k rightKey) bool {
	at, ok := r.yes.Get(k)
	return ok && time.Since(at) < rightsGrace
}

// may asks whether a reader may read a manifest or a blob: by the operator's
// own login for that registry, if the reader may use it, or else by what the
// registry lets the reader's token, or anybody, read.
func (s *Seed) may(ctx context.Context, who Reader, ref blob.Ref, reference string, manifest bool) error {
	if !s.cfg.Upstream.Known(ref.Registry) {
		return fmt.Errorf("%w: %s", ErrUnknownUpstream, ref.Registry)
	}
	if who.Operator && s.cfg.Upstream.Credentials(ref.Registry) {
		return nil
	}
	if who.Subject != "" && who.Token == "" {
		if may, err := s.cfg.MayLogin(ctx, ref.Registry, who.Subject); err != nil || may {
			return err
		}
	}
	k := rightKey{ref: ref, reference: reference, token: sha256.Sum256([]byte(who.Token))}
	yes, err := s.cfg.Upstream.Readable(ctx, ref, reference, manifest, who.Token)
	switch {
	case err == nil && yes:
		s.rights.note(k, true)
		return nil
	case err == nil:
		s.rights.note(k, false)
		return fmt.Errorf("%w: %s does not let this reader have %s of %s", fetch.ErrDenied, ref.Registry, reference, ref)
	case s.rights.remembered(k):
		return nil
	}
	return fmt.Errorf("%w: ask %s who may read: %w", fetch.ErrUnavailable, ref.Registry, err)
}
