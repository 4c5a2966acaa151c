package registry

import (
	"errors"
	"strconv"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

// errRange says that a Range header can't be satisfied.
var errRange = errors.New("the range lies outside of the content")

// parseRange reads a Range header (RFC 9110, 14.2) for content of size bytes.
// ok is false when there is nothing to heed: no header, another unit than
// bytes, or several ranges; then all of the content is the answer. So it is
// for empty content: some clients send a range with every request.
func parseRange(header string, size int64) (r blob.Range, ok bool, err error) {
	spec, found := strings.CutPrefix(header, "bytes=")
	if !found || size == 0 || strings.Contains(spec, ",") {
		return blob.Range{}, false, nil
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found {
		return blob.Range{}, false, errRange
	}
	if first == "" {
		n, err := parseOffset(last)
		if err != nil || n == 0 {
			return blob.Range{}, false, errRange
		}
		return blob.Range{Start: max(0, size-n), End: size}, true, nil
	}
	start, err := parseOffset(first)
	if err != nil || start >= size {
		return blob.Range{}, false, errRange
	}
	if last == "" {
		return blob.Range{Start: start, End: size}, true, nil
	}
	end, err := parseOffset(last)
	if err != nil || end < start {
		return blob.Range{}, false, errRange
	}
	return blob.Range{Start: start, End: min(end, size-1) + 1}, true, nil
}

// parseChunk reads the Content-Range header of a chunk (OCI
// distribution-spec, "Pushing a blob in chunks": <first>-<last>).
func parseChunk(header string) (blob.Range, error) {
	first, last, _ := strings.Cut(header, "-")
	start, startErr := parseOffset(first)
	end, endErr := parseOffset(last)
	if startErr != nil || endErr != nil || end < start || end == maxOffset {
		return blob.Range{}, errRange
	}
	return blob.Range{Start: start, End: end + 1}, nil
}

const maxOffset = 1<<63 - 1

// parseOffset reads digits and nothing else.
func parseOffset(s string) (int64, error) {
	if s == "" || len(s) > 19 || strings.Trim(s, "0123456789") != "" {
		return 0, errRange
	}
	return strconv.ParseInt(s, 10, 64)
}
