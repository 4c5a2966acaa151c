package blob

import "errors"

var (
	// ErrPieceMismatch is what a sink wraps when the bytes of a piece do not
	// make the hash that was asked for.
	ErrPieceMismatch = errors.New("piece does not match its hash")
	// ErrDigestMismatch is what a sink wraps when a whole blob does not have
	// the digest that was asked for.
	ErrDigestMismatch = errors.New("blob does not match its digest")
	// ErrNotHeld is what a lookup wraps when a node holds nothing of a blob.
	ErrNotHeld = errors.New("blob is not held here")
	// ErrFull is what a sink wraps when there is no room for a blob.
	ErrFull = errors.New("no room for the blob")
)
