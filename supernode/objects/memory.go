package objects

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is the in-memory twin of the engines. Nothing survives it.
type Memory struct {
	mu      sync.Mutex
	objects map[string]*memoryEntry // guarded by mu
	uploads map[string]*memoryEntry // guarded by mu
}

type memoryEntry struct {
	data     []byte
	modified time.Time
	busy     bool
}

// NewMemory makes an empty store.
func NewMemory() *Memory {
	return &Memory{objects: map[string]*memoryEntry{}, uploads: map[string]*memoryEntry{}}
}

// Create implements Store.
func (m *Memory) Create(ctx context.Context) (Writer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := newKey()
	m.uploads[id] = &memoryEntry{modified: time.Now(), busy: true}
	return &memoryWriter{store: m, id: id, entry: m.uploads[id]}, nil
}

// Resume implements Store.
func (m *Memory) Resume(ctx context.Context, id string, offset int64) (Writer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.uploads[id]
	switch {
	case e == nil:
		return nil, fmt.Errorf("resume upload: %w", ErrNotFound)
	case e.busy:
		return nil, fmt.Errorf("resume upload %s: %w", id, ErrBusy)
	case offset < 0 || offset > int64(len(e.data)):
		return nil, fmt.Errorf("resume upload %s: offset %d of %d bytes: %w", id, offset, len(e.data), ErrShort)
	}
	e.busy, e.data = true, e.data[:offset]
	return &memoryWriter{store: m, id: id, entry: e}, nil
}

// Discard implements Store.
func (m *Memory) Discard(ctx context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.uploads[id]; e != nil && e.busy {
		return fmt.Errorf("discard upload %s: %w", id, ErrBusy)
	}
	delete(m.uploads, id)
	return nil
}

type memoryObject struct{ *bytes.Reader }

func (memoryObject) Close() error { return nil }

// Open implements Store.
func (m *Memory) Open(ctx context.Context, key string) (Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.objects[key]
	if e == nil {
		return nil, fmt.Errorf("open object: %w", ErrNotFound)
	}
	return memoryObject{bytes.NewReader(e.data)}, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, after string, limit int) ([]Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := infosOf(m.objects, after)
	return out[:min(limit, len(out))], nil
}

// Uploads implements Store.
func (m *Memory) Uploads(ctx context.Context) ([]Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return infosOf(m.uploads, ""), nil
}

func infosOf(entries map[string]*memoryEntry, after string) []Info {
	var out []Info
	for _, key := range slices.SortedFunc(maps.Keys(entries), strings.Compare) {
		if e := entries[key]; key > after {
			out = append(out, Info{Key: key, Size: int64(len(e.data)), Modified: e.modified})
		}
	}
	return out
}

type memoryWriter struct {
	store *Memory
	id    string
	entry *memoryEntry // its fields are guarded by store.mu
	done  bool
}

func (w *memoryWriter) ID() string { return w.id }

func (w *memoryWriter) Offset() int64 {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return int64(len(w.entry.data))
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.done {
		return 0, fs.ErrClosed
	}
	w.entry.data, w.entry.modified = append(w.entry.data, p...), time.Now()
	return len(p), nil
}

func (w *memoryWriter) Flush(ctx context.Context) error { return nil }

func (w *memoryWriter) Commit(ctx context.Context) (string, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.done {
		return "", fmt.Errorf("commit upload %s: %w", w.id, fs.ErrClosed)
	}
	w.done, w.entry.modified = true, time.Now()
	delete(w.store.uploads, w.id)
	key := newKey()
	w.store.objects[key] = w.entry
	return key, nil
}

func (w *memoryWriter) Abort(ctx context.Context) error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if !w.done {
		w.done = true
		delete(w.store.uploads, w.id)
	}
	return nil
}

func (w *memoryWriter) Close() error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.done, w.entry.busy = true, false
	return nil
}
