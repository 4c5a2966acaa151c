package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/shoalproject/shoal/supernode/meta"
)

// changedKey holds when rights changed last.
const changedKey = "auth/changed"

// Change is a change of rights, for those who remember decisions: what they
// remember about the project or of the user counts no longer.
type Change struct {
	// Number grows with each change; Before is that of the change before, by
	// which a listener knows that it missed none. Numbers are milliseconds of
	// the Unix time, a little ahead where several changes fall into one.
	Number, Before int64
	Project        string // "": all that the user has
	User           string // "": all that the project's members have
	Pools          bool   // what pools may pull is among it
}

type changedRecord struct {
	Number int64 `json:"number"`
}

// stamp numbers a change that is about to be committed, and makes the write
// that goes with it.
func (a *Auth) stamp() (int64, meta.Op, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stamped = max(a.stamped+1, a.cfg.Now().UnixMilli())
	data, err := json.Marshal(changedRecord{a.stamped})
	if err != nil {
		return 0, meta.Op{}, fmt.Errorf("encode the number of a change: %w", err)
	}
	return a.stamped, meta.Put(changedKey, data), nil
}

// changed tells of a change that was committed.
func (a *Auth) changed(c Change) {
	a.telling.Lock() // listeners hear changes one by one, in order
	defer a.telling.Unlock()
	a.mu.Lock()
	c.Before, a.told = a.told, max(a.told, c.Number)
	c.Number = a.told
	a.mu.Unlock()
	if a.cfg.OnChange != nil {
		a.cfg.OnChange(c)
	}
}

// LastChange is the number of the last change of rights, 0 before the first.
func (a *Auth) LastChange() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told
}

func (a *Auth) loadChanged(ctx context.Context) error {
	record, _, err := meta.ReadRecord[changedRecord](ctx, a.cfg.Meta, changedKey)
	if err != nil {
		return fmt.Errorf("read when rights changed last: %w", err)
	}
	if record != nil {
		a.stamped, a.told = record.Number, record.Number
	}
	return nil
}

// errNoRight is a decision, not a fault.
var errNoRight = errors.New("no right to pull")

// Puller is who may pull from a repository by a registry token: it verifies
// and still has the right. raw "" stands for the node itself. The subject can
// be asked about again, by MayStillPull, when the token has run out.
func (a *Auth) Puller(ctx context.Context, raw, peerID, repository string) (subject string, err error) {
	if raw == "" {
		return nodePrefix + peerID, a.MayStillPull(ctx, nodePrefix+peerID, repository)
	}
	claims, err := a.registryVerifier.Verify(raw)
	if err != nil || !claims.Allows("repository", repository, actionPull) {
		return "", errNoRight
	}
	if peer, ok := strings.CutPrefix(claims.Subject, nodePrefix); ok {
		// Made out to this very node for an order: good for as long as it says.
		if peer != peerID {
			return "", errNoRight
		}
		return "", a.admit(peer)
	}
	user, err := a.subject(ctx, claims.Subject)
	if err != nil {
		return "", err
	}
	if err := a.stands(ctx, claims.Session, user); err != nil {
		return "", err
	}
	return claims.Subject, a.MayStillPull(ctx, claims.Subject, repository)
}

// MayStillPull looks up whether a subject that Puller named has the right now.
// An error other than of meta means that it has not.
func (a *Auth) MayStillPull(ctx context.Context, subject, repository string) error {
	user, err := a.subject(ctx, subject)
	if err != nil {
		return err
	}
	want := accessOf(repository, []string{actionPull})
	granted, _, err := a.decideNow(ctx, user, want)
	if err == nil && !grants(granted, want) {
		err = errNoRight
	}
	return err
}
