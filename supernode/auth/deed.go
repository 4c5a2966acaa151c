package auth

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/shoalproject/shoal/pkg/token"
)

// Deed is one thing that somebody did or tried at the gate, for the audit. It
// holds no secret: no password, no token, and no name that nobody has.
type Deed struct {
	Subject string // who, as far as it is known
	Action  string
	Object  string // to what
	From    string // address, without a port
	Allowed bool
	Reason  string // why it was refused
	Detail  map[string]string
}

// unknown stands for a name that nobody has: people type passwords there.
const unknown = "(unknown)"

// tell passes a deed on that came with a request; err is why it was refused.
func (a *Auth) tell(r *http.Request, d Deed, err error) {
	d.From = addressOf(r.RemoteAddr)
	a.note(r.Context(), d, err)
}

func (a *Auth) note(ctx context.Context, d Deed, err error) {
	if a.cfg.Audit == nil {
		return
	}
	d.Allowed = err == nil
	if err != nil {
		d.Reason = err.Error()
	}
	a.cfg.Audit(ctx, d)
}

// tellLogin passes on a login that was decided. Faults of our own side are in
// the log.
func (a *Auth) tellLogin(r *http.Request, record *userRecord, err error) {
	var limited *LimitError
	if err != nil && !errors.Is(err, ErrLogin) && !errors.As(err, &limited) {
		return
	}
	a.tell(r, Deed{Subject: loggable(record), Action: "login"}, err)
}

// deniedError refuses somebody who is known.
type deniedError struct {
	who  string
	want token.Access
}

func (e *deniedError) Error() string {
	return ErrDenied.Error() + ": " + strings.Join(e.want.Actions, ", ") + " on " + e.want.Name + ", as " + e.who
}

// Unwrap is ErrDenied.
func (e *deniedError) Unwrap() error { return ErrDenied }

// Subject is who was refused.
func (e *deniedError) Subject() string { return e.who }

func denied(who string, want token.Access) error {
	want.Actions = slices.Clone(want.Actions)
	return &deniedError{who: who, want: want}
}
