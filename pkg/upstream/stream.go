package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// maxSkip bounds the bytes thrown away for a registry that ignores ranges.
const maxSkip = 64 << 20

// Blob opens a range of a blob; an End of -1 means to the end. The reader
// resumes by itself after a cut as long as there is progress. size is that of
// the whole blob, -1 when the registry does not say. The bytes are not
// hashed: that is for whoever puts them together.
//
// Errors, from here and from Read: as Manifest, and ErrSizeMismatch.
func (c *Client) Blob(ctx context.Context, ref blob.Ref, d blob.Digest, rng blob.Range, token string) (rc io.ReadCloser, size int64, err error) {
	if _, err := blob.ParseDigest(d.String()); err != nil {
		return nil, 0, err
	}
	if rng.Start < 0 || rng.End != -1 && rng.End <= rng.Start {
		return nil, 0, fmt.Errorf("open blob %s: range [%d,%d) is empty", d, rng.Start, rng.End)
	}
	s := &stream{
		client: c,
		ctx:    ctx,
		query:  query{ref: ref, method: http.MethodGet, path: "blobs/" + d.String(), token: token},
		pos:    rng.Start,
		end:    rng.End,
		size:   -1,
	}
	if err := s.open(); err != nil {
		return nil, 0, fmt.Errorf("open blob %s of %s: %w", d, ref, err)
	}
	return s, s.size, nil
}

// stream reads one range over as many connections as it takes. One goroutine
// at a time may use it.
type stream struct {
	client *Client
	ctx    context.Context
	query  query
	pos    int64 // offset in the blob of the next byte
	end    int64 // where to stop, -1 when not known
	size   int64 // of the whole blob, -1 when not known

	body    io.ReadCloser // nil between connections
	stop    context.CancelFunc
	idle    *time.Timer
	fruit   bool // this connection has delivered a byte
	barren  int  // connections in a row that delivered none
	failure error
}

// errIdle is why a connection that delivers nothing is ended.
var errIdle = errors.New("connection delivers nothing")

// open makes a connection that delivers from pos on.
func (s *stream) open() error {
	ctx, cancel := context.WithCancelCause(s.ctx)
	q := s.query
	q.header = http.Header{}
	switch {
	case s.end >= 0:
		q.header.Set("Range", fmt.Sprintf("bytes=%d-%d", s.pos, s.end-1))
	case s.pos > 0:
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", s.pos))
	}
	resp, err := s.client.do(ctx, q) //nolint:bodyclose // drop closes it
	if err != nil {
		cancel(nil)
		return err
	}
	s.body = resp.Body
	s.stop = func() { cancel(nil) }
	s.idle = time.AfterFunc(s.client.idle, func() { cancel(errIdle) })
	s.fruit = false
	if err := s.accept(resp); err != nil {
		s.drop()
		return err
	}
	s.idle.Stop()
	return nil
}

// accept checks that the answer is the range asked for and brings the
// connection to pos.
func (s *stream) accept(resp *http.Response) error {
	start, size := int64(0), resp.ContentLength
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		var err error
		if start, size, err = parseContentRange(resp.Header.Get("Content-Range")); err != nil {
			return err
		}
		if start != s.pos {
			return fmt.Errorf("%w: asked from byte %d, got from %d", ErrMalformed, s.pos, start)
		}
	default:
		return fmt.Errorf("%w: status %d for a blob", ErrMalformed, resp.StatusCode)
	}
	if s.size >= 0 && size >= 0 && size != s.size {
		return fmt.Errorf("%w: first %d bytes, then %d", ErrSizeMismatch, s.size, size)
	}
	if size >= 0 {
		s.size = size
		if s.end < 0 {
			s.end = size
		}
		if s.end > size {
			return fmt.Errorf("%w: bytes up to %d wanted of %d", ErrSizeMismatch, s.end, size)
		}
	}
	return s.skip(s.pos - start)
}

