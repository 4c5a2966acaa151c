package meta_test

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/shoalproject/shoal/supernode/meta"
)

// A file that another version wrote is left as it is, and the error says what
// to do; one from before there were numbers gets one.
func TestFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	mark := func(number []byte) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		err = db.Update(func(tx *bolt.Tx) error {
			if number == nil {
				return tx.Bucket([]byte("state")).Delete([]byte("format"))
			}
			return tx.Bucket([]byte("state")).Put([]byte("format"), number)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		number []byte
		says   string
	}{
		"newer":   {binary.BigEndian.AppendUint64(nil, 2), "it is 2, and this supernode reads 1; run the version"},
		"damaged": {[]byte("x"), "restore a backup"},
	} {
		mark(c.number)
		for range 2 { // the refusal changes nothing
			s, err := meta.OpenBolt(path)
			if !errors.Is(err, meta.ErrFormat) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil {
				s.Close()
			}
		}
	}
	mark(nil)
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if raw := tx.Bucket([]byte("state")).Get([]byte("format")); len(raw) != 8 || binary.BigEndian.Uint64(raw) != 1 {
			t.Errorf("a file without a number got %x", raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
