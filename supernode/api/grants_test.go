package api

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
)

// pushBlob puts bytes into a repository and returns their digest.
func (f *front) pushBlob(repository, content string) blob.Digest {
	f.t.Helper()
	d := blob.Digest("sha256:").Algorithm().FromString(content)
	response, body := f.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+string(d), strings.NewReader(content), func(r *http.Request) {
		r.SetBasicAuth("admin", f.password)
		r.Header.Set("Content-Type", "application/octet-stream")
	})
	if response.StatusCode != http.StatusCreated {
		f.t.Fatalf("push into %s: %s %s", repository, response.Status, body)
	}
	return d
}

// want announces that a member wants a blob and returns the answer about it.
func (m *member) want(d blob.Digest, o *shoalv1.Origin) *shoalv1.Neighbours {
	m.f.t.Helper()
	answer, err := m.Announce(m.f.t.Context(), connect.NewRequest(&shoalv1.AnnounceRequest{
		SwarmAddr:     ":65002",
		Announcements: []*shoalv1.Announcement{{Digest: string(d), Size: 6, State: shoalv1.Announcement_WANTS, Origin: o}},
	}))
	if err != nil {
		m.f.t.Fatal(err)
	}
	if o != nil && o.Registry != "" || len(m.f.outside.asked) > 0 {
		<-m.f.outside.asked
	}
	if len(answer.Msg.Neighbours) != 1 {
		m.f.t.Fatalf("%d answers about one digest", len(answer.Msg.Neighbours))
	}
	return answer.Msg.Neighbours[0]
}

func (m *member) pullToken(repository string) string {
	m.f.t.Helper()
	raw, err := m.f.Auth.IssuePull(m.id(), repository, time.Minute)
	if err != nil {
		m.f.t.Fatal(err)
	}
	return raw
}

