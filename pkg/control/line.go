package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	dialTimeout  = 2 * time.Second
	callTimeout  = 10 * time.Second
	renewRetry   = 30 * time.Second
	watchRetry   = 500 * time.Millisecond
	watchRetries = 15 * time.Second // the longest pause between two tries
	// quiet is how long an open line may say nothing; the supernode sends a
	// sign of life more often than that.
	quiet = 45 * time.Second
)

// Line is the way to the supernodes that a welcome named, over the same
// mutual TLS as the pieces. A supernode's base URL is https://<peer ID>: the
// name is the key that must answer there.
type Line struct {
	node   *identity.Node
	client *http.Client
	back   func(context.Context, *shoalv1.Welcome) (*shoalv1.Welcome, error)
	log    *slog.Logger
	again  chan struct{} // holds a word when there may be news to renew for

	mu        sync.Mutex
	opened    bool             // it was open once; guarded by mu
	opening   chan struct{}    // closed when it opens next; guarded by mu
	welcome   *shoalv1.Welcome // guarded by mu
	first     string           // guarded by mu; the peer ID that answered last
	reachable bool             // guarded by mu
	left      time.Time        // when it was reachable last, or made; guarded by mu
}

// NewLine makes the line that a welcome describes. back is asked for a new
// welcome when no supernode renews the membership over the line: it may have
// run out, or they may have moved.
func NewLine(node *identity.Node, welcome *shoalv1.Welcome, back func(context.Context, *shoalv1.Welcome) (*shoalv1.Welcome, error), log *slog.Logger) *Line {
	l := &Line{left: time.Now(), opening: make(chan struct{}), node: node, welcome: welcome, back: back, log: log, again: make(chan struct{}, 1)}
	l.client = &http.Client{Transport: &http.Transport{
		DialTLSContext:      l.dial,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}}
	return l
}

// dial takes "<peer ID>:443" and connects to where that supernode listens.
func (l *Line) dial(ctx context.Context, network, target string) (net.Conn, error) {
	peerID, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	for _, s := range l.Welcome().Supernodes {
		if s.PeerId == peerID {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return l.node.Dial(ctx, network, s.SwarmAddr, peerID)
		}
	}
	return nil, fmt.Errorf("peer %s is no supernode of this data centre", peerID)
}

// HTTP is a client for the supernodes' base URLs.
func (l *Line) HTTP() *http.Client { return l.client }

// Welcome is what the supernodes said last.
func (l *Line) Welcome() *shoalv1.Welcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.welcome
}

// Bases are the supernodes' base URLs, the one that answered last first.
func (l *Line) Bases() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, s := range l.welcome.Supernodes {
		base := "https://" + s.PeerId
		if s.PeerId == l.first {
			out = append([]string{base}, out...)
		} else {
			out = append(out, base)
		}
	}
	return out
}

// Reachable reports whether a supernode holds the line open right now.
func (l *Line) Reachable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reachable
}

// Away is for how long no supernode has been reached; 0 while one is.
func (l *Line) Away() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reachable {
		return 0
	}
	return max(time.Since(l.left), 1)
}

func (l *Line) answered(base string, up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = time.Now()
	l.reachable = up
	if !up {
		return
	}
	l.first = base[len("https://"):]
	if l.opened {
		l.RenewSoon()
	}
	l.opened = true
	close(l.opening)
	l.opening = make(chan struct{})
}

// Opened is closed the next time that the line opens: what the supernode is to
// know of this host is told again then.
func (l *Line) Opened() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opening
}

// RenewSoon has KeepRenewed renew within half a minute.
func (l *Line) RenewSoon() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// Renew asks for a new membership once, over the line or else by a return,
// and takes it on.
func (l *Line) Renew(ctx context.Context) error {
	var errs []error
	for _, base := range l.Bases() {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := shoalv1connect.NewNodeServiceClient(l.client, base).Renew(call, connect.NewRequest(&shoalv1.RenewRequest{}))
		cancel()
		if err == nil {
			err = l.take(answer.Msg.Welcome)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("renew the membership at %s: %w", base, err))
	}
	w, err := l.back(ctx, l.Welcome())
	if err == nil {
		err = l.take(w)
	}
	if err == nil {
		return nil
	}
	return errors.Join(append(errs, err)...)
}

