package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// tail is how many of a blob's last bytes a passage keeps back until the
// whole digest is verified.
const tail = 32 << 10

// passage reads a range straight from the origin, past the store, and goes on
// after a cut. A range that is the whole blob is verified: its tail is not
// handed out before the digest is.
type passage struct {
	ctx   context.Context
	f     *Fetcher
	req   Request
	rec   *record
	at    int64 // place of the next byte to ask for
	end   int64
	size  int64
	body  io.ReadCloser
	fails int
	sum   hash.Hash // nil when the range is not the whole blob
	kept  []byte    // the tail, until it is verified
	good  bool
}

func newPassage(ctx context.Context, f *Fetcher, req Request, rec *record, r blob.Range, size int64) *passage {
	p := &passage{ctx: ctx, f: f, req: req, rec: rec, at: r.Start, end: r.End, size: size}
	if r.Start == 0 && r.End == size {
		p.sum = req.Digest.Algorithm().Hash()
	}
	return p
}

func (p *passage) Read(buf []byte) (int, error) {
	for p.sum != nil && !p.good && p.at >= p.size-tail {
		if err := p.verifyTail(); err != nil {
			return 0, err
		}
	}
	if len(p.kept) > 0 {
		n := copy(buf, p.kept)
		p.kept = p.kept[n:]
		return n, nil
	}
	if p.at >= p.end {
		return 0, io.EOF
	}
	if p.sum != nil {
		buf = buf[:min(int64(len(buf)), p.size-tail-p.at)]
	}
	return p.pull(buf)
}

// verifyTail reads the last bytes and checks the digest.
func (p *passage) verifyTail() error {
	for p.at < p.end {
		buf := make([]byte, p.end-p.at)
		n, err := p.pull(buf)
		if err != nil {
			return err
		}
		p.kept = append(p.kept, buf[:n]...)
	}
	if got := blob.Digest(fmt.Sprintf("%s:%x", p.req.Digest.Algorithm(), p.sum.Sum(nil))); got != p.req.Digest {
		p.kept = nil
		p.f.metrics.mismatches.Inc()
		err := fmt.Errorf("%w: %s was asked for, the bytes are %s", ErrBadDigest, p.req.Digest, got)
		p.f.refusals.refuted(p.req.Digest, err)
		return err
	}
	p.good = true
	return nil
}

// pull reads what comes next, opening the origin again after a cut.
func (p *passage) pull(buf []byte) (int, error) {
	for {
		n, err := p.once(buf)
		if n > 0 {
			p.fails = 0
			p.at += int64(n)
			if p.sum != nil {
				p.sum.Write(buf[:n])
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if p.body != nil {
			p.body.Close()
			p.body = nil
		}
		if err := p.pause(err); err != nil {
			return 0, err
		}
	}
}

func (p *passage) once(buf []byte) (int, error) {
	src, way := p.f.source(p.req.Ref)
	if p.body == nil {
		body, size, err := src.Blob(p.ctx, p.req.Ref, p.req.Digest, blob.Range{Start: p.at, End: p.end}, p.req.OriginToken)
		if err != nil {
			return 0, err
		}
		p.body = body
		if size >= 0 && size != p.size {
			return 0, fmt.Errorf("%w: the registry says %d bytes, %d were expected", ErrSize, size, p.size)
		}
	}
	n, err := p.body.Read(buf)
	if way == gatewayWay {
		p.rec.add(FromSupernode, "", int64(n))
	} else {
		p.rec.add(FromUpstream, p.req.Ref.Registry, int64(n))
	}
	return n, err
}

// pause waits before the next attempt, or returns why there is none.
func (p *passage) pause(err error) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	status, after := p.f.classify(err)
	kind, err := sortError(err, status)
	wait := max(after, retryFirst<<min(p.fails, 8))
	p.fails++
	if kind != passing || errors.Is(err, ErrSize) || p.fails >= retriesMost || wait > retryLongest {
		return fmt.Errorf("read %s past the full store: %w", p.req.Digest, err)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

func (p *passage) Close() error {
	if p.body == nil {
		return nil
	}
	return p.body.Close()
}
