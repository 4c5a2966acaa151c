package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// beginUpload is POST: a mount, a blob in one request, or a new session.
func (g *Registry) beginUpload(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	if raw := query.Get("mount"); raw != "" {
		// What is no digest can't be mounted: like whatever else can't, it
		// begins an upload, whose end will say so.
		if d, err := blob.ParseDigest(raw); err == nil {
			mounted, err := g.mount(q, d, query.Get("from"))
			if err != nil {
				return err
			}
			if mounted {
				return created(w, q, d)
			}
		}
	} else if raw := query.Get("digest"); raw != "" {
		return g.pushAtOnce(w, q, raw)
	}
	algorithm := query.Get("digest-algorithm")
	if algorithm != "" {
		if _, err := newFlat(algorithm); err != nil {
			return &Error{Status: http.StatusBadRequest, Code: codeDigestInvalid, Message: err.Error()}
		}
	}
	s := &session{id: newUploadID(), record: uploadRecord{Repository: q.repository, Subject: q.subject,
		Hashes: hashState{Algorithm: algorithm}, Touched: g.Now().UTC()}}
	if _, err := g.Meta.Commit(q.Context(), []meta.Compare{{Key: keyUpload(s.id)}}, []meta.Op{put(keyUpload(s.id), s.record)}); err != nil {
		return fmt.Errorf("begin upload: %w", err)
	}
	s.describe(w, q)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// describe sets the headers that tell where an upload stands.
func (s *session) describe(w http.ResponseWriter, q *request) {
	h := w.Header()
	h.Set("Location", "/v2/"+q.repository+"/blobs/uploads/"+s.id)
	h.Set("Docker-Upload-Uuid", s.id)
	h.Set("Range", fmt.Sprintf("0-%d", max(0, s.record.Offset-1)))
	h.Set("Content-Length", "0")
}

func created(w http.ResponseWriter, q *request, d blob.Digest) error {
	h := w.Header()
	h.Set("Location", "/v2/"+q.repository+"/blobs/"+string(d))
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// pushAtOnce is POST with ?digest=: the body is the blob.
func (g *Registry) pushAtOnce(w http.ResponseWriter, q *request, raw string) error {
	d, err := parseDigest(raw)
	if err != nil {
		return err
	}
	s := &session{record: uploadRecord{Repository: q.repository, Subject: q.subject}}
	if err := g.start(q.Context(), s, d.Algorithm().String()); err != nil {
		return err
	}
	defer g.abandon(q.Context(), s)
	if err := g.receive(s, q.Body); err != nil {
		return bodyFailed(err)
	}
	if err := g.finish(q.Context(), s, d); err != nil {
		return err
	}
	return created(w, q, d)
}

// abandon removes an upload that nobody can go on with; after a commit it
// does nothing.
func (g *Registry) abandon(ctx context.Context, s *session) {
	if err := s.writer.Abort(context.WithoutCancel(ctx)); err != nil {
		g.Log.Warn("registry: remove an upload", "upload", s.writer.ID(), "error", err)
	}
}

// bodyFailed makes an error of reading the body an answer.
func bodyFailed(err error) error {
	var body bodyError
	if errors.As(err, &body) {
		return &Error{Status: http.StatusBadRequest, Code: codeBlobUploadInvalid, cause: err,
			Message: "the body ended early; ask for the upload's state with GET, then go on from there"}
	}
	return err
}

func (g *Registry) uploadStatus(w http.ResponseWriter, q *request) error {
	s, err := g.load(q)
	if err != nil {
		return err
	}
	s.describe(w, q)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Registry) cancelUpload(w http.ResponseWriter, q *request) error {
	s, err := g.load(q)
	if err != nil {
		return err
	}
	_, err = g.Meta.Commit(q.Context(), []meta.Compare{{Key: keyUpload(s.id), Revision: s.revision}}, []meta.Op{meta.Delete(keyUpload(s.id))})
	if errors.Is(err, meta.ErrConflict) {
		return errUploadUnknown()
	}
	if err != nil {
		return fmt.Errorf("cancel upload: %w", err)
	}
	if err := g.Objects.Discard(q.Context(), s.record.Object); err != nil {
		// A writer still has it open; the collection takes it later.
		g.Log.Debug("registry: discard an upload", "upload", s.id, "error", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// chunk checks a request's Content-Range against the upload, and returns the
// body with the length that the header promises.
func (s *session) chunk(q *request) (io.Reader, error) {
	header := q.Header.Get("Content-Range")
	if header == "" {
		return q.Body, nil
	}
	r, err := parseChunk(header)
	if err != nil {
		return nil, &Error{Status: http.StatusBadRequest, Code: codeBlobUploadInvalid,
			Message: "Content-Range of a chunk is <first>-<last>, both included, as in 0-1023"}
	}
	if r.Start != s.record.Offset {
		return nil, &Error{Status: http.StatusRequestedRangeNotSatisfiable, Code: codeBlobUploadInvalid,
			Message: fmt.Sprintf("the upload stands at byte %d, the chunk begins at %d; send the chunk that begins where the upload stands", s.record.Offset, r.Start)}
	}
	if q.ContentLength >= 0 && q.ContentLength != r.Len() {
		return nil, &Error{Status: http.StatusBadRequest, Code: codeSizeInvalid,
			Message: fmt.Sprintf("Content-Range promises %d bytes, Content-Length %d", r.Len(), q.ContentLength)}
	}
	return &exactly{q.Body, r.Len()}, nil
}

// exactly reads a promised number of bytes, no more and no fewer.
type exactly struct {
	io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p[:min(int64(len(p)), e.left+1)])
	if int64(n) > e.left {
		return int(e.left), errors.New("more bytes than Content-Range promises")
	}
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// patchUpload is PATCH: a chunk, or a stream without Content-Range.
func (g *Registry) patchUpload(w http.ResponseWriter, q *request) error {
	s, err := g.load(q)
	if err != nil {
		return err
	}
	if err := g.take(w, q, s, ""); err != nil {
		return err
	}
	defer g.closeWriter(s)
	if err := g.keep(q.Context(), s); err != nil {
		return err
	}
	s.describe(w, q)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// take receives a request's body into the session. When that fails it keeps
// what came, so that the client can go on from there.
func (g *Registry) take(w http.ResponseWriter, q *request, s *session, algorithm string) error {
	body, err := s.chunk(q)
	if err != nil {
		s.describe(w, q)
		w.Header().Del("Content-Length")
		return err
	}
	if err := g.start(q.Context(), s, algorithm); err != nil {
		return err
	}
	err = g.receive(s, body)
	if err == nil {
		return nil
	}
	defer g.closeWriter(s)
	if keepErr := g.keep(context.WithoutCancel(q.Context()), s); keepErr != nil {
		g.Log.Warn("registry: keep a broken upload", "upload", s.id, "error", keepErr)
	}
	return bodyFailed(err)
}

// closeWriter lets go of the upload; after a commit it does nothing.
func (g *Registry) closeWriter(s *session) {
	if err := s.writer.Close(); err != nil {
		g.Log.Warn("registry: close an upload", "upload", s.id, "error", err)
	}
}

// putUpload is PUT: perhaps a last chunk or all of the bytes, then the end.
func (g *Registry) putUpload(w http.ResponseWriter, q *request) error {
	d, err := parseDigest(q.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	s, err := g.load(q)
	if err != nil {
		return err
	}
	if err := g.take(w, q, s, d.Algorithm().String()); err != nil {
		return err
	}
	defer g.closeWriter(s)
	err = g.finish(q.Context(), s, d)
	if isDigestMismatch(err) {
		return errors.Join(err, g.drop(q.Context(), s))
	}
	if err != nil {
		return err
	}
	return created(w, q, d)
}

// drop ends a session whose bytes are wrong.
func (g *Registry) drop(ctx context.Context, s *session) error {
	g.abandon(ctx, s)
	_, err := g.Meta.Commit(context.WithoutCancel(ctx), []meta.Compare{{Key: keyUpload(s.id), Revision: s.revision}}, []meta.Op{meta.Delete(keyUpload(s.id))})
	if err != nil && !errors.Is(err, meta.ErrConflict) {
		return fmt.Errorf("end upload: %w", err)
	}
	return nil
}
