package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"testing"
)

var errPowerCut = errors.New("power cut")

// disk is a folder tree that keeps only what was synced when the power is
// cut: bytes once their file is synced, names once their folder is. A rename
// that was not synced may have reached the disk or not; both are tried.
type disk struct {
	live    map[string]*node // names as the running process sees them
	stable  map[string]*node // names as they stand on the disk
	steps   int              // operations until the power cut; < 0 is never
	renamed func()           // applies the last rename to stable
}

type node struct {
	dir          bool
	live, stable string
}

func newDisk(steps int) *disk {
	d := &disk{live: map[string]*node{".": {dir: true}}, steps: steps}
	d.stable = maps.Clone(d.live)
	return d
}

func (d *disk) step() error {
	if d.steps == 0 {
		return errPowerCut
	}
	d.steps--
	return nil
}

// after is the file's content after the power cut. lucky: the last rename
// reached the disk by itself.
func (d *disk) after(name string, lucky bool) (string, bool) {
	if lucky && d.renamed != nil {
		d.renamed()
	}
	n, ok := d.stable[name]
	if !ok {
		return "", false
	}
	return n.stable, true
}

func (d *disk) create(name string, _ os.FileMode) (file, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	if d.live[name] != nil {
		return nil, fs.ErrExist
	}
	d.live[name] = &node{}
	return &handle{d, name, d.live[name]}, nil
}

func (d *disk) openDir(name string) (file, error) {
	if n := d.live[name]; n == nil || !n.dir {
		return nil, fs.ErrNotExist
	}
	return &handle{d, name, d.live[name]}, nil
}

func (d *disk) rename(oldName, newName string) error {
	if err := d.step(); err != nil {
		return err
	}
	n := d.live[oldName]
	if n == nil {
		return fs.ErrNotExist
	}
	delete(d.live, oldName)
	d.live[newName] = n
	d.renamed = func() {
		delete(d.stable, oldName)
		d.stable[newName] = n
	}
	return nil
}

func (d *disk) mkdir(name string, _ os.FileMode) error {
	if err := d.step(); err != nil {
		return err
	}
	if d.live[name] != nil {
		return fs.ErrExist
	}
	d.live[name] = &node{dir: true}
	return nil
}

func (d *disk) remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	if d.live[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.live, name)
	return nil
}

type handle struct {
	d    *disk
	name string
	n    *node
}

func (h *handle) Write(p []byte) (int, error) {
	for i, c := range p { // one byte a step: a write may be cut anywhere
		if err := h.d.step(); err != nil {
			return i, err
		}
		h.n.live += string(c)
	}
	return len(p), nil
}

func (h *handle) Sync() error {
	if err := h.d.step(); err != nil {
		return err
	}
	if !h.n.dir {
		h.n.stable = h.n.live
		return nil
	}
	maps.DeleteFunc(h.d.stable, func(name string, _ *node) bool {
		return name != "." && path.Dir(name) == h.name && h.d.live[name] == nil
	})
	for name, n := range h.d.live {
		if path.Dir(name) == h.name {
			h.d.stable[name] = n
		}
	}
	return nil
}

func (h *handle) Close() error { return nil }

func TestPowerCutAtEachStepOfAWrite(t *testing.T) {
	const before, after = "before", "and after"
	finished := false
	for steps := 0; !finished; steps++ {
		for _, lucky := range []bool{false, true} {
			d := newDisk(-1)
			if err := writeFile(d, "f", []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			d.steps, d.renamed = steps, nil
			err := writeFile(d, "f", []byte(after), 0o600)
			got, ok := d.after("f", lucky)
			switch {
			case err == nil && got != after:
				t.Errorf("steps %d, lucky %v: the write returned nil and left %q", steps, lucky, got)
			case !ok || got != before && got != after:
				t.Errorf("steps %d, lucky %v: the target is %q", steps, lucky, got)
			case err != nil && !errors.Is(err, errPowerCut):
				t.Fatal(err)
			}
			finished = err == nil
		}
	}
}

func TestPowerCutAtEachStepOfARename(t *testing.T) {
	finished := false
	for steps := 0; !finished; steps++ {
		d := newDisk(-1)
		if err := mkdirAll(d, "a/b", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(d, "old", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.steps = steps
		err := rename(d, "old", "a/b/new")
		oldGot, _ := d.after("old", false)
		newGot, _ := d.after("a/b/new", false)
		if oldGot != "x" && newGot != "x" {
			t.Errorf("steps %d: the file is lost", steps)
		}
		if finished = err == nil; finished && (newGot != "x" || oldGot != "") {
			t.Errorf("the rename returned nil and left old %q, new %q", oldGot, newGot)
		}
	}
}

func TestMkdirAllIsDurable(t *testing.T) {
	d := newDisk(-1)
	if err := mkdirAll(d, "a/b/c", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b", "a/b/c"} {
		if _, ok := d.after(name, false); !ok {
			t.Errorf("%s is lost in a power cut", name)
		}
	}
	if err := mkdirAll(d, "a/b/d", 0o700); err != nil {
		t.Errorf("a folder beside existing ones: %v", err)
	}
}

func ExampleIsTemp() {
	fmt.Println(IsTemp("blobs/"+tempPrefix+"00"), IsTemp("index.db"))
	// Output: true false
}
