package auth

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// userFree and addressFree are the failures that cost nothing.
	userFree    = 10
	addressFree = 20
	// The wait doubles with each failure after that, up to the longest.
	firstWait   = time.Second
	userLongest = time.Minute
	addrLongest = 5 * time.Minute
	// forgetAfter is how long after the last failure all is forgotten.
	forgetAfter = 30 * time.Minute
	// maxTracked bounds each table.
	maxTracked = 8192
	// victims is how many entries are looked at to make room for a new one.
	victims = 16
)

// limits slows down who guesses passwords: per user name, whether somebody
// has that name or not, and per address (for IPv6 per /64). So that nobody
// locks others out, from elsewhere or from a host that many share, neither
// binds a user at an address from which that very user logged in lately: there
// only the failures under this name count.
//
// Refresh tokens, robots' secrets and tokens are drawn at random with 256
// bits: nobody guesses them, and nothing here slows them down.
type limits struct {
	mu        sync.Mutex
	users     table                // by user name; guarded by mu
	addresses table                // by address; guarded by mu
	homes     table                // by user and address, of those in known; guarded by mu
	known     map[string]time.Time // user and address of a login that succeeded → when; guarded by mu
}

func newLimits() *limits {
	return &limits{users: table{}, addresses: table{}, homes: table{}, known: map[string]time.Time{}}
}

// wait is how long user at address has to wait before a password is looked
// at; 0 is not at all.
func (l *limits) wait(user, address string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.atHome(user, address, now) {
		return max(l.homes.wait(user+"\x00"+address, now), 0)
	}
	return max(l.addresses.wait(address, now), l.users.wait(user, now), 0)
}

// atHome reports whether a user logged in lately from an address.
func (l *limits) atHome(user, address string, now time.Time) bool { // mu is held
	at, ok := l.known[user+"\x00"+address]
	return ok && now.Sub(at) <= forgetAfter
}

// begin counts an attempt as failed before its outcome is known, so that many
// at once gain nothing. What it returns is for succeed.
func (l *limits) begin(user, address string, now time.Time) counted {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users.fail(user, now, userFree, userLongest)
	if l.atHome(user, address, now) {
		l.homes.fail(user+"\x00"+address, now, userFree, userLongest)
	}
	before := l.addresses[address]
	after := l.addresses.fail(address, now, addressFree, addrLongest)
	return counted{before, after}
}

// counted is what one attempt did to its address's count.
type counted struct{ before, after attempts }

// succeed takes back what begin counted. The address keeps its other
// failures: who has an own account may not use it to guess at others'.
func (l *limits) succeed(user, address string, c counted, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.users, user)
	delete(l.homes, user+"\x00"+address)
	l.addresses.refund(address, c)
	if len(l.known) >= maxTracked {
		l.forgetKnown()
	}
	l.known[user+"\x00"+address] = now
}

// waitAddress, beginAddress and refundAddress are the same for what names no
// user.
func (l *limits) waitAddress(address string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.addresses.wait(address, now), 0)
}

func (l *limits) beginAddress(address string, now time.Time) counted {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.addresses[address]
	return counted{before, l.addresses.fail(address, now, addressFree, addrLongest)}
}

func (l *limits) refundAddress(address string, c counted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addresses.refund(address, c)
}

func (l *limits) forgetKnown() { // mu is held
	seen, oldest := 0, ""
	for k, at := range l.known {
		if oldest == "" || at.Before(l.known[oldest]) {
			oldest = k
		}
		if seen++; seen == victims {
			break
		}
	}
	delete(l.known, oldest)
}

// table counts failures by name.
type table map[string]attempts

type attempts struct {
	failures int
	last     time.Time
	until    time.Time // no attempt is looked at before
}

func (t table) wait(name string, now time.Time) time.Duration {
	return t[name].until.Sub(now)
}

func (t table) fail(name string, now time.Time, free int, longest time.Duration) attempts {
	a, ok := t[name]
	if !ok && len(t) >= maxTracked {
		t.evict(now)
	}
	if now.Sub(a.last) > forgetAfter {
		a = attempts{}
	}
	a.failures++
	a.last = now
	if over := a.failures - free; over > 0 {
		wait := longest
		if over <= 16 { // 2^16 s is far above any longest
			wait = min(firstWait<<(over-1), longest)
		}
		a.until = now.Add(wait)
	}
	t[name] = a
	return a
}

// refund puts the count back to what it was, or, when others failed since,
// takes one failure off and leaves the wait.
func (t table) refund(name string, c counted) {
	a := t[name]
	if a == c.after {
		a = c.before
	} else {
		a.failures--
	}
	if t[name] = a; a.failures <= 0 {
		delete(t, name)
	}
}

// evict makes room: of a few entries, which a map names in no order, the one
// with the fewest failures goes, so that a flood of new names does not wash
// away the guessers.
func (t table) evict(now time.Time) {
	seen, victim := 0, ""
	for name, a := range t {
		if now.Sub(a.last) > forgetAfter {
			victim = name
			break
		}
		if victim == "" || a.failures < t[victim].failures {
			victim = name
		}
		if seen++; seen == victims {
			break
		}
	}
	delete(t, victim)
}

// addressOf is the part of a remote address that one party holds: an IPv4
// address, or the /64 of an IPv6 one.
func addressOf(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
}
