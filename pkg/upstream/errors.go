package upstream

import (
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

// All of them carry the HTTP status they stand for (HTTPStatus() int).
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
	ErrNoToken error = &statusErr{"upstream has no token service", 401}
	// ErrForbiddenAddress: a name or redirect leads to an address that no
	// upstream was configured for.
	ErrForbiddenAddress error = &statusErr{"address not allowed for an upstream", 502}
	// ErrDigestMismatch: the bytes are not what their digest says.
	ErrDigestMismatch error = &statusErr{"upstream sent other bytes than the digest names", 502}
	// ErrSizeMismatch: the registry says different sizes of one blob.
	ErrSizeMismatch error = &statusErr{"upstream sent another size than it said", 502}
	// ErrTooLarge: a manifest beyond MaxManifest, or an answer beyond its limit.
	ErrTooLarge error = &statusErr{"upstream answer is too large", 502}
	// ErrMalformed: an answer that is not what the protocol allows.
	ErrMalformed error = &statusErr{"malformed upstream answer", 502}
	// ErrUnavailable: no usable answer after all attempts.
	ErrUnavailable error = &statusErr{"upstream cannot be reached", 503}
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
