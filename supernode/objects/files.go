package objects

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	keyLength = 32 // hex digits
	dirData   = "data"
	dirUpload = "uploads"
)

// Files keeps objects as files under one folder: data/ab/<key> and
// uploads/<id>.
type Files struct {
	root *os.Root

	mu   sync.Mutex
	busy map[string]bool // guarded by mu: uploads with an open writer
}

// OpenFiles opens or creates the store in a folder, mode 0700.
func OpenFiles(dir string) (*Files, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open objects: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open objects: %w", err)
	}
	f := &Files{root: root, busy: map[string]bool{}}
	for _, name := range []string{dirData, dirUpload} {
		if err := durable.MkdirAllIn(root, name, 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("open objects: %w", err), root.Close())
		}
	}
	return f, nil
}

// Close lets the folder go. Open objects stay readable.
func (f *Files) Close() error { return f.root.Close() }

// Room implements Roomer.
func (f *Files) Room() (free, total int64, err error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(f.root.Name(), &disk); err != nil {
		return 0, 0, fmt.Errorf("look how much room there is for objects: %w", err)
	}
	return int64(disk.Bavail) * int64(disk.Bsize), int64(disk.Blocks) * int64(disk.Bsize), nil //nolint:unconvert // other types on other systems
}

func newKey() string {
	var raw [keyLength / 2]byte
	rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}

func objectPath(key string) string { return path.Join(dirData, key[:2], key) }
func uploadPath(id string) string  { return path.Join(dirUpload, id) }

// storeError gives the errors of the file system this package's names.
func storeError(doing, key string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s: %w", doing, key, ErrNotFound)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: %w (%w)", doing, key, ErrFull, err)
	}
	return fmt.Errorf("%s %s: %w", doing, key, err)
}

// claim takes the one writer's place of an upload.
func (f *Files) claim(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy[id] {
		return fmt.Errorf("open upload %s: %w", id, ErrBusy)
	}
	f.busy[id] = true
	return nil
}

func (f *Files) release(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.busy, id)
}

// Create implements Store.
func (f *Files) Create(ctx context.Context) (Writer, error) {
	id := newKey()
	file, err := f.root.OpenFile(uploadPath(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, storeError("create upload", id, err)
	}
	if err := f.claim(id); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &fileWriter{store: f, id: id, file: file, fresh: true}, nil
}

// Resume implements Store.
func (f *Files) Resume(ctx context.Context, id string, offset int64) (_ Writer, err error) {
	if !validKey(id) {
		return nil, fmt.Errorf("resume upload: %w", ErrNotFound)
	}
	if err := f.claim(id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.release(id)
		}
	}()
	file, err := f.root.OpenFile(uploadPath(id), os.O_WRONLY, 0)
	if err != nil {
		return nil, storeError("resume upload", id, err)
	}
	if err := cutTo(file, offset); err != nil {
		return nil, errors.Join(storeError("resume upload", id, err), file.Close())
	}
	return &fileWriter{store: f, id: id, file: file, offset: offset}, nil
}

// cutTo drops what stands behind offset and goes there.
func cutTo(file *os.File, offset int64) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if offset < 0 || info.Size() < offset {
		return fmt.Errorf("offset %d of %d bytes: %w", offset, info.Size(), ErrShort)
	}
	if err := file.Truncate(offset); err != nil {
		return err
	}
	_, err = file.Seek(offset, 0)
	return err
}

// Discard implements Store.
func (f *Files) Discard(ctx context.Context, id string) error {
	if !validKey(id) {
		return nil
	}
	if err := f.claim(id); err != nil {
		return err
	}
	defer f.release(id)
	return f.remove("discard upload", id, uploadPath(id))
}

func (f *Files) remove(doing, key, name string) error {
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storeError(doing, key, err)
	}
	return nil
}

// fileObject is an open file and its size; it is a Filer.
type fileObject struct {
	file *os.File
	size int64
}