// take goes by a new welcome from now on; the node's own notes stay.
func (l *Line) take(w *shoalv1.Welcome) error {
	if w == nil || len(w.Supernodes) == 0 {
		return errors.New("the supernode renewed the membership without a welcome")
	}
	if err := l.node.SetMembership(w.Membership, w.MemberKey); err != nil {
		return fmt.Errorf("take on the renewed membership: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Urls, w.CaSha256 = l.welcome.Urls, l.welcome.CaSha256
	l.welcome = w
	return nil
}

// KeepRenewed renews now, whenever half of the membership's life is over, and
// within half a minute of RenewSoon and of the line's being open again: a
// supernode that was restarted may name other upstreams and keys. heard gets each new welcome.
// It returns when ctx ends.
func (l *Line) KeepRenewed(ctx context.Context, now func() time.Time, heard func(*shoalv1.Welcome)) {
	due := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.again:
			// Spread, since every host of the data centre comes back at once. A
			// line that flaps does not put off what is due.
			if soon := time.Now().Add(rand.N(renewRetry)); soon.Before(due) {
				due = soon
			}
			continue
		case <-time.After(time.Until(due)):
		}
		if err := l.Renew(ctx); err != nil {
			if ctx.Err() == nil {
				l.log.Warn("the membership was not renewed; it is tried again", "error", err)
			}
			due = time.Now().Add(jitter(renewRetry))
			continue
		}
		heard(l.Welcome())
		wait := renewRetry
		if m, err := l.node.Membership(); err == nil {
			wait = max(jitter(m.NotAfter.Sub(now())/2), renewRetry) // half of what is left
		}
		due = time.Now().Add(wait)
	}
}

// ErrCloned ends Watch for the younger of two processes that live with one
// key.
var ErrCloned = errors.New("another host uses this node's key")

// Watch keeps the line for orders open and hands each to handle, signs of life
// included; handle must not block. It returns nil when ctx ends, and
// ErrCloned.
func (l *Line) Watch(ctx context.Context, hello *shoalv1.WatchRequest, handle func(*shoalv1.Order)) error {
	wait := watchRetry
	for ctx.Err() == nil {
		for _, base := range l.Bases() {
			up, err := l.watchOne(ctx, base, hello, handle)
			if connect.CodeOf(err) == connect.CodeAlreadyExists {
				return fmt.Errorf("%w: %w", ErrCloned, err)
			}
			if up {
				wait = watchRetry
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter(wait)):
			wait = min(2*wait, watchRetries)
		}
	}
	return nil
}

// watchOne reports whether the line to this supernode came up, and what ended
// it.
func (l *Line) watchOne(ctx context.Context, base string, hello *shoalv1.WatchRequest, handle func(*shoalv1.Order)) (up bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A supernode that died without a word is noticed by its silence.
	alive := time.AfterFunc(quiet, cancel)
	defer alive.Stop()
	stream, err := shoalv1connect.NewNodeServiceClient(l.client, base).Watch(ctx, connect.NewRequest(hello))
	if err != nil {
		return false, err
	}
	defer stream.Close()
	for stream.Receive() {
		alive.Reset(quiet)
		if !up {
			up = true
			l.answered(base, true)
			l.log.Info("the line to the supernode is open", "supernode", base)
		}
		handle(stream.Msg())
	}
	if up {
		l.answered(base, false)
		if ctx.Err() == nil {
			l.log.Warn("the line to the supernode closed", "supernode", base, "error", stream.Err())
		}
	}
	return up, stream.Err()
}

// Progress tells the supernode how far an order is.
func (l *Line) Progress(ctx context.Context, p *shoalv1.ProgressRequest) error {
	return l.each(ctx, func(ctx context.Context, base string) error {
		_, err := shoalv1connect.NewNodeServiceClient(l.client, base).Progress(ctx, connect.NewRequest(p))
		return err
	})
}

// TellPulls tells the supernode what was decided about readers here.
func (l *Line) TellPulls(ctx context.Context, p *shoalv1.TellPullsRequest) error {
	return l.each(ctx, func(ctx context.Context, base string) error {
		_, err := shoalv1connect.NewMirrorAuditServiceClient(l.client, base).TellPulls(ctx, connect.NewRequest(p))
		return err
	})
}

// each makes a call to one supernode after the other until it succeeds.
func (l *Line) each(ctx context.Context, do func(ctx context.Context, base string) error) error {
	var errs []error
	for _, base := range l.Bases() {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(call, base)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// jitter spreads a pause by a quarter either way, so that hosts that were cut
// off together do not come back together.
func jitter(d time.Duration) time.Duration {
	d = max(d, 0)
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/2+1))
}
