package blob

import "errors"

var (
	// ErrPieceMismatch is what a sink wraps when the bytes of a piece do not
	// make the hash that was asked for.
	ErrPieceMismatch = errors.New("piece does not match its hash")
	// ErrNotHeld is what a lookup wraps when a node holds nothing of a blob.
	ErrNotHeld = errors.New("blob is not held here")
)
