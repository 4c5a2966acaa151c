package engine

import (
	"bytes"
	"fmt"
	"io"
)

// Tail is where the last so many lines of r begin, looked for within
// [from, to) from its end; 0 lines are all. A last line without a line feed
// counts.
func Tail(r io.ReaderAt, from, to int64, lines int) (int64, error) {
	if lines <= 0 {
		return from, nil
	}
	piece := make([]byte, 32<<10)
	for end := to; end > from; {
		at := max(from, end-int64(len(piece)))
		n, err := r.ReadAt(piece[:end-at], at)
		if n < int(end-at) {
			return 0, fmt.Errorf("look for the last %d lines: %w", lines, err)
		}
		for rest := piece[:n]; ; {
			i := bytes.LastIndexByte(rest, '\n')
			if i < 0 {
				break
			}
			if at+int64(i)+1 < to { // the last line's own end begins none
				if lines--; lines == 0 {
					return at + int64(i) + 1, nil
				}
			}
			rest = rest[:i]
		}
		end = at
	}
	return from, nil
}
