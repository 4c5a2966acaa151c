package nodeconfig

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/shoalproject/shoal/pkg/durable"
)

const recordName = "setup.json"

// record is what is needed to undo. It is on the disk before the first file
// is touched.
type record struct {
	Files   []entry  `json:"files"`
	Folders []string `json:"folders"` // made by us, outermost first; without Root
}

// entry is one file as it was before the first setup.
type entry struct {
	Path    string      `json:"path"` // without Root
	Existed bool        `json:"existed"`
	Backup  string      `json:"backup,omitempty"` // file name in the state folder
	Mode    os.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
	// Written are hashes (SHA-256, hex) of what setup wrote or was about to:
	// the file is one of these, or as it was, or somebody changed it since.
	Written []string `json:"written"`
}

// Apply does what the plan says: first the backups, then the files. It fails
// with ErrChanged when a file is no longer as it was planned.
func (p *Plan) Apply() error {
	if len(p.Changes) == 0 {
		return nil
	}
	for _, c := range p.Changes {
		now, err := read(p.opts.Root, c.Path)
		if err != nil {
			return err
		}
		if !same(now, c.Before) {
			return fmt.Errorf("%w: %s; run setup again", ErrChanged, c.Path)
		}
	}
	rec, err := loadRecord(p.opts.State)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(p.opts.State, 0o700); err != nil {
		return fmt.Errorf("make the folder for backups: %w", err)
	}
	for _, c := range p.Changes {
		if err := p.backUp(&rec, c); err != nil {
			return fmt.Errorf("back up %s: %w", c.Path, err)
		}
	}
	if err := saveRecord(p.opts.State, rec); err != nil {
		return err
	}
	for _, c := range p.Changes {
		if err := p.write(rec.find(c.Path), c); err != nil {
			return fmt.Errorf("write %s: %w", c.Path, err)
		}
	}
	return nil
}

func (p *Plan) backUp(rec *record, c Change) error {
	e := rec.find(c.Path)
	if e == nil {
		fresh := entry{Path: c.Path, Existed: c.Before != nil, UID: -1, GID: -1}
		if fresh.Existed {
			info, err := os.Lstat(filepath.Join(p.opts.Root, c.Path))
			if err != nil {
				return err
			}
			fresh.Mode = info.Mode().Perm() | info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky)
			fresh.UID, fresh.GID = owner(info)
			fresh.Backup = "backup-" + hash([]byte(c.Path))[:16]
			if err := durable.WriteFile(filepath.Join(p.opts.State, fresh.Backup), c.Before, 0o600); err != nil {
				return err
			}
		}
		rec.Files = append(rec.Files, fresh)
		e = &rec.Files[len(rec.Files)-1]
	}
	if sum := hash(c.After); !slices.Contains(e.Written, sum) {
		e.Written = append(e.Written, sum)
	}
	for _, dir := range missingFolders(p.opts.Root, filepath.Dir(c.Path)) {
		if !slices.Contains(rec.Folders, dir) {
			rec.Folders = append(rec.Folders, dir)
		}
	}
	return nil
}

// owner is a file's user and group; -1 where the system knows none.
func owner(info fs.FileInfo) (uid, gid int) {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(sys.Uid), int(sys.Gid)
	}
	return -1, -1
}

// missingFolders are those above a file that do not exist, outermost first.
func missingFolders(root, dir string) []string {
	var out []string
	for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(root, dir)); err == nil {
			break
		}
		out = append(out, dir)
	}
	slices.Reverse(out)
	return out
}

func (p *Plan) write(e *entry, c Change) error {
	full := filepath.Join(p.opts.Root, c.Path)
	if err := durable.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if e.Existed {
		mode = e.Mode
	}
	return replace(full, c.After, mode, e.UID, e.GID)
}

