package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"syscall"

	"github.com/shoalproject/shoal/supernode/objects"
)

// Codes of the OCI distribution-spec, "Error Codes".
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeBlobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	codeBlobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTagInvalid          = "TAG_INVALID"
	codePaginationInvalid   = "PAGINATION_NUMBER_INVALID"
	codeTooMany             = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN"
)

// Error is an answer in the OCI error format.
type Error struct {
	Status  int
	Code    string
	Message string
	Detail  any         // JSON; may be nil
	Header  http.Header // added to the answer; may be nil
	cause   error       // for the log, never sent
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }
func (e *Error) Unwrap() error { return e.cause }

// errGone says that the client went away: there is nobody to answer.
var errGone = errors.New("the client went away")

func clientGone(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errGone, err)
}

// authError makes an Authorizer's error an answer.
func authError(err error) error {
	var challenge interface{ Challenge() string }
	var denied interface{ Denied() bool }
	var later interface{ Later() (status, seconds int) }
	switch {
	case errors.As(err, &challenge):
		return &Error{Status: http.StatusUnauthorized, Code: codeUnauthorized,
			Message: "log in first, or use a token that covers this: " + err.Error(),
			Header:  http.Header{"Www-Authenticate": {challenge.Challenge()}}}
	case errors.As(err, &denied):
		return &Error{Status: http.StatusForbidden, Code: codeDenied,
			Message: "you may not do this; ask an administrator for the right", cause: err}
	case errors.As(err, &later):
		status, seconds := later.Later()
		return &Error{Status: status, Code: codeTooMany, Message: err.Error(), cause: err,
			Header: http.Header{"Retry-After": {strconv.Itoa(seconds)}}}
	}
	return fmt.Errorf("decide who may do this: %w", err)
}

// writeError answers with an error, as far as nothing was answered yet.
func (g *Registry) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errGone) || errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		g.Log.Debug("registry: client went away", "method", r.Method, "path", r.URL.Path, "error", err)
		return
	}
	e := answerOf(err)
	if e.Status >= http.StatusInternalServerError {
		g.Log.Error("registry request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	body, jsonErr := json.Marshal(map[string]any{"errors": []any{errorBody{e.Code, e.Message, e.Detail}}})
	if jsonErr != nil {
		g.Log.Error("registry: encode an error", "error", jsonErr)
		body = []byte(`{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`)
	}
	h := w.Header()
	for key, values := range e.Header {
		h[key] = values
	}
	for _, key := range []string{"Etag", "Docker-Content-Digest", "Accept-Ranges"} {
		h.Del(key)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status)
	if r.Method != http.MethodHead {
		w.Write(body) //nolint:errcheck // the client may be gone
	}
}

type errorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  any    `json:"detail,omitempty"`
}

// answerOf finds the answer in an error, or makes one that tells nothing of
// the inside.
func answerOf(err error) *Error {
	var e *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLarge):
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: codeSizeInvalid,
			Message: fmt.Sprintf("the body is larger than the %d bytes that are taken here", tooLarge.Limit)}
	case errors.Is(err, objects.ErrFull), errors.Is(err, syscall.ENOSPC):
		return &Error{Status: http.StatusInsufficientStorage, Code: codeUnknown,
			Message: "the registry's disk is full; an administrator must free space or run the garbage collection"}
	}
	return &Error{Status: http.StatusInternalServerError, Code: codeUnknown,
		Message: "the registry failed; its log says why"}
}

// bodyError is an error of reading a request's body: its sender's.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }
