package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/discovery/dht"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// town is a supernode and an agent on this machine, with two tenants: ann
// develops in the project alpha, bob in beta.
type town struct {
	*house
	agent *cluster.Agent
	token string // to join with
}

func buildTown(t *testing.T) *town {
	t.Helper()
	h := build(t, plan{local: true, hosts: 1, pool: "web"})
	v := &town{house: h, agent: h.agents[0]}
	var err error
	if v.token, err = h.supernode.JoinToken(h.ctx, 8, "--pool", "web"); err != nil {
		t.Fatal(err)
	}
	admin := &http.Client{Transport: withBasic{http.DefaultTransport, cluster.AdminUser, h.supernode.Password}}
	users := shoalv1connect.NewUserServiceClient(admin, h.supernode.URL+"/api")
	projects := shoalv1connect.NewProjectServiceClient(admin, h.supernode.URL+"/api")
	for user, project := range map[string]string{"ann": "alpha", "bob": "beta"} {
		_, err1 := users.CreateUser(h.ctx, connect.NewRequest(&shoalv1.CreateUserRequest{Name: user, Password: passwordOf(user)}))
		_, err2 := projects.CreateProject(h.ctx, connect.NewRequest(&shoalv1.CreateProjectRequest{Name: project}))
		_, err3 := projects.SetMember(h.ctx, connect.NewRequest(&shoalv1.SetMemberRequest{Project: project, User: user, Role: "developer"}))
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func passwordOf(user string) string { return "the password of " + user }

// waitForRights is how soon a change of rights has to be felt everywhere.
const waitForRights = time.Minute

// bearer logs a user in at /token of base.
func (v *town) bearer(base, user string, scopes ...string) string {
	v.t.Helper()
	request, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, base+"/token?"+url.Values{"scope": scopes}.Encode(), nil)
	if err != nil {
		v.t.Fatal(err)
	}
	request.SetBasicAuth(user, passwordOf(user))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Token == "" {
		v.t.Fatalf("log %s in at %s: %s, %v", user, base, response.Status, err)
	}
	return answer.Token
}

// answer is all of an answer that a stranger can tell apart from another.
type answer struct {
	status int
	body   string
	header string
}

func (v *town) ask(client *http.Client, method, target, bearer string, header http.Header) answer {
	v.t.Helper()
	request, err := http.NewRequestWithContext(v.t.Context(), method, target, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := client.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	response.Header.Del("Date")
	var shown bytes.Buffer
	if err := response.Header.Write(&shown); err != nil {
		v.t.Fatal(err)
	}
	return answer{response.StatusCode, string(body), shown.String()}
}

// sameWithout compares two answers about two digests, whose names may differ.
func sameWithout(a answer, d blob.Digest, b answer, e blob.Digest) bool {
	clean := func(x answer, d blob.Digest) answer {
		x.body, x.header = strings.ReplaceAll(x.body, string(d), "D"), strings.ReplaceAll(x.header, string(d), "D")
		return x
	}
	return clean(a, d) == clean(b, e)
}

// outsider is a member of the data centre that speaks each protocol by hand.
type outsider struct {
	v       *town
	key     *identity.Key
	node    *identity.Node
	welcome *shoalv1.Welcome
}

func (v *town) outsider(name string) *outsider {
	v.t.Helper()
	key, err := identity.LoadOrCreateKey(filepath.Join(v.dir, name+".key"))
	if err != nil {
		v.t.Fatal(err)
	}
	w, err := control.Join(v.t.Context(), control.JoinConfig{Supernodes: []string{v.supernode.URL}, Token: v.token, Key: key, Hostname: name, Now: time.Now})
	if err != nil {
		v.t.Fatal(err)
	}
	o := &outsider{v: v, key: key, node: identity.NewNode(key, time.Now), welcome: w}
	if err := o.node.SetMembership(w.Membership, ed25519.PublicKey(w.MemberKey)); err != nil {
		v.t.Fatal(err)
	}
	return o
}

// client speaks HTTP over the mutual TLS of pieces with whoever has peerID at
// addr.
func (o *outsider) client(addr, peerID string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return o.node.Dial(ctx, network, addr, peerID)
	}}}
}

func (o *outsider) supernode() (addr, peerID string) {
	s := o.welcome.Supernodes[0]
	return s.SwarmAddr, s.PeerId
}