func (o fileObject) ReadAt(p []byte, off int64) (int, error) { return o.file.ReadAt(p, off) }
func (o fileObject) Close() error                            { return o.file.Close() }
func (o fileObject) Size() int64                             { return o.size }
func (o fileObject) File() *os.File                          { return o.file }

// Open implements Store. The Object is a Filer.
func (f *Files) Open(ctx context.Context, key string) (Object, error) {
	if !validKey(key) {
		return nil, fmt.Errorf("open object: %w", ErrNotFound)
	}
	file, err := f.root.Open(objectPath(key))
	if err != nil {
		return nil, storeError("open object", key, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(storeError("open object", key, err), file.Close())
	}
	return fileObject{file: file, size: info.Size()}, nil
}

// Delete implements Store.
func (f *Files) Delete(ctx context.Context, key string) error {
	if !validKey(key) {
		return nil
	}
	return f.remove("delete object", key, objectPath(key))
}

// List implements Store.
func (f *Files) List(ctx context.Context, after string, limit int) ([]Info, error) {
	dirs, err := fs.ReadDir(f.root.FS(), dirData)
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	var out []Info
	for _, dir := range dirs {
		if dir.Name() < after[:min(2, len(after))] {
			continue
		}
		infos, err := f.listDir(path.Join(dirData, dir.Name()), after)
		if err != nil {
			return nil, err
		}
		if out = append(out, infos...); len(out) >= limit {
			return out[:limit], nil
		}
	}
	return out, nil
}

func (f *Files) listDir(dir, after string) ([]Info, error) {
	entries, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var out []Info
	for _, e := range entries {
		if !validKey(e.Name()) || e.Name() <= after {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", dir, err)
		}
		out = append(out, Info{Key: e.Name(), Size: info.Size(), Modified: info.ModTime()})
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// Uploads implements Store.
func (f *Files) Uploads(ctx context.Context) ([]Info, error) { return f.listDir(dirUpload, "") }

// fileWriter is an open upload; it holds the claim on its ID until closed.
type fileWriter struct {
	store  *Files
	id     string
	file   *os.File
	offset int64
	fresh  bool // its name in the folder is not durable yet
	done   bool
}

func (w *fileWriter) ID() string    { return w.id }
func (w *fileWriter) Offset() int64 { return w.offset }

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.offset += int64(n)
	if err != nil {
		return n, storeError("write upload", w.id, err)
	}
	return n, nil
}

func (w *fileWriter) Flush(ctx context.Context) error {
	if err := w.file.Sync(); err != nil {
		return storeError("flush upload", w.id, err)
	}
	if w.fresh {
		if err := durable.SyncDirIn(w.store.root, dirUpload); err != nil {
			return storeError("flush upload", w.id, err)
		}
		w.fresh = false
	}
	return nil
}

func (w *fileWriter) Commit(ctx context.Context) (string, error) {
	if w.done {
		return "", fmt.Errorf("commit upload %s: %w", w.id, fs.ErrClosed)
	}
	root := w.store.root
	// An object's age counts from here, however long the upload took.
	now := time.Now()
	if err := root.Chtimes(uploadPath(w.id), now, now); err != nil {
		return "", storeError("commit upload", w.id, err)
	}
	if err := w.file.Sync(); err != nil {
		return "", storeError("commit upload", w.id, err)
	}
	key := newKey()
	if err := durable.MkdirAllIn(root, path.Dir(objectPath(key)), 0o700); err != nil {
		return "", storeError("commit upload", w.id, err)
	}
	if err := durable.RenameIn(root, uploadPath(w.id), objectPath(key)); err != nil {
		return "", storeError("commit upload", w.id, err)
	}
	return key, w.Close()
}

func (w *fileWriter) Abort(ctx context.Context) error {
	if w.done {
		return nil
	}
	return errors.Join(w.store.remove("abort upload", w.id, uploadPath(w.id)), w.Close())
}

func (w *fileWriter) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	w.store.release(w.id)
	if err := w.file.Close(); err != nil {
		return storeError("close upload", w.id, err)
	}
	return nil
}
