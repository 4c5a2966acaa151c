package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// wire brings requests to handlers without a network, so that time in a test
// bubble goes on. A host without a handler cannot be reached.
type wire struct {
	mu    sync.Mutex
	hosts map[string]http.Handler // by host; guarded by mu
}

func (w *wire) set(host string, h http.Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[host] = h
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	handler := w.hosts[r.URL.Host]
	w.mu.Unlock()
	if handler == nil {
		return nil, errors.New("connection refused")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	served := r.Clone(ctx)
	served.Body = io.NopCloser(bytes.NewReader(body))
	pr, pw := io.Pipe()
	a := &answer{header: http.Header{}, body: pw, started: make(chan int, 1)}
	go func() {
		defer cancel()
		handler.ServeHTTP(a, served)
		a.start(http.StatusOK)
		pw.Close()
	}()
	context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	select {
	case status := <-a.started:
		return &http.Response{StatusCode: status, Header: a.header, Body: pr, Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1, Trailer: http.Header{}}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// answer is an http.ResponseWriter that the reader gets while it is written.
type answer struct {
	header  http.Header
	body    *io.PipeWriter
	once    sync.Once
	started chan int
}

func (a *answer) Header() http.Header { return a.header }
func (a *answer) start(status int) {
	a.once.Do(func() { a.header = a.header.Clone(); a.started <- status })
}
func (a *answer) WriteHeader(status int)      { a.start(status) }
func (a *answer) Flush()                      { a.start(http.StatusOK) }
func (a *answer) Write(p []byte) (int, error) { a.start(http.StatusOK); return a.body.Write(p) }

// office is a supernode's service for members, with a line that a test speaks
// through.
type office struct {
	shoalv1connect.UnimplementedNodeServiceHandler
	opened chan chan *shoalv1.Order // a line that came up; closing it ends the line
	renew  func() (*shoalv1.Welcome, error)
	cloned bool // whoever comes is a copy

	mu       sync.Mutex
	progress []*shoalv1.ProgressRequest // guarded by mu
}

func (o *office) Watch(ctx context.Context, _ *connect.Request[shoalv1.WatchRequest], stream *connect.ServerStream[shoalv1.Order]) error {
	if o.cloned {
		return connect.NewError(connect.CodeAlreadyExists, errors.New("the key is used"))
	}
	line := make(chan *shoalv1.Order)
	o.opened <- line
	if err := stream.Send(&shoalv1.Order{What: &shoalv1.Order_Idle{Idle: &shoalv1.Idle{}}}); err != nil {
		return err
	}
	for {
		select {
		case order, ok := <-line:
			if !ok {
				return nil
			}
			if err := stream.Send(order); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (o *office) Renew(context.Context, *connect.Request[shoalv1.RenewRequest]) (*connect.Response[shoalv1.RenewResponse], error) {
	w, err := o.renew()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&shoalv1.RenewResponse{Welcome: w}), nil
}

func (o *office) Progress(_ context.Context, r *connect.Request[shoalv1.ProgressRequest]) (*connect.Response[shoalv1.ProgressResponse], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.progress = append(o.progress, r.Msg)
	return connect.NewResponse(&shoalv1.ProgressResponse{}), nil
}

func (o *office) handler() http.Handler {
	_, h := shoalv1connect.NewNodeServiceHandler(o)
	return h
}

func newOffice() *office {
	return &office{opened: make(chan chan *shoalv1.Order, 16)}
}

// nobody is the way back when no supernode takes the node in again.
func nobody(context.Context, *shoalv1.Welcome) (*shoalv1.Welcome, error) {
	return nil, errors.New("return: nobody answers")
}

// newWire makes a line to supernodes a and b over a wire.
func newWire(node *identity.Node) (*Line, *wire) {
	w := &wire{hosts: map[string]http.Handler{}}
	welcome := &shoalv1.Welcome{Supernodes: []*shoalv1.Supernode{{PeerId: "a"}, {PeerId: "b"}}, Urls: []string{"https://first"}, CaSha256: []byte("pin")}
	l := NewLine(node, welcome, nobody, slog.New(slog.DiscardHandler))
	l.client = &http.Client{Transport: w}
	return l, w
}

func prewarm(id string) *shoalv1.Order {
	return &shoalv1.Order{Id: id, What: &shoalv1.Order_Prewarm{Prewarm: &shoalv1.Prewarm{}}}
}

func idle() *shoalv1.Order { return &shoalv1.Order{What: &shoalv1.Order_Idle{Idle: &shoalv1.Idle{}}} }

// watching runs Watch until the test ends and returns the orders it handed on.
func watching(t *testing.T, l *Line) <-chan string {
	ctx, cancel := context.WithCancel(t.Context())
	orders, ended := make(chan string, 16), make(chan struct{})
	go func() {
		l.Watch(ctx, &shoalv1.WatchRequest{Hostname: "h"}, func(o *shoalv1.Order) {
			if o.GetIdle() == nil {
				orders <- o.Id
			}
		})
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return orders
}

func TestWatchComesBackAfterTheLineClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		a := newOffice()
		w.set("a", a.handler())
		orders := watching(t, l)
		line := <-a.opened
		line <- idle()
		line <- prewarm("1")
		if got := <-orders; got != "1" {
			t.Errorf("order %q", got)
		}
		if synctest.Wait(); !l.Reachable() {
			t.Error("the line is open and said not to be")
		}
		close(line)
		closed := time.Now()
		line = <-a.opened
		if gap := time.Since(closed); gap > time.Second {
			t.Errorf("%v passed before the line was opened again", gap)
		}
		line <- prewarm("2")
		if got := <-orders; got != "2" {
			t.Errorf("order %q", got)
		}
	})
}

func TestWatchNoticesSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		a, b := newOffice(), newOffice()
		w.set("a", a.handler())
		watching(t, l)
		line := <-a.opened
		opened := time.Now()
		for range 10 { // signs of life keep it open
			<-time.After(quiet - time.Second)
			line <- idle()
		}
		if synctest.Wait(); !l.Reachable() {
			t.Fatalf("the line was closed after %v though it was alive", time.Since(opened))
		}
		last := time.Now()
		w.set("a", nil) // it died without a word: its connections stay open and say nothing
		w.set("b", b.handler())
		<-b.opened
		if gap := time.Since(last); gap < quiet || gap > quiet+2*time.Second {
			t.Errorf("the silence was noticed after %v, not %v", gap, quiet)
		}
		if synctest.Wait(); !l.Reachable() || l.Bases()[0] != "https://b" {
			t.Errorf("reachable %v, first %v", l.Reachable(), l.Bases())
		}
	})
}

