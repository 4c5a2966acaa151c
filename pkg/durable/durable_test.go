package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// childEnv makes the test binary write one file over and over until it is
// killed.
const childEnv = "SHOAL_DURABLE_CHILD"

func TestMain(m *testing.M) {
	if target := os.Getenv(childEnv); target != "" {
		writeForEver(target)
	}
	os.Exit(m.Run())
}

func writeForEver(target string) {
	for i := 0; ; i++ {
		if err := WriteFile(target, uniform(byte(i)), 0o600); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if i == 20 {
			fmt.Println("running")
		}
	}
}

// uniform is 1 MiB of one byte, so that a mixture shows.
func uniform(c byte) []byte { return bytes.Repeat([]byte{c}, 1<<20) }

func TestKilledWriterLeavesAWholeFile(t *testing.T) {
	for range 5 {
		dir := t.TempDir()
		target := filepath.Join(dir, "file")
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childEnv+"="+target)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, len("running"))
		if _, err := out.Read(line); err != nil || string(line) != "running" {
			t.Fatalf("child said %q, %v", line, err)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		got, err := os.ReadFile(target)
		if err != nil || len(got) != 1<<20 || !bytes.Equal(got, uniform(got[0])) {
			t.Fatalf("the target holds %d bytes of a half-finished write (%v)", len(got), err)
		}
		root := openRoot(t, dir)
		if err := CleanIn(root, "."); err != nil {
			t.Fatal(err)
		}
		wantNames(t, dir, "file")
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "key")
	for _, data := range []string{"first", "", "second, longer"} {
		if err := WriteFile(target, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(target)
		if err != nil || string(got) != data {
			t.Fatalf("got %q, %v; want %q", got, err, data)
		}
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	wantNames(t, dir, "key")
}

func TestFailedWriteLeavesTheOldFileAndNoTemp(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "target", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "target"), []byte("x"), 0o600); err == nil {
		t.Fatal("a file was written over a folder")
	}
	wantNames(t, dir, "target")
	err := WriteFile(filepath.Join(dir, "none", "file"), nil, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write into a folder that isn't there: %v", err)
	}
}

func TestInRoot(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	if err := MkdirAllIn(root, "a/b", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAllIn(root, "a/b", 0o700); err != nil {
		t.Fatalf("again: %v", err)
	}
	if err := WriteFileIn(root, "a/b/one", []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RenameIn(root, "a/b/one", "two"); err != nil {
		t.Fatal(err)
	}
	if got, err := root.ReadFile("two"); err != nil || string(got) != "1" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := SyncDirIn(root, "."); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := RemoveIn(root, "two"); err != nil {
			t.Fatal(err)
		}
	}
	wantNames(t, dir, "a")
	for _, err := range []error{
		WriteFileIn(root, "../out", nil, 0o600),
		MkdirAllIn(root, "../out", 0o700),
		RenameIn(root, "a", "../out"),
		CleanIn(root, ".."),
	} {
		if err == nil {
			t.Error("a name led out of the root")
		}
	}
}

func TestPlainPaths(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "x", "y")
	if err := MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(deep, "f"), []byte("f"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Rename(filepath.Join(deep, "f"), filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, "g", "x")
	if err := MkdirAll(filepath.Join(dir, "g", "z"), 0o700); err == nil {
		t.Error("a folder was made below a file")
	}
	if err := SyncDir(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sync of a folder that isn't there: %v", err)
	}
}

func TestCleanInTakesOnlyTemps(t *testing.T) {
	dir := t.TempDir()
	root := openRoot(t, dir)
	for _, name := range []string{"keep", tempPrefix + "0123", tempPrefix + "4567"} {
		if err := root.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := CleanIn(root, "."); err != nil {
		t.Fatal(err)
	}
	wantNames(t, dir, "keep")
}

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the folder holds %v, want %v", got, want)
	}
}
