// Package provision makes machines for the servers of the inventory and takes
// them back. What makes them is behind one small interface, Provider, so that
// metal behind SSH, a cloud and a cluster look the same; package
// provisiontest holds its conformance suite and the in-memory twin.
//
// Three things are true of every cloud: a call may fail after it took effect,
// a supernode may die between any two calls, and a list may not show yet what
// was just made. So nothing here remembers what it did. The Reconciler
// compares what the inventory wants with what the provider shows, over and
// over, and every call is one that may be repeated: the intent stands in the
// inventory before a machine is asked for, the server's ID is the key by
// which it is asked for, each machine carries that key, and all that carry
// the fleet's tag are listed before anything is asked for again. What carries
// the tag and belongs to nobody is taken back.
//
// Limits: one supernode reconciles a provider at a time. The whole list of
// machines is held in memory, MaxMachines at most.
package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// MaxMachines bounds what a provider lists for one tag.
	MaxMachines = 20_000
	// MaxKey bounds a key and a tag, in bytes: it is what a tag of OpenStack's
	// Nova takes; a label of Kubernetes takes 63, a client token of EC2 64.
	MaxKey = 60
)

// Errors of a Provider; test for them with errors.Is. Any other error is
// taken for one that passes, and leaves open whether the call took effect.
var (
	// ErrNoMachine says that there is no machine with an ID, any more or at all.
	ErrNoMachine = errors.New("there is no such machine")
	// ErrRefused says that the call cannot succeed as it is, so that repeating
	// it is of no use: a wrong host key, a quota, a machine of somebody else's.
	ErrRefused = errors.New("refused for good")
)

// BusyError says that the provider wants to be left alone for a while, all of
// it: "429 Too Many Requests", or "503" with a Retry-After.
type BusyError struct {
	After time.Duration // 0 when it did not say how long
	Err   error
}

// Error tells what the provider said.
func (e *BusyError) Error() string { return fmt.Sprintf("the provider is busy: %v", e.Err) }

// Unwrap is what the provider said.
func (e *BusyError) Unwrap() error { return e.Err }

// Provider makes machines. All methods may be called at once from many
// goroutines, and end with their context.
type Provider interface {
	// Create makes the machine for a key, or goes on making it, and returns it;
	// it need not run yet. The same key is the same machine, however often and
	// by however many it is asked for. The machine shows in List with its key
	// from its first moment on, also when Create was cut off half-way.
	Create(ctx context.Context, key string, spec Spec) (Machine, error)
	// Get returns the machine with an ID of the provider's, or ErrNoMachine.
	Get(ctx context.Context, id string) (Machine, error)
	// List returns all machines with the tag, in no order. One that was just
	// made may be missing for a while.
	List(ctx context.Context, tag string) ([]Machine, error)
	// Delete takes a machine back. It may still be shown while it ends. No
	// machine with the ID is no error.
	Delete(ctx context.Context, id string) error
}

// Spec is what is to be made.
type Spec struct {
	// Tag marks the machine as this fleet's.
	Tag           string
	Name          string // of the server, for people
	Pool          string
	HardwareClass string
	// Of a machine that stands already: host[:port], the user, and the key by
	// which the host shows that it is the right one.
	Address, User, HostKey string
	// Join draws a token by which the machine's agent joins as this server. It
	// is a secret; call it only when it is to be handed over.
	Join func(ctx context.Context) (string, error)
}

// State is how far a machine is.
type State int

// The states of a Machine.
const (
	// Partial: Create was cut off, and has to be called again to go on.
	Partial State = iota + 1
	// Building: it comes up by itself.
	Building
	// Running: it was started, and its agent can join.
	Running
	// Broken: it will never run. Machine.Reason says why.
	Broken
	// Ending: it was deleted and still shows.
	Ending
)

// String names the state, for logs.
func (s State) String() string {
	names := [...]string{"unknown", "partial", "building", "running", "broken", "ending"}
	if s < 0 || int(s) >= len(names) {
		return names[0]
	}
	return names[s]
}

// Machine is what a provider made.
type Machine struct {
	ID      string // the provider's name for it, never used for another one
	Key     string // that it was made for
	State   State
	Reason  string
	Address string // host[:port], where the provider knows it
	Created time.Time
}

// CheckKey says whether every provider can carry a key, or a tag: 1 to 60
// lower-case letters, digits and dashes, not a dash at either end. The error
// wraps ErrRefused.
func CheckKey(key string) error {
	bad := strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
	if key == "" || len(key) > MaxKey || bad || strings.HasPrefix(key, "-") || strings.HasSuffix(key, "-") {
		return fmt.Errorf("%w: the key %.80q is not 1 to %d of a-z, 0-9 and - with no dash at an end", ErrRefused, key, MaxKey)
	}
	return nil
}
