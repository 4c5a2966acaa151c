package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// tempPrefix begins the name of every temporary file. It doesn't contain the
// target's name, so that a target may be as long as the file system allows.
const tempPrefix = ".shoal-tmp-"

// folder is what a durable write needs of a directory tree. *os.Root is one
// (through rooted); the tests have another, which loses what was not synced.
type folder interface {
	create(name string, perm os.FileMode) (file, error) // fails if name exists
	openDir(name string) (file, error)
	rename(oldName, newName string) error
	mkdir(name string, perm os.FileMode) error
	remove(name string) error
}

type file interface {
	io.Writer
	Sync() error
	Close() error
}

// rooted is the real folder.
type rooted struct{ root *os.Root }

func (r rooted) create(name string, perm os.FileMode) (file, error) {
	return r.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}
func (r rooted) openDir(name string) (file, error)         { return r.root.Open(name) }
func (r rooted) rename(oldName, newName string) error      { return r.root.Rename(oldName, newName) }
func (r rooted) mkdir(name string, perm os.FileMode) error { return r.root.Mkdir(name, perm) }
func (r rooted) remove(name string) error                  { return r.root.Remove(name) }

// WriteFile replaces the file at path with data. The folder must exist. perm
// is that of the new file, before the umask. On an error the old file, if
// there was one, is untouched.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return inFolderOf(path, func(root *os.Root, name string) error {
		return WriteFileIn(root, name, data, perm)
	})
}

// WriteFileIn is WriteFile within root.
func WriteFileIn(root *os.Root, name string, data []byte, perm os.FileMode) error {
	if err := writeFile(rooted{root}, filepath.ToSlash(name), data, perm); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(root.Name(), name), err)
	}
	return nil
}

func writeFile(dir folder, name string, data []byte, perm os.FileMode) error {
	temp := path.Join(path.Dir(name), tempName())
	if err := writeTemp(dir, temp, data, perm); err != nil {
		return errors.Join(err, removeIfThere(dir, temp))
	}
	if err := dir.rename(temp, name); err != nil {
		return errors.Join(err, removeIfThere(dir, temp))
	}
	return syncDir(dir, path.Dir(name))
}

func writeTemp(dir folder, temp string, data []byte, perm os.FileMode) error {
	f, err := dir.create(temp, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Rename moves a file over newPath and syncs both folders. The bytes must have been
// synced before by whoever wrote them.
func Rename(oldPath, newPath string) error {
	if err := os.Rename(oldPath, newPath); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(newPath)); err != nil {
		return err
	}
	if filepath.Dir(oldPath) == filepath.Dir(newPath) {
		return nil
	}
	return SyncDir(filepath.Dir(oldPath))
}

// RenameIn is Rename within root.
func RenameIn(root *os.Root, oldName, newName string) error {
	return rename(rooted{root}, filepath.ToSlash(oldName), filepath.ToSlash(newName))
}

// rename syncs the target's folder first: should only one of the two reach
// the disk, the file has two names rather than none.
func rename(dir folder, oldName, newName string) error {
	if err := dir.rename(oldName, newName); err != nil {
		return err
	}
	if err := syncDir(dir, path.Dir(newName)); err != nil {
		return err
	}
	if path.Dir(oldName) == path.Dir(newName) {
		return nil
	}
	return syncDir(dir, path.Dir(oldName))
}

// SyncDir makes the names in the folder at path durable: created, renamed
// and removed files.
func SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncDirIn is SyncDir within root; "." is the root itself.
func SyncDirIn(root *os.Root, name string) error {
	return syncDir(rooted{root}, filepath.ToSlash(name))
}

func syncDir(dir folder, name string) error {
	f, err := dir.openDir(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// MkdirAll makes the folder at path and those above it, as os.MkdirAll does,
// and syncs the folder above each one that it made.
func MkdirAll(path string, perm os.FileMode) error {
	missing := filepath.Clean(path)
	var made []string
	for {
		info, err := os.Stat(missing)
		if err == nil && !info.IsDir() {
			return fmt.Errorf("make folder %s: %s is a file", path, missing)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make folder %s: %w", path, err)
		}
		made = append(made, missing)
		missing = filepath.Dir(missing)
	}
	if err := os.MkdirAll(path, perm); err != nil {
		return err
	}
	for _, name := range made {
		if err := SyncDir(filepath.Dir(name)); err != nil {
			return fmt.Errorf("make folder %s: %w", path, err)
		}
	}
	return nil
}

// MkdirAllIn is MkdirAll within root.
func MkdirAllIn(root *os.Root, name string, perm os.FileMode) error {
	if info, err := root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := mkdirAll(rooted{root}, path.Clean(filepath.ToSlash(name)), perm); err != nil {
		return fmt.Errorf("make folder %s: %w", filepath.Join(root.Name(), name), err)
	}
	return nil
}

func mkdirAll(dir folder, name string, perm os.FileMode) error {
	at := "."
	for _, part := range strings.Split(name, "/") {
		above := at
		at = path.Join(at, part)
		err := dir.mkdir(at, perm)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := syncDir(dir, above); err != nil {
			return err
		}
	}
	return nil
}

// RemoveIn removes a file and syncs its folder. A file that isn't there is
// no error.
func RemoveIn(root *os.Root, name string) error {
	if err := removeIfThere(rooted{root}, name); err != nil {
		return err
	}
	return SyncDirIn(root, path.Dir(filepath.ToSlash(name)))
}

// IsTemp reports whether a file name is that of a temporary file of this
// package, so that a walk over a folder can pass it by.
func IsTemp(name string) bool { return strings.HasPrefix(path.Base(name), tempPrefix) }

// CleanIn removes the temporary files that writes left in one folder of root
// when they were cut off. Call it at the start, before anybody writes there.
func CleanIn(root *os.Root, name string) error {
	entries, err := fs.ReadDir(root.FS(), filepath.ToSlash(name))
	if err != nil {
		return fmt.Errorf("look for unfinished writes: %w", err)
	}
	for _, entry := range entries {
		if !IsTemp(entry.Name()) || entry.IsDir() {
			continue
		}
		if err := removeIfThere(rooted{root}, path.Join(name, entry.Name())); err != nil {
			return fmt.Errorf("remove an unfinished write: %w", err)
		}
	}
	return nil
}

func removeIfThere(dir folder, name string) error {
	if err := dir.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func tempName() string {
	var random [8]byte
	rand.Read(random[:])
	return tempPrefix + hex.EncodeToString(random[:])
}

// inFolderOf runs do with the folder of a plain path as its root.
func inFolderOf(p string, do func(root *os.Root, name string) error) error {
	root, err := os.OpenRoot(filepath.Dir(p))
	if err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	defer root.Close()
	return do(root, filepath.Base(p))
}
