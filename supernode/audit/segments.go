package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	segmentSuffix = ".jsonl"
	// sequenceDigits is the width of a sequence in a file's name, so that names
	// sort.
	sequenceDigits = 20
	// segmentBytes is how large a segment grows before the next one begins.
	segmentBytes = 4 << 20
	// maxSegment bounds what is read of one: the batch that passed segmentBytes
	// is its last.
	maxSegment = segmentBytes + maxBatch*(maxLine+1)
)

// segment is one file of rows: those of one UTC day at most, in the order of
// their times.
type segment struct {
	first uint64    // sequence of its first row, which names the file
	begin time.Time // time of its first row
	size  int64     // bytes that are written and synced
}

// until is a time that all of the segment's rows lie before.
func (s segment) until() time.Time { return dayOf(s.begin).Add(24 * time.Hour) }

func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

func segmentName(first uint64) string {
	return fmt.Sprintf("%0*d%s", sequenceDigits, first, segmentSuffix)
}

func (l *Log) path(first uint64) string { return filepath.Join(l.cfg.Dir, segmentName(first)) }

// listSegments finds the segments of a folder in order. One whose first row
// cannot be read has no begin.
func listSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, entry := range entries {
		digits, found := strings.CutSuffix(entry.Name(), segmentSuffix)
		first, err := strconv.ParseUint(digits, 10, 64)
		if !found || err != nil || len(digits) != sequenceDigits || first == 0 {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return nil, err
		}
		s := segment{first: first, size: info.Size()}
		if row, err := firstRow(filepath.Join(dir, entry.Name())); err == nil {
			s.begin = row.Time
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	return out, nil
}

func firstRow(path string) (Row, error) {
	f, err := os.Open(path)
	if err != nil {
		return Row{}, err
	}
	defer f.Close() // opened for reading only
	line, err := bufio.NewReaderSize(f, maxLine+1).ReadSlice('\n')
	if err != nil {
		return Row{}, err
	}
	return decode(line[:len(line)-1])
}

// read is a segment's content, up to the size that it is known to have.
func (l *Log) read(s segment) ([]byte, error) {
	if s.size > maxSegment {
		return nil, &BrokenError{s.first, fmt.Sprintf("its file holds %d bytes, more than are ever written", s.size)}
	}
	f, err := os.Open(l.path(s.first))
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading only
	data := make([]byte, s.size)
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil // shorter than it was: the chain tells
	}
	return data[:n], err
}

// nextLine splits the first line off; whole says that it had a line feed.
func nextLine(data []byte) (line, rest []byte, whole bool) {
	return bytes.Cut(data, []byte{'\n'})
}

// chain is a walk over the rows, from a place on.
type chain struct{ at place }

// follow checks that a line is the next one, and goes on to it.
func (c *chain) follow(line []byte, whole bool) (Row, error) {
	next := c.at.Sequence + 1
	row, err := decode(line)
	switch {
	case err != nil:
		return row, &BrokenError{next, err.Error()}
	case !whole:
		return row, &BrokenError{next, "its line has no end"}
	case row.Sequence > next:
		return row, &BrokenError{next, fmt.Sprintf("it is missing; row %d stands there", row.Sequence)}
	case row.Sequence < next:
		return row, &BrokenError{next, fmt.Sprintf("row %d stands there", row.Sequence)}
	case row.Previous != c.at.Hash:
		return row, &BrokenError{next, "it does not follow from the row before; one of the two was changed"}
	}
	c.at = place{row.Sequence, hashOf(line)}
	return row, nil
}
