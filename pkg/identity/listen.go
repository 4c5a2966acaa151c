package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
)

// Listener puts ServerTLS around inner and remembers each member's open
// connections, so that Revoke can close them. http.Server.Serve takes it as
// it is.
func (n *Node) Listener(inner net.Listener) net.Listener {
	config := n.ServerTLS()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		one := n.ServerTLS()
		one.VerifyConnection = func(cs tls.ConnectionState) error {
			m, err := n.verifyPeer(&cs)
			if err != nil {
				return err
			}
			return n.remember(hello.Conn, m.PeerID)
		}
		return one, nil
	}
	return tls.NewListener(&listener{Listener: inner, node: n}, config)
}

// Dial connects to a peer with ClientTLS(expect), remembered like those of
// Listener. It has the shape that http.Transport.DialTLSContext wants once
// expect is bound.
func (n *Node) Dial(ctx context.Context, network, addr, expect string) (net.Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("dial peer %s: %w", expect, err)
	}
	c := &conn{Conn: raw, node: n}
	secure := tls.Client(c, n.ClientTLS(expect))
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close() // the handshake's error is the one to tell
		return nil, fmt.Errorf("dial peer %s at %s: %w", expect, addr, err)
	}
	m, err := n.PeerOf(new(secure.ConnectionState()))
	if err == nil {
		err = n.remember(c, m.PeerID)
	}
	if err != nil {
		c.Close() // the refusal is the one to tell
		return nil, fmt.Errorf("dial peer %s at %s: %w", expect, addr, err)
	}
	return secure, nil
}

// remember ties an open connection to its member. A peer revoked since it
// was verified is refused here, under the same lock that Revoke takes.
func (n *Node) remember(raw net.Conn, peerID string) error {
	c, ok := raw.(*conn)
	if !ok {
		return fmt.Errorf("%w: connection of an unknown kind %T", ErrNotMember, raw)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.admit(peerID); err != nil {
		return fmt.Errorf("%w: %w", ErrNotMember, err)
	}
	if c.closed {
		return net.ErrClosed
	}
	if n.conns[peerID] == nil {
		n.conns[peerID] = map[net.Conn]struct{}{}
	}
	n.conns[peerID][c] = struct{}{}
	c.peerID = peerID
	return nil
}

func (n *Node) forget(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.closed = true
	delete(n.conns[c.peerID], c)
	if len(n.conns[c.peerID]) == 0 {
		delete(n.conns, c.peerID)
	}
}

type listener struct {
	net.Listener
	node *Node
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, node: l.node}, nil
}

// conn is a raw connection that is forgotten when it closes.
type conn struct {
	net.Conn
	node   *Node
	peerID string // guarded by node.mu
	closed bool   // guarded by node.mu
	once   sync.Once
}

// NetConn is the connection below, for those who set options of its socket.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Close() error {
	c.once.Do(func() { c.node.forget(c) })
	return c.Conn.Close()
}