// replace writes a file whole or not at all, with its mode and owner already
// right when its name appears.
func replace(full string, data []byte, mode os.FileMode, uid, gid int) error {
	temp := filepath.Join(filepath.Dir(full), "."+filepath.Base(full)+".shoal-setup")
	err := durable.WriteFile(temp, data, 0o600)
	if err == nil && uid >= 0 {
		err = os.Chown(temp, uid, gid)
	}
	if err == nil {
		err = os.Chmod(temp, mode) // after Chown, which clears setuid bits
	}
	if err == nil {
		err = durable.Rename(temp, full)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	return nil
}

// Undo puts everything back that Apply changed: files byte for byte with mode
// and owner, files and folders that did not exist away. It first checks all
// of them; when somebody changed one since, it fails with ErrChanged and
// touches nothing. Nothing to undo is no error: the answer is empty.
func Undo(opts Options) ([]Change, error) {
	opts = opts.withDefaults()
	changes, rec, err := planUndo(opts)
	if err != nil {
		return nil, err
	}
	return changes, undo(opts, changes, rec)
}

// PlanUndo says what Undo would do.
func PlanUndo(opts Options) ([]Change, error) {
	changes, _, err := planUndo(opts.withDefaults())
	return changes, err
}

func planUndo(opts Options) ([]Change, record, error) {
	rec, err := loadRecord(opts.State)
	if err != nil {
		return nil, rec, err
	}
	var changes []Change
	for _, e := range rec.Files {
		now, err := read(opts.Root, e.Path)
		if err != nil {
			return nil, rec, err
		}
		before, err := e.original(opts.State)
		if err != nil {
			return nil, rec, err
		}
		switch {
		case same(now, before):
		case now != nil && slices.Contains(e.Written, hash(now)):
			changes = append(changes, Change{Path: e.Path, Before: now, After: before})
		default:
			return nil, rec, fmt.Errorf("%w: %s is not as setup left it; undo it by hand%s", ErrChanged, e.Path, e.where(opts.State))
		}
	}
	return changes, rec, nil
}

func (e entry) where(state string) string {
	if !e.Existed {
		return " (it did not exist before)"
	}
	return ", what was there before is " + filepath.Join(state, e.Backup)
}

// original is the file as it was; nil when there was none.
func (e entry) original(state string) ([]byte, error) {
	if !e.Existed {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(state, filepath.Base(e.Backup)))
	if err != nil {
		return nil, fmt.Errorf("read the backup of %s: %w", e.Path, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

func undo(opts Options, changes []Change, rec record) error {
	for _, c := range changes {
		var err error
		full := filepath.Join(opts.Root, c.Path)
		e := rec.find(c.Path)
		if e.Existed {
			err = replace(full, c.After, e.Mode, e.UID, e.GID)
		} else {
			err = errors.Join(os.Remove(full), durable.SyncDir(filepath.Dir(full)))
		}
		if err != nil {
			return fmt.Errorf("put %s back: %w", c.Path, err)
		}
	}
	for _, dir := range slices.Backward(rec.Folders) {
		err := os.Remove(filepath.Join(opts.Root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("remove the folder %s: %w", dir, err)
		}
	}
	// The record goes last, so that an undo that was cut short can be repeated.
	if err := ignoreMissing(os.Remove(filepath.Join(opts.State, recordName))); err != nil {
		return fmt.Errorf("remove the record of the setup: %w", err)
	}
	for _, e := range rec.Files {
		if e.Existed {
			if err := ignoreMissing(os.Remove(filepath.Join(opts.State, filepath.Base(e.Backup)))); err != nil {
				return fmt.Errorf("remove the backup of %s: %w", e.Path, err)
			}
		}
	}
	return nil
}

func (r *record) find(path string) *entry {
	for i := range r.Files {
		if r.Files[i].Path == path {
			return &r.Files[i]
		}
	}
	return nil
}

func loadRecord(state string) (record, error) {
	var rec record
	raw, err := os.ReadFile(filepath.Join(state, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &rec)
	}
	if err != nil {
		return rec, fmt.Errorf("read the record of an earlier setup: %w", err)
	}
	return rec, nil
}

func saveRecord(state string, rec record) error {
	raw, err := json.MarshalIndent(rec, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(state, recordName), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the record of the setup: %w", err)
	}
	return nil
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
