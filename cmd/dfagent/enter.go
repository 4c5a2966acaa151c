package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// returnWithin bounds how long a start waits for a supernode to renew a
// membership that ran out.
const returnWithin = 5 * time.Second

// enter takes the identity up: from the data folder, or by a first join.
func (a *agent) enter(ctx context.Context) (*shoalv1.Welcome, error) {
	var err error
	if a.key, err = identity.LoadOrCreateKey(a.config.path("node.key")); err != nil {
		return nil, err
	}
	welcome, err := control.LoadWelcome(a.config.Data)
	if err != nil {
		return nil, err
	}
	if err := a.config.readJoin(); err != nil {
		return nil, err
	}
	a.node = identity.NewNode(a.key, a.clock.Now)
	switch {
	case welcome != nil:
		welcome, err = a.stay(ctx, welcome)
	case a.config.Join == "":
		err = errors.New("this host has not joined yet: give --supernode URL and --join TOKEN (from 'supernode join-token')")
	default:
		welcome, err = a.join(ctx)
	}
	if err != nil {
		return nil, err
	}
	a.trust = identity.NewTrust()
	a.line = control.NewLine(a.node, welcome, a.comeBack, a.log)
	a.names = &names{}
	if a.verifier, err = token.NewVerifier([]byte(welcome.Jwks), welcome.TokenIssuer, welcome.TokenService, a.clock.Now); err != nil {
		return nil, fmt.Errorf("read the supernode's token keys: %w", err)
	}
	if a.upstreams, err = newUpstreams(welcome.Upstreams, a.log); err != nil {
		return nil, err
	}
	a.hear(welcome)
	return welcome, nil
}

// stay goes on with the kept membership. One that ran out while the host was
// off is asked for again, by the node's key or a new token; while no supernode
// can be reached, the node goes on with what it knows, and KeepRenewed tries
// again.
func (a *agent) stay(ctx context.Context, kept *shoalv1.Welcome) (*shoalv1.Welcome, error) {
	ranOut := a.node.SetMembership(kept.Membership, ed25519.PublicKey(kept.MemberKey))
	if ranOut == nil {
		return kept, nil
	}
	ctx, cancel := context.WithTimeout(ctx, returnWithin)
	defer cancel()
	welcome, err := a.comeBack(ctx, kept)
	if err == nil {
		return welcome, a.begin(welcome)
	}
	if a.config.Join != "" {
		welcome, joinErr := a.join(ctx)
		if joinErr == nil {
			return welcome, nil
		}
		err = errors.Join(err, joinErr)
	}
	if control.Refused(err) {
		return nil, fmt.Errorf("the kept membership is of no use any more (%w), and there is no new one: %w; join again with a new --join TOKEN from 'supernode join-token'", ranOut, err)
	}
	a.log.Warn("the kept membership is of no use any more, and no supernode can be asked for another one yet", "kept", ranOut, "error", err)
	return kept, nil
}

// comeBack asks for a new membership with the node's key alone.
func (a *agent) comeBack(ctx context.Context, kept *shoalv1.Welcome) (*shoalv1.Welcome, error) {
	how, err := a.joining()
	if err != nil {
		return nil, err
	}
	return control.Return(ctx, how, kept)
}

func (a *agent) join(ctx context.Context) (*shoalv1.Welcome, error) {
	how, err := a.joining()
	if err != nil {
		return nil, err
	}
	welcome, err := control.Join(ctx, how)
	if err != nil {
		return nil, err
	}
	return welcome, a.begin(welcome)
}

func (a *agent) joining() (control.JoinConfig, error) {
	how := control.JoinConfig{
		Supernodes: a.config.Supernodes, Token: a.config.Join, Key: a.key, Hostname: a.config.Hostname, Now: a.clock.Now,
	}
	if a.config.CA != "" {
		var err error
		if how.CA, err = os.ReadFile(a.config.CA); err != nil {
			return how, fmt.Errorf("read --ca: %w", err)
		}
	}
	return how, nil
}

// begin takes on the membership in a welcome that a supernode just gave.
func (a *agent) begin(welcome *shoalv1.Welcome) error {
	if err := a.node.SetMembership(welcome.Membership, ed25519.PublicKey(welcome.MemberKey)); err != nil {
		return fmt.Errorf("take on the membership: %w", err)
	}
	a.setClock()
	if err := control.SaveWelcome(a.config.Data, welcome); err != nil {
		return err
	}
	a.log.Info("this node is a member", "idc", welcome.Idc, "peer", a.key.PeerID())
	return nil
}

// setClock corrects the clock by a membership that was made out just now.
func (a *agent) setClock() {
	m, err := a.node.Membership()
	if err != nil {
		return
	}
	if off := a.clock.set(m.NotBefore); off != 0 {
		a.log.Warn("this host's clock is off; it is corrected inside the agent, set it right", "by", off.Round(time.Second))
	}
}
