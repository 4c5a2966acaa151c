package token

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestRing(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	a, b, c := SigningKey{Private: newKey(t)}, SigningKey{newKey(t), start.Add(time.Minute)}, SigningKey{newKey(t), start.Add(2 * time.Hour)}
	names := map[string]string{a.ID(): "a", b.ID(): "b", c.ID(): "c"}
	all := []SigningKey{a, b, c}
	for _, step := range []struct {
		at     time.Duration
		signs  string
		stays  string
		reason string
	}{
		{-time.Hour, "a", "abc", "a clock that is behind"},
		{0, "a", "abc", "the next one is only published"},
		{time.Minute, "b", "abc", "to the second"},
		{time.Minute + MaxLife, "b", "abc", "the last token of the first one ends now"},
		{time.Minute + MaxLife + 1, "b", "bc", "it ended"},
		{2 * time.Hour, "c", "bc", "the third one"},
		{100 * time.Hour, "c", "c", "one stays"},
	} {
		now := start.Add(step.at)
		stays := ""
		for _, k := range Retire(all, now) {
			stays += names[k.ID()]
		}
		if got := names[signer(all, now).ID()]; got != step.signs || stays != step.stays {
			t.Errorf("%v (%s): %s signs and %s stay; want %s and %s", step.at, step.reason, got, stays, step.signs, step.stays)
		}
	}
	if got := names[signer([]SigningKey{c}, start).ID()]; got != "c" {
		t.Errorf("alone and before its time, %q signs", got)
	}
	full := slices.Repeat([]SigningKey{{a.Private, start}}, maxRing)
	if _, err := Rotate(full, b, start); !errors.Is(err, ErrRotating) {
		t.Errorf("a full ring takes one more: %v", err)
	}
	if next, err := Rotate(all[:2], c, start.Add(2*time.Hour)); err != nil || len(next) != 2 || next[1].ID() != c.ID() {
		t.Errorf("%d keys, %v", len(next), err)
	}
	for name, keys := range map[string][]SigningKey{"no key": nil, "too many": append(full, a), "half a key": {{Private: a.Private[:32]}}} {
		if _, err := NewRing(keys...); err == nil {
			t.Errorf("%s make a ring", name)
		}
	}
}

// A token is signed with the key of its time, and a verifier that has the
// ring's keys takes all of them.
func TestIssuerOfARing(t *testing.T) {
	h := newHouse(t)
	now := h.clock.now()
	old, next := SigningKey{Private: newKey(t)}, SigningKey{newKey(t), now.Add(time.Minute)}
	ring, err := NewRing(old, next)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := ring.Issuer("shoal fra1", "shoal", h.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	only := func(k SigningKey) *Verifier {
		one, err := NewRing(k)
		if err != nil {
			t.Fatal(err)
		}
		v, err := NewVerifier(one.JWKS(), "shoal fra1", "shoal", h.clock.now)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := h.verifier.Update(ring.JWKS()); err != nil {
		t.Fatal(err)
	}
	for _, by := range []SigningKey{old, next} {
		raw, err := issuer.Issue("ann", nil, Life)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := only(by).Verify(raw); err != nil {
			t.Errorf("signed with another key: %v", err)
		}
		if _, err := h.verifier.Verify(raw); err != nil {
			t.Errorf("with both keys: %v", err)
		}
		h.clock.offset.Add(int64(time.Minute))
	}
}
