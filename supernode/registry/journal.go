package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// Clock is a hybrid logical clock stamp: milliseconds of Unix time in the
// upper 48 bits, a counter in the lower 16. It grows with every log entry,
// also when the wall clock is set back.
type Clock uint64

// after is the stamp that follows c at a time.
func (c Clock) after(now time.Time) Clock { return max(c+1, Clock(now.UnixMilli())<<16) }

// EntryKind says what a log entry is about.
type EntryKind string

// The kinds of log entries.
const (
	BlobLinked      EntryKind = "blob-linked"
	BlobUnlinked    EntryKind = "blob-unlinked"
	ManifestPut     EntryKind = "manifest-put"
	ManifestDeleted EntryKind = "manifest-deleted"
	TagSet          EntryKind = "tag-set"
	TagDeleted      EntryKind = "tag-deleted"
)

// Entry is one change of what the registry holds, as replication reads it.
// It was written in the commit of the change itself.
type Entry struct {
	Kind       EntryKind        `json:"kind"`
	Repository string           `json:"repository"`
	Digest     blob.Digest      `json:"digest,omitempty"`
	Tag        string           `json:"tag,omitempty"`
	MediaType  string           `json:"mediaType,omitempty"`
	Size       int64            `json:"size,omitempty"`
	Origin     string           `json:"origin"`
	Clock      Clock            `json:"clock"`
	Seen       map[string]Clock `json:"seen,omitempty"` // of a tag: the versions it replaces
	Time       time.Time        `json:"time"`
}

const (
	keyJournal = "logstate"
	prefixLog  = "log/"
)

func keyLog(epoch, sequence uint64) string {
	return fmt.Sprintf("%s%020d/%020d", prefixLog, epoch, sequence)
}

// journalState is the end of the log. Sequences are without holes.
type journalState struct {
	Epoch uint64 `json:"epoch"`
	Next  uint64 `json:"next"` // sequence of the next entry, from 1
	First uint64 `json:"first"`
	Clock Clock  `json:"clock"` // of the last entry
}

// journal commits changes together with their log entries. Its order is kept
// by a compare on the log's end; the mutex only spares this process's own
// changes from running into each other.
type journal struct {
	store  meta.Store
	origin string
	now    func() time.Time
	// account plans what a holding does to the usage of its project.
	account func(ctx context.Context, h holding) (*change, error)
	mu      sync.Mutex
}

func openJournal(ctx context.Context, store meta.Store, origin string, now func() time.Time) (*journal, error) {
	j := &journal{store: store, origin: origin, now: now}
	_, revision, err := get[journalState](ctx, store, keyJournal)
	if err != nil || revision != 0 {
		return j, err
	}
	begin := journalState{Epoch: uint64(now().UnixNano()), Next: 1, First: 1}
	_, err = store.Commit(ctx, []meta.Compare{{Key: keyJournal}}, []meta.Op{put(keyJournal, begin)})
	if err != nil && !errors.Is(err, meta.ErrConflict) {
		return nil, fmt.Errorf("begin the log: %w", err)
	}
	return j, nil
}

// change is one commit to be: what must hold, what is written, and what the
// log says about it. Its function may be called again when another commit
// came in between, and must then look at everything anew.
type change struct {
	compares []meta.Compare
	ops      []meta.Op
	entries  []Entry
	// stamped are ops that need the clock; entry i belongs to clock(i).
	stamped func(clock func(i int) Clock) []meta.Op
	// held is what the change adds to or takes from a project's usage.
	held *holding
}

func (c *change) compare(key string, revision meta.Revision) {
	c.compares = append(c.compares, meta.Compare{Key: key, Revision: revision})
}

func (c *change) write(ops ...meta.Op) { c.ops = append(c.ops, ops...) }

// maxRetries bounds how often a change is made anew before the caller hears
// of the contention.
const maxRetries = 30

// commit makes the change and commits it with its entries, again from the
// start while something else changes in between. A change without ops and
// entries commits nothing.
func (j *journal) commit(ctx context.Context, plan func() (*change, error)) error {
	for try := range maxRetries {
		err := j.try(ctx, plan)
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
	return &Error{Status: 503, Code: codeUnknown, Message: "too many changes at the same place at once; try again",
		Header: map[string][]string{"Retry-After": {"1"}}}
}

// pause waits longer from try to try, at random, so that two who collide part.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return nil
	}
	timer := time.NewTimer(rand.N(time.Duration(min(try, 8)) * 2 * time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (j *journal) try(ctx context.Context, plan func() (*change, error)) error {
	c, err := plan()
	if err != nil || len(c.ops) == 0 && len(c.entries) == 0 {
		return err
	}
	if len(c.entries) == 0 {
		_, err := j.store.Commit(ctx, c.compares, c.ops)
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	end, revision, err := get[journalState](ctx, j.store, keyJournal)
	if err != nil {
		return err
	}
	if revision == 0 {
		return errors.New("the replication log's end is gone from the metadata; restore a backup")
	}
	now := j.now()
	base := end.Clock.after(now)
	clock := func(i int) Clock { return base + Clock(i) }
	ops := append([]meta.Op(nil), c.ops...)
	for i, e := range c.entries {
		e.Origin, e.Clock, e.Time = j.origin, clock(i), now.UTC()
		ops = append(ops, put(keyLog(end.Epoch, end.Next), e))
		end.Next++
		end.Clock = e.Clock
	}
	if c.stamped != nil {
		ops = append(ops, c.stamped(clock)...)
	}
	ops = append(ops, put(keyJournal, end))
	compares := append([]meta.Compare{{Key: keyJournal, Revision: revision}}, c.compares...)
	if c.held != nil {
		// Within the lock, so that pushes into one project do not collide here.
		counted, err := j.account(ctx, *c.held)
		if err != nil {
			return err
		}
		ops, compares = append(ops, counted.ops...), append(compares, counted.compares...)
	}
	_, err = j.store.Commit(ctx, compares, ops)
	return err
}

// epoch is the log's epoch.
func (j *journal) epoch(ctx context.Context) (uint64, error) {
	end, _, err := get[journalState](ctx, j.store, keyJournal)
	return end.Epoch, err
}

// linkEntry is an entry about a blob in a repository.
func linkEntry(kind EntryKind, repo string, d blob.Digest, size int64) Entry {
	return Entry{Kind: kind, Repository: repo, Digest: d, Size: size}
}

// trimBatch bounds the entries that one commit of trim drops.
const trimBatch = 90

// trim drops the first entries that are older than a time, up to a batch of
// them, and returns their number.
func (j *journal) trim(ctx context.Context, before time.Time) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	end, revision, err := get[journalState](ctx, j.store, keyJournal)
	if err != nil {
		return 0, err
	}
	values, err := j.store.List(ctx, prefixLog, keyLog(end.Epoch, end.First), trimBatch)
	if err != nil {
		return 0, fmt.Errorf("list the log: %w", err)
	}
	var ops []meta.Op
	for _, v := range values {
		var e Entry
		if err := decode(v, &e); err != nil {
			return 0, err
		}
		if !e.Time.Before(before) {
			break
		}
		ops = append(ops, meta.Delete(v.Key))
		end.First++
	}
	if len(ops) == 0 {
		return 0, nil
	}
	_, err = j.store.Commit(ctx, []meta.Compare{{Key: keyJournal, Revision: revision}}, append(ops, put(keyJournal, end)))
	if err != nil {
		return 0, err
	}
	return len(ops), nil
}
