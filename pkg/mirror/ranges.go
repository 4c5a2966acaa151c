package mirror

import (
	"strconv"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

// span is a Range header before the size is known.
type span struct {
	first, last int64 // last -1: to the end
	suffix      int64 // the last suffix bytes, when first is -1
}

// parseRange reads a single range (RFC 9110, 14.2). ok is false for anything
// else: several ranges, other units, nonsense; such a header is ignored, and
// the whole is sent.
func parseRange(header string) (s span, ok bool) {
	set, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(set, ",") {
		return span{}, false
	}
	first, last, ok := strings.Cut(strings.TrimSpace(set), "-")
	if !ok {
		return span{}, false
	}
	if first == "" {
		n, ok := parseOffset(last)
		return span{first: -1, suffix: n}, ok
	}
	if s.first, ok = parseOffset(first); !ok {
		return span{}, false
	}
	s.last = -1
	if last != "" {
		if s.last, ok = parseOffset(last); !ok || s.last < s.first {
			return span{}, false
		}
	}
	return s, true
}

// parseOffset takes digits only, up to the largest int64.
func parseOffset(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// within settles the range in a blob of size bytes; ok is false when it lies
// outside altogether (416).
func (s span) within(size int64) (r blob.Range, ok bool) {
	if s.first < 0 {
		return blob.Range{Start: max(0, size-s.suffix), End: size}, s.suffix > 0 && size > 0
	}
	end := size
	if s.last >= 0 && s.last < size-1 {
		end = s.last + 1
	}
	return blob.Range{Start: s.first, End: end}, s.first < size
}
