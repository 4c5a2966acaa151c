package settings

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as 50GB (powers of 1000) or 512MiB
// (powers of 1024).
type Size int64

// Rate is a number of bytes a second, written as 200MB/s; 0 is no limit.
type Rate int64

var units = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1}, {"", 1},
}

func parseBytes(s string) (int64, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || n < 0 || math.IsNaN(n) || n*float64(u.bytes) >= math.MaxInt64 {
			break
		}
		return int64(n * float64(u.bytes)), nil
	}
	return 0, fmt.Errorf("%q is not a size such as 50GB, 512MiB or 0", s)
}

// formatBytes takes the unit that leaves the smallest whole number.
func formatBytes(n int64) string {
	suffix, number := "", n
	for _, u := range units {
		if n%u.bytes == 0 && n/u.bytes < number {
			suffix, number = u.suffix, n/u.bytes
		}
	}
	return strconv.FormatInt(number, 10) + suffix
}

// UnmarshalText reads 50GB, 512MiB, 1024 or 0.
func (s *Size) UnmarshalText(b []byte) error {
	n, err := parseBytes(string(b))
	*s = Size(n)
	return err
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(formatBytes(int64(s))), nil }

// UnmarshalText reads 200MB/s or 0.
func (r *Rate) UnmarshalText(b []byte) error {
	n, err := parseBytes(strings.TrimSuffix(string(b), "/s"))
	if err != nil {
		return fmt.Errorf("%q is not a rate such as 200MB/s or 0", b)
	}
	*r = Rate(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (r Rate) MarshalText() ([]byte, error) {
	if r == 0 {
		return []byte("0"), nil
	}
	return []byte(formatBytes(int64(r)) + "/s"), nil
}
