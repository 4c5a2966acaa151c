package identity

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTokenKeysAreKept(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadOrCreateTokenKeys(dir)
	if err != nil || len(first) != 1 || !first[0].From.IsZero() {
		t.Fatalf("%d keys, %v", len(first), err)
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := append(first, TokenKey{private, time.Date(2030, 1, 2, 3, 4, 5, 678, time.UTC)})
	if err := SaveTokenKeys(dir, want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, tokenKeyFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	got, err := LoadOrCreateTokenKeys(dir)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d keys, %v", len(got), err)
	}
	for i := range want {
		if !got[i].Private.Equal(want[i].Private) || !got[i].From.Equal(want[i].From) {
			t.Errorf("key %d comes back as another", i)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string]string{
		"cut": string(raw[:len(raw)-30]), "empty": "", "nonsense": "nonsense",
		"another time": strings.Replace(string(raw), "2030-", "xxxx-", 1), "another kind": strings.ReplaceAll(string(raw), "PRIVATE", "PUBLIC"),
	} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if keys, err := LoadOrCreateTokenKeys(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
}

// A key file from before there could be several is read as the one key in it.
func TestTokenKeysReadTheFormerFile(t *testing.T) {
	dir := t.TempDir()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeKey(filepath.Join(dir, tokenKeyFile), private); err != nil {
		t.Fatal(err)
	}
	keys, err := LoadOrCreateTokenKeys(dir)
	if err != nil || len(keys) != 1 || !keys[0].Private.Equal(private) || !keys[0].From.IsZero() {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}
