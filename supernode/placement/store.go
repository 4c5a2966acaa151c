package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/shoalproject/shoal/supernode/meta"
)

// Keys: place/name/NAME holds a Record, place/host/SERVER a HostRecord. Each
// commit by which more is held in a pool puts place/pool/POOL too and compares
// it, so that no two of them count the pool at once.
const (
	namePrefix = "place/name/"
	hostPrefix = "place/host/"
	poolPrefix = "place/pool/"

	// hostsAtOnce bounds the host records of one commit, by the room that as many
	// full ones take.
	hostsAtOnce = 32
	// conflictTries is how often a commit is tried when others were faster.
	conflictTries = 20
)

// versioned is a record as read; revision 0 is one that is not there.
type versioned[T any] struct {
	value    T
	revision meta.Revision
}

func read[T any](ctx context.Context, store meta.Store, key string) (v versioned[T], err error) {
	raw, err := store.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("read %s: %w", key, err)
	}
	return decode[T](raw)
}

func decode[T any](raw meta.Value) (v versioned[T], err error) {
	data, err := unpacked(raw.Data)
	if err == nil {
		err = json.Unmarshal(data, &v.value)
	}
	if err != nil {
		return v, fmt.Errorf("read %s: %w", raw.Key, err)
	}
	v.revision = raw.Revision
	return v, nil
}

func put(key string, value any) (meta.Op, error) {
	data, err := json.Marshal(value)
	if err == nil {
		data, err = packed(data)
	}
	if err != nil {
		return meta.Op{}, fmt.Errorf("encode %s: %w", key, err)
	}
	return meta.Put(key, data), nil
}

// load reads a placement. The error wraps ErrNotFound.
func (r *Runner) load(ctx context.Context, name string) (versioned[Record], error) {
	v, err := read[Record](ctx, r.cfg.Meta, namePrefix+name)
	if err == nil && v.revision == 0 {
		err = fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return v, err
}

// save writes a placement over the version that was read. The error wraps
// meta.ErrConflict when that is not the last one any more.
func (r *Runner) save(ctx context.Context, v versioned[Record]) (versioned[Record], error) {
	op, err := put(namePrefix+v.value.Name, v.value)
	if err != nil {
		return v, err
	}
	v.revision, err = r.cfg.Meta.Commit(ctx, []meta.Compare{{Key: op.Key, Revision: v.revision}}, []meta.Op{op})
	if err != nil {
		return v, fmt.Errorf("write placement %s: %w", v.value.Name, err)
	}
	r.tellChanged(v.value.Name)
	return v, nil
}

// change edits a placement, and again when somebody else was faster.
func (r *Runner) change(ctx context.Context, name string, edit func(*Record) error) (Record, error) {
	for range conflictTries {
		v, err := r.load(ctx, name)
		if err != nil {
			return Record{}, err
		}
		if err := edit(&v.value); err != nil {
			return v.value, err
		}
		v, err = r.save(ctx, v)
		if errors.Is(err, meta.ErrConflict) {
			continue
		}
		return v.value, err
	}
	return Record{}, fmt.Errorf("change placement %s: %w; try again", name, meta.ErrConflict)
}

// records reads all placements, by name.
func (r *Runner) records(ctx context.Context) ([]Record, error) {
	var out []Record
	for raw, err := range meta.Scan(ctx, r.cfg.Meta, namePrefix) {
		if err != nil {
			return nil, fmt.Errorf("list placements: %w", err)
		}
		v, err := decode[Record](raw)
		if err != nil {
			return nil, err
		}
		out = append(out, v.value)
	}
	return out, nil
}

// hostRecords reads those of all hosts, by server.
func (r *Runner) hostRecords(ctx context.Context) (map[string]versioned[HostRecord], error) {
	out := map[string]versioned[HostRecord]{}
	for raw, err := range meta.Scan(ctx, r.cfg.Meta, hostPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list what hosts are to run: %w", err)
		}
		v, err := decode[HostRecord](raw)
		if err != nil {
			return nil, err
		}
		out[v.value.Server] = v
	}
	return out, nil
}

