package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// Special-purpose ranges that netip has no predicate for. Source: the IANA
// special-purpose address registries (RFC 6890 and its updates).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	carrierNAT,
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001::/23"), // protocol assignments, Teredo among them
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("3fff::/20"),
}

var (
	carrierNAT = netip.MustParsePrefix("100.64.0.0/10")
	globalV6   = netip.MustParsePrefix("2000::/3")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
)

// public reports whether addr is an ordinary address of the Internet.
func public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	raw := addr.As16()
	switch {
	case nat64.Contains(addr):
		return public(netip.AddrFrom4([4]byte(raw[12:16])))
	case sixToFour.Contains(addr):
		return public(netip.AddrFrom4([4]byte(raw[2:6])))
	case addr.Is6() && !globalV6.Contains(addr):
		return false
	case !addr.IsGlobalUnicast(), addr.IsPrivate():
		return false
	}
	for _, p := range reserved {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}

// inside reports whether addr may be dialled for a host that the operator
// named: anything but addresses that are no host of the operator's at all.
// A link-local address (where clouds keep their metadata service) passes
// only when the operator wrote that very address.
func inside(addr netip.Addr, host string) bool {
	addr = addr.Unmap()
	if public(addr) || addr.IsLoopback() || addr.IsPrivate() || carrierNAT.Contains(addr) {
		return true
	}
	literal, err := netip.ParseAddr(host)
	return err == nil && literal.Unmap() == addr && !addr.IsUnspecified() && !addr.IsMulticast()
}

// guard dials only where it may. The check runs on the address that is being
// connected to, after DNS, so that a name cannot change its mind in between.
type guard struct {
	// named reports whether the operator named host:port; such a host may
	// have a private address.
	named    func(host, port string) bool
	resolver *net.Resolver
}

const dialTimeout = 10 * time.Second

func (g guard) dial(ctx context.Context, network, target string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", target, err)
	}
	named := g.named(strings.ToLower(host), port)
	d := net.Dialer{
		Timeout:  dialTimeout,
		Resolver: g.resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return checkAddress(host, address, named)
		},
	}
	return d.DialContext(ctx, network, target)
}

// checkAddress decides about one resolved "ip:port" of host.
func checkAddress(host, address string, named bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s resolves to %q, which is no address", ErrForbiddenAddress, host, address)
	}
	if public(ap.Addr()) || named && inside(ap.Addr(), host) {
		return nil
	}
	return fmt.Errorf("%w: %s is at %s; a private address needs its own url in the configuration",
		ErrForbiddenAddress, host, ap.Addr())
}
