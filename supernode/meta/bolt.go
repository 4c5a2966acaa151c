package meta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/shoalproject/shoal/pkg/durable"
)

var (
	bucketValues = []byte("values") // key → 8 bytes of revision, data
	bucketState  = []byte("state")
	keyRevision  = []byte("revision")
	keyFormat    = []byte("format")
)

// format numbers what the keys and records in the file mean. It grows when a
// supernode of before would misread what one of now writes.
const format = 1

// ErrFormat is wrapped when a file was written in a way that is not known here.
var ErrFormat = errors.New("the format of the metadata is not known")

const (
	// openPatience is how long OpenBolt waits for another process's lock.
	openPatience = 2 * time.Second
	// groupLimit bounds the commits that share one disk write.
	groupLimit = 64
)

// Bolt is the embedded engine: one bbolt file, owned by one process. Commits
// that wait while the disk is busy share the next write.
type Bolt struct {
	db       *bolt.DB
	history  *history
	requests chan *request
	closing  chan struct{}
	closed   chan struct{} // closed when the writer has ended
	once     sync.Once
	closeErr error // written inside once

	revision Revision // owned by the writer goroutine
}

type request struct {
	compares []Compare
	ops      []Op
	outcome  chan outcome
}

type outcome struct {
	revision Revision
	err      error
	events   []Event
}

// OpenBolt opens or creates the store in a file, mode 0600.
func OpenBolt(path string) (*Bolt, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openPatience, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open metadata %s: another process holds it; stop that one first: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
	}
	b := &Bolt{
		db:       db,
		requests: make(chan *request),
		closing:  make(chan struct{}),
		closed:   make(chan struct{}),
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketValues); err != nil {
			return err
		}
		state, err := tx.CreateBucketIfNotExists(bucketState)
		if err != nil {
			return err
		}
		if raw := state.Get(keyRevision); len(raw) == 8 {
			b.revision = Revision(binary.BigEndian.Uint64(raw))
		}
		return checkFormat(state)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare metadata %s: %w", path, err), db.Close())
	}
	// bbolt syncs the file, not its name.
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare metadata %s: %w", path, err), db.Close())
	}
	b.history = newHistory(b.revision)
	go b.write()
	return b, nil
}

// checkFormat refuses a file of another format. One without a number is new, or
// of the time before there were numbers, which is format 1.
func checkFormat(state *bolt.Bucket) error {
	raw := state.Get(keyFormat)
	if raw == nil {
		return state.Put(keyFormat, binary.BigEndian.AppendUint64(nil, format))
	}
	if len(raw) != 8 {
		return fmt.Errorf("%w: its number is damaged; restore a backup", ErrFormat)
	}
	if got := binary.BigEndian.Uint64(raw); got != format {
		return fmt.Errorf("%w: it is %d, and this supernode reads %d; run the version of the supernode that wrote it, or restore a backup from before that one", ErrFormat, got, format)
	}
	return nil
}

// Commit implements Store.
func (b *Bolt) Commit(ctx context.Context, compares []Compare, ops []Op) (Revision, error) {
	if err := checkCommit(compares, ops); err != nil {
		return 0, err
	}
	req := &request{compares: compares, ops: ops, outcome: make(chan outcome, 1)}
	select {
	case b.requests <- req:
	case <-b.closing:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, fmt.Errorf("commit metadata: %w", ctx.Err())
	}
	// Once handed over it is going to be decided: wait for the truth rather
	// than for the context.
	out := <-req.outcome
	return out.revision, out.err
}

// write is the goroutine that owns writing.
func (b *Bolt) write() {
	defer close(b.closed)
	for {
		select {
		case <-b.closing:
			return
		case first := <-b.requests:
			b.writeGroup(b.gather(first))
		}
	}
}

// gather adds those who wait already.
func (b *Bolt) gather(first *request) []*request {
	group := []*request{first}
	for len(group) < groupLimit {
		select {
		case req := <-b.requests:
			group = append(group, req)
		default:
			return group
		}
	}
	return group
}