// skip throws away what a registry that ignores ranges sends first.
func (s *stream) skip(n int64) error {
	if n > maxSkip {
		return fmt.Errorf("%w: the registry ignores ranges, and %d bytes would be thrown away", ErrMalformed, n)
	}
	buf := make([]byte, min(n, 32<<10))
	for n > 0 {
		s.idle.Reset(s.client.idle)
		got, err := s.body.Read(buf[:min(n, int64(len(buf)))])
		n -= int64(got)
		if err != nil && n > 0 {
			return fmt.Errorf("%w: cut while skipping to byte %d: %w", ErrUnavailable, s.pos, err)
		}
	}
	return nil
}

// parseContentRange reads "bytes first-last/size"; size is -1 for "*".
func parseContentRange(value string) (start, size int64, err error) {
	bad := fmt.Errorf("%w: Content-Range %q", ErrMalformed, clip(value))
	span, total, ok := strings.Cut(strings.TrimPrefix(value, "bytes "), "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !strings.HasPrefix(value, "bytes ") || !ok || !ok2 {
		return 0, 0, bad
	}
	start, err = parseOffset(first)
	if err != nil {
		return 0, 0, bad
	}
	end, err := parseOffset(last)
	if err != nil || end < start {
		return 0, 0, bad
	}
	if total == "*" {
		return start, -1, nil
	}
	if size, err = parseOffset(total); err != nil || end >= size {
		return 0, 0, bad
	}
	return start, size, nil
}

func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// Read delivers the next bytes, reconnecting where it has to.
func (s *stream) Read(p []byte) (int, error) {
	for {
		switch {
		case s.failure != nil:
			return 0, s.failure
		case s.end >= 0 && s.pos >= s.end:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		if s.body == nil {
			if err := s.open(); err != nil {
				if s.failure = s.ctx.Err(); s.failure == nil {
					s.failure = fmt.Errorf("resume %s at byte %d: %w", s.query.path, s.pos, err)
				}
				continue
			}
		}
		if s.end >= 0 {
			p = p[:min(int64(len(p)), s.end-s.pos)]
		}
		s.idle.Reset(s.client.idle)
		n, err := s.body.Read(p)
		s.idle.Stop()
		s.pos += int64(n)
		s.fruit = s.fruit || n > 0
		if err != nil {
			s.cut(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// cut ends a connection and decides whether there will be another.
func (s *stream) cut(err error) {
	if errors.Is(err, io.EOF) && s.end < 0 {
		s.drop()
		s.failure = io.EOF // no length was ever named: this is the end
		return
	}
	s.barren++
	if s.fruit {
		s.barren = 0
	}
	s.drop()
	switch {
	case s.end >= 0 && s.pos >= s.end:
	case s.ctx.Err() != nil:
		s.failure = s.ctx.Err()
	case s.barren >= s.client.attempts:
		s.failure = fmt.Errorf("%w: %s cut %d times at byte %d: %w", ErrUnavailable, s.query.path, s.barren, s.pos, err)
	case s.barren > 0:
		s.failure = sleep(s.ctx, backoff(s.barren, rand.Float64()))
	}
}

func (s *stream) drop() {
	if s.body == nil {
		return
	}
	s.idle.Stop()
	s.stop()
	if err := s.body.Close(); err != nil {
		s.client.log.Debug("close an upstream body", "path", s.query.path, "err", err)
	}
	s.body = nil
}

// Close ends the connection. A reader that was read to its end leaves the
// connection for the next request.
func (s *stream) Close() error {
	if s.body != nil && s.end >= 0 && s.pos >= s.end {
		// The body's own end has not been read yet; without it the
		// connection cannot be used again.
		s.idle.Reset(s.client.idle)
		if n, err := s.body.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			s.client.log.Debug("upstream sends more than it said", "path", s.query.path)
		}
	}
	s.drop()
	if s.failure == nil {
		s.failure = errors.New("read from a closed upstream reader")
	}
	return nil
}
