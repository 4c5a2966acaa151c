package control

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// desk is a supernode's door for new members: it checks the proof and says
// what it was told to say.
type desk struct {
	welcome *shoalv1.Welcome
	refuse  error
	asked   []*shoalv1.JoinRequest
}

func (d *desk) Join(_ context.Context, r *connect.Request[shoalv1.JoinRequest]) (*connect.Response[shoalv1.JoinResponse], error) {
	d.asked = append(d.asked, r.Msg)
	if err := identity.CheckJoinProof(r.Msg.PublicKey, r.Msg.Token, r.Msg.Proof); err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	if d.refuse != nil {
		return nil, d.refuse
	}
	return connect.NewResponse(&shoalv1.JoinResponse{Welcome: d.welcome}), nil
}

// open serves the desk over TLS (or without, when secure is nil) and returns
// its host:port.
func (d *desk) open(t *testing.T, secure *tls.Config) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	mux := http.NewServeMux()
	_, handler := shoalv1connect.NewJoinServiceHandler(d)
	mux.Handle("/api/", http.StripPrefix("/api", handler))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return addr
}

func newCA(t *testing.T) (*identity.CA, *tls.Config) {
	t.Helper()
	ca, err := identity.LoadOrCreateCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config, err := ca.ServerTLS([]string{"127.0.0.1"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return ca, config
}

func newKey(t *testing.T) *identity.Key {
	t.Helper()
	key, err := identity.LoadOrCreateKey(filepath.Join(t.TempDir(), "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// closedPort is an address at which nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestJoin(t *testing.T) {
	ca, secure := newCA(t)
	other, _ := newCA(t)
	d := &desk{welcome: &shoalv1.Welcome{Idc: "here", Urls: []string{"https://elsewhere"}, CaSha256: []byte("x")}}
	https := "https://" + d.open(t, secure)
	plain := "http://" + d.open(t, nil)
	text := token.NewJoin("id", "secret", ca.SHA256())
	for _, c := range []struct {
		name       string
		token      string
		supernodes []string
		ca         []byte
		want       string // in the error; "" for none
	}{
		{"the pinned authority", text, []string{https}, nil, ""},
		{"with a slash at the end", text, []string{https + "/"}, nil, ""},
		{"another authority", token.NewJoin("id", "secret", other.SHA256()), []string{https}, nil, "pinned authority"},
		{"the authority of --ca", token.NewJoin("id", "secret", other.SHA256()), []string{https}, ca.PEM(), ""},
		{"another one as --ca", text, []string{https}, other.PEM(), "certificate signed by unknown authority"},
		{"nonsense as --ca", text, []string{https}, []byte("nonsense"), "--ca"},
		{"loopback without TLS", text, []string{plain}, nil, ""},
		{"the first one is away", text, []string{"https://" + closedPort(t), https}, nil, ""},
		{"all are away", text, []string{"https://" + closedPort(t)}, nil, "connection refused"},
		{"plain HTTP beyond loopback", text, []string{"http://192.0.2.1:8001"}, nil, "https"},
		{"a name that only looks like loopback", text, []string{"http://127.0.0.1.example.com:8001"}, nil, "https"},
		{"no URL", text, []string{"registry.example.com:8001"}, nil, "https"},
		{"a garbage URL", text, []string{"::"}, nil, "not the URL of a supernode"},
		{"no supernode", text, nil, nil, "--supernode"},
		{"a garbage token", "shoal-join.x", []string{https}, nil, "supernode join-token"},
	} {
		key := newKey(t)
		d.asked = nil
		w, err := Join(t.Context(), JoinConfig{Supernodes: c.supernodes, Token: c.token, CA: c.ca, Key: key, Hostname: "host-1", Now: time.Now})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || len(d.asked) != 0 {
				t.Errorf("%s: %v after %d requests, want an error with %q and none", c.name, err, len(d.asked), c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		pinned, _ := token.ParseJoin(c.token)
		if w.Idc != "here" || len(w.Urls) != len(c.supernodes) || w.Urls[0] != c.supernodes[0] || string(w.CaSha256) != string(pinned.CASHA256[:]) {
			t.Errorf("%s: the welcome is %v", c.name, w)
		}
		if asked := d.asked[0]; asked.Token != c.token || asked.Hostname != "host-1" || string(asked.PublicKey) != string(key.Public()) {
			t.Errorf("%s: asked %v", c.name, asked)
		}
	}
}

func TestJoinTellsARefusalFromSilence(t *testing.T) {
	d := &desk{refuse: connect.NewError(connect.CodePermissionDenied, errors.New("the token was used already"))}
	refusing := "http://" + d.open(t, nil)
	text := token.NewJoin("id", "secret", [sha256.Size]byte{})
	join := func(supernodes ...string) error {
		_, err := Join(t.Context(), JoinConfig{Supernodes: supernodes, Token: text, Key: newKey(t), Now: time.Now})
		return err
	}
	if err := join(refusing); !Refused(err) || !strings.Contains(err.Error(), "used already") {
		t.Errorf("refused: %v", err)
	}
	if err := join("http://"+closedPort(t), refusing); !Refused(err) {
		t.Errorf("one is away and one refuses: %v", err)
	}
	if err := join("http://" + closedPort(t)); err == nil || Refused(err) {
		t.Errorf("nobody answers: %v", err)
	}
	d.refuse = connect.NewError(connect.CodeInternal, errors.New("the disk is full"))
	if err := join(refusing); err == nil || Refused(err) {
		t.Errorf("a fault on their side: %v", err)
	}
	if d.refuse = nil; join(refusing) == nil {
		t.Error("an answer without a welcome was taken for one")
	}
	if Refused(nil) {
		t.Error("no error is a refusal")
	}
}

func TestReturn(t *testing.T) {
	ca, secure := newCA(t)
	d := &desk{welcome: &shoalv1.Welcome{Idc: "here"}}
	url := "https://" + d.open(t, secure)
	pin := ca.SHA256()
	kept := &shoalv1.Welcome{Urls: []string{url}, CaSha256: pin[:]}
	key := newKey(t)
	how := JoinConfig{Key: key, Now: time.Now}
	w, err := Return(t.Context(), how, kept)
	if err != nil || w.Idc != "here" || w.Urls[0] != url || string(w.CaSha256) != string(pin[:]) {
		t.Fatalf("%v, %v", w, err)
	}
	if at, err := token.ParseReturn(d.asked[0].Token); err != nil || time.Since(at) > time.Minute {
		t.Errorf("the return says %v, %v", at, err)
	}
	// The supernodes that are named now come first; those of old times next.
	how.Supernodes = []string{"https://" + closedPort(t)}
	if w, err = Return(t.Context(), how, kept); err != nil || len(w.Urls) != 2 {
		t.Errorf("%v, %v", w, err)
	}
	// The authority is still the one that the token pinned.
	other, _ := newCA(t)
	pin = other.SHA256()
	if _, err := Return(t.Context(), how, &shoalv1.Welcome{Urls: []string{url}, CaSha256: pin[:]}); !errors.Is(err, identity.ErrPin) {
		t.Errorf("another authority: %v", err)
	}
	if _, err := Return(t.Context(), how, &shoalv1.Welcome{Urls: []string{url}}); !errors.Is(err, identity.ErrPin) {
		t.Errorf("no authority was noted: %v", err)
	}
	if _, err := Return(t.Context(), JoinConfig{Key: key, Now: time.Now}, &shoalv1.Welcome{}); err == nil || !strings.Contains(err.Error(), "--supernode") {
		t.Errorf("no URL was noted: %v", err)
	}
}

func TestAWelcomeIsKept(t *testing.T) {
	dir := t.TempDir()
	if w, err := LoadWelcome(dir); w != nil || err != nil {
		t.Errorf("a node that never joined: %v, %v", w, err)
	}
	want := &shoalv1.Welcome{Idc: "here", Membership: []byte("m"), MemberKey: []byte("k"), NetworkKey: []byte("secret")}
	if err := SaveWelcome(dir, want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, welcomeFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file holds secrets and is %v, %v", info.Mode(), err)
	}
	if got, err := LoadWelcome(dir); err != nil || !proto.Equal(got, want) {
		t.Errorf("kept %v, %v", got, err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"cut": raw[:len(raw)-3], "empty": {}, "nonsense": []byte("\xff\xff\xff")} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := LoadWelcome(dir); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "join again") {
			t.Errorf("%s: %v, %v", name, w, err)
		}
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })}
	go server.Serve(l)
	defer server.Close()
	response, err := Socket(path).Get("http://anybody/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusTeapot {
		t.Error(response.Status)
	}
}
