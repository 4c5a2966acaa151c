package swarm

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

const (
	dialTime      = 2 * time.Second
	handshakeTime = 3 * time.Second
	// clientIdle is how long the connections to a peer outlive its last use.
	clientIdle = 30 * time.Second
	// connsPerPeer bounds the connections to one peer, streams included.
	connsPerPeer = 64
)

// client talks to one peer.
type client struct {
	peer      blob.Peer
	talk      *talk
	transport *http.Transport
	base      string
	users     int       // guarded by Exchange.mu
	used      time.Time // guarded by Exchange.mu
}

// client finds or makes the client of a peer; e.mu is held. Its user must be
// taken back by leaveClient.
func (e *Exchange) client(p blob.Peer, state *policy.Peer) *client {
	key := blob.Peer{ID: p.ID, Addr: p.Addr}
	now := time.Now()
	for other, c := range e.clients {
		if c.users == 0 && now.Sub(c.used) > clientIdle {
			c.talk.end()
			c.transport.CloseIdleConnections()
			delete(e.clients, other)
		}
	}
	c := e.clients[key]
	if c == nil {
		c = e.newClient(p)
		c.talk = &talk{e: e, client: c, state: state, subs: map[uint16]*subscription{}, wake: make(chan struct{}, 1)}
		e.clients[key] = c
	}
	c.users++
	return c
}

func (e *Exchange) leaveClient(c *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.users--
	c.used = time.Now()
}

func (e *Exchange) newClient(p blob.Peer) *client {
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		DialContext:           dialer.DialContext,
		DisableCompression:    true,
		MaxConnsPerHost:       connsPerPeer,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       clientIdle,
		ResponseHeaderTimeout: nextPatience + 5*time.Second,
		// A reader of pieces brings a buffer of its own.
		ReadBufferSize:  4 << 10,
		WriteBufferSize: 4 << 10,
	}
	c := &client{peer: p, transport: t, base: "http://" + p.Addr}
	if e.cfg.Dial != nil {
		c.base = "https://" + p.Addr
		t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTime+handshakeTime)
			defer cancel()
			return e.cfg.Dial(ctx, network, addr, p.ID)
		}
	}
	return c
}

// get asks the peer for something about a blob. The caller closes the body.
// askHeader is what every request for a blob carries.
func askHeader(class policy.Class, grant []byte) http.Header {
	header := http.Header{headerClass: {class.String()}}
	if len(grant) > 0 {
		header.Set(headerGrant, base64.StdEncoding.EncodeToString(grant))
	}
	return header
}

func (c *client) get(ctx context.Context, d blob.Digest, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+pathPrefix+string(d)+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	return c.transport.RoundTrip(req)
}

// statusError is an answer other than the one asked for.
type statusError struct {
	status int
	retry  time.Duration // of a 503
}

func (e *statusError) Error() string { return fmt.Sprintf("the peer answered %d", e.status) }

// failed turns an answer other than 200 into an error.
func failed(r *http.Response) error {
	if r.StatusCode == http.StatusOK {
		return nil
	}
	ms, err := strconv.ParseUint(r.Header.Get(headerRetry), 10, 20)
	if err != nil {
		ms = 200
	}
	return &statusError{status: r.StatusCode, retry: time.Duration(ms) * time.Millisecond}
}
