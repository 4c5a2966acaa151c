package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Buckets of the index.
var (
	bucketBlobs  = []byte("blobs")  // digest → record
	bucketPieces = []byte("pieces") // digest → bucket of piece number (u32) → piece hash; partial blobs
	bucketProofs = []byte("proofs") // digest → kind, then the signed map or the bare hashes
)

const (
	indexName = "index.db"
	// lockWait is how long Open waits for another process to let go.
	lockWait = 2 * time.Second

	proofMap    = 'm' // followed by blob.PieceMap.Encode
	proofHashes = 'h' // followed by the hash of each piece
)

// record is what the index keeps of a blob.
type record struct {
	size     int64
	complete bool
	access   time.Time // seconds precision
	lease    time.Time // until when it may not be evicted; seconds precision
}

const (
	recordVersion = 1
	recordLength  = 1 + 1 + 8 + 8 + 8
)

func (r record) encode() []byte {
	out := make([]byte, 0, recordLength)
	out = append(out, recordVersion)
	if r.complete {
		out = append(out, 1)
	} else {
		out = append(out, 0)
	}
	out = binary.BigEndian.AppendUint64(out, uint64(r.size))
	out = binary.BigEndian.AppendUint64(out, uint64(seconds(r.access)))
	return binary.BigEndian.AppendUint64(out, uint64(seconds(r.lease)))
}

func decodeRecord(raw []byte) (record, error) {
	if len(raw) != recordLength || raw[0] != recordVersion || raw[1] > 1 {
		return record{}, fmt.Errorf("index record %.40x is of an unknown kind", raw)
	}
	r := record{
		complete: raw[1] == 1,
		size:     int64(binary.BigEndian.Uint64(raw[2:])),
		access:   fromSeconds(int64(binary.BigEndian.Uint64(raw[10:]))),
		lease:    fromSeconds(int64(binary.BigEndian.Uint64(raw[18:]))),
	}
	if err := checkSize(r.size); err != nil {
		return record{}, fmt.Errorf("index record: %w", err)
	}
	return r, nil
}

// seconds since 1970; 0 is the zero time.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromSeconds(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

// index is the bbolt database. Every method is one transaction.
type index struct{ db *bbolt.DB }

// openIndex opens the index below dir. One that is broken is put aside and a
// new one made: what it knew is found again from the files.
func openIndex(dir string) (*index, error) {
	path := filepath.Join(dir, indexName)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		if err := os.Rename(path, path+".broken"); err != nil {
			return nil, fmt.Errorf("put the broken index aside: %w", err)
		}
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another process uses this folder; stop it or choose another folder: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, explain(err))
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketBlobs, bucketPieces, bucketProofs} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, explain(err)), db.Close())
	}
	return &index{db}, nil
}

func (x *index) close() error { return x.db.Close() }

// records calls each for every blob. A row that can't be read is passed with
// its error, so that the caller drops it.
func (x *index) records(each func(key string, r record, err error)) error {
	return x.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketBlobs).ForEach(func(k, v []byte) error {
			r, err := decodeRecord(v)
			each(string(k), r, err)
			return nil
		})
	})
}

// pieces are the recorded piece hashes of a partial blob. Rows that don't
// fit are passed by.
func (x *index) pieces(d blob.Digest, n int) (known blob.Bitmap, hashes []blob.PieceHash, err error) {
	known, hashes = blob.NewBitmap(n), make([]blob.PieceHash, n)
	err = x.db.View(func(tx *bbolt.Tx) error {
		rows := tx.Bucket(bucketPieces).Bucket([]byte(d))
		if rows == nil {
			return nil
		}
		return rows.ForEach(func(k, v []byte) error {
			if i, h, ok := decodePiece(k, v, n); ok {
				known.Set(i)
				hashes[i] = h
			}
			return nil
		})
	})
	if err != nil {
		return known, nil, fmt.Errorf("read pieces of %s from the index: %w", d, err)
	}
	return known, hashes, nil
}

