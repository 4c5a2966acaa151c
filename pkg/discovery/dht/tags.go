package dht

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// tagGrace is how long FindTags waits for further records after the first.
const tagGrace = 500 * time.Millisecond

// recordSet collects tag records, each once.
type recordSet struct {
	mu      sync.Mutex
	records []*blob.TagRecord // guarded by mu
}

// add keeps a record and reports whether it is the first of all.
func (s *recordSet) add(r *blob.TagRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.records {
		if string(old.Encode()) == string(r.Encode()) {
			return false
		}
	}
	if len(s.records) < MaxHolders*maxRecords {
		s.records = append(s.records, r)
	}
	return len(s.records) == 1
}

// sorted is what was collected, newest first.
func (s *recordSet) sorted() []*blob.TagRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.records)
	slices.SortFunc(out, func(a, b *blob.TagRecord) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), b.Time.Compare(a.Time), cmp.Compare(a.Signer, b.Signer))
	})
	return out
}