// sync brings the hosts' records in line with a placement's. The error wraps
// ErrNoRoom when a host, or the pool's quota, has no room for what is wanted;
// then some of it may be held and the rest not.
func (r *Runner) sync(ctx context.Context, record *Record) error {
	want := map[string][]Claim{}
	for _, s := range wanted(record) {
		want[s.server] = append(want[s.server], s.Claim)
	}
	hosts, err := r.hostsByID(ctx, record.Pool)
	if err != nil {
		return err
	}
	for range conflictTries {
		err := r.syncOnce(ctx, record, want, hosts)
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("hold capacity for placement %s: %w; it is tried again", record.Name, meta.ErrConflict)
}

// held is what all hosts' records say, and the revision of the pool's fence
// when they were read.
type held struct {
	fence meta.Revision
	all   map[string]versioned[HostRecord]
}

// batch is the part of a sync that one commit takes.
type batch struct {
	compares []meta.Compare
	ops      []meta.Op
	servers  []string
	after    map[string]HostRecord
	more     bool
}

func newBatch() batch { return batch{after: map[string]HostRecord{}} }

// add takes in a host's record as it is to be, over that of a revision.
func (b *batch) add(next HostRecord, revision meta.Revision, more bool) error {
	op, err := put(hostPrefix+next.Server, next)
	if err != nil {
		return err
	}
	b.compares = append(b.compares, meta.Compare{Key: op.Key, Revision: revision})
	b.ops, b.servers = append(b.ops, op), append(b.servers, next.Server)
	b.after[next.Server], b.more = next, b.more || more
	return nil
}

// syncOnce goes over all hosts once, some in each commit. The error wraps
// meta.ErrConflict when somebody else was faster; what was committed before
// that stays.
func (r *Runner) syncOnce(ctx context.Context, record *Record, want map[string][]Claim, hosts map[string]*Host) error {
	fence, err := read[int](ctx, r.cfg.Meta, poolPrefix+record.Pool)
	if err != nil {
		return err
	}
	all, err := r.hostRecords(ctx)
	if err != nil {
		return err
	}
	for server := range want {
		if _, ok := all[server]; !ok {
			all[server] = versioned[HostRecord]{value: HostRecord{Server: server, Pool: record.Pool}}
		}
	}
	now, b := held{fence.revision, all}, newBatch()
	for _, server := range slices.Sorted(maps.Keys(all)) {
		v := all[server]
		next, changed, more, err := adjust(v.value, record.Name, want[server], hosts[server])
		if err != nil {
			return err
		}
		if !changed {
			continue
		}
		if more { // it may have been of another pool before
			next.Pool = record.Pool
		}
		if err := b.add(next, v.revision, more); err != nil {
			return err
		}
		if len(b.ops) == hostsAtOnce {
			if err := r.commitBatch(ctx, record, b, &now); err != nil {
				return err
			}
			b = newBatch()
		}
	}
	if len(b.ops) == 0 {
		return nil
	}
	return r.commitBatch(ctx, record, b, &now)
}

// commitBatch writes a part of a sync, and into now what it came to. That the
// fence is still as it was read says that nobody else holds more since.
func (r *Runner) commitBatch(ctx context.Context, record *Record, b batch, now *held) error {
	if b.more {
		if err := r.withinQuota(ctx, record.Pool, now.all, b.after); err != nil {
			return err
		}
		b.compares = append(b.compares, meta.Compare{Key: poolPrefix + record.Pool, Revision: now.fence})
		b.ops = append(b.ops, meta.Put(poolPrefix+record.Pool, []byte("1")))
	}
	revision, err := r.cfg.Meta.Commit(ctx, b.compares, b.ops)
	if err != nil {
		return fmt.Errorf("write what hosts are to run: %w", err)
	}
	r.assign(b.servers...)
	for server, after := range b.after {
		before := now.all[server].value
		now.all[server] = versioned[HostRecord]{after, revision}
		r.hostChanged(ctx, before, after)
	}
	if b.more {
		now.fence = revision
	}
	return nil
}

// withinQuota refuses that a pool holds more than its quota.
func (r *Runner) withinQuota(ctx context.Context, pool string, all map[string]versioned[HostRecord], after map[string]HostRecord) error {
	quota, err := r.cfg.World.Quota(ctx, pool)
	if err != nil {
		return fmt.Errorf("look up the quota of pool %s: %w", pool, err)
	}
	var was, is Need
	for server, v := range all {
		next, changed := after[server]
		if !changed {
			next = v.value
		}
		if v.value.Pool == pool {
			was = was.plus(v.value.takes())
		}
		if next.Pool == pool {
			is = is.plus(next.takes())
		}
	}
	if quota.CPU > 0 && is.CPU > quota.CPU && is.CPU > was.CPU || quota.Memory > 0 && is.Memory > quota.Memory && is.Memory > was.Memory {
		return fmt.Errorf("%w: the quota of pool %s is %dm of CPU and %d MiB, and %dm and %d MiB would be held", ErrNoRoom, pool, quota.CPU, quota.Memory>>20, is.CPU, is.Memory>>20)
	}
	return nil
}
