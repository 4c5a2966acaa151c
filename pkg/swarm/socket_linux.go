package swarm

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// limitUnsent sets TCP_NOTSENT_LOWAT. Without it the exchange works too, a
// little less evenly, so an error is no reason to refuse the connection.
func limitUnsent(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}

// setLowat says how many bytes must have arrived before a reader of the socket
// is woken. Without it a piece of 256 KiB over a busy link wakes its reader for
// each packet. Where it cannot be set, nothing is lost but that.
func setLowat(raw syscall.RawConn, bytes int) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes)
	})
}

// rawSocket finds the socket below TLS and whatever else is wrapped around it.
// nil when there is none to be found.
func rawSocket(c net.Conn) syscall.RawConn {
	for c != nil {
		if s, ok := c.(syscall.Conn); ok {
			raw, err := s.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = inner.NetConn()
	}
	return nil
}
