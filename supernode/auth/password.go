package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// cost is what a password hash takes.
type cost struct {
	memory  uint32 // KiB
	time    uint32 // passes
	threads uint8
}

// defaultCost is the second recommended choice of RFC 9106, section 4: 64 MiB,
// 3 passes, 4 lanes; some 70 to 200 ms.
var defaultCost = cost{memory: 64 << 10, time: 3, threads: 4}

const (
	saltBytes = 16
	hashBytes = 32

	minPassword = 8    // bytes
	maxPassword = 1024 // bytes

	// hashesAtOnce bounds the memory that logins take: 64 MiB each.
	hashesAtOnce = 2
	// hashesWaiting bounds those who wait for one of them.
	hashesWaiting = 512
	// waitingEach bounds those of one address, so that one that sends many
	// passwords at once leaves room for others.
	waitingEach = hashesWaiting / 4

	// proofLife is for how long a password that was right need not be hashed
	// again: a push asks for a token for each of its steps.
	proofLife    = time.Minute
	proofsPerGen = 1024
)

// errBusy is returned when too many logins wait already.
var errBusy error = busy{}

type busy struct{}

func (busy) Error() string { return "too many logins at once" }

// Later is the status of the answer and the seconds after which to try again.
func (busy) Later() (status, seconds int) { return http.StatusServiceUnavailable, 5 }

// passwords hashes and compares, a few at once.
type passwords struct {
	cost    cost
	slots   chan struct{}
	waiting atomic.Int64
	decoy   string // a hash that no password has, for users that are not there
	key     []byte // of the proofs, of this process only

	mu          sync.Mutex
	inLine      map[string]int              // by address, those who wait or hash; guarded by mu
	young, aged map[[sha256.Size]byte]proof // guarded by mu
}

// proof remembers that a password matched a stored hash.
type proof struct {
	stored string
	until  time.Time
}

func newPasswords(c cost) *passwords {
	random := make([]byte, saltBytes+hashBytes+32)
	rand.Read(random) // crypto/rand.Read never fails (it ends the process instead)
	return &passwords{
		cost: c, slots: make(chan struct{}, hashesAtOnce),
		decoy: encodeHash(c, random[:saltBytes], random[saltBytes:saltBytes+hashBytes]),
		key:   random[saltBytes+hashBytes:], inLine: map[string]int{},
	}
}

// hash makes the stored form of a new password, in the PHC string format
// (https://github.com/P-H-C/phc-string-format).
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	if len(password) < minPassword || len(password) > maxPassword {
		return "", fmt.Errorf("the password is %w: it needs %d to %d bytes", ErrInvalid, minPassword, maxPassword)
	}
	release, err := p.slot(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	salt := make([]byte, saltBytes)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("draw a salt: %w", err)
	}
	return encodeHash(p.cost, salt, p.cost.derive(password, salt)), nil
}

// matches compares a password with a stored hash. The caller holds a slot.
func (p *passwords) matches(password, stored string) (bool, error) {
	c, salt, want, err := decodeHash(stored)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(c.derive(password, salt), want) == 1, nil
}

// slot waits for room to hash.
func (p *passwords) slot(ctx context.Context) (release func(), err error) {
	if p.waiting.Add(1) > hashesWaiting {
		p.waiting.Add(-1)
		return nil, errBusy
	}
	defer p.waiting.Add(-1)
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to check a password: %w", ctx.Err())
	}
}

// slotFor is slot for somebody at an address.
func (p *passwords) slotFor(ctx context.Context, address string) (release func(), err error) {
	if !p.lineUp(address) {
		return nil, errBusy
	}
	free, err := p.slot(ctx)
	if err != nil {
		p.leave(address)
		return nil, err
	}
	return func() { free(); p.leave(address) }, nil
}

func (p *passwords) lineUp(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inLine[address] >= waitingEach {
		return false
	}
	p.inLine[address]++
	return true
}

func (p *passwords) leave(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inLine[address]--; p.inLine[address] <= 0 {
		delete(p.inLine, address)
	}
}

// proven reports whether this password was found right for this stored hash
// a moment ago. A changed password changes the stored hash, and so ends it.
func (p *passwords) proven(user, password, stored string, now time.Time) bool {
	sum := p.proofOf(user, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	got, ok := p.young[sum]
	if !ok {
		got, ok = p.aged[sum]
	}
	return ok && got.stored == stored && now.Before(got.until)
}

func (p *passwords) prove(user, password, stored string, now time.Time) {
	sum := p.proofOf(user, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.young == nil || len(p.young) >= proofsPerGen {
		p.young, p.aged = map[[sha256.Size]byte]proof{}, p.young
	}
	p.young[sum] = proof{stored: stored, until: now.Add(proofLife)}
}

func (p *passwords) proofOf(user, password string) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(user + "\x00" + password)) // a user name holds no zero byte
	copy(sum[:], mac.Sum(nil))
	return sum
}

func (c cost) derive(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, c.time, c.memory, c.threads, hashBytes)
}

func encodeHash(c cost, salt, hash []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.time, c.threads, b64.EncodeToString(salt), b64.EncodeToString(hash))
}

func decodeHash(s string) (c cost, salt, hash []byte, err error) {
	bad := errors.New("a stored password hash cannot be read: set the password anew")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return cost{}, nil, nil, bad
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.time, &c.threads); err != nil || n != 3 {
		return cost{}, nil, nil, bad
	}
	if c.memory == 0 || c.memory > 1<<20 || c.time == 0 || c.time > 100 || c.threads == 0 {
		return cost{}, nil, nil, bad
	}
	var errSalt, errHash error
	salt, errSalt = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	hash, errHash = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errSalt != nil || errHash != nil || len(salt) < 8 || len(hash) != hashBytes {
		return cost{}, nil, nil, bad
	}
	return c, salt, hash, nil
}
