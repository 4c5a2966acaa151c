package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
)

func errBlobUnknown(d blob.Digest) error {
	return &Error{Status: http.StatusNotFound, Code: codeBlobUnknown,
		Message: "the repository has no such blob; push it, or mount it from one that has it", Detail: map[string]string{"digest": string(d)}}
}

// getBlob serves GET and HEAD of a blob.
func (g *Registry) getBlob(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	link, linked, err := get[linkRecord](ctx, g.Meta, keyLink(q.repository, q.digest))
	if err != nil {
		return err
	}
	if linked == 0 {
		return errBlobUnknown(q.digest)
	}
	if q.Method == http.MethodHead {
		return g.headBlob(w, q, link)
	}
	object, err := g.open(ctx, q.digest)
	if errors.Is(err, objects.ErrNotFound) {
		return errBlobUnknown(q.digest)
	}
	if err != nil {
		return err
	}
	defer object.Close()
	return serveContent(w, q.Request, q.digest, octetStream, object.Size(), func(r blob.Range) error {
		return sendObject(w, object, r)
	})
}

// headBlob answers that a blob is there, and sees to it that this stays true
// for as long as a push that builds on it takes.
func (g *Registry) headBlob(w http.ResponseWriter, q *request, link linkRecord) error {
	err := g.lease(q.Context(), q.repository, q.digest)
	var answer *Error
	if errors.As(err, &answer) {
		return err
	}
	if err != nil {
		// A disk that takes no lease takes no push that builds on it either;
		// who only reads is served.
		g.Log.Warn("registry: renew a lease", "repository", q.repository, "digest", q.digest, "error", err)
	}
	return serveContent(w, q.Request, q.digest, octetStream, link.Size, nil)
}

const octetStream = "application/octet-stream"

// serveContent answers a GET or HEAD of immutable content, whole or a range.
func serveContent(w http.ResponseWriter, r *http.Request, d blob.Digest, mediaType string, size int64, send func(blob.Range) error) error {
	etag := `"` + string(d) + `"`
	h := w.Header()
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", etag)
	h.Set("Accept-Ranges", "bytes")
	if matchesEtag(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", mediaType)
	part, status := blob.Range{End: size}, http.StatusOK
	if ifRange := r.Header.Get("If-Range"); ifRange == "" || ifRange == etag {
		asked, ok, err := parseRange(r.Header.Get("Range"), size)
		if err != nil {
			return &Error{Status: http.StatusRequestedRangeNotSatisfiable, Code: codeSizeInvalid,
				Message: fmt.Sprintf("the range does not lie within the %d bytes of the content", size),
				Header:  http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}}}
		}
		if ok {
			part, status = asked, http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.Start, part.End-1, size))
		}
	}
	h.Set("Content-Length", strconv.FormatInt(part.Len(), 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead || part.Len() == 0 {
		return nil
	}
	return clientGone(send(part))
}

func matchesEtag(header, etag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		if candidate = strings.TrimSpace(candidate); candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
			return true
		}
	}
	return false
}

// sendObject writes a part of an object, by sendfile where both ends can.
func sendObject(w io.Writer, object objects.Object, part blob.Range) error {
	var source io.Reader = io.NewSectionReader(object, part.Start, part.Len())
	if file := fileOf(object); file != nil {
		if _, err := file.Seek(part.Start, io.SeekStart); err != nil {
			return fmt.Errorf("read object: %w", err)
		}
		source = io.LimitReader(file, part.Len())
	}
	n, err := io.Copy(w, source)
	if err == nil && n < part.Len() {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func fileOf(object objects.Object) *os.File {
	if f, ok := object.(objects.Filer); ok {
		return f.File()
	}
	return nil
}

// open opens the bytes of a digest, whoever holds them; objects.ErrNotFound
// when nobody does.
func (g *Registry) open(ctx context.Context, d blob.Digest) (objects.Object, error) {
	for range 2 {
		record, revision, err := get[blobRecord](ctx, g.Meta, keyBlob(d))
		if err != nil {
			return nil, err
		}
		if revision == 0 {
			break
		}
		// A collection and a new push in between give the digest a new object.
		object, err := g.Objects.Open(ctx, record.Object)
		if !errors.Is(err, objects.ErrNotFound) {
			return object, err
		}
	}
	return nil, fmt.Errorf("open %s: %w", d, objects.ErrNotFound)
}

// deleteBlob takes a blob out of a repository. Its bytes go when no other
// holds them.
func (g *Registry) deleteBlob(w http.ResponseWriter, q *request) error {
	err := g.journal.commit(q.Context(), func() (*change, error) {
		link, linked, err := get[linkRecord](q.Context(), g.Meta, keyLink(q.repository, q.digest))
		if err != nil {
			return nil, err
		}
		if linked == 0 {
			return nil, errBlobUnknown(q.digest)
		}
		return unlink(q.repository, q.digest, link, linked), nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// unlink plans the removal of a link.
func unlink(repo string, d blob.Digest, link linkRecord, revision meta.Revision) *change {
	c := &change{entries: []Entry{linkEntry(BlobUnlinked, repo, d, link.Size)}}
	c.held = &holding{repository: repo, digest: d, size: link.Size, gone: true}
	c.compare(keyLink(repo, d), revision)
	c.write(meta.Delete(keyLink(repo, d)), meta.Delete(keyHeldBlob(d, repo)), meta.Delete(keyLease(repo, d)))
	return c
}
