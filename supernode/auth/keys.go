package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
)

// SignAfter is for how long a new key is only published before it signs: time
// for an agent whose line broke without a word to notice that (45 s), to open
// it again (15 s) and to renew, twice over (30 s each), with as much to spare.
const SignAfter = 4 * time.Minute

// ErrRotating is wrapped when the keys are being changed already.
var ErrRotating = errors.New("a new key was published a moment ago")

// Rotation is a change of keys under way.
type Rotation struct {
	KeyID     string    // of the new key
	SignsFrom time.Time // until then the old one signs
	OldUntil  time.Time // tokens of the old one are believed until then
}

// RotateKeys makes a new key for tokens. It is published at once, signs after
// a while, and its predecessor is published until the last token that it signed
// is out. The new key is kept before anybody hears of it.
func (a *Auth) RotateKeys(ctx context.Context, after time.Duration) (Rotation, error) {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	now := a.cfg.Now()
	keys := a.cfg.TokenKeys.Keys()
	if from := keys[len(keys)-1].From; from.After(now) {
		return Rotation{}, fmt.Errorf("rotate the token keys: %w and signs in %v: wait until then", ErrRotating, from.Sub(now).Round(time.Second))
	}
	if after < 0 {
		return Rotation{}, fmt.Errorf("rotate the token keys: a delay of %v is %w: give one of 0 or more", after, ErrInvalid)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Rotation{}, fmt.Errorf("rotate the token keys: %w", err)
	}
	next := token.SigningKey{Private: private, From: now.Add(after)}
	if keys, err = token.Rotate(keys, next, now); err != nil {
		return Rotation{}, fmt.Errorf("rotate the token keys: %w", err)
	}
	if err := a.useKeys(keys); err != nil {
		return Rotation{}, fmt.Errorf("rotate the token keys: %w", err)
	}
	r := Rotation{KeyID: next.ID(), SignsFrom: next.From, OldUntil: next.From.Add(token.MaxLife)}
	a.cfg.Log.InfoContext(ctx, "a new token key was made", "kid", r.KeyID, "signs from", r.SignsFrom, "old keys until", r.OldUntil)
	return r, nil
}

// sweepKeys drops the keys whose tokens are all out, and reminds agents of one
// that is about to sign: an order may be lost.
func (a *Auth) sweepKeys() error {
	a.rotating.Lock()
	defer a.rotating.Unlock()
	now := a.cfg.Now()
	keys := a.cfg.TokenKeys.Keys()
	if keys[len(keys)-1].From.After(now) && a.cfg.OnKeys != nil {
		a.cfg.OnKeys()
	}
	left := token.Retire(keys, now)
	if len(left) == len(keys) {
		return nil
	}
	if err := a.useKeys(left); err != nil {
		return fmt.Errorf("drop token keys that are done: %w", err)
	}
	return nil
}

// useKeys keeps the keys and goes by them. rotating is held.
func (a *Auth) useKeys(keys []token.SigningKey) error {
	if a.cfg.KeepKeys == nil {
		return errors.New("this supernode has no place to keep them")
	}
	ring, err := token.NewRing(keys...)
	if err != nil {
		return err
	}
	if err := a.cfg.KeepKeys(keys); err != nil {
		return err
	}
	public := ring.JWKS()
	// Verifiers first: a token of the new key may come right after.
	if err := errors.Join(a.registryVerifier.Update(public), a.apiVerifier.Update(public), a.cfg.TokenKeys.Set(keys)); err != nil {
		return err
	}
	if a.cfg.OnKeys != nil {
		a.cfg.OnKeys()
	}
	return nil
}
