package meta

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
)

// Memory is the in-memory twin of the engines. Nothing survives it.
type Memory struct {
	history *history

	mu       sync.RWMutex
	values   []Value  // guarded by mu, ascending by key
	revision Revision // guarded by mu
	closed   bool     // guarded by mu
}

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{history: newHistory(0)} }

// find is where key is, or would be. The caller holds mu.
func (m *Memory) find(key string) (int, bool) {
	return slices.BinarySearchFunc(m.values, key, func(v Value, key string) int { return strings.Compare(v.Key, key) })
}

// Commit implements Store.
func (m *Memory) Commit(ctx context.Context, compares []Compare, ops []Op) (Revision, error) {
	if err := checkCommit(compares, ops); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("commit metadata: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, ErrClosed
	}
	for _, c := range compares {
		var have Revision
		if i, ok := m.find(c.Key); ok {
			have = m.values[i].Revision
		}
		if have != c.Revision {
			return 0, ErrConflict
		}
	}
	var events []Event
	for _, op := range ops {
		i, ok := m.find(op.Key)
		switch {
		case op.Delete && !ok:
			continue
		case op.Delete:
			m.values = slices.Delete(m.values, i, i+1)
		case ok:
			m.values[i] = Value{Key: op.Key, Data: bytes.Clone(op.Data), Revision: m.revision + 1}
		default:
			m.values = slices.Insert(m.values, i, Value{Key: op.Key, Data: bytes.Clone(op.Data), Revision: m.revision + 1})
		}
		events = append(events, eventOf(op, m.revision+1))
	}
	if len(events) > 0 {
		m.revision++
		m.history.add(m.revision, events)
	}
	return m.revision, nil
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Value, error) {
	if err := checkKey(key); err != nil {
		return Value{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return Value{}, ErrClosed
	}
	i, ok := m.find(key)
	if !ok {
		return Value{}, fmt.Errorf("%w: %q", ErrNotFound, key)
	}
	return copyOf(m.values[i]), nil
}

func copyOf(v Value) Value {
	v.Data = append([]byte{}, v.Data...)
	return v
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix, from string, limit int) ([]Value, error) {
	start, limit := listStart(prefix, from, limit)
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, ErrClosed
	}
	var out []Value
	size := 0
	for i, _ := m.find(start); i < len(m.values) && len(out) < limit && size < MaxListBytes && hasPrefix(m.values[i].Key, prefix); i++ {
		out = append(out, copyOf(m.values[i]))
		size += len(m.values[i].Data)
	}
	return out, nil
}

// Revision implements Store.
func (m *Memory) Revision(ctx context.Context) (Revision, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return 0, ErrClosed
	}
	return m.revision, nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix string, after Revision) iter.Seq2[[]Event, error] {
	return m.history.watch(ctx, prefix, after)
}

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.history.close()
	return nil
}