// want asks the tracker about a digest as the reader of a repository.
func (o *outsider) want(d blob.Digest, size int64, repository, bearer string) *shoalv1.Neighbours {
	o.v.t.Helper()
	addr, peerID := o.supernode()
	answer, err := shoalv1connect.NewNodeServiceClient(o.client(addr, peerID), "https://supernode").Announce(o.v.t.Context(),
		connect.NewRequest(&shoalv1.AnnounceRequest{SwarmAddr: "127.0.0.1:9", Announcements: []*shoalv1.Announcement{{
			Digest: string(d), Size: size, State: shoalv1.Announcement_WANTS,
			Origin: &shoalv1.Origin{Repository: repository, Token: bearer},
		}}}))
	if err != nil || len(answer.Msg.Neighbours) != 1 {
		o.v.t.Fatalf("announce: %v, %v", answer, err)
	}
	return answer.Msg.Neighbours[0]
}

// piece asks a peer for the first piece of a digest, showing a grant.
func (o *outsider) piece(addr, peerID string, d blob.Digest, grant []byte) answer {
	header := http.Header{}
	if grant != nil {
		header.Set("Shoal-Grant", base64.StdEncoding.EncodeToString(grant))
	}
	return o.v.ask(o.client(addr, peerID), http.MethodGet, fmt.Sprintf("https://peer/swarm/v1/%s/piece/0", d), "", header)
}

