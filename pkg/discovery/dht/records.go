package dht

import (
	"context"
	"errors"
	"strings"
	"sync"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
)

const (
	// maxProviderRecords bounds what others may store here: about 20 MB.
	maxProviderRecords = 64 << 10
	// maxRecordsPerPeer bounds what one of them may store here.
	maxRecordsPerPeer = 8 << 10
)

// errRecordsFull makes kad-dht refuse a provider record.
var errRecordsFull = errors.New("no room for another provider record")

// recordStore holds the provider records that the DHT entrusts to this node,
// in memory, bounded in all and for each peer. kad-dht names a record
// /providers/KEY/PEER and asks for all below /providers/KEY; the store is
// laid out for that, where the library's own map walks through everything.
type recordStore struct {
	mu    sync.Mutex
	keys  map[string]map[string][]byte // guarded by mu: KEY path → PEER → value
	peers map[string]int               // guarded by mu: records for each PEER
	count int                          // guarded by mu
}

func newRecordStore() *recordStore {
	return &recordStore{keys: map[string]map[string][]byte{}, peers: map[string]int{}}
}

// split takes /providers/KEY/PEER apart into /providers/KEY and PEER.
func split(key ds.Key) (parent, child string) {
	text := key.String()
	at := strings.LastIndexByte(text, '/')
	return text[:at], text[at+1:]
}

// Put implements ds.Datastore.
func (s *recordStore) Put(_ context.Context, key ds.Key, value []byte) error {
	parent, child := split(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.keys[parent][child]; !there {
		if s.count >= maxProviderRecords || s.peers[child] >= maxRecordsPerPeer {
			return errRecordsFull
		}
		if s.keys[parent] == nil {
			s.keys[parent] = map[string][]byte{}
		}
		s.count++
		s.peers[child]++
	}
	s.keys[parent][child] = append([]byte(nil), value...)
	return nil
}

// Delete implements ds.Datastore.
func (s *recordStore) Delete(_ context.Context, key ds.Key) error {
	parent, child := split(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.keys[parent][child]; !there {
		return nil
	}
	delete(s.keys[parent], child)
	if len(s.keys[parent]) == 0 {
		delete(s.keys, parent)
	}
	s.count--
	if s.peers[child]--; s.peers[child] == 0 {
		delete(s.peers, child)
	}
	return nil
}

// Get implements ds.Datastore.
func (s *recordStore) Get(_ context.Context, key ds.Key) ([]byte, error) {
	parent, child := split(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	value, there := s.keys[parent][child]
	if !there {
		return nil, ds.ErrNotFound
	}
	return value, nil
}

// Has implements ds.Datastore.
func (s *recordStore) Has(ctx context.Context, key ds.Key) (bool, error) {
	return ds.GetBackedHas(ctx, s, key)
}

// GetSize implements ds.Datastore.
func (s *recordStore) GetSize(ctx context.Context, key ds.Key) (int, error) {
	return ds.GetBackedSize(ctx, s, key)
}

// Query implements ds.Datastore for the two questions that kad-dht asks: all
// records of one key, and all records.
func (s *recordStore) Query(_ context.Context, q dsq.Query) (dsq.Results, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []dsq.Entry
	collect := func(parent string) {
		for child, value := range s.keys[parent] {
			found = append(found, dsq.Entry{Key: parent + "/" + child, Value: value, Size: len(value)})
		}
	}
	if prefix := strings.TrimSuffix(q.Prefix, "/"); strings.Count(prefix, "/") == 2 {
		collect(prefix)
	} else {
		for parent := range s.keys {
			if strings.HasPrefix(parent, prefix) {
				collect(parent)
			}
		}
	}
	return dsq.ResultsWithEntries(q, found), nil
}

// Batch implements ds.Batching.
func (s *recordStore) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(s), nil }

// Sync implements ds.Datastore; memory has nothing to sync.
func (s *recordStore) Sync(context.Context, ds.Key) error { return nil }

// Close implements ds.Datastore.
func (s *recordStore) Close() error { return nil }
