package auth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
)

// A token that was made for a server takes in one host, and the host is that
// server from then on, after a renewal and a return too.
func TestJoinAsAServer(t *testing.T) {
	g := newGate(t)
	ctx := t.Context()
	text, expires, err := g.CreateServerJoin(ctx, time.Hour, "core", "server-1")
	must(t, err)
	if !expires.Equal(g.now().Add(time.Hour)) {
		t.Errorf("expires %v", expires)
	}
	k := newNode(t)
	for range 2 { // an answer that was lost is asked for again
		got, err := g.Join(ctx, joining(k, text))
		if err != nil || got.Server != "server-1" || got.Pool != "core" {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if _, err := g.Join(ctx, joining(newNode(t), text)); !errors.Is(err, ErrJoin) {
		t.Errorf("a second host became the server: %v", err)
	}
	if _, err := g.Renew(ctx, k.PeerID().String()); err != nil {
		t.Error(err)
	}
	if server, err := g.ServerOf(ctx, k.PeerID().String()); err != nil || server != "server-1" {
		t.Errorf("after a renewal: %q, %v", server, err)
	}
	if got, err := g.Join(ctx, joining(k, token.NewReturn(g.now()))); err != nil || got.Server != "server-1" {
		t.Errorf("after a return: %+v, %v", got, err)
	}
	nodes, err := g.Nodes(ctx)
	if err != nil || len(nodes) != 1 || nodes[0].Server != "server-1" {
		t.Errorf("%+v, %v", nodes, err)
	}
	// One that comes by itself is none.
	free := newNode(t)
	if got, err := g.Join(ctx, joining(free, g.join(t, 1))); err != nil || got.Server != "" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, peer := range []string{free.PeerID().String(), "nobody"} {
		if server, err := g.ServerOf(ctx, peer); err != nil || server != "" {
			t.Errorf("%s: %q, %v", peer, server, err)
		}
	}
	for _, server := range []string{"", strings.Repeat("x", maxServer+1)} {
		if _, _, err := g.CreateServerJoin(ctx, time.Hour, "core", server); err == nil {
			t.Errorf("a token for the server %q", server)
		}
	}
}

func TestUserID(t *testing.T) {
	g := newGate(t)
	id, err := g.UserID(t.Context(), "ann")
	if err != nil || id == "" {
		t.Fatalf("%q, %v", id, err)
	}
	for _, nobody := range []string{"bob", "", "a/b"} {
		if id, err := g.UserID(t.Context(), nobody); err != nil || id != "" {
			t.Errorf("%q: %q, %v", nobody, id, err)
		}
	}
}
