package ssh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/provision"
)

const (
	machinePrefix = "provision/ssh/machine/" // followed by the key
	addressPrefix = "provision/ssh/address/" // the key of the machine at an address
)

// Store is what this package needs of meta.Store.
type Store interface {
	Commit(ctx context.Context, compares []meta.Compare, ops []meta.Op) (meta.Revision, error)
	Get(ctx context.Context, key string) (meta.Value, error)
	List(ctx context.Context, prefix, from string, limit int) ([]meta.Value, error)
}

// entry is an adopted machine in the ledger.
type entry struct {
	Key     string          `json:"key"`
	Tag     string          `json:"tag"`
	Address string          `json:"address"` // host:port
	User    string          `json:"user"`
	HostKey string          `json:"host_key"`
	State   provision.State `json:"state"` // Partial, Running or Ending
	Created time.Time       `json:"created"`
	// Since is when the state was entered.
	Since time.Time `json:"since"`
}

func (e *entry) machine() provision.Machine {
	return provision.Machine{ID: e.Key, Key: e.Key, State: e.State, Address: e.Address, Created: e.Created}
}

// ledger is the book of adopted machines. Each address is in it once.
type ledger struct{ store Store }

// get returns nil when there is no entry.
func (l ledger) get(ctx context.Context, key string) (*entry, meta.Revision, error) {
	v, err := l.store.Get(ctx, machinePrefix+key)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the ledger of machines: %w", err)
	}
	e, err := entryOf(v)
	return e, v.Revision, err
}

func entryOf(v meta.Value) (*entry, error) {
	e := &entry{}
	if err := json.Unmarshal(v.Data, e); err != nil {
		return nil, fmt.Errorf("read %s: %w; restore a backup", v.Key, err)
	}
	return e, nil
}

// put writes an entry over that of a revision, with its address. An address
// that another machine has is refused.
func (l ledger) put(ctx context.Context, old *entry, revision meta.Revision, e *entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode the ledger of machines: %w", err)
	}
	compares := []meta.Compare{{Key: machinePrefix + e.Key, Revision: revision}}
	ops := []meta.Op{meta.Put(machinePrefix+e.Key, data)}
	if old == nil || old.Address != e.Address {
		holder, err := l.store.Get(ctx, addressPrefix+e.Address)
		switch {
		case err == nil && string(holder.Data) != e.Key:
			return fmt.Errorf("%w: %s is adopted already, as server %s; retire that one first", provision.ErrRefused, e.Address, holder.Data)
		case err != nil && !errors.Is(err, meta.ErrNotFound):
			return fmt.Errorf("read the ledger of machines: %w", err)
		}
		compares = append(compares, meta.Compare{Key: addressPrefix + e.Address, Revision: holder.Revision})
		ops = append(ops, meta.Put(addressPrefix+e.Address, []byte(e.Key)))
		if old != nil {
			ops = append(ops, meta.Delete(addressPrefix+old.Address))
		}
	}
	if _, err := l.store.Commit(ctx, compares, ops); err != nil {
		return fmt.Errorf("write the ledger of machines: %w", err)
	}
	return nil
}

// remove takes an entry out.
func (l ledger) remove(ctx context.Context, e *entry, revision meta.Revision) error {
	_, err := l.store.Commit(ctx, []meta.Compare{{Key: machinePrefix + e.Key, Revision: revision}},
		[]meta.Op{meta.Delete(machinePrefix + e.Key), meta.Delete(addressPrefix + e.Address)})
	if err != nil {
		return fmt.Errorf("write the ledger of machines: %w", err)
	}
	return nil
}

// all lists the entries with a tag.
func (l ledger) all(ctx context.Context, tag string) (out []provision.Machine, err error) {
	from := ""
	for {
		page, err := l.store.List(ctx, machinePrefix, from, 0)
		if err != nil {
			return nil, fmt.Errorf("read the ledger of machines: %w", err)
		}
		if len(page) == 0 {
			return out, nil
		}
		for _, v := range page {
			e, err := entryOf(v)
			if err != nil {
				return nil, err
			}
			if e.Tag == tag {
				out = append(out, e.machine())
			}
			from = v.Key + "\x00"
		}
		if len(out) > provision.MaxMachines {
			return nil, fmt.Errorf("the ledger holds more than %d machines", provision.MaxMachines)
		}
	}
}