func TestWatchEndsForAClone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		a := newOffice()
		a.cloned = true
		w.set("a", a.handler())
		if err := l.Watch(t.Context(), &shoalv1.WatchRequest{}, func(*shoalv1.Order) {}); !errors.Is(err, ErrCloned) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWatchDoesNotStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		tries := 0
		w.set("a", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			tries++
			http.Error(w, "no", http.StatusUnauthorized)
		}))
		watching(t, l)
		<-time.After(10 * time.Minute)
		if synctest.Wait(); tries < 30 || tries > 70 || l.Reachable() {
			t.Errorf("%d tries in ten minutes", tries)
		}
	})
}

func TestProgressGoesToWhoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, w := newWire(nil)
		if err := l.Progress(t.Context(), &shoalv1.ProgressRequest{OrderId: "0"}); err == nil {
			t.Error("nobody answered, and there was no error")
		}
		b := newOffice()
		w.set("b", b.handler())
		if err := l.Progress(t.Context(), &shoalv1.ProgressRequest{OrderId: "1"}); err != nil {
			t.Fatal(err)
		}
		if len(b.progress) != 1 || b.progress[0].OrderId != "1" {
			t.Errorf("told %v", b.progress)
		}
	})
}

// term is a member key and the memberships made out with it.
type term struct {
	t    *testing.T
	key  *identity.Key
	ca   ed25519.PrivateKey
	node *identity.Node
}

func newTerm(t *testing.T) *term {
	t.Helper()
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	return &term{t: t, key: key, ca: ca, node: identity.NewNode(key, time.Now)}
}

// welcome has a membership that begins now.
func (m *term) welcome(pool string) *shoalv1.Welcome {
	m.t.Helper()
	raw, err := identity.SignMembership(identity.Membership{
		PeerID: m.key.PeerID().String(), Role: identity.RoleAgent, IDC: "here", Pool: pool,
		NotBefore: time.Now(), NotAfter: time.Now().Add(identity.MembershipLife),
	}, m.ca)
	if err != nil {
		m.t.Fatal(err)
	}
	return &shoalv1.Welcome{
		Membership: raw, MemberKey: m.ca.Public().(ed25519.PublicKey),
		Supernodes: []*shoalv1.Supernode{{PeerId: "a"}}, Urls: []string{"https://planted"}, CaSha256: []byte("planted"),
	}
}

func (m *term) pool() string {
	membership, _ := m.node.Membership()
	return membership.Pool
}

func TestRenewTakesOnTheNewMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTerm(t)
		l, w := newWire(m.node)
		a := newOffice()
		a.renew = func() (*shoalv1.Welcome, error) { return m.welcome("renewed"), nil }
		w.set("a", a.handler())
		if err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.pool() != "renewed" || len(l.Welcome().Supernodes) != 1 {
			t.Errorf("pool %q, welcome %v", m.pool(), l.Welcome())
		}
		if kept := l.Welcome(); kept.Urls[0] != "https://first" || string(kept.CaSha256) != "pin" {
			t.Errorf("the node's own notes became %v", kept)
		}
		// A membership of another node, and none at all, change nothing.
		other := newTerm(t)
		other.ca = m.ca
		for name, next := range map[string]*shoalv1.Welcome{"another node's": other.welcome("stolen"), "none": {}} {
			a.renew = func() (*shoalv1.Welcome, error) { return next, nil }
			if err := l.Renew(t.Context()); err == nil || m.pool() != "renewed" {
				t.Errorf("%s membership: %v, pool %q", name, err, m.pool())
			}
		}
	})
}

func TestRenewReturnsWhereTheLineIsOfNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTerm(t)
		l, w := newWire(m.node)
		var from *shoalv1.Welcome
		l.back = func(_ context.Context, kept *shoalv1.Welcome) (*shoalv1.Welcome, error) {
			from = kept
			return m.welcome("returned"), nil
		}
		w.set("a", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "expired", http.StatusUnauthorized) }))
		if err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.pool() != "returned" || from.GetUrls()[0] != "https://first" {
			t.Errorf("pool %q, asked with %v", m.pool(), from)
		}
		l.back = nobody
		if err := l.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "nobody answers") || !strings.Contains(err.Error(), "https://a") {
			t.Errorf("nobody: %v", err)
		}
	})
}

func TestKeepRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTerm(t)
		l, w := newWire(m.node)
		a := newOffice()
		var at []time.Duration
		begun := time.Now()
		a.renew = func() (*shoalv1.Welcome, error) {
			at = append(at, time.Since(begun))
			return m.welcome("web"), nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var heard atomic.Int64
		ended := make(chan struct{})
		go func() {
			l.KeepRenewed(ctx, time.Now, func(*shoalv1.Welcome) { heard.Add(1) })
			close(ended)
		}()
		<-time.After(5 * time.Minute) // nobody answers yet
		if synctest.Wait(); heard.Load() != 0 {
			t.Error("a welcome was heard from nobody")
		}
		w.set("a", a.handler())
		<-time.After(time.Minute)
		if synctest.Wait(); heard.Load() != 1 {
			t.Errorf("%d welcomes a minute after the supernode came", heard.Load())
		}
		<-time.After(72 * time.Hour)
		if synctest.Wait(); heard.Load() < 4 || heard.Load() > 10 || int(heard.Load()) != len(at) {
			t.Errorf("renewed %d times in three days, at %v", heard.Load(), at)
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap > 16*time.Hour || gap < 8*time.Hour {
				t.Errorf("%v between two renewals", gap)
			}
		}
		cancel()
		<-ended
	})
}

func TestALineThatIsOpenAgainHearsTheSettingsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTerm(t)
		l, w := newWire(m.node)
		a := newOffice()
		a.renew = func() (*shoalv1.Welcome, error) { return m.welcome("web"), nil }
		w.set("a", a.handler())
		ctx, cancel := context.WithCancel(t.Context())
		var heard atomic.Int64
		ended := make(chan struct{})
		go func() {
			l.KeepRenewed(ctx, time.Now, func(*shoalv1.Welcome) { heard.Add(1) })
			close(ended)
		}()
		watching(t, l)
		line := <-a.opened
		<-time.After(quiet / 2)
		if synctest.Wait(); heard.Load() != 1 {
			t.Fatalf("%d welcomes at the start", heard.Load())
		}
		close(line) // the supernode is restarted
		line = <-a.opened
		<-time.After(renewRetry + time.Second)
		if synctest.Wait(); heard.Load() != 2 {
			t.Errorf("%d welcomes after the line was open again, not 2", heard.Load())
		}
		for range 100 { // a line that flaps puts nothing off, and makes no storm
			close(line)
			line = <-a.opened
		}
		if synctest.Wait(); heard.Load() < 3 || heard.Load() > 20 {
			t.Errorf("%d welcomes after the line flapped for a minute", heard.Load())
		}
		cancel()
		<-ended
	})
}

func TestALineGoesToSupernodesAlone(t *testing.T) {
	m := newTerm(t)
	l := NewLine(m.node, &shoalv1.Welcome{Supernodes: []*shoalv1.Supernode{{PeerId: "a", SwarmAddr: closedPort(t)}}}, nobody, slog.New(slog.DiscardHandler))
	if _, err := l.HTTP().Get("https://example.com/"); err == nil || !strings.Contains(err.Error(), "no supernode") {
		t.Errorf("another host: %v", err)
	}
	if _, err := l.HTTP().Get("https://a/"); err == nil || !strings.Contains(err.Error(), "dial peer a") {
		t.Errorf("a supernode that is away: %v", err)
	}
}
