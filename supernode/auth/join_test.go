package auth

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/meta"
)

func newNode(t testing.TB) *identity.Key {
	t.Helper()
	k, err := identity.NewKey(newKey(t))
	must(t, err)
	return k
}

func joining(k *identity.Key, text string) Joining {
	return Joining{Token: text, PublicKey: k.Public(), Proof: identity.JoinProof(k, text), Hostname: "host-1"}
}

func (g *gate) join(t testing.TB, uses int) string {
	t.Helper()
	text, expires, err := g.CreateJoin(t.Context(), time.Hour, "core", uses)
	must(t, err)
	if !expires.Equal(g.now().Add(time.Hour)) {
		t.Fatalf("expires %v", expires)
	}
	return text
}

func (g *gate) memberKey() ed25519.PublicKey { return g.cfg.MemberKey.Public().(ed25519.PublicKey) }

func TestNodeJoinsAndRenews(t *testing.T) {
	g := newGate(t)
	k := newNode(t)
	got, err := g.Join(t.Context(), joining(k, g.join(t, 1)))
	must(t, err)
	m, err := identity.ParseMembership(got.Membership, g.memberKey(), g.now())
	must(t, err)
	if got.PeerID != k.PeerID().String() || m.PeerID != got.PeerID || m.Pool != "core" || got.Pool != "core" || m.IDC != "fra1" || m.Role != identity.RoleAgent || !m.NotAfter.Equal(g.now().Add(24*time.Hour)) {
		t.Fatalf("%+v %+v", got, m)
	}
	g.advance(12 * time.Hour)
	raw, err := g.Renew(t.Context(), got.PeerID)
	must(t, err)
	m, err = identity.ParseMembership(raw, g.memberKey(), g.now())
	if err != nil || !m.NotAfter.Equal(g.now().Add(24*time.Hour)) || m.Pool != "core" {
		t.Fatalf("%+v %v", m, err)
	}
	nodes, err := g.Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Hostname != "host-1" || !nodes[0].Joined.Equal(noon) || !nodes[0].LastSeen.Equal(g.now()) {
		t.Fatalf("%+v %v", nodes, err)
	}
	g.advance(time.Minute)
	g.Seen(got.PeerID)
	if nodes, err = g.Nodes(t.Context()); err != nil || !nodes[0].LastSeen.Equal(g.now()) {
		t.Fatalf("%+v %v", nodes, err)
	}
	if _, err := g.Renew(t.Context(), newNode(t).PeerID().String()); !errors.Is(err, ErrNoNode) {
		t.Fatal(err)
	}
	own, err := g.Supernode(t.Context(), k.PeerID().String())
	must(t, err)
	if m, err := identity.ParseMembership(own, g.memberKey(), g.now()); err != nil || m.Role != identity.RoleSupernode {
		t.Fatalf("%+v %v", m, err)
	}
}

