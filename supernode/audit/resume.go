package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/shoalproject/shoal/pkg/durable"
)

// resume finds where the chain goes on: behind the signed end. A power cut may
// have left rows there that were not signed yet; those that follow are kept,
// and what does not is cut off, since nobody was told that it was written. A
// chain that does not reach its signed end stays as it is, and goes on in a
// segment of its own. It returns an event that tells of either.
func (l *Log) resume() (*Event, error) {
	at, err := readEnds(l.endsPath(), l.cfg.Verify)
	why := broken(err)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && why == nil && !missing {
		return nil, err
	}
	if l.segments, err = listSegments(l.cfg.Dir); err != nil {
		return nil, err
	}
	if missing && len(l.segments) == 0 {
		l.sealed = true // there is nothing yet
		return nil, nil
	}
	if missing {
		why = &BrokenError{What: endsFile + " is missing"}
	}
	if why == nil {
		l.at = at
		if err := l.dropRemoved(); err != nil {
			return nil, err
		}
		var rest tail
		if rest, why, err = l.findEnd(); err != nil {
			return nil, err
		}
		if why == nil {
			return l.continueAt(rest)
		}
	}
	return l.beginAnew(why)
}

// dropRemoved finishes a removal that a crash interrupted.
func (l *Log) dropRemoved() error {
	for len(l.segments) > 1 && l.segments[1].first <= l.at.Before.Sequence+1 {
		if err := os.Remove(l.path(l.segments[0].first)); err != nil {
			return err
		}
		l.segments = l.segments[1:]
	}
	return nil
}

// tail is what follows the signed end.
type tail struct {
	chain
	rows    int   // that follow it
	segment int   // index of the one in which the chain ends
	size    int64 // of that segment, up to the chain's end
}

// findEnd looks for the signed last row, and follows the chain from there.
func (l *Log) findEnd() (t tail, why *BrokenError, err error) {
	t = tail{chain: chain{l.at.Last}, segment: -1}
	for i := range l.segments {
		if i+1 < len(l.segments) && l.segments[i+1].first <= l.at.Last.Sequence {
			continue // the end lies behind this one
		}
		data, err := l.read(l.segments[i])
		if b := broken(err); b != nil {
			return t, b, nil
		}
		if err != nil {
			return t, nil, err
		}
		if !t.walk(i, data, l.at.Last) {
			break
		}
	}
	if t.segment < 0 {
		why = &BrokenError{l.at.Last.Sequence, "it is signed as the last one, and is missing or was changed"}
	}
	return t, why, nil
}

// walk goes over one segment's lines; it reports whether the chain holds to
// the end of it.
func (t *tail) walk(i int, data []byte, last place) bool {
	var done int64
	for len(data) > 0 {
		line, rest, whole := nextLine(data)
		size := int64(len(data) - len(rest))
		switch {
		case t.segment >= 0:
			if _, err := t.follow(line, whole); err != nil {
				return false
			}
			t.rows++
		case whole && hashOf(line) == last.Hash:
		default:
			done, data = done+size, rest
			continue
		}
		done, data = done+size, rest
		t.segment, t.size = i, done
	}
	return true
}

// continueAt takes up the chain at its end, and cuts off what lies behind.
func (l *Log) continueAt(t tail) (*Event, error) {
	var cut int64
	for _, s := range l.segments[t.segment+1:] {
		cut += s.size
		if err := os.Remove(l.path(s.first)); err != nil {
			return nil, err
		}
	}
	l.segments = l.segments[:t.segment+1]
	now := &l.segments[t.segment]
	cut += now.size - t.size
	f, err := os.OpenFile(l.path(now.first), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	l.file, now.size, l.at.Last, l.sealed = f, t.size, t.at, t.rows == 0
	if err := l.readLastTime(*now); err != nil {
		return nil, err
	}
	if cut == 0 && t.rows == 0 {
		return nil, nil
	}
	if err := errors.Join(f.Truncate(t.size), f.Sync(), durable.SyncDir(l.cfg.Dir)); err != nil {
		return nil, err
	}
	return &Event{
		Subject: Supernode, Action: "audit.resume", Object: "audit", Allowed: true, Reason: "the last stop was not an orderly one",
		Detail: map[string]string{"unsigned_rows": fmt.Sprint(t.rows), "bytes_cut": fmt.Sprint(cut)},
	}, nil
}

func (l *Log) readLastTime(s segment) error {
	data, err := l.read(s)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		line, rest, _ := nextLine(data)
		if row, err := decode(line); err == nil {
			l.lastTime = row.Time
		}
		data = rest
	}
	return nil
}

// beginAnew goes on behind everything that is there. Its first row does not
// follow from any, unless the one that was signed as the last comes back.
func (l *Log) beginAnew(why *BrokenError) (*Event, error) {
	l.cfg.Log.Error("the audit is not as it was left; 'dfget audit verify' names the place", "error", why)
	if n := len(l.segments); n > 0 {
		newest := l.segments[n-1]
		l.at.Last.Sequence = max(l.at.Last.Sequence, newest.first)
		data, err := l.read(newest)
		if err != nil && broken(err) == nil {
			return nil, err
		}
		for len(data) > 0 {
			line, rest, _ := nextLine(data)
			if row, err := decode(line); err == nil {
				l.at.Last.Sequence = max(l.at.Last.Sequence, row.Sequence)
			}
			data = rest
		}
	}
	return &Event{Subject: Supernode, Action: "audit.broken", Object: "audit", Reason: why.Error()}, nil
}