func TestAGrantNeedsARightToARepositoryThatLinksTheDigest(t *testing.T) {
	f := newFront(t)
	secret := f.pushBlob("alpha/app", "secret")
	f.pushBlob("beta/app", "theirs")
	unknown := blob.Digest("sha256:" + strings.Repeat("0", 64))
	m := f.join()
	const mine, theirs = "alpha/app", "beta/app" // stand for the asker's own tokens
	for name, c := range map[string]struct {
		d       blob.Digest
		o       *shoalv1.Origin
		granted bool
	}{
		"with a right":                             {secret, &shoalv1.Origin{Repository: "alpha/app", Token: mine}, true},
		"an upstream's":                            {unknown, &shoalv1.Origin{Registry: "docker.io", Repository: "library/x"}, true},
		"an upstream's that was refused":           {unknown, &shoalv1.Origin{Registry: "private.example", Repository: "x"}, false},
		"a digest that does not exist":             {unknown, &shoalv1.Origin{Repository: "alpha/app", Token: mine}, false},
		"a token of another repository":            {secret, &shoalv1.Origin{Repository: "alpha/app", Token: theirs}, false},
		"the digest under an own repository":       {secret, &shoalv1.Origin{Repository: "beta/app", Token: theirs}, false},
		"the digest alone":                         {secret, nil, false},
		"the digest and no repository":             {secret, &shoalv1.Origin{Token: mine}, false},
		"no token":                                 {secret, &shoalv1.Origin{Repository: "alpha/app"}, false},
		"another node's token":                     {secret, &shoalv1.Origin{Repository: "alpha/app", Token: m.pullToken("alpha/app")}, false},
		"garbage for a token":                      {secret, &shoalv1.Origin{Repository: "alpha/app", Token: "x"}, false},
		"a repository that only begins like mine":  {secret, &shoalv1.Origin{Repository: "alpha/app2", Token: mine}, false},
		"a project of mine, another repository's ": {secret, &shoalv1.Origin{Repository: "alpha/other", Token: mine}, false},
	} {
		// A node of its own each, so that no case profits from another's right.
		asker := f.join()
		if c.o != nil && (c.o.Token == mine || c.o.Token == theirs) {
			c.o.Token = asker.pullToken(c.o.Token)
		}
		n := asker.want(c.d, c.o)
		if !c.granted {
			if len(n.Grant) > 0 || len(n.Peers) > 0 {
				t.Errorf("%s: got a grant or neighbours: %v", name, n)
			}
			continue
		}
		g := token.NewGrants(identity.NewTrust(f.key.PeerID().String()).Verify, f.now)
		if err := g.Check(n.Grant, asker.id(), c.d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if g.Check(n.Grant, m.id(), c.d) == nil {
			t.Errorf("%s: the grant opens for another peer", name)
		}
	}
}

func TestARefusedDigestAndAnUnknownOneGetTheSameAnswer(t *testing.T) {
	f := newFront(t)
	secret := f.pushBlob("alpha/app", "secret")
	m := f.join()
	refused := m.want(secret, &shoalv1.Origin{Repository: "alpha/app"})
	unknown := m.want(blob.Digest("sha256:"+strings.Repeat("0", 64)), &shoalv1.Origin{Repository: "alpha/app"})
	refused.Digest, unknown.Digest = "", ""
	if refused.String() != unknown.String() {
		t.Errorf("refused: %v\nunknown: %v", refused, unknown)
	}
}

func TestAFlightOutlivesItsToken(t *testing.T) {
	f := newFront(t)
	secret := f.pushBlob("alpha/app", "secret")
	m := f.join()
	o := &shoalv1.Origin{Repository: "alpha/app", Token: m.pullToken("alpha/app")}
	if n := m.want(secret, o); len(n.Grant) == 0 {
		t.Fatal("no grant at all")
	}
	f.offset.Store(int64(20 * time.Minute)) // the token has run out
	if n := m.want(secret, o); len(n.Grant) == 0 {
		t.Error("the flight was cut when its token ran out")
	}
	if n := f.join().want(secret, o); len(n.Grant) > 0 {
		t.Error("another node flies on with it")
	}
	f.offset.Store(int64(20*time.Minute + flightLife))
	if n := m.want(secret, o); len(n.Grant) > 0 {
		t.Error("the flight goes on for ever")
	}
}

// endsWithin is how soon a right that was taken away is gone everywhere.
const endsWithin = time.Minute

// Threat 11: a grant outlives the right that it was made for by a minute.
func TestAGrantEndsSoonAfterTheRight(t *testing.T) {
	f := newFront(t)
	secret := f.pushBlob("alpha/app", "secret")
	f.must(f.Auth.CreateUser(t.Context(), "ann", "a password of ann", false))
	f.must(f.Auth.SetMember(t.Context(), system, "alpha", "ann", auth.RoleGuest))
	m := f.join()
	login := f.tokenFor(account{name: "ann", password: "a password of ann"}, f.public.URL+"/token", url.Values{"scope": {"repository:alpha/app:pull"}})
	o := &shoalv1.Origin{Repository: "alpha/app", Token: login}
	n := m.want(secret, o)
	check := token.NewGrants(identity.NewTrust(f.key.PeerID().String()).Verify, f.now)
	if err := check.Check(n.Grant, m.id(), secret); err != nil {
		t.Fatal(err)
	}
	f.must(f.Auth.RemoveMember(t.Context(), system, "alpha", "ann"))
	for name, o := range map[string]*shoalv1.Origin{"with the token": o, "with none": {Repository: "alpha/app"}, "in flight": nil} {
		if n := m.want(secret, o); len(n.Grant) > 0 || len(n.Peers) > 0 {
			t.Errorf("%s: %v", name, n)
		}
	}
	f.offset.Store(int64(endsWithin + time.Second))
	if check.Check(n.Grant, m.id(), secret) == nil {
		t.Error("the old grant still opens")
	}
}

func TestANodesOwnRightIsItsPools(t *testing.T) {
	f := newFront(t)
	secret := f.pushBlob("alpha/app", "secret")
	f.pushBlob("beta/app", "theirs")
	m := f.join() // of pool web
	named := &shoalv1.Origin{Repository: "alpha/app"}
	if n := m.want(secret, named); len(n.Grant) > 0 {
		t.Fatal("a node has a right before any was granted")
	}
	f.must(f.Auth.GrantPool(t.Context(), system, "alpha", "other"))
	if n := m.want(secret, named); len(n.Grant) > 0 {
		t.Fatal("another pool's right is this one's")
	}
	f.must(f.Auth.GrantPool(t.Context(), system, "alpha", "web"))
	if n := m.want(secret, named); len(n.Grant) == 0 {
		t.Fatal("the pool's right opens nothing")
	}
	if n := m.want(secret, &shoalv1.Origin{Repository: "beta/app"}); len(n.Grant) == 0 {
		t.Fatal("a flight ended by the mention of another repository")
	}
	if n := m.want(f.pushBlob("beta/app", "theirs"), &shoalv1.Origin{Repository: "beta/app"}); len(n.Grant) > 0 {
		t.Error("the right to one project opens another")
	}
	f.must(f.Auth.RevokePool(t.Context(), system, "alpha", "web"))
	if n := m.want(secret, named); len(n.Grant) > 0 {
		t.Error("the right outlives its end")
	}
}

// A change of rights reaches every line, numbered so that none is missed.
func TestChangesOfRightsAreTold(t *testing.T) {
	f := newFront(t)
	m := f.join()
	line := m.watch("host-1")
	first := line.Msg().GetIdle().RightsNumber
	f.pushBlob("alpha/app", "secret")
	f.must(f.Auth.CreateUser(t.Context(), "ann", "a password of ann", false))
	f.must(f.Auth.SetMember(t.Context(), system, "alpha", "ann", auth.RoleGuest))
	f.must(f.Auth.GrantPool(t.Context(), system, "alpha", "web"))
	f.must(f.Auth.RemoveUser(t.Context(), "ann"))
	last := first
	for _, want := range []*shoalv1.RightsChanged{
		{Project: "alpha", User: "ann"}, {Project: "alpha", Pools: true}, {User: "ann"}, {Project: "alpha", User: "ann"},
	} {
		if !line.Receive() {
			t.Fatal(line.Err())
		}
		got := line.Msg().GetRightsChanged()
		if got == nil || got.Project != want.Project || got.User != want.User || got.Pools != want.Pools {
			t.Fatalf("told %v, want %v", line.Msg(), want)
		}
		if got.Before != last || got.Number <= last {
			t.Errorf("number %d after %d, the last one was %d", got.Number, got.Before, last)
		}
		last = got.Number
	}
	if again := f.join().watch("host-2").Msg().GetIdle().RightsNumber; again != last {
		t.Errorf("a new line begins at %d, not %d", again, last)
	}
}

// Whoever was away while a node was turned away hears of it.
func TestALateLineHearsOfRevocations(t *testing.T) {
	f := newFront(t)
	bad, late := f.join(), f.join()
	f.revoke(bad.id())
	line := late.watch("host-2")
	if !line.Receive() || !slices.Equal(line.Msg().GetRevoked().GetPeerIds(), []string{bad.id()}) {
		t.Errorf("heard %v, %v", line.Msg(), line.Err())
	}
}

func TestAYoungGrantIsGivenAgain(t *testing.T) {
	f := newFront(t)
	secret := f.pushBlob("alpha/app", "secret")
	m := f.join()
	o := &shoalv1.Origin{Repository: "alpha/app", Token: m.pullToken("alpha/app")}
	first := m.want(secret, o).Grant
	f.offset.Store(int64(grantLife/2 - time.Second))
	if again := m.want(secret, o).Grant; !bytes.Equal(again, first) {
		t.Error("a grant with half of its life left was made anew")
	}
	f.offset.Store(int64(grantLife/2 + time.Second))
	if later := m.want(secret, o).Grant; len(later) == 0 || bytes.Equal(later, first) {
		t.Error("an old grant was given again")
	}
	f.offset.Store(int64(3 * grantLife))
	f.Grants.Sweep()
	if n := len(f.Grants.minted); n != 0 {
		t.Errorf("%d grants are kept that nobody can use", n)
	}
}
