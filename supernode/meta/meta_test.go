package meta_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/meta/metatest"
)

func open(t *testing.T, path string) *meta.Bolt {
	t.Helper()
	s, err := meta.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMemory(t *testing.T) {
	metatest.Run(t, func(*testing.T) meta.Store { return meta.NewMemory() })
}

func TestBolt(t *testing.T) {
	metatest.Run(t, func(t *testing.T) meta.Store { return open(t, filepath.Join(t.TempDir(), "meta.db")) })
}

func TestBoltSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	first, err := s.Commit(t.Context(), nil, []meta.Op{meta.Put("k", []byte("v"))})
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := meta.Backuper(s).Backup(&backup); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	restored := filepath.Join(t.TempDir(), "restored.db")
	if err := os.WriteFile(restored, backup.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, restored} {
		s := open(t, p)
		v, err := s.Get(t.Context(), "k")
		if err != nil || string(v.Data) != "v" || v.Revision != first {
			t.Errorf("%s: get = %+v, %v; want v at %d", p, v, err, first)
		}
		second, err := s.Commit(t.Context(), nil, []meta.Op{meta.Put("k", nil)})
		if err != nil || second <= first {
			t.Errorf("%s: revision %d after %d, %v", p, second, first, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBoltIsOwnedByOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	s := open(t, path)
	defer s.Close()
	if _, err := meta.OpenBolt(path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("second open: %v; want an error that names the other process", err)
	}
}
