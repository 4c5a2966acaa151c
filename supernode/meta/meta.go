// Package meta keeps the supernode's metadata: one small ordered key-value
// store with compare-and-commit and nothing else. It is small so that an
// embedded engine (bbolt) and a distributed one (etcd) can both implement it
// under one conformance suite, package metatest; NewMemory is the in-memory
// twin for tests.
//
// There is no interactive transaction. What does not fit into one Commit is
// done in batches that may be repeated.
package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
)

// Limits that every engine keeps, so that code written on one runs on all.
const (
	// MaxOps bounds the operations, and apart from them the compares, of one
	// Commit.
	MaxOps = 100
	// MaxCommitBytes bounds the keys and data of one Commit.
	MaxCommitBytes = 1 << 20
	// MaxKeyBytes bounds a key.
	MaxKeyBytes = 2048
	// MaxList bounds the values that one List returns.
	MaxList = 1000
	// MaxListBytes bounds their data; the value that passes it is the last.
	MaxListBytes = 2 << 20
)

// Errors of a Store; test for them with errors.Is.
var (
	// ErrConflict says that a compare did not hold and nothing was written.
	ErrConflict = errors.New("metadata changed in between")
	// ErrNotFound says that there is no value under a key.
	ErrNotFound = errors.New("no such key")
	// ErrInvalid says that a request breaks a limit or a rule of this package.
	ErrInvalid = errors.New("invalid metadata request")
	// ErrCompacted says that the history a watch asks for is gone: list again,
	// then watch from the revision taken before that list.
	ErrCompacted = errors.New("history is compacted, list again")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("metadata store is closed")
)

// Revision counts the commits that changed something, from 1. It belongs to
// one engine and its life time: it orders nothing across engines or backups.
type Revision uint64

// Value is what a key holds, and the revision of the commit that put it.
type Value struct {
	Key      string
	Data     []byte
	Revision Revision
}

// Compare holds when the key's value has this revision; 0 means that the key
// is absent.
type Compare struct {
	Key      string
	Revision Revision
}

// Op is one change of a commit. Make one with Put or Delete.
type Op struct {
	Key    string
	Data   []byte
	Delete bool
}

// Put sets a key.
func Put(key string, data []byte) Op { return Op{Key: key, Data: data} }

// Delete removes a key; removing an absent one changes nothing.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Event is one change that a watch reports.
type Event struct {
	Key      string
	Data     []byte // nil when Deleted
	Deleted  bool
	Revision Revision
}

// Store is the ordered key-value store. All methods may be called at once
// from many goroutines. Returned data is the caller's.
type Store interface {
	// Commit applies all ops when all compares hold, durably and as one, and
	// returns the revision. ErrConflict: a compare did not hold, nothing was
	// written. No two ops may name one key. An error other than ErrConflict,
	// ErrInvalid and ErrClosed leaves open whether the ops were applied.
	Commit(ctx context.Context, compares []Compare, ops []Op) (Revision, error)
	// Get returns the value of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Value, error)
	// List returns, in order, values whose key has the prefix and is not
	// below from; at most limit (0: MaxList), and fewer when MaxList or
	// MaxListBytes is reached. Only an empty list is the end.
	List(ctx context.Context, prefix, from string, limit int) ([]Value, error)
	// Revision is the revision of the last commit.
	Revision(ctx context.Context) (Revision, error)
	// Watch yields the events of each later commit than after, in order, one
	// commit at a time, for keys with the prefix. It ends with an error:
	// ErrCompacted when that history is gone or the watcher fell too far
	// behind, ErrClosed, or the context's.
	Watch(ctx context.Context, prefix string, after Revision) iter.Seq2[[]Event, error]
	// Close ends the store; watches end with ErrClosed.
	Close() error
}

// Backuper is what an engine may offer beside Store.
type Backuper interface {
	// Backup writes a consistent copy that the engine can be started from,
	// while the store stays in use.
	Backup(w io.Writer) error
}

// Scan walks over all values with the prefix, page by page. It is no
// snapshot: what is committed meanwhile may or may not be seen.
func Scan(ctx context.Context, s Reader, prefix string) iter.Seq2[Value, error] {
	return ScanFrom(ctx, s, prefix, "")
}

// ScanFrom is Scan from a key on.
func ScanFrom(ctx context.Context, s Reader, prefix, from string) iter.Seq2[Value, error] {
	return func(yield func(Value, error) bool) {
		for {
			page, err := s.List(ctx, prefix, from, 0)
			if err != nil {
				yield(Value{}, err)
				return
			}
			for _, v := range page {
				if !yield(v, nil) {
					return
				}
				from = v.Key + "\x00"
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

func checkCommit(compares []Compare, ops []Op) error {
	if len(ops) > MaxOps || len(compares) > MaxOps {
		return fmt.Errorf("%w: %d ops and %d compares, at most %d each fit one commit", ErrInvalid, len(ops), len(compares), MaxOps)
	}
	size := 0
	for _, c := range compares {
		if err := checkKey(c.Key); err != nil {
			return err
		}
		size += len(c.Key)
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if err := checkKey(op.Key); err != nil {
			return err
		}
		if seen[op.Key] {
			return fmt.Errorf("%w: two ops of one commit name the key %q", ErrInvalid, op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Data)
	}
	if size > MaxCommitBytes {
		return fmt.Errorf("%w: a commit of %d bytes, at most %d are taken", ErrInvalid, size, MaxCommitBytes)
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: a key of %d bytes, 1 to %d are taken", ErrInvalid, len(key), MaxKeyBytes)
	}
	return nil
}

// listStart is the first key to look at and the number of values to return.
func listStart(prefix, from string, limit int) (string, int) {
	if limit <= 0 || limit > MaxList {
		limit = MaxList
	}
	return max(prefix, from), limit
}

func hasPrefix(key, prefix string) bool { return strings.HasPrefix(key, prefix) }
