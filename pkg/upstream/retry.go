package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	backoffBase = 200 * time.Millisecond
	backoffCap  = 5 * time.Second
	// maxRetryAfter is the longest Retry-After that a call sits out itself;
	// beyond it the caller is told.
	maxRetryAfter = 15 * time.Second
	// retryAfterCap is the longest that a caller is told.
	retryAfterCap = 15 * time.Minute
)

// retry calls try until it has an answer that is worth having. It returns
// the response, or a *RetryError or ErrUnavailable after the last attempt.
func (c *Client) retry(ctx context.Context, try func(context.Context) (*http.Response, error)) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := try(ctx)
		var wait time.Duration
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if permanent(err) {
				return nil, err
			}
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
			wait = backoff(attempt, rand.Float64())
		case transient(resp.StatusCode):
			after, said := retryAfter(resp.Header.Get("Retry-After"), c.now())
			discard(resp)
			err = &RetryError{Status: resp.StatusCode, After: after}
			if wait = backoff(attempt, rand.Float64()); said {
				wait = after + time.Duration(rand.Float64()*float64(after/4))
			}
			if after > maxRetryAfter {
				return nil, err
			}
		default:
			return resp, nil
		}
		if deadline, ok := ctx.Deadline(); attempt >= c.attempts || ok && time.Until(deadline) < wait {
			return nil, err
		}
		if ctxErr := sleep(ctx, wait); ctxErr != nil {
			return nil, ctxErr
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff doubles with each attempt, within 50 and 150 %; chance is in [0,1).
func backoff(attempt int, chance float64) time.Duration {
	d := backoffBase << min(attempt-1, 10)
	return time.Duration((0.5 + chance) * float64(min(d, backoffCap)))
}

func transient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// permanent reports whether trying again cannot help.
func permanent(err error) bool {
	for _, known := range []error{ErrForbiddenAddress, ErrMalformed, ErrDenied, ErrUnauthorized, ErrTooLarge,
		ErrNotFound, ErrUnavailable, ErrDigestMismatch, ErrSizeMismatch, blob.ErrInvalidName} {
		if errors.Is(err, known) {
			return true
		}
	}
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var header tls.RecordHeaderError
	var dns *net.DNSError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &header) ||
		errors.As(err, &dns) && dns.IsNotFound
}

// retryAfter reads a Retry-After header: seconds or an HTTP date (RFC 9110,
// 10.2.3), bounded by 0 and retryAfterCap.
func retryAfter(value string, now time.Time) (after time.Duration, said bool) {
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(retryAfterCap/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), retryAfterCap), true
}
