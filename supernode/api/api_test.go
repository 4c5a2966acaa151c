package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/telemetry"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/registry"
	"github.com/shoalproject/shoal/supernode/tracker"
)

// outside is a seed that knows one tag and was asked for what it lists.
type outside struct {
	digest blob.Digest
	asked  chan blob.Origin
}

func (o *outside) Ensure(_ context.Context, _ string, a *tracker.Announcement, origin blob.Origin) {
	a.Seed = tracker.SeedHas
	if origin.Ref.Registry == "private.example" {
		a.Seed = tracker.SeedRefused
	}
	o.asked <- origin
}

func (o *outside) Resolve(_ context.Context, ref blob.Ref, tag string) (blob.Digest, error) {
	if ref.Registry != "docker.io" || tag != "3" {
		return "", fetch.ErrNotFound
	}
	return o.digest, nil
}

// front is a supernode's real rooms behind its two listeners, on loopback.
type front struct {
	Config
	t         *testing.T
	offset    atomic.Int64 // of the clock
	meta      *meta.Bolt
	key       *identity.Key
	memberKey ed25519.PrivateKey
	outside   *outside
	stopping  chan struct{}
	public    *httptest.Server
	members   net.Listener
	password  string // of admin
	tap       *wiretap
	twin      *placement.Memory // its hosts
	between   func()            // runs once, while another registry is asked
}

func (f *front) now() time.Time { return time.Now().Add(time.Duration(f.offset.Load())) }