// TestAnotherTenantGetsNothing: bob knows the digest of ann's layer and has a
// host of his own that is a member. He names the digest under ann's repository
// and under his own, in each protocol, and learns not even that it is there.
func TestAnotherTenantGetsNothing(t *testing.T) {
	v := buildTown(t)
	img := makeImage(t, image.Spec{Layers: []int64{1 << 20}, Seed: 77, NoProgram: true})
	if err := v.supernode.Push(t.Context(), "alpha/app", "v1", img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	secret, size := blob.Digest(hash.String()), int64(1<<20)
	nothing := blob.Digest("sha256:" + strings.Repeat("ab", 32))
	const scopeA, scopeB = "repository:alpha/app:pull", "repository:beta/app:pull,push"

	// Ann's host gets the layer, so that there is something to ask it for.
	annHere := v.bearer(v.agent.Mirror, "ann", scopeA)
	if got := v.ask(http.DefaultClient, "GET", v.agent.Mirror+"/v2/alpha/app/blobs/"+string(secret), annHere, nil); got.status != http.StatusOK {
		t.Fatalf("ann's own pull: %d %s", got.status, got.body)
	}
	ann, bob := v.outsider("ann-host"), v.outsider("bob-host")
	annToken := v.bearer(v.supernode.URL, "ann", scopeA)
	bobToken := v.bearer(v.supernode.URL, "bob", scopeA, scopeB)
	seedAddr, seedID := bob.supernode()
	agentID := peerID(t, v.house, v.agent)

	t.Run("registry", func(t *testing.T) {
		for _, repository := range []string{"alpha/app", "beta/app"} {
			for _, method := range []string{"GET", "HEAD"} {
				at := v.supernode.URL + "/v2/" + repository + "/blobs/"
				a, b := v.ask(http.DefaultClient, method, at+string(secret), bobToken, nil), v.ask(http.DefaultClient, method, at+string(nothing), bobToken, nil)
				if a.status < 400 || !sameWithout(a, secret, b, nothing) {
					t.Errorf("%s of %s: %+v; of what is not there: %+v", method, repository, a, b)
				}
			}
		}
		mount := v.ask(http.DefaultClient, "POST", v.supernode.URL+"/v2/beta/app/blobs/uploads/?mount="+string(secret)+"&from=alpha/app", bobToken, nil)
		if mount.status == http.StatusCreated {
			t.Error("mounted from a repository that may not be read")
		}
	})
	t.Run("mirror", func(t *testing.T) {
		here := v.bearer(v.agent.Mirror, "bob", scopeB)
		for _, bearer := range []string{here, bobToken, ""} {
			for _, repository := range []string{"alpha/app", "beta/app"} {
				at := v.agent.Mirror + "/v2/" + repository + "/blobs/"
				a, b := v.ask(http.DefaultClient, "GET", at+string(secret), bearer, nil), v.ask(http.DefaultClient, "GET", at+string(nothing), bearer, nil)
				if a.status < 400 || !sameWithout(a, secret, b, nothing) {
					t.Errorf("%s: %+v; of what is not there: %+v", repository, a, b)
				}
			}
		}
	})
	t.Run("tracker", func(t *testing.T) {
		for _, repository := range []string{"alpha/app", "beta/app", ""} {
			for _, bearer := range []string{bobToken, ""} {
				a, b := bob.want(secret, size, repository, bearer), bob.want(nothing, size, repository, bearer)
				a.Digest, b.Digest = "", ""
				if len(a.Peers) > 0 || len(a.Grant) > 0 || a.String() != b.String() {
					t.Errorf("under %q: %v; of what is not there: %v", repository, a, b)
				}
			}
		}
	})
	t.Run("pieces", func(t *testing.T) {
		n := ann.want(secret, size, "alpha/app", annToken)
		if len(n.Grant) == 0 {
			t.Fatalf("ann's own host gets no grant: %v", n)
		}
		own, err := token.NewGrant(bob.key.PeerID().String(), secret, time.Now().Add(time.Minute), bob.key.Sign)
		if err != nil {
			t.Fatal(err)
		}
		for name, at := range map[string][2]string{"the agent": {v.agent.Swarm, agentID}, "the supernode": {seedAddr, seedID}} {
			if got := ann.piece(at[0], at[1], secret, n.Grant); got.status != http.StatusOK {
				t.Fatalf("ann's own host at %s: %d %s", name, got.status, got.body)
			}
			for what, grant := range map[string][]byte{"none": nil, "one of his own making": own, "ann's": n.Grant, "garbage": []byte("garbage")} {
				a, b := bob.piece(at[0], at[1], secret, grant), bob.piece(at[0], at[1], nothing, grant)
				if a.status < 400 || !sameWithout(a, secret, b, nothing) {
					t.Errorf("%s with %s: %+v; of what is not there: %+v", name, what, a, b)
				}
			}
		}
	})
	t.Run("DHT", func(t *testing.T) {
		node, err := dht.New(t.Context(), dht.Config{
			Key: bob.key.Libp2p(), Listen: "127.0.0.1:0", PSK: bob.welcome.NetworkKey, Secret: bob.welcome.ProviderSecret,
			Bootstrap: bob.welcome.Supernodes[0].P2PAddrs, Statement: func() []byte { return bob.welcome.Membership },
			VerifyMember: func(raw []byte, peer string) error {
				_, err := identity.ParseMembership(raw, bob.welcome.MemberKey, time.Now())
				return err
			},
			VerifyTag: identity.NewTrust(seedID).Verify, FindAgain: -1, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close()
		v.eventually(30*time.Second, "bob's host meets others", func() bool { return len(node.Known()) > 0 })
		for peers := range node.Find(t.Context(), secret, size) {
			t.Errorf("holders are named: %v", peers)
		}
		if records, err := node.FindTags(t.Context(), blob.Ref{Repository: "alpha/app"}, "v1"); len(records) > 0 {
			t.Errorf("a tag is told: %v, %v", records, err)
		}
	})
}

// TestARightEndsWithinAMinute: what ann may is taken away while her tokens and
// what her host remembers are still fresh.
func TestARightEndsWithinAMinute(t *testing.T) {
	v := buildTown(t)
	img := makeImage(t, image.Spec{Layers: []int64{1 << 20}, Seed: 78, NoProgram: true})
	if err := v.supernode.Push(t.Context(), "alpha/app", "v1", img); err != nil {
		t.Fatal(err)
	}
	bearer := v.bearer(v.agent.Mirror, "ann", "repository:alpha/app:pull")
	read := func() int {
		return v.ask(http.DefaultClient, "GET", v.agent.Mirror+"/v2/alpha/app/manifests/v1", bearer, nil).status
	}
	if got := read(); got != http.StatusOK {
		t.Fatalf("before: %d", got)
	}
	projects := shoalv1connect.NewProjectServiceClient(&http.Client{Transport: withBasic{http.DefaultTransport, cluster.AdminUser, v.supernode.Password}}, v.supernode.URL+"/api")
	if _, err := projects.RemoveMember(t.Context(), connect.NewRequest(&shoalv1.RemoveMemberRequest{Project: "alpha", User: "ann"})); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	v.eventually(waitForRights, "the mirror refuses her", func() bool { return read() != http.StatusOK })
	t.Logf("refused after %v", time.Since(began).Round(time.Millisecond))
	if _, err := projects.GrantPool(t.Context(), connect.NewRequest(&shoalv1.GrantPoolRequest{Project: "alpha", Pool: "web"})); err != nil {
		t.Fatal(err)
	}
	bearer = "" // whatever runs on a host of the pool may, without a login
	began = time.Now()
	v.eventually(waitForRights, "the pool's host may by itself", func() bool { return read() == http.StatusOK })
	t.Logf("granted after %v", time.Since(began).Round(time.Millisecond))
	if _, err := projects.RevokePool(t.Context(), connect.NewRequest(&shoalv1.RevokePoolRequest{Project: "alpha", Pool: "web"})); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	v.eventually(waitForRights, "the pool's right is over", func() bool { return read() != http.StatusOK })
	t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
}
