package records

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const digest = blob.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

func record(repository, tag string, epoch uint64, at int64) *blob.TagRecord {
	r := &blob.TagRecord{Ref: blob.Ref{Repository: repository}, Tag: tag, Digest: digest, Epoch: epoch, Time: time.Unix(at, 0).UTC()}
	if err := r.Sign(func([]byte) (string, []byte, error) { return "peer", []byte("sig"), nil }); err != nil {
		panic(err)
	}
	return r
}

func TestTheNewestRecordStaysOverARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*blob.TagRecord{
		record("a", "v1", 1, 100), record("a", "v1", 1, 300), record("a", "v1", 1, 200),
		record("a", "v2", 2, 1), record("a", "v2", 1, 900),
	} {
		if err := s.PutTag(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for tag, want := range map[string]int64{"v1": 300, "v2": 1} {
		if r, err := s.Tag(blob.Ref{Repository: "a"}, tag); err != nil || r == nil || r.Time.Unix() != want || r.Signer != "peer" {
			t.Errorf("%s: %+v, %v; want the one of %d", tag, r, err, want)
		}
	}
	for _, ref := range []blob.Ref{{Repository: "b"}, {Registry: "a"}} {
		if r, err := s.Tag(ref, "v1"); r != nil || err != nil {
			t.Errorf("%s: %+v, %v", ref, r, err)
		}
	}
}

func TestTheStoreIsBounded(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "records.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.max = 3
	for i := range 10 {
		if err := s.PutTag(record("a", fmt.Sprint(i), 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	kept := ""
	for i := range 10 {
		if r, err := s.Tag(blob.Ref{Repository: "a"}, fmt.Sprint(i)); err == nil && r != nil {
			kept += r.Tag
		}
	}
	if kept != "789" {
		t.Errorf("kept %q", kept)
	}
}

func TestMapsStayOverARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := blob.NewPieceMap(digest, 1, make([]blob.PieceHash, 1), func([]byte) (string, []byte, error) { return "peer", []byte("sig"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutMap(m); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.Map(digest); err != nil || got == nil || got.Signer != "peer" || got.Size != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for range 2 {
		if err := s.DeleteMap(digest); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Map(digest); got != nil || err != nil {
		t.Errorf("after it was forgotten: %+v, %v", got, err)
	}
}
