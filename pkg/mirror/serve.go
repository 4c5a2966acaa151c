package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// errTooSlow is why an Open was given up.
var errTooSlow = fmt.Errorf("%w: no source in time", ErrUnavailable)

// patience ends ctx when the returned func is not called in time. The
// context itself lives on: a reader hangs on it.
func (m *Mirror) patience(parent context.Context) (ctx context.Context, inTime func(error) error, cancel func()) {
	ctx, stop := context.WithCancelCause(parent)
	timer := time.AfterFunc(m.cfg.OpenTimeout, func() { stop(errTooSlow) })
	inTime = func(err error) error {
		timer.Stop()
		if err != nil && errors.Is(context.Cause(ctx), errTooSlow) {
			return errTooSlow
		}
		return err
	}
	return ctx, inTime, func() { timer.Stop(); stop(nil) }
}

func (m *Mirror) manifest(w http.ResponseWriter, r *http.Request, req Request, grant Grant) {
	ctx, inTime, cancel := m.patience(r.Context())
	defer cancel()
	got, err := m.cfg.Fetcher.Manifest(ctx, req.Ref, req.Reference, grant)
	if err = inTime(err); err != nil {
		m.refuse(w, r, req, err)
		return
	}
	m.cfg.Auth.Learn(req.Ref, got)
	h := w.Header()
	h.Set("Content-Type", got.Descriptor.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(got.Body)))
	h.Set("Docker-Content-Digest", got.Descriptor.Digest.String())
	if got.Age > 0 {
		h.Set("Age", strconv.FormatInt(int64(got.Age/time.Second), 10))
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		w.Write(got.Body) //nolint:errcheck // a short body is the client's to notice: the length was sent
	}
}

func (m *Mirror) blob(w http.ResponseWriter, r *http.Request, req Request, grant Grant) {
	guarded, done := m.cfg.Auth.Guard(r.Context(), req, grant)
	defer done()
	ctx, inTime, cancel := m.patience(guarded)
	defer cancel()
	want, ranged := parseRange(r.Header.Get("Range"))
	ranged = ranged && r.Method == http.MethodGet
	rng, size := blob.Range{End: -1}, int64(-1)
	if ranged || r.Method == http.MethodHead {
		var err error
		if size, err = m.cfg.Fetcher.Stat(ctx, req.Ref, req.Digest, grant); err != nil {
			m.refuse(w, r, req, inTime(err))
			return
		}
		rng.End = size
	}
	if ranged {
		var ok bool
		if rng, ok = want.within(size); !ok {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			fault{http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "the range lies beyond the blob"}.write(w)
			return
		}
	}
	if r.Method == http.MethodHead {
		blobHeader(w, req.Digest, rng, size, ranged)
		return
	}
	reader, err := m.cfg.Fetcher.Open(ctx, req.Ref, req.Digest, rng, grant)
	if err = inTime(err); err != nil {
		m.refuse(w, r, req, err)
		return
	}
	defer func() {
		if err := reader.Close(); err != nil {
			m.cfg.Log.Debug("close a blob reader", "digest", req.Digest, "err", err)
		}
	}()
	if size < 0 {
		size = reader.Size()
		rng.End = size
	}
	blobHeader(w, req.Digest, rng, size, ranged)
	m.stream(w, reader, req, rng.Len())
}

func blobHeader(w http.ResponseWriter, d blob.Digest, rng blob.Range, size int64, ranged bool) {
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(rng.Len(), 10))
	h.Set("Docker-Content-Digest", d.String())
	status := http.StatusOK
	if ranged {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", rng.Start, rng.End-1, size))
	}
	w.WriteHeader(status)
}

// stream sends exactly length bytes or cuts the connection: a runtime takes
// a clean end for the end of the blob.
func (m *Mirror) stream(w http.ResponseWriter, reader Reader, req Request, length int64) {
	// The header goes out now: a runtime that sees none thinks the mirror dead.
	err := http.NewResponseController(w).Flush()
	var n int64
	if err == nil {
		if self, ok := reader.(io.WriterTo); ok {
			n, err = self.WriteTo(w)
		} else {
			n, err = io.Copy(w, reader)
		}
	}
	if err != nil || n != length {
		m.cfg.Log.Debug("mirror cuts a stream", "ref", req.Ref.String(), "digest", req.Digest, "sent", n, "of", length, "err", err)
		panic(http.ErrAbortHandler)
	}
}
