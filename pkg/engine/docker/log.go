package docker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/shoalproject/shoal/pkg/engine"
)

// Logs implements engine.Engine.
func (e *Engine) Logs(ctx context.Context, id string, tail int, follow bool) (io.ReadCloser, error) {
	_, err := e.own(ctx, id)
	var body io.ReadCloser
	if err == nil {
		query := url.Values{"stdout": {"1"}, "stderr": {"1"}, "tail": {"all"}}
		if tail > 0 {
			query.Set("tail", strconv.Itoa(tail))
		}
		if follow {
			query.Set("follow", "1")
		}
		body, err = e.do(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/logs?"+query.Encode(), nil)
	}
	if errors.Is(err, errNotThere) {
		err = engine.ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read the log of container %s: %w", id, err)
	}
	return &frames{body: body, ctx: ctx}, nil
}

// frames reads what Docker sends as one stream of two: each piece has a header
// of eight bytes, the first of which names the stream and the last four of
// which are its length.
type frames struct {
	body io.ReadCloser
	ctx  context.Context
	left uint32 // of the piece that is being read
}

func (f *frames) Read(p []byte) (int, error) {
	for f.left == 0 {
		var header [8]byte
		if _, err := io.ReadFull(f.body, header[:]); err != nil {
			if f.ctx.Err() != nil {
				err = io.EOF // it was followed until now
			}
			return 0, err
		}
		if header[0] > 2 || header[1] != 0 || header[2] != 0 || header[3] != 0 {
			return 0, fmt.Errorf("docker's log begins a piece with %x, which is no header", header)
		}
		f.left = binary.BigEndian.Uint32(header[4:])
	}
	// The length takes no memory: it only says when the next header comes.
	n, err := f.body.Read(p[:min(len(p), int(f.left))])
	f.left -= uint32(n)
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, io.EOF):
		return 0, io.ErrUnexpectedEOF
	case err != nil && f.ctx.Err() != nil:
		return 0, io.EOF
	}
	return 0, err
}

func (f *frames) Close() error { return f.body.Close() }
