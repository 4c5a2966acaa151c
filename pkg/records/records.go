// Package records keeps the signed statements that this node saw and may need
// when nobody is there to make them again: tag records, by which a name is
// resolved, here and at neighbours, when no registry answers (of each tag the
// newest, by epoch and then by time), and the piece maps of blobs that the
// container runtime holds and this node's own store does not.
package records

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/shoalproject/shoal/pkg/blob"
)

// maxRecords bounds the store: past it the record that was kept first goes.
const maxRecords = 50_000

var (
	recordsBucket = []byte("records") // tag key -> sequence, record
	orderBucket   = []byte("order")   // sequence -> tag key
	mapsBucket    = []byte("maps")    // digest -> piece map
)

// Store is a bbolt file of records. Safe for concurrent use.
type Store struct {
	db  *bbolt.DB
	max int
}

// Open opens or makes the file at path (0600).
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open the records %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(recordsBucket)
		_, err2 := tx.CreateBucketIfNotExists(orderBucket)
		_, err3 := tx.CreateBucketIfNotExists(mapsBucket)
		return errors.Join(err, err2, err3)
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("prepare the records %s: %w", path, err)
	}
	return &Store{db: db, max: maxRecords}, nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

func key(ref blob.Ref, tag string) []byte {
	return []byte(ref.Registry + "\x00" + ref.Repository + "\x00" + tag)
}

// PutTag keeps a record whose signature the caller verified, unless a newer
// one of the same tag is there.
func (s *Store) PutTag(r *blob.TagRecord) error {
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		records, order := tx.Bucket(recordsBucket), tx.Bucket(orderBucket)
		k := key(r.Ref, r.Tag)
		old := records.Get(k)
		if old != nil {
			if kept, err := blob.DecodeTagRecord(old[8:]); err == nil && !newer(r, kept) {
				return nil
			}
			return records.Put(k, append(append([]byte(nil), old[:8]...), r.Encode()...))
		}
		sequence, err := order.NextSequence()
		if err != nil {
			return err
		}
		number := binary.BigEndian.AppendUint64(nil, sequence)
		if err := order.Put(number, k); err != nil {
			return err
		}
		if err := records.Put(k, append(number, r.Encode()...)); err != nil {
			return err
		}
		return s.trim(records, order)
	})
	if err != nil {
		return fmt.Errorf("keep the tag record of %s:%s: %w", r.Ref, r.Tag, err)
	}
	return nil
}

// trim drops the first record when there are too many.
func (s *Store) trim(records, order *bbolt.Bucket) error {
	first, k := order.Cursor().First()
	last, _ := order.Cursor().Last()
	if binary.BigEndian.Uint64(last)-binary.BigEndian.Uint64(first) < uint64(s.max) {
		return nil
	}
	if err := records.Delete(k); err != nil {
		return err
	}
	return order.Delete(first)
}

func newer(a, b *blob.TagRecord) bool {
	if a.Epoch != b.Epoch {
		return a.Epoch > b.Epoch
	}
	return a.Time.After(b.Time)
}

// Tag returns the record of a tag, nil when there is none.
func (s *Store) Tag(ref blob.Ref, tag string) (r *blob.TagRecord, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(recordsBucket).Get(key(ref, tag))
		if raw == nil {
			return nil
		}
		r, err = blob.DecodeTagRecord(raw[8:])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the tag record of %s:%s: %w", ref, tag, err)
	}
	return r, nil
}

// PutMap keeps a piece map whose signature the caller verified.
func (s *Store) PutMap(m *blob.PieceMap) error {
	err := s.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(mapsBucket).Put([]byte(m.Digest), m.Encode()) })
	if err != nil {
		return fmt.Errorf("keep the piece map of %s: %w", m.Digest, err)
	}
	return nil
}

// Map returns the piece map of a blob, nil when there is none.
func (s *Store) Map(d blob.Digest) (m *blob.PieceMap, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(mapsBucket).Get([]byte(d))
		if raw == nil {
			return nil
		}
		m, err = blob.DecodePieceMap(raw)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the piece map of %s: %w", d, err)
	}
	return m, nil
}

// DeleteMap forgets a piece map; one that is not there is no error.
func (s *Store) DeleteMap(d blob.Digest) error {
	err := s.db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(mapsBucket).Delete([]byte(d)) })
	if err != nil {
		return fmt.Errorf("forget the piece map of %s: %w", d, err)
	}
	return nil
}
