package upstream

import (
	"errors"
	"fmt"
	"time"
)

// statusErr is an error of a known kind that stands for an HTTP status.
type statusErr struct {
	text   string
	status int
}

func (e *statusErr) Error() string   { return e.text }
func (e *statusErr) HTTPStatus() int { return e.status }

// The first four carry the HTTP status they stand for (HTTPStatus() int).
var (
	// ErrUnknownRegistry: the name is not in the configuration; nothing was sent.
	ErrUnknownRegistry error = &statusErr{"registry is not configured as an upstream", 404}
	// ErrNotFound: the registry answered 404.
	ErrNotFound error = &statusErr{"not found upstream", 404}
	// ErrUnauthorized: the registry wants credentials, or other ones.
	ErrUnauthorized error = &statusErr{"upstream wants a login", 401}
	// ErrDenied: the registry knows the reader and refuses.
	ErrDenied error = &statusErr{"upstream denies access", 403}
	// ErrNoToken: the registry knows no Bearer tokens, so a reader's right
	// cannot be handed on without the reader's password.
	ErrNoToken = errors.New("upstream has no token service")
	// ErrForbiddenAddress: a name or redirect leads to an address that no
	// upstream was configured for.
	ErrForbiddenAddress = errors.New("address not allowed for an upstream")
	// ErrDigestMismatch: the bytes are not what their digest says.
	ErrDigestMismatch = errors.New("upstream sent other bytes than the digest names")
	// ErrSizeMismatch: the registry says different sizes of one blob.
	ErrSizeMismatch = errors.New("upstream sent another size than it said")
	// ErrTooLarge: a manifest beyond MaxManifest, or an answer beyond its limit.
	ErrTooLarge = errors.New("upstream answer is too large")
	// ErrMalformed: an answer that is not what the protocol allows.
	ErrMalformed = errors.New("malformed upstream answer")
	// ErrUnavailable: no usable answer after all attempts.
	ErrUnavailable = errors.New("upstream cannot be reached")
)

// RetryError says that the registry asked to be left alone (429, or 5xx with
// Retry-After) for longer than one call may wait. It is an ErrUnavailable.
type RetryError struct {
	Status int           // HTTP status
	After  time.Duration // from the time of the answer; 0 when it did not say
}

func (e *RetryError) Error() string {
	if e.After <= 0 {
		return fmt.Sprintf("upstream answered %d", e.Status)
	}
	return fmt.Sprintf("upstream answered %d: retry after %s", e.Status, e.After)
}

// HTTPStatus is the registry's status.
func (e *RetryError) HTTPStatus() int { return e.Status }

// RetryAfter is for how long the registry asked to be left alone.
func (e *RetryError) RetryAfter() time.Duration { return e.After }

// Is makes a RetryError an ErrUnavailable.
func (e *RetryError) Is(target error) bool { return target == ErrUnavailable }
