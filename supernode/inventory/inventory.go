package inventory

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	clusterPrefix = "inventory/cluster/"
	poolPrefix    = "inventory/pool/"
	rolePrefix    = "inventory/role/"   // followed by pool/user
	serverPrefix  = "inventory/server/" // followed by the ID, as the next three
	factsPrefix   = "inventory/facts/"
	stepsPrefix   = "inventory/steps/"
	requestPrefix = "inventory/request/"
	seatsPrefix   = "inventory/seats/" // followed by the pool
	namePrefix    = "inventory/name/"  // the ID of the server of a name
	peerPrefix    = "inventory/peer/"  // the ID of the server of a peer
)

var (
	// ErrInvalid is wrapped when a name or a setting cannot be taken.
	ErrInvalid = errors.New("not valid")
	// ErrExists is wrapped when a name is taken.
	ErrExists = errors.New("there is one of this name")
	// ErrNoCluster is wrapped for a cluster that is not there.
	ErrNoCluster = errors.New("no such cluster")
	// ErrNoServer is wrapped for a server that is not there, or is none that
	// the caller may see.
	ErrNoServer = errors.New("no such server, or none that you may see")
	// ErrNoRole is wrapped when a role is taken away that nobody has.
	ErrNoRole = errors.New("has no role there")
	// ErrHolds is wrapped when something that is to go still holds something.
	ErrHolds = errors.New("it is not empty")
	// ErrPhase is wrapped when a server is not in a phase for that.
	ErrPhase = errors.New("not in this phase")
	// ErrQuota is wrapped when a pool would pass its quota.
	ErrQuota = errors.New("more than the pool's quota")
)

// Store is what this package needs of meta.Store.
type Store interface {
	Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error)
	Get(ctx context.Context, key string) (meta.Value, error)
	List(ctx context.Context, prefix, from string, limit int) ([]meta.Value, error)
}

// Config is what an Inventory is made of.
type Config struct {
	Meta Store
	Now  func() time.Time
	Log  *slog.Logger
	// UserID is the very user's of a name; "" for a name that nobody has.
	UserID func(ctx context.Context, name string) (string, error)
	// ProviderFor names who makes machines in clusters of a kind; its error
	// says what to do instead. May be nil where nobody does.
	ProviderFor func(kind string) (string, error)
	// Profile reports what is wrong with a profile and a pool's settings of it:
	// there may be none of that name. May be nil.
	Profile func(name string, settings map[string]string) error
	// OnChange is told of each change of a server after it was committed, and
	// of the changes of one server in their order. It must not change the
	// inventory before it returns. What happened right before a supernode was
	// killed is not told again: who listens looks at all servers when it
	// starts. before is empty for a new server. May be nil.
	OnChange func(ctx context.Context, before, after Server)
}

// Inventory is the book. It is safe for concurrent use.
type Inventory struct {
	cfg Config
	// servers is locked, by the hash of the ID, while a server is changed and
	// the change is told.
	servers [64]sync.Mutex
	// seating is held while the seats of a pool are counted and written. It is
	// taken after a server's lock.
	seating sync.Mutex
}

// New opens the book.
func New(cfg Config) (*Inventory, error) {
	if cfg.Meta == nil || cfg.Now == nil || cfg.Log == nil || cfg.UserID == nil {
		return nil, errors.New("inventory: Meta, Now, Log and UserID are all needed")
	}
	return &Inventory{cfg: cfg}, nil
}

func (i *Inventory) lock(id string) *sync.Mutex {
	h := fnv.New32a()
	h.Write([]byte(id))
	return &i.servers[h.Sum32()%uint32(len(i.servers))]
}

// conflictTries bounds how often a change is tried again after somebody else
// wrote.
const conflictTries = 32

// errUnchanged ends a change that has nothing to write.
var errUnchanged = errors.New("nothing to change")

// update reads the record under key, lets change make a new one of it, and
// commits that with extra if nobody wrote in between; else it starts again.
// old is nil when there is none.
func update[T any](ctx context.Context, s Store, key string, change func(old *T) (next *T, compares []meta.Compare, extra []meta.Op, err error)) error {
	for range conflictTries {
		old, revision, err := meta.ReadRecord[T](ctx, s, key)
		if err != nil {
			return err
		}
		next, compares, ops, err := change(old)
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if err != nil {
			return err
		}
		write := meta.Delete(key)
		if next != nil {
			if write, err = meta.PutRecord(key, next); err != nil {
				return err
			}
		}
		_, err = s.Commit(ctx, append(compares, meta.Compare{Key: key, Revision: revision}), append(ops, write))
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("write %s: %w, %d times over; try again", key, meta.ErrConflict, conflictTries)
}
