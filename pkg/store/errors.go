package store

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/shoalproject/shoal/pkg/blob"
)

var (
	// ErrNotFound: the store holds nothing of the blob. It wraps
	// blob.ErrNotHeld.
	ErrNotFound = fmt.Errorf("not in the store: %w", blob.ErrNotHeld)
	// ErrFull: there is no room, neither within MaxBytes nor on the disk, even
	// after everything that may be evicted was. It is blob.ErrFull.
	ErrFull = blob.ErrFull
	// ErrPieceMismatch: bytes that don't make the piece's hash. It is
	// blob.ErrPieceMismatch.
	ErrPieceMismatch = blob.ErrPieceMismatch
	// ErrDigestMismatch: all pieces are there and don't make the digest. The
	// partial blob was removed. It is blob.ErrDigestMismatch.
	ErrDigestMismatch = blob.ErrDigestMismatch
	// ErrIncomplete: a commit while pieces are missing.
	ErrIncomplete = errors.New("blob is incomplete")
	// ErrSizeMismatch: the blob is known under another size.
	ErrSizeMismatch = errors.New("blob is known under another size")
	// ErrForeignProof: a map or batch of another blob, or of a wrong shape.
	ErrForeignProof = errors.New("proof does not belong to this blob")
	// ErrConflict: a signed hash contradicts what is known better: a signed
	// map, or the bytes of a blob whose digest was verified. Somebody signed
	// a falsehood.
	ErrConflict = errors.New("signed hashes contradict each other")
	// ErrRemoved: the partial blob was deleted while in use.
	ErrRemoved = errors.New("blob was removed from the store")
	// ErrClosed: the store, the handle or the reader was closed.
	ErrClosed = errors.New("already closed")
	// errOvertaken: another writer of the same piece took over and failed.
	errOvertaken = errors.New("another writer took the piece over and failed; fetch it again")
)

// noSpace reports whether the file system has no room, or the user's quota.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// explain makes a full disk an ErrFull.
func explain(err error) error {
	if noSpace(err) {
		return fmt.Errorf("%w: make room on the disk or lower the cache size: %w", ErrFull, err)
	}
	return err
}