func newKey(t *testing.T) *identity.Key {
	t.Helper()
	key, err := identity.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newFront(t *testing.T) *front {
	t.Helper()
	return newFrontWith(t, func(*auth.Config) {})
}

// newFrontWith has a gate that was changed.
func newFrontWith(t *testing.T, change func(*auth.Config)) *front {
	t.Helper()
	f := &front{
		t: t, key: newKey(t), stopping: make(chan struct{}),
		outside: &outside{digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", asked: make(chan blob.Origin, 16)},
	}
	f.tap = &wiretap{secrets: map[string]bool{}}
	log := slog.New(slog.NewTextHandler(f.tap, &slog.HandlerOptions{Level: slog.LevelDebug}))
	kept := filepath.Join(t.TempDir(), "audit")
	t.Cleanup(func() { f.tap.check(t, kept) }) // the last of all
	memberKey, err := identity.LoadOrCreateMemberKey(t.TempDir())
	tokenKeys, err2 := token.NewRing(token.SigningKey{Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))})
	store, err3 := meta.OpenBolt(filepath.Join(t.TempDir(), "meta.db"))
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	f.meta, f.memberKey = store, memberKey
	f.public = httptest.NewUnstartedServer(nil)
	names := []string{f.public.Listener.Addr().String()}
	f.Config = Config{
		Node: identity.NewNode(f.key, f.now), Fleet: fleet.New(), Seed: f.outside, Meta: store, IDC: "here",
		Tracker: tracker.New(tracker.Config{Seeds: func() []blob.Peer {
			return []blob.Peer{{ID: f.key.PeerID().String(), Addr: ":8002", Seed: true, Complete: true}}
		}}),
		Grants: NewGrants(f.key.Sign, f.now),
		Ready:  telemetry.Alive, Stopping: f.stopping, Now: f.now, Log: log,
	}
	f.Audit, err = audit.Open(audit.Config{
		Dir: kept, Sign: f.key.Sign, Verify: identity.NewTrust(f.key.PeerID().String()).Verify, Now: f.now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Audit.Close() })
	config := auth.Config{
		Meta: store, TokenKeys: tokenKeys, MemberKey: memberKey, IDC: "here", Issuer: "shoal/here", Service: "shoal-registry",
		ExternalURL: "http://" + names[0], PublicNames: names, OnRevoke: f.revoked, Audit: Deeds(f.Audit),
		OnChange: func(c auth.Change) { f.Fleet.Tell(RightsChanged(c)) }, Now: f.now, Log: log,
	}
	change(&config)
	f.Auth, err = auth.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	f.Inventory, err = inventory.New(inventory.Config{
		Meta: store, Now: f.now, Log: log, UserID: f.Auth.UserID, ProviderFor: func(string) (string, error) { return "memory", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Cost, err = cost.New(t.Context(), cost.Config{
		Meta: store, Now: f.now, Log: log, Alarm: BudgetAlarm(f.Audit),
		Terms: func(context.Context, string) (cost.Terms, error) {
			return cost.Terms{Price: cost.Price{Currency: "EUR", Hourly: 2_000_000, EgressGB: 1_000_000}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Initialiser = NewInitialiser(f.Inventory, f.Fleet, f.now, log)
	f.Registry, err = registry.New(t.Context(), registry.Config{
		Meta: store, Objects: objects.NewMemory(), Auth: Gatekeeper{f.Auth}, Policy: f.Auth, Sign: f.key.Sign,
		PublicNames: names, PullThrough: through{}, Origin: "here", Now: f.now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Pieces = swarm.NewServer(swarm.ServerConfig{
		Lookup: func(context.Context, blob.Digest) (swarm.Content, error) { return nil, blob.ErrNotHeld },
		Member: f.Node.PeerID, Allow: func(context.Context, string, blob.Digest, []byte) error { return nil }, Slots: 1, Log: log,
	})
	f.Welcome = func(membership []byte, host string) (*shoalv1.Welcome, error) {
		return &shoalv1.Welcome{
			Membership: membership, Idc: "here", MemberKey: f.memberPublic(),
			Supernodes: []*shoalv1.Supernode{{PeerId: f.key.PeerID().String(), SwarmAddr: host + ":8002"}},
		}, nil
	}
	if _, err := f.Auth.FirstLogin(t.Context(), "", func(_, password string) error { f.password = password; return nil }); err != nil {
		t.Fatal(err)
	}
	f.placeIn()
	f.listen()
	return f
}

func (f *front) memberPublic() ed25519.PublicKey { return f.memberKey.Public().(ed25519.PublicKey) }

func (f *front) revoked(peers ...string) {
	f.Node.Revoke(peers...)
	f.Tracker.Remove(peers...)
}

func (f *front) listen() {
	f.t.Helper()
	own, err := f.Auth.Supernode(f.t.Context(), f.key.PeerID().String())
	if err == nil {
		err = f.Node.SetMembership(own, f.memberPublic())
	}
	if err != nil {
		f.t.Fatal(err)
	}
	handler, err := Public(f.Config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.public.Config.Handler = f.tap.overhear(handler)
	f.public.Start()
	f.t.Cleanup(f.public.Close)
	f.members = f.serveMembers(f.Node.Listener)
}

// serveMembers opens a piece listener behind the TLS that secure puts on.
func (f *front) serveMembers(secure func(net.Listener) net.Listener) net.Listener {
	f.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(f.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	server := swarm.HTTPServer(f.tap.overhear(Members(f.Config)))
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	go server.Serve(secure(l))
	f.t.Cleanup(func() { server.Close() })
	return l
}

// admin calls the administrator's API as the first user.
func (f *front) admin() shoalv1connect.AdminServiceClient {
	return f.adminWith(func(r *http.Request) { r.SetBasicAuth("admin", f.password) })
}

func (f *front) adminWith(credentials func(*http.Request)) shoalv1connect.AdminServiceClient {
	return shoalv1connect.NewAdminServiceClient(&http.Client{Transport: with{credentials}}, f.public.URL+"/api")
}

type with struct{ credentials func(*http.Request) }

func (w with) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	w.credentials(r)
	return http.DefaultTransport.RoundTrip(r)
}

// do sends a request to the public listener and reads the answer.
func (f *front) do(method, path string, body io.Reader, credentials func(*http.Request)) (*http.Response, []byte) {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.public.URL+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	if credentials != nil {
		credentials(r)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response, raw
}

// token logs the admin in for a service and a scope.
func (f *front) token(service, scope string) func(*http.Request) {
	f.t.Helper()
	response, raw := f.do("GET", "/token?service="+service+"&scope="+scope, nil, func(r *http.Request) { r.SetBasicAuth("admin", f.password) })
	var answer struct{ Token string }
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Token == "" {
		f.t.Fatalf("token for %s: %s %s", service, response.Status, raw)
	}
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+answer.Token) }
}

// push puts a manifest without blobs under a tag and returns its digest.
func (f *front) push(repository, tag string) blob.Digest {
	f.t.Helper()
	body := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	response, raw := f.do("PUT", "/v2/"+repository+"/manifests/"+tag, bytes.NewReader(body), func(r *http.Request) {
		r.SetBasicAuth("admin", f.password)
		r.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	})
	if response.StatusCode != http.StatusCreated {
		f.t.Fatalf("push: %s %s", response.Status, raw)
	}
	return blob.Digest(response.Header.Get("Docker-Content-Digest"))
}

func code(err error) connect.Code {
	if err == nil {
		return 0
	}
	return connect.CodeOf(err)
}
