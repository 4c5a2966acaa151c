package mirror

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
)

// signIn gives a user a token for repositories and returns what to send.
func (w *world) signIn(user string, repositories ...string) (authorization string) {
	raw := user + w.now.String()
	c := token.Claims{Subject: user, IssuedAt: w.now.Truncate(time.Second), ExpiresAt: w.now.Add(token.Life)}
	for _, r := range repositories {
		c.Access = append(c.Access, token.Access{Type: "repository", Name: r, Actions: []string{"pull"}})
	}
	w.tokens[raw] = c
	return "Bearer " + raw
}

// may and mayNot say at the supernode whether a repository gives out d1.
func (w *world) may(repository string)    { w.readable["|"+repository+"|"+string(d1)+"|"] = true }
func (w *world) mayNot(repository string) { delete(w.readable, "|"+repository+"|"+string(d1)+"|") }

// TestForget is about what a reader who was let in may do after a change.
func TestForget(t *testing.T) {
	for name, c := range map[string]struct {
		project, user string
		asks          bool // the supernode is asked again
	}{
		"of the project":                     {"team", "", true},
		"of the user in the project":         {"team", "ann", true},
		"of the user":                        {"", "ann", true},
		"of everything":                      {"", "", true},
		"of another project":                 {"other", "", false},
		"of a project that begins like it":   {"tea", "", false},
		"of another user":                    {"team", "bob", false},
		"of the user in another project":     {"other", "ann", false},
		"of another user in another project": {"other", "bob", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.may("team/app")
			auth := w.signIn("ann", "team/app")
			for range 2 { // asked once, known then
				if err := w.authorize("", "team/app", string(d1), auth); err != nil || w.asked != 1 {
					t.Fatalf("%v, asked %d times", err, w.asked)
				}
			}
			w.mayNot("team/app")
			w.gate.Forget(t.Context(), Change{At: w.now, Project: c.project, User: c.user})
			if err := w.authorize("", "team/app", string(d1), auth); (err != nil) != c.asks || (w.asked == 2) != c.asks {
				t.Errorf("%v, asked %d times", err, w.asked)
			}
			// A token from after the change has the supernode's word in it.
			w.now = w.now.Add(2 * time.Second)
			asked := w.asked
			if err := w.authorize("", "team/app", string(d1), w.signIn("ann", "team/app")); err != nil || w.asked != asked {
				t.Errorf("with a new token: %v, asked %d times more", err, w.asked-asked)
			}
		})
	}
}

func TestForgetReachesLoginsAndHandles(t *testing.T) {
	w := newWorld(t)
	w.may("team/app")
	w.may("shop/app")
	w.granted["team"], w.granted["shop"] = true, true
	scopes := []token.Access{{Type: "repository", Name: "team/app", Actions: []string{"pull"}}, {Type: "repository", Name: "shop/app", Actions: []string{"pull"}}}
	ask := ask{TokenRequest: TokenRequest{User: "ann", Password: "right", Scopes: scopes}}
	if _, err := w.gate.answer(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	anybody, err := w.gate.nodeToken(askFor(scopes))
	if err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{"team/app", "shop/app"} {
		if err := w.authorize("", repository, string(d1), "Bearer "+anybody.Token); err != nil {
			t.Fatal(err)
		}
	}
	w.gate.Forget(t.Context(), Change{At: w.now, Project: "team"})
	if err := w.authorize("", "shop/app", string(d1), "Bearer "+anybody.Token); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a handle for what changed still opens: %v", err)
	}
	w.down = true
	offline, err := w.gate.answer(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.authorize("", "team/app", string(d1), "Bearer "+offline.Token); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("offline, what changed: %v", err)
	}
	if err := w.authorize("", "shop/app", string(d1), "Bearer "+offline.Token); err != nil {
		t.Errorf("offline, what did not change: %v", err)
	}
}

func askFor(scopes []token.Access) ask { return ask{TokenRequest: TokenRequest{Scopes: scopes}} }

// Without a supernode a token from before a change opens nothing, whatever was
// known before.
func TestAfterAChangeTheGraceIsOver(t *testing.T) {
	w := newWorld(t)
	w.may("team/app")
	auth := w.signIn("ann", "team/app")
	if err := w.authorize("", "team/app", string(d1), auth); err != nil {
		t.Fatal(err)
	}
	w.gate.Forget(t.Context(), Change{At: w.now, Project: "team"})
	w.down = true
	if err := w.authorize("", "team/app", string(d1), auth); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestManyChangesAreBounded(t *testing.T) {
	w := newWorld(t)
	old := w.signIn("ann", "team/app")
	for range 3 * maxChanges {
		w.now = w.now.Add(time.Millisecond)
		w.gate.Forget(t.Context(), Change{At: w.now, Project: "other"})
	}
	if n := len(w.gate.changes); n > maxChanges {
		t.Errorf("%d changes are kept", n)
	}
	// Too many to tell apart are a change of everything.
	if err := w.authorize("", "team/app", string(d1), old); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
}

// Threat 13: what streams under a right that ended is cut, and nothing else.
func TestAStreamEndsWithItsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.may("team/app")
		w.may("team/base")
		guard := func(user, repository string) context.Context {
			r := Request{Ref: blob.Ref{Repository: repository}, Reference: string(d1), Digest: blob.Digest(d1), Authorization: w.signIn(user, repository)}
			grant, err := w.gate.Authorize(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			ctx, done := w.gate.Guard(t.Context(), r, grant)
			t.Cleanup(done)
			return ctx
		}
		ended, stays, theirs := guard("ann", "team/app"), guard("ann", "team/base"), guard("bob", "team/app")
		w.mayNot("team/app")
		w.gate.Forget(t.Context(), Change{At: w.now, Project: "team", User: "ann"})
		synctest.Wait()
		if !errors.Is(context.Cause(ended), errRightEnded) {
			t.Errorf("the stream goes on: %v", context.Cause(ended))
		}
		if stays.Err() != nil || theirs.Err() != nil {
			t.Errorf("cut as well: %v, %v", stays.Err(), theirs.Err())
		}
		w.down = true // no answer is no refusal
		w.gate.Forget(t.Context(), Change{At: w.now})
		synctest.Wait()
		if stays.Err() != nil {
			t.Errorf("cut because nobody could be asked: %v", stays.Err())
		}
	})
}
