package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
)

// uploadRecord is an upload session between two requests. It holds the state
// of the hashes, so that the next request may come after a restart.
type uploadRecord struct {
	Repository string    `json:"repository"`
	Subject    string    `json:"subject"` // whose it is
	Object     string    `json:"object,omitempty"`
	Offset     int64     `json:"offset"`
	Hashes     hashState `json:"hashes"`
	Touched    time.Time `json:"touched"`
}

// hashState is a saved hasher. Without bytes yet it is empty, but for an
// algorithm that the client announced.
type hashState struct {
	Algorithm string `json:"algorithm,omitempty"`
	Flat      []byte `json:"flat,omitempty"`
	Tree      []byte `json:"tree,omitempty"`
}

const (
	sha256Name = "sha256"
	sha512Name = "sha512"
)

// hasher hashes what is pushed: whole by one algorithm, and in pieces.
type hasher struct {
	algorithm string
	flat      hash.Hash
	tree      *blob.TreeHasher
}

func newFlat(algorithm string) (hash.Hash, error) {
	switch algorithm {
	case sha256Name:
		return sha256.New(), nil
	case sha512Name:
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("digest algorithm %.20q is not known, sha256 and sha512 are", algorithm)
}

func newHasher(algorithm string) (*hasher, error) {
	flat, err := newFlat(algorithm)
	if err != nil {
		return nil, err
	}
	return &hasher{algorithm: algorithm, flat: flat, tree: blob.NewTreeHasher()}, nil
}

func (h *hasher) Write(p []byte) (int, error) {
	h.flat.Write(p)
	return h.tree.Write(p)
}

func digestOf(algorithm string, flat hash.Hash) blob.Digest {
	return blob.Digest(algorithm + ":" + hex.EncodeToString(flat.Sum(nil)))
}

func (h *hasher) save() (hashState, error) {
	flat, flatErr := h.flat.(encoding.BinaryMarshaler).MarshalBinary()
	tree, treeErr := h.tree.MarshalBinary()
	return hashState{Algorithm: h.algorithm, Flat: flat, Tree: tree}, errors.Join(flatErr, treeErr)
}

// restore takes a saved state up; offset is the bytes that it must stand for.
func restore(s hashState, offset int64) (*hasher, error) {
	h, err := newHasher(s.Algorithm)
	if err != nil {
		return nil, err
	}
	if err := h.flat.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.Flat); err != nil {
		return nil, fmt.Errorf("restore hash: %w", err)
	}
	if err := h.tree.UnmarshalBinary(s.Tree); err != nil {
		return nil, fmt.Errorf("restore piece hashes: %w", err)
	}
	if h.tree.Size() != offset {
		return nil, fmt.Errorf("restore hashes: they stand at %d bytes, the upload at %d", h.tree.Size(), offset)
	}
	return h, nil
}

// decodeUpload reads a session and checks that it can be gone on with.
func decodeUpload(raw []byte) (uploadRecord, error) {
	var rec uploadRecord
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, fmt.Errorf("decode upload session: %w", err)
	}
	if rec.Offset < 0 || rec.Offset > 0 && rec.Object == "" {
		return rec, fmt.Errorf("decode upload session: offset %d without bytes", rec.Offset)
	}
	return rec, nil
}

// session is an upload in the hands of one request.
type session struct {
	id       string
	record   uploadRecord
	revision meta.Revision // 0: not kept beyond this request
	writer   objects.Writer
	hasher   *hasher
	quota    int64 // of the session's project, bytes; 0 for none
}

func newUploadID() string {
	var raw [16]byte
	rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}

func errUploadUnknown() error {
	return &Error{Status: http.StatusNotFound, Code: codeBlobUploadUnknown,
		Message: "there is no such upload of yours; it ended, expired or was never begun: begin again with POST"}
}

func errUploadBusy() error {
	return &Error{Status: http.StatusConflict, Code: codeBlobUploadInvalid,
		Message: "another request is writing to this upload; ask for its state with GET, then go on from there",
		Header:  http.Header{"Retry-After": {"1"}}}
}

