package mirror

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
)

const (
	// handleLife is below the five minutes of a usual registry token, so that
	// a handle does not outlive what it stands for.
	handleLife   = 4 * time.Minute
	maxHandles   = 4096
	handlePrefix = "shoal-local."
)

// handle is what a random bearer token of this host means. It is kept in
// memory only.
type handle struct {
	registry string
	access   []token.Access
	subject  string
	token    string // pull token of the upstream; "" for the own registry
	key      string // stands for the holder in the proofs
	expires  time.Time
}

// handles are looked up by hash, so that the time of a lookup tells nothing.
type handles struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]handle // guarded by mu
}

// issue makes a handle. When too many are alive the oldest ones end early.
func (s *handles) issue(h handle, now time.Time) string {
	raw := handlePrefix + rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(raw))
	h.key = "handle\x00" + string(sum[:])
	h.expires = now.Add(handleLife)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[[sha256.Size]byte]handle)
	}
	if len(s.known) >= maxHandles {
		s.makeRoom(now)
	}
	s.known[sum] = h
	return raw
}

// makeRoom drops what has ended, and at least one.
func (s *handles) makeRoom(now time.Time) {
	var oldest [sha256.Size]byte
	var at time.Time
	for k, h := range s.known {
		if !now.Before(h.expires) {
			delete(s.known, k)
		} else if at.IsZero() || h.expires.Before(at) {
			oldest, at = k, h.expires
		}
	}
	if len(s.known) >= maxHandles {
		delete(s.known, oldest)
	}
}

func (s *handles) get(raw string, now time.Time) (handle, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.known[sha256.Sum256([]byte(raw))]
	return h, ok && now.Before(h.expires)
}