func (b *Bolt) writeGroup(group []*request) {
	outcomes := make([]outcome, len(group))
	revision := b.revision
	err := b.db.Update(func(tx *bolt.Tx) error {
		for i, req := range group {
			out, err := apply(tx.Bucket(bucketValues), req, revision)
			if err != nil {
				return err
			}
			outcomes[i], revision = out, max(revision, out.revision)
		}
		return tx.Bucket(bucketState).Put(keyRevision, binary.BigEndian.AppendUint64(nil, uint64(revision)))
	})
	if err != nil {
		for _, req := range group {
			req.outcome <- outcome{err: fmt.Errorf("write metadata: %w", err)}
		}
		return
	}
	b.revision = revision
	for i, req := range group {
		if len(outcomes[i].events) > 0 {
			b.history.add(outcomes[i].revision, outcomes[i].events)
		}
		req.outcome <- outcomes[i]
	}
}

// apply carries one request out on top of revision. A compare that does not
// hold is an outcome; an error is the engine's and ends the whole group.
func apply(values *bolt.Bucket, req *request, revision Revision) (outcome, error) {
	for _, c := range req.compares {
		if revisionOf(values.Get([]byte(c.Key))) != c.Revision {
			return outcome{err: ErrConflict}, nil
		}
	}
	var events []Event
	for _, op := range req.ops {
		key := []byte(op.Key)
		if op.Delete {
			if values.Get(key) == nil {
				continue
			}
			if err := values.Delete(key); err != nil {
				return outcome{}, err
			}
		} else {
			raw := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(op.Data)), uint64(revision+1))
			if err := values.Put(key, append(raw, op.Data...)); err != nil {
				return outcome{}, err
			}
		}
		events = append(events, eventOf(op, revision+1))
	}
	if len(events) > 0 {
		revision++
	}
	return outcome{revision: revision, events: events}, nil
}

func revisionOf(raw []byte) Revision {
	if len(raw) < 8 {
		return 0
	}
	return Revision(binary.BigEndian.Uint64(raw))
}

func valueOf(key, raw []byte) (Value, error) {
	if len(raw) < 8 {
		return Value{}, fmt.Errorf("metadata of %q is damaged: %d bytes; restore a backup", key, len(raw))
	}
	return Value{Key: string(key), Data: bytes.Clone(raw[8:]), Revision: revisionOf(raw)}, nil
}

// view runs a read.
func (b *Bolt) view(fn func(tx *bolt.Tx) error) error {
	err := b.db.View(fn)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Get implements Store.
func (b *Bolt) Get(ctx context.Context, key string) (Value, error) {
	if err := checkKey(key); err != nil {
		return Value{}, err
	}
	var v Value
	err := b.view(func(tx *bolt.Tx) (err error) {
		raw := tx.Bucket(bucketValues).Get([]byte(key))
		if raw == nil {
			return fmt.Errorf("%w: %q", ErrNotFound, key)
		}
		v, err = valueOf([]byte(key), raw)
		return err
	})
	return v, err
}

// List implements Store.
func (b *Bolt) List(ctx context.Context, prefix, from string, limit int) ([]Value, error) {
	start, limit := listStart(prefix, from, limit)
	var out []Value
	err := b.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketValues).Cursor()
		size := 0
		for key, raw := cursor.Seek([]byte(start)); key != nil && len(out) < limit && size < MaxListBytes && bytes.HasPrefix(key, []byte(prefix)); key, raw = cursor.Next() {
			v, err := valueOf(key, raw)
			if err != nil {
				return err
			}
			out = append(out, v)
			size += len(v.Data)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Revision implements Store.
func (b *Bolt) Revision(ctx context.Context) (Revision, error) {
	var revision Revision
	err := b.view(func(tx *bolt.Tx) error {
		revision = revisionOf(tx.Bucket(bucketState).Get(keyRevision))
		return nil
	})
	return revision, err
}

// Watch implements Store. The history of earlier processes is compacted.
func (b *Bolt) Watch(ctx context.Context, prefix string, after Revision) iter.Seq2[[]Event, error] {
	return b.history.watch(ctx, prefix, after)
}

// Backup implements Backuper: the copy is a bbolt file.
func (b *Bolt) Backup(w io.Writer) error {
	err := b.view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up metadata: %w", err)
	}
	return nil
}

// Close implements Store. Commits that were handed over finish first.
func (b *Bolt) Close() error {
	b.once.Do(func() {
		close(b.closing)
		<-b.closed
		b.history.close()
		b.closeErr = b.db.Close()
	})
	return b.closeErr
}
