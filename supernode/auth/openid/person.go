package openid

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/oauth2"
)

const (
	// maxSubject is the longest subject that OpenID Connect Core (section 2)
	// allows, in bytes.
	maxSubject = 255
	emailClaim = "email"
)

// person verifies the ID token and reads from it who somebody is. The nonce
// is empty where the flow has none.
func (p *Provider) person(ctx context.Context, k *known, token *oauth2.Token, nonce string) (Person, error) {
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return Person{}, fmt.Errorf("%w: it holds no ID token; does the client ask for the scope openid?", ErrUntrue)
	}
	// This looks at signature, issuer, audience and end.
	id, err := k.verifier.Verify(ctx, raw)
	if err != nil {
		return Person{}, fmt.Errorf("%w: %w", ErrUntrue, err)
	}
	if !hmac.Equal([]byte(id.Nonce), []byte(nonce)) && nonce != "" {
		return Person{}, fmt.Errorf("%w: the ID token is not for this login (nonce)", ErrUntrue)
	}
	if id.Subject == "" || len(id.Subject) > maxSubject {
		return Person{}, fmt.Errorf("%w: a subject of %d bytes", ErrUntrue, len(id.Subject))
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return Person{}, fmt.Errorf("%w: %w", ErrUntrue, err)
		}
	}
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return Person{}, fmt.Errorf("%w: %w", ErrUntrue, err)
	}
	// OpenID Connect Core, section 3.1.3.7: a token that was given to another
	// party is none for us, though we are in its audience.
	if azp, ok := claims["azp"]; ok && azp != p.config.ClientID {
		return Person{}, fmt.Errorf("%w: the ID token was given to another client", ErrUntrue)
	}
	if err := p.complete(ctx, k, token, id.Subject, claims); err != nil {
		return Person{}, err
	}
	return p.named(id.Subject, claims)
}

// complete adds what the ID token leaves to the UserInfo endpoint (OpenID
// Connect Core, section 5.4).
func (p *Provider) complete(ctx context.Context, k *known, token *oauth2.Token, subject string, claims map[string]any) error {
	_, named := claims[p.config.UsernameClaim]
	_, grouped := claims[p.config.GroupsClaim]
	if named && (grouped || p.config.AdminGroup == "") || k.provider.UserInfoEndpoint() == "" {
		return nil
	}
	info, err := k.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return fmt.Errorf("%w: ask it about the person: %w", ErrUnavailable, err)
	}
	if info.Subject != subject {
		return fmt.Errorf("%w: it told about another person than was asked for", ErrUntrue)
	}
	more := map[string]any{}
	if err := info.Claims(&more); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrue, err)
	}
	for claim, value := range more {
		if _, ok := claims[claim]; !ok {
			claims[claim] = value
		}
	}
	return nil
}

// named reads the claims that were asked for.
func (p *Provider) named(subject string, claims map[string]any) (Person, error) {
	name, _ := claims[p.config.UsernameClaim].(string)
	if name == "" {
		return Person{}, fmt.Errorf("%w: it says no %s; ask for another scope, or name another claim", ErrUntrue, p.config.UsernameClaim)
	}
	// Whoever can enter any address at the provider would be taken for its
	// owner.
	if verified, _ := claims["email_verified"].(bool); p.config.UsernameClaim == emailClaim && !verified {
		return Person{}, fmt.Errorf("%w: the e-mail address is not verified there", ErrUntrue)
	}
	person := Person{Issuer: p.config.Issuer, Subject: subject, Name: name}
	if p.config.AdminGroup != "" {
		person.DecidesAdmin = true
		person.Admin = slices.Contains(texts(claims[p.config.GroupsClaim]), p.config.AdminGroup)
	}
	return person, nil
}

// texts reads a claim that is a text or a list of them.
func texts(claim any) []string {
	switch c := claim.(type) {
	case string:
		return []string{c}
	case []any:
		var out []string
		for _, one := range c {
			if s, ok := one.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// Told is what a person may be told of an error: what the provider sent stays
// in the log.
func Told(err error) error {
	for _, known := range []error{ErrUnavailable, ErrAttempt, ErrRefused, ErrUntrue, ErrNoDevice} {
		if errors.Is(err, known) {
			return known
		}
	}
	return err
}
