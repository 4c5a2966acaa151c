package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// maxBroken bounds the broken places that one report names.
const maxBroken = 100

// Report is what Verify found.
type Report struct {
	Rows        uint64
	First, Last uint64        // sequences; 0 without rows
	Broken      []BrokenError // in order; at most 100 of them
}

func (r *Report) broke(b *BrokenError) {
	if len(r.Broken) < maxBroken {
		r.Broken = append(r.Broken, *b)
	}
}

// Verify walks over the whole chain, from the place behind what was removed by
// age to the last row that was written, and names what does not hold. The
// error is one of reading.
func (l *Log) Verify(ctx context.Context) (Report, error) {
	if err := l.settle(ctx); err != nil {
		return Report{}, fmt.Errorf("verify the audit: %w", err)
	}
	l.removing.RLock()
	defer l.removing.RUnlock()
	segments, at := l.snapshot()
	var r Report
	if err := l.verifyEnds(&r, at); err != nil {
		return r, fmt.Errorf("verify the audit: %w", err)
	}
	c := chain{at.Before}
	for _, s := range segments {
		data, err := l.read(s)
		switch b := broken(err); {
		case b != nil:
			r.broke(b)
			continue
		case errors.Is(err, fs.ErrNotExist):
			r.broke(&BrokenError{s.first, "its file is missing"})
			continue
		case err != nil:
			return r, fmt.Errorf("verify the audit: %w", err)
		}
		c.verify(data, &r)
		if err := ctx.Err(); err != nil {
			return r, fmt.Errorf("verify the audit: %w", err)
		}
	}
	if c.at != at.Last {
		r.broke(&BrokenError{at.Last.Sequence, "it was written as the last one, and is missing or was changed"})
	}
	return r, nil
}

// verify goes over one segment's lines. Behind a break it goes on with what it
// finds, so that a second one is named as well.
func (c *chain) verify(data []byte, r *Report) {
	for len(data) > 0 {
		line, rest, whole := nextLine(data)
		row, err := c.follow(line, whole)
		if b := broken(err); b != nil {
			r.broke(b)
			c.at = place{max(row.Sequence, c.at.Sequence+1), hashOf(line)}
		}
		if r.Rows == 0 {
			r.First = c.at.Sequence
		}
		r.Rows++
		r.Last = c.at.Sequence
		data = rest
	}
}

// verifyEnds checks that the ends on disk are signed.
func (l *Log) verifyEnds(r *Report, at ends) error {
	_, err := readEnds(l.endsPath(), l.cfg.Verify)
	switch b := broken(err); {
	case b != nil:
		r.broke(b)
	case errors.Is(err, fs.ErrNotExist) && at.Last.Sequence > 0:
		r.broke(&BrokenError{What: endsFile + " is missing"})
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}
