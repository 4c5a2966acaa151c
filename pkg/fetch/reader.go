package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Reader reads a range of a blob, from the file when it is complete, and
// otherwise as it grows. It is not safe for use by several goroutines at
// once.
type Reader struct {
	ctx    context.Context
	size   int64
	at     int64 // place of the next byte
	end    int64
	rec    *record
	kind   string // of a whole file: where it was found
	req    Request
	fl     *flight // nil for a whole file
	file   *os.File
	src    io.ReadCloser
	direct bool // past the store
	closed bool
}

func newFileReader(ctx context.Context, file *os.File, kind string, rec *record, size int64, r blob.Range) *Reader {
	return &Reader{ctx: ctx, size: size, at: r.Start, end: r.End, rec: rec, kind: kind, file: file}
}

func newFlightReader(ctx context.Context, fl *flight, req Request, size int64, r blob.Range) *Reader {
	return &Reader{ctx: ctx, size: size, at: r.Start, end: r.End, rec: fl.rec, req: req, fl: fl}
}

// Size is the size of the whole blob in bytes.
func (r *Reader) Size() int64 { return r.size }

// Read waits for bytes; see Open for the errors.
func (r *Reader) Read(p []byte) (int, error) {
	if r.at >= r.end {
		return 0, io.EOF
	}
	for {
		if err := r.prepare(); err != nil {
			return 0, err
		}
		n, err := r.current().Read(p[:min(int64(len(p)), r.end-r.at)])
		r.took(int64(n))
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case r.mayGoPast(err):
			continue
		case errors.Is(err, io.EOF):
			return 0, fmt.Errorf("read byte %d of %d: %w", r.at, r.size, io.ErrUnexpectedEOF)
		}
		return 0, fmt.Errorf("read byte %d of %d: %w", r.at, r.size, err)
	}
}

// WriteTo hands a complete blob's file to w, so that the kernel may move the
// bytes; a growing blob is copied.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	if r.at >= r.end {
		return 0, nil
	}
	if err := r.prepare(); err != nil {
		return 0, err
	}
	if r.file == nil {
		return io.Copy(w, struct{ io.Reader }{r})
	}
	n, err := io.Copy(w, io.LimitReader(r.file, r.end-r.at))
	r.took(n)
	if err == nil && r.at < r.end {
		err = fmt.Errorf("read byte %d of %d: %w", r.at, r.size, io.ErrUnexpectedEOF)
	}
	return n, err
}

// Close lets go of the flight. It may be called more than once.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	var err error
	if r.src != nil {
		err = r.src.Close()
	}
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	if r.fl != nil {
		r.fl.leave()
	} else {
		r.rec.finish(nil)
	}
	return err
}

func (r *Reader) current() io.Reader {
	if r.file != nil {
		return r.file
	}
	return r.src
}

func (r *Reader) took(n int64) {
	if n <= 0 {
		return
	}
	r.at += n
	r.rec.read()
	if r.fl == nil {
		r.rec.add(r.kind, "", n)
	}
}

// prepare opens what is read from, waiting for the flight to have it.
func (r *Reader) prepare() error {
	if r.closed {
		return os.ErrClosed
	}
	if r.file != nil || r.src != nil {
		return nil
	}
	select {
	case <-r.fl.ready:
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
	b, file, err := r.fl.handle()
	switch {
	case err != nil && r.mayGoPast(err):
		return r.prepare()
	case err != nil:
		return err
	case file != nil:
		r.file = file
		if _, err := file.Seek(r.at, io.SeekStart); err != nil {
			return fmt.Errorf("go to byte %d: %w", r.at, err)
		}
	default:
		r.src = b.NewReader(r.ctx, blob.Range{Start: r.at, End: r.end})
		// A flight that ended in between has failed the readers of then.
		if err := r.fl.failure(); err != nil && !r.mayGoPast(err) {
			err = errors.Join(err, r.src.Close())
			r.src = nil
			return err
		}
	}
	return nil
}

// mayGoPast turns to the origin itself when the store has no room.
func (r *Reader) mayGoPast(err error) bool {
	if r.direct || r.fl == nil || !errors.Is(err, blob.ErrFull) {
		return false
	}
	src, _ := r.fl.f.source(r.req.Ref)
	if src == nil {
		return false
	}
	if r.src != nil {
		r.src.Close()
	}
	r.direct = true
	r.fl.f.metrics.uncached.Inc()
	r.src = newPassage(r.ctx, r.fl.f, r.req, r.rec, blob.Range{Start: r.at, End: r.end}, r.size)
	return true
}
