package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// human is one of the people in the file, by their subject.
type human struct {
	Username      string   `json:"username"`
	Password      string   `json:"password"`
	Email         string   `json:"email"`
	EmailVerified bool     `json:"email_verified"`
	Groups        []string `json:"groups"`
}

// people reads the file anew each time, so that a test can change it.
type people struct{ path string }

func (p people) all() map[string]human {
	out := map[string]human{}
	raw, err := os.ReadFile(p.path)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "provider: read the people:", err)
	}
	return out
}

// GetUserByID gives nil for nobody.
func (p people) GetUserByID(id string) *storage.User {
	h, ok := p.all()[id]
	if !ok {
		return nil
	}
	return &storage.User{ID: id, Username: h.Username, Password: h.Password, Email: h.Email, EmailVerified: h.EmailVerified}
}

// GetUserByUsername gives nil for nobody.
func (p people) GetUserByUsername(name string) *storage.User {
	for id, h := range p.all() {
		if h.Username == name {
			return p.GetUserByID(id)
		}
	}
	return nil
}

// ExampleClientID is asked for by the storage alone.
func (p people) ExampleClientID() string { return "service" }

// store is the library's storage in memory, with what it lacks for one client
// that uses both flows.
type store struct {
	*storage.Storage
	people people
}

// client may use the device grant as well.
type client struct{ op.Client }

func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeDeviceCode}
}

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{c}, nil
}

// SetUserinfoFromToken adds the groups.
func (s *store) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	if err := s.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin); err != nil {
		return err
	}
	info.AppendClaims("groups", s.people.all()[subject].Groups)
	return nil
}

// confirm lets the person with this name into the device login, or turns it
// down.
func (s *store) confirm(ctx context.Context, userCode, username, password, action string) error {
	if err := s.CheckUsernamePasswordSimple(username, password); err != nil {
		return err
	}
	if _, err := s.GetDeviceAuthorizationByUserCode(ctx, userCode); err != nil {
		return err
	}
	user := s.people.GetUserByUsername(username)
	if user == nil {
		return errors.New("the person is gone")
	}
	if action == "deny" {
		return s.DenyDeviceAuthorization(ctx, userCode)
	}
	return s.CompleteDeviceAuthorization(ctx, userCode, user.ID)
}
