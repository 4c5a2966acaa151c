package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotFound says that whoever was asked does not have it (404).
	ErrNotFound = errors.New("not found")
	// ErrDenied says that the origin refuses this reader (401); it is never
	// turned into a 404.
	ErrDenied = errors.New("denied by the registry")
	// ErrUnavailable says that nobody could be reached who has it (502).
	ErrUnavailable = errors.New("unavailable")
	// ErrClosed is what flights end with when the fetcher is closed.
	ErrClosed = errors.New("fetcher is closed")
	// ErrSize says that a blob does not have the size that the reader was told
	// of, or that two readers were told different ones.
	ErrSize = errors.New("the blob has another size")
	// ErrBadDigest says that the bytes do not have the digest that was asked
	// for. It is also an ErrNotFound.
	ErrBadDigest = fmt.Errorf("%w: the bytes do not have this digest", ErrNotFound)
)

// errIdle ends a flight that nobody reads any more.
var errIdle = errors.New("nobody reads it any more")

// BlameError says whose signed hashes led to bytes of a wrong digest.
type BlameError struct {
	Signer string // peer ID
	Err    error
}

func (e *BlameError) Error() string {
	return fmt.Sprintf("the piece hashes signed by %s lead to wrong bytes: %v", e.Signer, e.Err)
}

func (e *BlameError) Unwrap() error { return e.Err }

// refusal sorts an origin's error by what can be done about it.
type refusal int

const (
	passing refusal = iota // try again
	missing
	denied
)

// sortError maps an origin's error to one of this package's. status is the
// HTTP status behind err, 0 when there is none.
func sortError(err error, status int) (refusal, error) {
	switch {
	case errors.Is(err, ErrDenied), status == 401, status == 403:
		return denied, wrapOnce(ErrDenied, err)
	case errors.Is(err, ErrNotFound), status == 404, status == 410:
		return missing, wrapOnce(ErrNotFound, err)
	case errors.Is(err, context.Canceled):
		return passing, err
	}
	return passing, wrapOnce(ErrUnavailable, err)
}

func wrapOnce(kind, err error) error {
	if errors.Is(err, kind) {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// classify finds the HTTP status that an origin's error carries (0: none) and
// for how long the origin asked to be left alone.
func (f *Fetcher) classify(err error) (status int, after time.Duration) {
	if f.cfg.Classify != nil {
		return f.cfg.Classify(err)
	}
	var s interface{ HTTPStatus() int }
	if errors.As(err, &s) {
		status = s.HTTPStatus()
	}
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		after = r.RetryAfter()
	}
	return status, after
}
