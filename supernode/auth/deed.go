package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

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
	Project string // whose admins may know
	Often   bool   // a program does it again and again
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

// tellRobot passes on a login of a robot. What was tried for one that is not
// there is told without its name.
func (a *Auth) tellRobot(r *http.Request, login string, err error) {
	if err != nil && !errors.Is(err, ErrLogin) {
		return
	}
	d := Deed{Subject: unknown, Action: "login", Often: true}
	if project, name, ok := parseRobot(login); ok {
		if record, readErr := a.readRobot(r.Context(), project, name); readErr == nil && record != nil {
			d.Subject, d.Project = login, project
		}
	}
	a.tell(r, d, err)
}

// MayAudit decides who may read the audit of a project, and from when on: its
// admins, since it was made, and system administrators. "" is all of the
// audit, which is theirs alone.
func (a *Auth) MayAudit(ctx context.Context, by User, project string) (since time.Time, err error) {
	switch {
	case by.systemAdmin():
		return time.Time{}, nil
	case project == "":
		return time.Time{}, fmt.Errorf("read the audit: %w: name a project that you are admin of; only system administrators see all of it", ErrDenied)
	}
	at, err := a.allowed(ctx, by, project, manageProject)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the audit of project %q: %w", project, err)
	}
	return at.project.Created, nil
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