func pieceKey(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

func decodePiece(k, v []byte, n int) (i int, h blob.PieceHash, ok bool) {
	if len(k) != 4 || len(v) != len(h) {
		return 0, h, false
	}
	i = int(binary.BigEndian.Uint32(k))
	return i, blob.PieceHash(v), i < n
}

// proof is what is known of a blob's piece hashes: the signed map, or the
// hashes alone, or neither.
func (x *index) proof(d blob.Digest, size int64) (m *blob.PieceMap, hashes []blob.PieceHash, err error) {
	err = x.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(bucketProofs).Get([]byte(d))
		if raw == nil {
			return nil
		}
		m, hashes, err = decodeProof(raw, d, size)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read piece hashes of %s from the index: %w", d, err)
	}
	return m, hashes, nil
}

func decodeProof(raw []byte, d blob.Digest, size int64) (*blob.PieceMap, []blob.PieceHash, error) {
	if len(raw) == 0 {
		return nil, nil, errors.New("an empty row")
	}
	kind, body := raw[0], raw[1:]
	switch kind {
	case proofMap:
		m, err := blob.DecodePieceMap(body)
		if err != nil {
			return nil, nil, err
		}
		if m.Digest != d || m.Size != size {
			return nil, nil, fmt.Errorf("%w: a map of %s, %d bytes", ErrForeignProof, m.Digest, m.Size)
		}
		return m, m.Hashes, nil
	case proofHashes:
		hashes := make([]blob.PieceHash, blob.PieceCount(size))
		if len(body) != len(hashes)*len(blob.PieceHash{}) {
			return nil, nil, fmt.Errorf("%d bytes for %d hashes", len(body), len(hashes))
		}
		for i := range hashes {
			copy(hashes[i][:], body[i*len(hashes[i]):])
		}
		return nil, hashes, nil
	}
	return nil, nil, fmt.Errorf("a row of kind %q", kind)
}

func encodeProof(m *blob.PieceMap, hashes []blob.PieceHash) []byte {
	if m != nil {
		return append([]byte{proofMap}, m.Encode()...)
	}
	out := make([]byte, 1, 1+len(hashes)*len(blob.PieceHash{}))
	out[0] = proofHashes
	for _, h := range hashes {
		out = append(out, h[:]...)
	}
	return out
}

// change brings the rows of one blob to what memory says.
type change struct {
	digest blob.Digest
	record *record // nil removes every row of the blob
	fresh  bool    // rows of an earlier blob of this digest go first
	put    map[int]blob.PieceHash
	drop   []int
	proof  []byte // nil leaves the row alone
}

func (x *index) apply(changes []change) error {
	err := x.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range changes {
			if err := c.apply(tx); err != nil {
				return fmt.Errorf("%s: %w", c.digest, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the index: %w", explain(err))
	}
	return nil
}

func (c change) apply(tx *bbolt.Tx) error {
	key, all, proofs := []byte(c.digest), tx.Bucket(bucketPieces), tx.Bucket(bucketProofs)
	if c.record == nil || c.record.complete || c.fresh {
		if err := all.DeleteBucket(key); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return err
		}
	}
	if c.record == nil || c.fresh {
		if err := proofs.Delete(key); err != nil {
			return err
		}
	}
	if c.record == nil {
		return tx.Bucket(bucketBlobs).Delete(key)
	}
	if c.proof != nil {
		if err := proofs.Put(key, c.proof); err != nil {
			return err
		}
	}
	if err := tx.Bucket(bucketBlobs).Put(key, c.record.encode()); err != nil {
		return err
	}
	if c.record.complete || len(c.put)+len(c.drop) == 0 {
		return nil
	}
	rows, err := all.CreateBucketIfNotExists(key)
	if err != nil {
		return err
	}
	for i, h := range c.put {
		if err := rows.Put(pieceKey(i), h[:]); err != nil {
			return err
		}
	}
	for _, i := range c.drop {
		if err := rows.Delete(pieceKey(i)); err != nil {
			return err
		}
	}
	return nil
}
