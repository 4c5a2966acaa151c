package mirror

import (
	"crypto/rand"
	"crypto/subtle"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/shoalproject/shoal/pkg/token"
)

const (
	maxLogins = 1024
	maxRights = 256 // remembered per user

	// argon2id parameters: 9 MiB and 4 passes, one of the choices of the
	// OWASP password storage recommendations; one hash at a time, so that
	// logins never take more memory than that.
	hashPasses = 4
	hashKiB    = 9 << 10
	hashBytes  = 32
)

// login is a user whom the supernode let in lately.
type login struct {
	salt   [16]byte
	hash   []byte
	at     time.Time
	access []token.Access
}

// logins remembers who logged in through this host, to let the same users in
// while no supernode can be reached. Passwords are kept as argon2id hashes,
// in memory only.
type logins struct {
	hashing chan struct{} // one at a time

	mu    *sync.Mutex
	users map[string]login // guarded by mu
	decoy login            // never changes; hashed against for unknown users
}

func newLogins() logins {
	l := logins{hashing: make(chan struct{}, 1), mu: new(sync.Mutex), users: make(map[string]login)}
	rand.Read(l.decoy.salt[:])
	l.decoy.hash = make([]byte, hashBytes)
	return l
}

func (l *logins) digest(pass string, salt [16]byte) []byte {
	l.hashing <- struct{}{}
	defer func() { <-l.hashing }()
	return argon2.IDKey([]byte(pass), salt[:], hashPasses, hashKiB, 1, hashBytes)
}

// remember keeps a login that the supernode accepted, and what it allowed.
func (l *logins) remember(user, pass string, access []token.Access, now time.Time) {
	fresh := login{at: now}
	rand.Read(fresh.salt[:])
	fresh.hash = l.digest(pass, fresh.salt)
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh.access = merge(l.users[user].access, access)
	if _, known := l.users[user]; !known && len(l.users) >= maxLogins {
		l.dropOldest()
	}
	l.users[user] = fresh
}

func (l *logins) dropOldest() {
	oldest, first := "", true
	for user, at := range l.users {
		if first || at.at.Before(l.users[oldest].at) {
			oldest, first = user, false
		}
	}
	delete(l.users, oldest)
}

// forget drops a user whom the supernode refused.
func (l *logins) forget(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.users, user)
}

// check reports whether user logged in with this password not before since,
// and what they were allowed. It takes the same time for unknown users.
func (l *logins) check(user, pass string, since time.Time) ([]token.Access, bool) {
	l.mu.Lock()
	known, ok := l.users[user]
	l.mu.Unlock()
	if !ok {
		known = l.decoy
	}
	same := subtle.ConstantTimeCompare(l.digest(pass, known.salt), known.hash) == 1
	return known.access, ok && same && !known.at.Before(since)
}

// merge adds access to what is remembered; for the same resource the newer
// word counts.
func merge(old, access []token.Access) []token.Access {
	out := append([]token.Access(nil), access...)
	for _, o := range old {
		again := false
		for _, a := range access {
			again = again || a.Type == o.Type && a.Name == o.Name
		}
		if !again && len(out) < maxRights {
			out = append(out, o)
		}
	}
	return out
}

// intersect is what of wanted was allowed.
func intersect(wanted, allowed []token.Access) []token.Access {
	var out []token.Access
	for _, w := range wanted {
		for _, a := range allowed {
			if a.Type != w.Type || a.Name != w.Name {
				continue
			}
			var actions []string
			for _, action := range w.Actions {
				if a.Allows(action) {
					actions = append(actions, action)
				}
			}
			if len(actions) > 0 {
				out = append(out, token.Access{Type: w.Type, Name: w.Name, Actions: actions})
			}
		}
	}
	return out
}

const (
	freeFailures = 5
	longestWait  = time.Minute
	maxAttempts  = 4096
	forgetAfter  = 15 * time.Minute
)

// attempts slows down guessing: after five failures each further one doubles
// the wait, up to a minute.
type attempts struct {
	mu     sync.Mutex
	failed map[string]failures // guarded by mu; by user and client
}

type failures struct {
	count int
	last  time.Time
}

func (f failures) wait() time.Duration {
	if f.count < freeFailures {
		return 0
	}
	return min(time.Second<<min(f.count-freeFailures, 10), longestWait)
}

// waiting is how long this one must still wait.
func (a *attempts) waiting(key string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.failed[key]
	return f.last.Add(f.wait()).Sub(now)
}

func (a *attempts) fail(key string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		a.failed = make(map[string]failures)
	}
	if _, known := a.failed[key]; !known && len(a.failed) >= maxAttempts {
		for k, f := range a.failed {
			if now.Sub(f.last) > forgetAfter {
				delete(a.failed, k)
			}
		}
		if len(a.failed) >= maxAttempts {
			return // full of recent failures; those waits stay
		}
	}
	a.failed[key] = failures{a.failed[key].count + 1, now}
}

func (a *attempts) succeed(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, key)
}
