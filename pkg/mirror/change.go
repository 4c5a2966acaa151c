package mirror

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
)

// maxChanges bounds the changes that are remembered one by one.
const maxChanges = 256

// errRightEnded is why a stream is cut whose reader lost the right.
var errRightEnded = errors.New("the right to read ended")

// Change is a change of rights at the supernode.
type Change struct {
	At      time.Time // by the supernode's clock
	Project string    // "": every project
	User    string    // "": everybody
}

// touches reports whether a change is about what somebody may read. What an
// upstream's content is open to may hang on any project.
func (c Change) touches(ref blob.Ref, user string) bool {
	return (c.User == "" || c.User == user) && (c.Project == "" || ref.Registry != "" || c.Project == project(ref.Repository))
}

// stream is a blob that is on its way to a reader.
type stream struct {
	request Request
	subject string
	cut     context.CancelCauseFunc
}

// Forget ends what the gate remembers about rights that changed: proofs,
// handles and logins. Tokens that were made up to then are shown to the
// supernode before they count again, and what streams under such a right goes
// on only if the supernode says so.
func (g *Gate) Forget(ctx context.Context, c Change) {
	g.handles.forget(c)
	g.logins.forgetRights(c)
	g.mu.Lock()
	g.noteLocked(c)
	for _, k := range g.proofs.Keys() {
		if reader, ref := splitProof(k); c.touches(ref, userOf(reader, c.User)) {
			g.proofs.Remove(k)
		}
	}
	var touched []*stream
	for s := range g.streams {
		if c.touches(s.request.Ref, s.subject) {
			touched = append(touched, s)
		}
	}
	g.mu.Unlock()
	go func() { // one by one, so that the supernode is not stormed
		for _, s := range touched {
			g.recheck(ctx, s)
		}
	}()
}

// userOf is the user that a reader's key in the proofs stands for; whose it is
// is not known of a handle, which may so be asked about once too often.
func userOf(reader, assumed string) string {
	if user, ok := strings.CutPrefix(reader, userKey); ok {
		return user
	}
	return assumed
}

// noteLocked remembers a change for as long as tokens from before it live.
func (g *Gate) noteLocked(c Change) {
	kept := g.changes[:0]
	for _, old := range g.changes {
		if c.At.Sub(old.At) < token.MaxLife {
			kept = append(kept, old)
		}
	}
	if len(kept) >= maxChanges {
		kept = append(kept[:0], Change{At: c.At}) // too many to tell apart
	}
	g.changes = append(kept, c)
}

// outdated reports whether a right changed after a token for it was made.
func (g *Gate) outdated(made time.Time, ref blob.Ref, user string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.changes {
		if !made.After(c.At) && c.touches(ref, user) {
			return true
		}
	}
	return false
}

// recheck cuts a stream unless its request would be answered now as well.
func (g *Gate) recheck(ctx context.Context, s *stream) {
	_, err := g.Authorize(ctx, s.request)
	if is(err, ErrUnauthorized) || is(err, ErrDenied) || is(err, ErrNotFound) {
		g.cfg.Log.Info("a stream is cut: the right to it ended", "ref", s.request.Ref.String(), "digest", s.request.Digest, "user", s.subject)
		s.cut(errRightEnded)
	}
}

// Guard implements Authorizer.
func (g *Gate) Guard(ctx context.Context, r Request, grant Grant) (guarded context.Context, done func()) {
	guarded, cut := context.WithCancelCause(ctx)
	s := &stream{r, grant.Subject, cut}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams[s] = struct{}{}
	return guarded, func() {
		cut(nil)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.streams, s)
	}
}

// forget ends the handles of the own registry that a change is about.
func (s *handles) forget(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, h := range s.known {
		if h.registry != "" {
			continue // means a token of an upstream, which is asked each time
		}
		for _, a := range h.access {
			if c.touches(blob.Ref{Repository: a.Name}, h.subject) {
				delete(s.known, k)
			}
		}
	}
}

// forgetRights takes from what users were allowed what a change is about.
func (l *logins) forgetRights(c Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for user, known := range l.users {
		if c.User != "" && c.User != user {
			continue
		}
		var kept []token.Access
		for _, a := range known.access {
			if !c.touches(blob.Ref{Repository: a.Name}, user) {
				kept = append(kept, a)
			}
		}
		known.access = kept
		l.users[user] = known
	}
}