// load reads the session that a request names. Another's is as good as none.
func (g *Registry) load(q *request) (*session, error) {
	if len(q.upload) != 2*16 {
		return nil, errUploadUnknown()
	}
	v, err := g.Meta.Get(q.Context(), keyUpload(q.upload))
	if errors.Is(err, meta.ErrNotFound) {
		return nil, errUploadUnknown()
	}
	if err != nil {
		return nil, fmt.Errorf("read upload session: %w", err)
	}
	rec, err := decodeUpload(v.Data)
	if err != nil {
		return nil, err
	}
	if rec.Subject != q.subject || rec.Repository != q.repository {
		return nil, errUploadUnknown()
	}
	return &session{id: q.upload, record: rec, revision: v.Revision}, nil
}

// start opens the session for writing. algorithm is that of the digest when
// it is known already.
func (g *Registry) start(ctx context.Context, s *session, algorithm string) (err error) {
	if s.quota, err = g.quotaOf(ctx, projectOf(s.record.Repository)); err != nil {
		return err
	}
	if s.record.Offset == 0 {
		if algorithm == "" {
			algorithm = s.record.Hashes.Algorithm
		}
		if algorithm == "" {
			algorithm = sha256Name
		}
		s.hasher, err = newHasher(algorithm)
	} else {
		s.hasher, err = restore(s.record.Hashes, s.record.Offset)
	}
	if err != nil {
		return err
	}
	if s.record.Object == "" {
		s.writer, err = g.Objects.Create(ctx)
	} else {
		s.writer, err = g.Objects.Resume(ctx, s.record.Object, s.record.Offset)
	}
	switch {
	case errors.Is(err, objects.ErrNotFound):
		return errUploadUnknown()
	case errors.Is(err, objects.ErrBusy):
		return errUploadBusy()
	case err != nil:
		return err
	}
	s.record.Object = s.writer.ID()
	return nil
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// receive appends a body. What came before an error counts.
func (g *Registry) receive(s *session, body io.Reader) error {
	buffer := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buffer)
	for {
		n, readErr := body.Read(*buffer)
		if s.record.Offset+int64(n) > g.MaxBlobBytes {
			return &Error{Status: http.StatusRequestEntityTooLarge, Code: codeSizeInvalid,
				Message: fmt.Sprintf("the blob is larger than the %d bytes that this registry takes", g.MaxBlobBytes)}
		}
		if s.quota > 0 && s.record.Offset+int64(n) > s.quota {
			// It can't fit whatever is deleted, so its end is not waited for.
			return errQuota(projectOf(s.record.Repository), 0, s.quota, s.record.Offset+int64(n))
		}
		written, err := s.writer.Write((*buffer)[:n])
		s.hasher.Write((*buffer)[:written]) //nolint:errcheck // a hash takes every byte
		s.record.Offset += int64(written)
		if err != nil {
			return err
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return bodyError{readErr}
		}
	}
}

// keep makes what was received durable and the session's record say so.
func (g *Registry) keep(ctx context.Context, s *session) error {
	if err := s.writer.Flush(ctx); err != nil {
		return err
	}
	var err error
	if s.record.Hashes, err = s.hasher.save(); err != nil {
		return err
	}
	s.record.Touched = g.Now().UTC()
	s.revision, err = g.Meta.Commit(ctx, []meta.Compare{{Key: keyUpload(s.id), Revision: s.revision}},
		[]meta.Op{put(keyUpload(s.id), s.record)})
	if errors.Is(err, meta.ErrConflict) {
		return g.overtaken(ctx, s)
	}
	return err
}

// overtaken is for a session that another request changed meanwhile: it ended
// it, or it was the first to write. Then these bytes are nobody's.
func (g *Registry) overtaken(ctx context.Context, s *session) error {
	now, revision, err := get[uploadRecord](ctx, g.Meta, keyUpload(s.id))
	if err != nil {
		return err
	}
	if now.Object != s.record.Object {
		g.abandon(ctx, s)
	}
	if revision == 0 {
		return errUploadUnknown()
	}
	return errUploadBusy()
}
