package objects_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/objects/objecttest"
)

func open(t *testing.T, dir string) *objects.Files {
	t.Helper()
	s, err := objects.OpenFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMemory(t *testing.T) {
	objecttest.Run(t, func(*testing.T) objects.Store { return objects.NewMemory() })
}

func TestFiles(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) objects.Store { return open(t, filepath.Join(t.TempDir(), "objects")) })
}

func TestFilesSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	w, err := open(t, dir).Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "begun, "); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The process ends here without closing anything.
	second := open(t, dir)
	w, err = second.Resume(t.Context(), w.ID(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "ended"); err != nil {
		t.Fatal(err)
	}
	key, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o, err := open(t, dir).Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	raw, err := io.ReadAll(o.(objects.Filer).File())
	if err != nil || string(raw) != "begun, ended" {
		t.Fatalf("read %q, %v", raw, err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	w, err := open(t, dir).Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesKnowTheirRoom(t *testing.T) {
	f, err := objects.OpenFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if free, total, err := objects.Roomer(f).Room(); err != nil || free < 0 || total < free || total < 1<<20 {
		t.Errorf("%d of %d bytes are free, %v", free, total, err)
	}
}
