package mirror

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
)

// What a Fetcher, Prover or login wraps to say how the request ends. An error
// with a method HTTPStatus() int counts by that; anything else is a 500.
var (
	// ErrNotFound: 404.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized: 401 with a challenge that names the mirror's /token.
	ErrUnauthorized = errors.New("login needed")
	// ErrDenied: 403.
	ErrDenied = errors.New("access denied")
	// ErrUnavailable: 502, on which runtimes turn to the origin at once (they
	// try 500, 503 and 504 a second time first).
	ErrUnavailable = errors.New("not available now")
)

// fault is one entry of the OCI error format.
type fault struct {
	status  int
	code    string
	message string
}

// is reports whether err is of one of the kinds above.
func is(err, kind error) bool {
	if errors.Is(err, kind) {
		return true
	}
	var s interface{ HTTPStatus() int }
	if !errors.As(err, &s) {
		return false
	}
	switch status := s.HTTPStatus(); status {
	case http.StatusNotFound:
		return kind == ErrNotFound
	case http.StatusUnauthorized:
		return kind == ErrUnauthorized
	case http.StatusForbidden:
		return kind == ErrDenied
	default:
		return kind == ErrUnavailable && (status >= http.StatusInternalServerError || status == http.StatusTooManyRequests)
	}
}

// faultOf turns an error into what the client is told. what is "BLOB" or
// "MANIFEST". Details stay in the log: they may name other hosts.
func faultOf(err error, what string) fault {
	switch {
	case is(err, ErrNotFound):
		return fault{http.StatusNotFound, what + "_UNKNOWN", "not known here or there"}
	case is(err, ErrUnauthorized):
		return fault{http.StatusUnauthorized, "UNAUTHORIZED", "log in to read this"}
	case is(err, ErrDenied):
		return fault{http.StatusForbidden, "DENIED", "this login may not read this"}
	case is(err, ErrUnavailable):
		return fault{http.StatusBadGateway, "UNAVAILABLE", "no source has it now; ask the registry itself or try again"}
	}
	return fault{http.StatusInternalServerError, "UNKNOWN", "the mirror failed; its log says why"}
}

// write sends the fault in the OCI error format.
func (f fault) write(w http.ResponseWriter) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{f.code, f.message}}})
	if err != nil {
		body = nil // two strings always marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(f.status)
	w.Write(body) //nolint:errcheck // the client may be gone; nothing to do about it
}