// Threat 22: a certificate only for the key that was proven.
func TestThreat22KeyMustBeProven(t *testing.T) {
	g := newGate(t)
	text := g.join(t, 10)
	k, other := newNode(t), newNode(t)
	for name, change := range map[string]func(*Joining){
		"no proof":          func(j *Joining) { j.Proof = nil },
		"another's proof":   func(j *Joining) { j.Proof = identity.JoinProof(other, text) },
		"another token's":   func(j *Joining) { j.Proof = identity.JoinProof(k, text+"x") },
		"another's key":     func(j *Joining) { j.PublicKey = other.Public() },
		"no key":            func(j *Joining) { j.PublicKey = nil },
		"a long hostname":   func(j *Joining) { j.Hostname = strings.Repeat("x", maxHostname+1) },
		"a line in it":      func(j *Joining) { j.Hostname = "a\nb" },
		"an escape in it":   func(j *Joining) { j.Hostname = "a\x1b[2J" },
		"no token":          func(j *Joining) { *j = joining(k, "") },
		"another id":        func(j *Joining) { *j = joining(k, token.NewJoin("0000000000000000", "x", [32]byte{})) },
		"a token of a kind": func(j *Joining) { *j = joining(k, "shoal-refresh.a.b") },
	} {
		j := joining(k, text)
		change(&j)
		if _, err := g.Join(t.Context(), j); !errors.Is(err, ErrJoin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if nodes, err := g.Nodes(t.Context()); err != nil || len(nodes) != 0 {
		t.Fatalf("%v %v", nodes, err)
	}
	redeemed := Redeemed{PeerID: k.PeerID().String()}
	if _, err := g.Enrol(t.Context(), redeemed, other.Public(), "h"); !errors.Is(err, ErrJoin) {
		t.Fatalf("enrolled under another key: %v", err)
	}
}

// Threat 24: join tokens are for one use and expire.
func TestThreat24JoinToken(t *testing.T) {
	g := newGate(t)
	text := g.join(t, 1)
	parsed, err := token.ParseJoin(text)
	must(t, err)
	k, late := newNode(t), newNode(t)
	if _, err := g.Redeem(t.Context(), parsed.ID, parsed.Secret[1:], "p"); !errors.Is(err, ErrJoin) {
		t.Fatalf("a wrong secret: %v", err)
	}
	_, err = g.Join(t.Context(), joining(k, text))
	must(t, err)
	if _, err := g.Join(t.Context(), joining(late, text)); !errors.Is(err, ErrJoin) {
		t.Fatalf("used twice: %v", err)
	}
	// The answer was lost; the same node asks again.
	again, err := g.Join(t.Context(), joining(k, text))
	if err != nil || again.PeerID != k.PeerID().String() {
		t.Fatalf("%+v %v", again, err)
	}
	g.advance(time.Hour)
	if _, err := g.Join(t.Context(), joining(k, text)); !errors.Is(err, ErrJoin) {
		t.Fatalf("after it expired: %v", err)
	}
	for name, make := range map[string]func() error{
		"for ever":  func() error { _, _, err := g.CreateJoin(t.Context(), MaxJoinLife+1, "", 1); return err },
		"no time":   func() error { _, _, err := g.CreateJoin(t.Context(), 0, "", 1); return err },
		"no use":    func() error { _, _, err := g.CreateJoin(t.Context(), time.Hour, "", 0); return err },
		"many uses": func() error { _, _, err := g.CreateJoin(t.Context(), time.Hour, "", MaxJoinUses+1); return err },
		"bad pool":  func() error { _, _, err := g.CreateJoin(t.Context(), time.Hour, "a/b", 1); return err },
	} {
		if make() == nil {
			t.Errorf("%s: made", name)
		}
	}
}

// Threat 24: many at once share no use.
func TestThreat24JoinTokenInARace(t *testing.T) {
	g := newGate(t)
	const uses, nodes = 3, 12
	parsed, err := token.ParseJoin(g.join(t, uses))
	must(t, err)
	var wg sync.WaitGroup
	errs := make(chan error, nodes)
	for i := range nodes {
		wg.Go(func() {
			_, err := g.Redeem(t.Context(), parsed.ID, parsed.Secret, fmt.Sprint("peer", i))
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	joined := 0
	for err := range errs {
		if err == nil {
			joined++
		} else if !errors.Is(err, ErrJoin) {
			t.Error(err)
		}
	}
	if joined != uses {
		t.Fatalf("%d joined with a token for %d", joined, uses)
	}
}

// Threat 23: a revoked node gets nothing more, also after a restart.
func TestThreat23Revoked(t *testing.T) {
	g := newGate(t)
	k := newNode(t)
	text := g.join(t, 5)
	joined, err := g.Join(t.Context(), joining(k, text))
	must(t, err)
	id := joined.PeerID
	pull, err := g.IssuePull(id, "shop/app", token.Life)
	must(t, err)
	if who, err := g.Authorize(g.bearing(pull), "shop/app", "pull"); err != nil || who != "node:"+id {
		t.Fatalf("%q %v", who, err)
	}
	if _, err := g.Authorize(g.bearing(pull), "shop/app", "push"); err == nil {
		t.Fatal("a pull token pushed")
	}

	must(t, g.Revoke(t.Context(), id))
	must(t, g.Revoke(t.Context(), id)) // twice is once
	if all := g.Revoked(time.Time{}); !slices.Contains(all, id) || len(g.told) == 0 || g.told[0] != id {
		t.Fatalf("%v, told %v", all, g.told)
	}
	if lately, ever := g.Revoked(g.now()), g.Revoked(g.now().Add(time.Second)); len(lately) != 1 || len(ever) != 0 {
		t.Fatalf("just now %v, from now on %v", lately, ever)
	}
	if _, err := g.Renew(t.Context(), id); !errors.Is(err, ErrRevoked) {
		t.Fatalf("renewed: %v", err)
	}
	if _, err := g.Authorize(g.bearing(pull), "shop/app", "pull"); err == nil {
		t.Fatal("its pull token still works")
	}
	if _, err := g.IssuePull(id, "shop/app", token.Life); !errors.Is(err, ErrRevoked) {
		t.Fatalf("a new pull token: %v", err)
	}
	// Whoever has the node has its token, and may make another key.
	for _, key := range []*identity.Key{k, newNode(t)} {
		if _, err := g.Join(t.Context(), joining(key, text)); !errors.Is(err, ErrJoin) {
			t.Fatalf("with the old token: %v", err)
		}
	}
	next := g.join(t, 1)
	if _, err := g.Join(t.Context(), joining(k, next)); !errors.Is(err, ErrRevoked) {
		t.Fatalf("with a new token: %v", err)
	}
	if _, err := g.Join(t.Context(), joining(k, token.NewReturn(g.now()))); !errors.Is(err, ErrRevoked) {
		t.Fatalf("returned: %v", err)
	}
	restarted, err := New(t.Context(), g.config())
	must(t, err)
	if !slices.Contains(restarted.Revoked(time.Time{}), id) {
		t.Fatal("a restart forgot it")
	}
	must(t, g.Forget(t.Context(), id))
	if _, err := g.Join(t.Context(), joining(k, next)); err != nil || len(g.Revoked(time.Time{})) != 0 {
		t.Fatalf("after it was forgotten: %v", err)
	}
	if err := g.Forget(t.Context(), id); !errors.Is(err, ErrNoNode) {
		t.Fatalf("forgot a member: %v", err)
	}
	if err := g.Revoke(t.Context(), "nobody"); !errors.Is(err, ErrNoNode) {
		t.Fatal(err)
	}
}

// A host that was off for days comes back with its key alone.
func TestNodeReturns(t *testing.T) {
	g := newGate(t)
	k := newNode(t)
	_, err := g.Join(t.Context(), joining(k, g.join(t, 1)))
	must(t, err)
	g.advance(5 * 24 * time.Hour)
	back, err := g.Join(t.Context(), joining(k, token.NewReturn(g.now().Add(-10*time.Minute))))
	if err != nil || back.Pool != "core" {
		t.Fatalf("%+v %v", back, err)
	}
	if _, err := identity.ParseMembership(back.Membership, g.memberKey(), g.now()); err != nil {
		t.Fatal(err)
	}
	stranger := newNode(t)
	if _, err := g.Join(t.Context(), joining(stranger, token.NewReturn(g.now()))); !errors.Is(err, ErrNoNode) {
		t.Fatalf("who was never here returned: %v", err)
	}
	for name, text := range map[string]string{
		"overheard earlier": token.NewReturn(g.now().Add(-returnFresh - time.Second)), "from the future": token.NewReturn(g.now().Add(returnFresh + time.Second)),
		"no time": "shoal-return.",
	} {
		if _, err := g.Join(t.Context(), joining(k, text)); !errors.Is(err, ErrJoin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	j := joining(stranger, token.NewReturn(g.now()))
	j.PublicKey = k.Public()
	if _, err := g.Join(t.Context(), j); !errors.Is(err, ErrJoin) {
		t.Errorf("in another's name: %v", err)
	}
}

// contended loses the race for the first commits.
type contended struct {
	meta.Store
	left int
}

func (c *contended) Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error) {
	if c.left > 0 {
		c.left--
		return 0, meta.ErrConflict
	}
	return c.Store.Commit(ctx, compares, ops)
}

func TestContention(t *testing.T) {
	g := newGate(t)
	store := &contended{Store: g.store}
	g.cfg.Meta = store
	k := newNode(t)
	text := g.join(t, 1)
	store.left = conflictTries / 2
	joined, err := g.Join(t.Context(), joining(k, text))
	must(t, err)
	store.left = conflictTries / 2
	must(t, g.Revoke(t.Context(), joined.PeerID))
	store.left = conflictTries
	if _, _, err := g.CreateJoin(t.Context(), time.Hour, "", 1); !errors.Is(err, meta.ErrConflict) {
		t.Fatalf("for ever: %v", err)
	}
}

func TestFaultOfTheStoreIsNoRefusal(t *testing.T) {
	g := newGate(t)
	k := newNode(t)
	text := g.join(t, 1)
	must(t, g.store.Close())
	_, login := g.Login(g.as("", ""), "ann", annPassword)
	_, join := g.Join(t.Context(), joining(k, text))
	for name, err := range map[string]error{"login": login, "join": join} {
		if !errors.Is(err, meta.ErrClosed) || errors.Is(err, ErrLogin) || errors.Is(err, ErrJoin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w, _ := g.get("ann", annPassword, nil)
	if w.Code != 500 || strings.Contains(w.Body.String(), "closed") || !strings.Contains(g.log.String(), "cannot be decided") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
