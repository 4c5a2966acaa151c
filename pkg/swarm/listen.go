package swarm

import (
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	connsInAll  = 16384
	connsFromIP = 1024
	// unsent is how many bytes of pieces may lie in a socket and not be on
	// their way. More would let a slot go free long before its piece is
	// delivered, and five slots would be twenty.
	unsent = 128 << 10
)

// Listen bounds the connections of a piece listener, in all and from one
// address, and keeps its sockets from hoarding unsent bytes. l is the bare TCP
// listener: TLS goes around what is returned.
func Listen(l net.Listener) net.Listener {
	return &listener{Listener: l, from: map[string]int{}}
}

type listener struct {
	net.Listener
	mu   sync.Mutex
	open int            // guarded by mu
	from map[string]int // by IP address; guarded by mu
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ip, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			ip = c.RemoteAddr().String()
		}
		if !l.enter(ip) {
			c.Close()
			continue
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			limitUnsent(tcp)
		}
		return &counted{Conn: c, leave: sync.OnceFunc(func() { l.leave(ip) })}, nil
	}
}

func (l *listener) enter(ip string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= connsInAll || l.from[ip] >= connsFromIP {
		return false
	}
	l.open++
	l.from[ip]++
	return true
}

func (l *listener) leave(ip string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[ip]--; l.from[ip] == 0 {
		delete(l.from, ip)
	}
}

type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// HTTPServer makes the server that a Server should run in, over a listener
// that already speaks TLS: HTTP/1.1 alone, with time-outs for headers and idle
// connections. A piece's own deadline is set by the Server.
func HTTPServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    32 << 10,
	}
}
