package settings

import (
	"fmt"
	"net"
	"strings"
)

// Loopback reports whether host (a name or an address, without a port) is
// reached from this host alone.
func Loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Listen checks an address to listen on, HOST:PORT or :PORT, that the flag of
// this name holds, and reports whether it is reached from this host alone.
func Listen(flag, addr string) (loopback bool, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("--%s %q is not HOST:PORT or :PORT: %w", flag, addr, err)
	}
	return Loopback(host), nil
}
