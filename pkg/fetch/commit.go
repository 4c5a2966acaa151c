package fetch

import (
	"context"
	"errors"
	"fmt"

	"github.com/shoalproject/shoal/pkg/blob"
)

// commit verifies the whole blob, and signs its map where nobody did.
func (fl *flight) commit(ctx context.Context, b Blob) error {
	signer := signerOfAll(b)
	err := b.Commit(ctx)
	switch {
	case errors.Is(err, blob.ErrDigestMismatch) && signer != "":
		if fl.f.cfg.Blame != nil {
			fl.f.cfg.Blame(signer, fl.digest)
		}
		return fmt.Errorf("commit: %w", &BlameError{Signer: signer, Err: errors.Join(ErrUnavailable, err)})
	case errors.Is(err, blob.ErrDigestMismatch):
		return fmt.Errorf("%w: %s: nothing was kept: %w", ErrBadDigest, fl.digest, err)
	case err != nil:
		return fmt.Errorf("commit %s: %w", fl.digest, err)
	}
	fl.f.once.set(false, nil)
	if m, _, _ := b.Proof(); m == nil && fl.f.cfg.Sign != nil {
		if err := signMap(ctx, b, fl.f.cfg.Sign); err != nil {
			fl.f.log.Warn("a verified blob cannot be offered to neighbours", "digest", fl.digest, "err", err)
		}
	}
	return nil
}

// signerOfAll is who signed the hashes of all pieces, "" when bytes of an
// origin are among them or more than one signer was believed.
func signerOfAll(b Blob) string {
	for i := range blob.PieceCount(b.Size()) {
		if _, signed := b.WantHash(i); !signed {
			return ""
		}
	}
	m, batches, _ := b.Proof()
	signer := ""
	if m != nil {
		signer = m.Signer
	}
	for _, batch := range batches {
		if signer != "" && batch.Signer != signer {
			return ""
		}
		signer = batch.Signer
	}
	return signer
}

// signMap signs the piece map of a blob whose digest was verified.
func signMap(ctx context.Context, b Blob, sign blob.SignFunc) error {
	hashes, err := b.Hashes(ctx)
	if err != nil {
		return fmt.Errorf("sign the piece map of %s: %w", b.Digest(), err)
	}
	m, err := blob.NewPieceMap(b.Digest(), b.Size(), hashes, sign)
	if err != nil {
		return err
	}
	return b.AddProof(m, nil)
}
