package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// gatehouse makes memberships out for whoever brings a join token or, unless
// it was told not to, comes back.
type gatehouse struct {
	t         *testing.T
	memberKey ed25519.PrivateKey
	issuer    *token.Issuer
	noReturn  error
	noJoin    error
	asked     []string // "join" or "return"
}

func newGatehouse(t *testing.T) *gatehouse {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := token.NewIssuer(key, "shoal/here", "shoal-registry", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &gatehouse{t: t, memberKey: key, issuer: issuer}
}

// welcome has a membership for a key that began at a time.
func (g *gatehouse) welcome(peerID string, from time.Time) *shoalv1.Welcome {
	g.t.Helper()
	raw, err := identity.SignMembership(identity.Membership{
		PeerID: peerID, Role: identity.RoleAgent, IDC: "here", NotBefore: from, NotAfter: from.Add(identity.MembershipLife),
	}, g.memberKey)
	if err != nil {
		g.t.Fatal(err)
	}
	return &shoalv1.Welcome{
		Membership: raw, MemberKey: g.memberKey.Public().(ed25519.PublicKey), Idc: "here",
		Jwks: string(g.issuer.JWKS()), TokenIssuer: "shoal/here", TokenService: "shoal-registry",
	}
}

func (g *gatehouse) Join(_ context.Context, r *connect.Request[shoalv1.JoinRequest]) (*connect.Response[shoalv1.JoinResponse], error) {
	kind, no := "join", g.noJoin
	if token.IsReturn(r.Msg.Token) {
		kind, no = "return", g.noReturn
	}
	g.asked = append(g.asked, kind)
	if no != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, no)
	}
	peerID, err := identity.PeerIDOf(r.Msg.PublicKey)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&shoalv1.JoinResponse{Welcome: g.welcome(peerID, time.Now())}), nil
}

func TestEnter(t *testing.T) {
	no := errors.New("the node was revoked")
	for _, c := range []struct {
		name             string
		kept             time.Duration // ago that the kept membership began; -1: none is kept
		away             bool          // no supernode answers
		join             bool          // a token is given
		noReturn, noJoin error
		asked            string
		member           bool
		says             string // in the error
	}{
		{name: "the first time", kept: -1, join: true, asked: "join", member: true},
		{name: "the first time, without a token", kept: -1, says: "--join TOKEN"},
		{name: "the first time, refused", kept: -1, join: true, noJoin: no, asked: "join", says: "revoked"},
		{name: "the first time, nobody answers", kept: -1, join: true, away: true, says: "connection refused"},
		{name: "a good membership needs nobody", kept: time.Hour, away: true, member: true},
		{name: "a good membership leaves the token alone", kept: time.Hour, join: true, member: true},
		{name: "back after a week", kept: 7 * 24 * time.Hour, asked: "return", member: true},
		{name: "back with an old token in the unit file", kept: 7 * 24 * time.Hour, join: true, noJoin: errors.New("used already"), asked: "return", member: true},
		{name: "back, and forgotten, with a new token", kept: 7 * 24 * time.Hour, join: true, noReturn: no, asked: "return join", member: true},
		{name: "back, and revoked", kept: 7 * 24 * time.Hour, noReturn: no, asked: "return", says: "--join TOKEN"},
		{name: "back, and nobody answers", kept: 7 * 24 * time.Hour, away: true},
		{name: "back with a token, and nobody answers", kept: 7 * 24 * time.Hour, join: true, away: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGatehouse(t)
			g.noReturn, g.noJoin = c.noReturn, c.noJoin
			_, handler := shoalv1connect.NewJoinServiceHandler(g)
			server := httptest.NewServer(http.StripPrefix("/api", handler))
			defer server.Close()
			if c.away {
				server.Close()
			}
			a := &agent{config: defaults(), log: slog.New(slog.DiscardHandler)}
			a.config.Data = t.TempDir()
			key, err := identity.LoadOrCreateKey(a.config.path("node.key"))
			if err != nil {
				t.Fatal(err)
			}
			if c.join {
				a.config.Join, a.config.Supernodes = token.NewJoin("id", "secret", [32]byte{}), []string{server.URL}
			}
			if c.kept >= 0 {
				kept := g.welcome(key.PeerID().String(), time.Now().Add(-c.kept))
				kept.Urls = []string{server.URL}
				if err := control.SaveWelcome(a.config.Data, kept); err != nil {
					t.Fatal(err)
				}
			}
			_, err = a.enter(t.Context())
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q in it", err, c.says)
			}
			if asked := strings.Join(g.asked, " "); asked != c.asked {
				t.Errorf("asked to %q, want %q", asked, c.asked)
			}
			if _, err := a.node.Membership(); (err == nil) != c.member {
				t.Errorf("a member: %v, want %v", err == nil, c.member)
			}
			if c.asked != "" && c.member { // the next start needs nobody
				kept, err := control.LoadWelcome(a.config.Data)
				if err != nil || len(kept.Urls) == 0 {
					t.Fatalf("kept %v, %v", kept, err)
				}
				if _, err := identity.ParseMembership(kept.Membership, kept.MemberKey, time.Now()); err != nil {
					t.Errorf("kept a membership that is of no use: %v", err)
				}
			}
		})
	}
}
