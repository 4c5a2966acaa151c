package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

const (
	// MaxPage bounds the rows of one answer.
	MaxPage = 1000
	// maxLooked bounds the rows that one search looks at.
	maxLooked = 100_000
	// flushWithin is how long a reader waits for what was just recorded.
	flushWithin = 2 * time.Second
)

// Query says which rows are wanted. Its zero value means all.
type Query struct {
	Subject string
	Action  string // this one, or all below it: "image" finds image.push
	Object  string // this one, or all below it: "demo" finds demo/app:v1
	Project string
	Since   time.Time
	Until   time.Time // inclusive
	Denied  bool      // only what was refused
}

func (q Query) matches(r *Row) bool {
	switch {
	case q.Subject != "" && r.Subject != q.Subject,
		q.Action != "" && !below(r.Action, q.Action, "."),
		q.Object != "" && !below(r.Object, q.Object, "/:@"),
		q.Project != "" && r.Project != q.Project,
		!q.Since.IsZero() && r.Time.Before(q.Since),
		!q.Until.IsZero() && r.Time.After(q.Until),
		q.Denied && r.Allowed:
		return false
	}
	return true
}

// mayHold reports whether a segment can hold rows of the query's time.
func (q Query) mayHold(s segment) bool {
	return (q.Since.IsZero() || s.until().After(q.Since)) && (q.Until.IsZero() || !s.begin.After(q.Until))
}

// below reports whether s is the whole of what, or continues it behind one of
// the separators.
func below(s, what, separators string) bool {
	rest, found := strings.CutPrefix(s, what)
	return found && (rest == "" || strings.ContainsRune(separators, rune(rest[0])))
}

// settle lets what was just recorded be seen. A disk that does not take it is
// no reason not to read what is there.
func (l *Log) settle(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	if err := l.Flush(waiting); err != nil && !errors.Is(err, errClosed) {
		return ctx.Err()
	}
	return nil
}

// Search returns rows that match, the newest first, of those with a lower
// sequence than before (0: of all); at most limit (0 and above MaxPage:
// MaxPage). next is the before that continues the search, when it is not 0,
// also after an answer with fewer rows or none: a search looks at a bounded
// number of rows at a time.
func (l *Log) Search(ctx context.Context, q Query, before uint64, limit int) (rows []Row, next uint64, err error) {
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	if err := l.settle(ctx); err != nil {
		return nil, 0, fmt.Errorf("search the audit: %w", err)
	}
	segments, _ := l.snapshot()
	looked := 0
	for i := len(segments) - 1; i >= 0; i-- {
		s := segments[i]
		if before > 0 && s.first >= before || !q.mayHold(s) {
			continue
		}
		all, err := l.rowsOf(s)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, 0, fmt.Errorf("search the audit: %w", err)
		}
		for j := len(all) - 1; j >= 0; j-- {
			if before > 0 && all[j].Sequence >= before {
				continue
			}
			if q.matches(&all[j]) {
				rows = append(rows, all[j])
			}
			if looked++; len(rows) == limit || looked == maxLooked {
				return rows, all[j].Sequence, nil
			}
		}
	}
	return rows, 0, nil
}

// rowsOf are a segment's rows; those that cannot be read are left out, since
// Verify tells of them, and so is a segment that was removed meanwhile.
func (l *Log) rowsOf(s segment) ([]Row, error) {
	data, err := l.read(s)
	if err != nil {
		return nil, readable(err)
	}
	var rows []Row
	for len(data) > 0 {
		line, rest, _ := nextLine(data)
		if row, err := decode(line); err == nil {
			rows = append(rows, row)
		}
		data = rest
	}
	return rows, nil
}

func readable(err error) error {
	if errors.Is(err, fs.ErrNotExist) || broken(err) != nil {
		return nil
	}
	return err
}

// Export gives the lines of the rows that match to yield, the oldest first,
// byte for byte as they were hashed and without their line feed: the previous
// of each is the SHA-256 of the line before, where none was left out.
func (l *Log) Export(ctx context.Context, q Query, yield func(line []byte) error) error {
	if err := l.settle(ctx); err != nil {
		return fmt.Errorf("export the audit: %w", err)
	}
	segments, _ := l.snapshot()
	for _, s := range segments {
		if !q.mayHold(s) {
			continue
		}
		data, err := l.read(s)
		if err = readable(err); err == nil {
			err = exportLines(data, q, yield)
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return fmt.Errorf("export the audit: %w", err)
		}
	}
	return nil
}

func exportLines(data []byte, q Query, yield func(line []byte) error) error {
	for len(data) > 0 {
		line, rest, _ := nextLine(data)
		if row, err := decode(line); err == nil && q.matches(&row) {
			if err := yield(line); err != nil {
				return err
			}
		}
		data = rest
	}
	return nil
}
