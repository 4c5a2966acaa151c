package facts

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

var errForm = errors.New("not of the form that is known")

// parseMemInfo finds the whole memory in /proc/meminfo, in bytes.
func parseMemInfo(text string) (int64, error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "MemTotal:" || words[2] != "kB" {
			continue
		}
		kib, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || kib <= 0 || kib > math.MaxInt64>>10 {
			break
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("the line MemTotal: %w", errForm)
}

// parseOSRelease finds the name of the system in os-release(5), "" where it
// has none.
func parseOSRelease(text string) string {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if quote := value != "" && (value[0] == '"' || value[0] == '\''); quote && len(value) > 1 && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		values[name] = strings.NewReplacer(`\"`, `"`, `\$`, `$`, "\\`", "`", `\\`, `\`).Replace(value)
	}
	if pretty := values["PRETTY_NAME"]; pretty != "" {
		return pretty
	}
	return values["NAME"]
}

// parseLimit reads a limit of a cgroup: a number, or "max" or a number beyond
// every machine for none, which is 0.
func parseLimit(text string) (int64, error) {
	text = strings.TrimSpace(text)
	if text == "max" || text == "-1" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("a limit of a cgroup: %w", errForm)
	}
	if n > 1<<60 { // memory.limit_in_bytes without a limit
		return 0, nil
	}
	return n, nil
}

// parseCPUMax reads cpu.max of cgroup v2, "quota period", in thousandths of a
// core; 0 is no limit.
func parseCPUMax(text string) (int64, error) {
	words := strings.Fields(text)
	if len(words) != 2 {
		return 0, fmt.Errorf("cpu.max: %w", errForm)
	}
	return cpuShare(words[0], words[1])
}

// cpuShare is a quota by its period, in thousandths of a core.
func cpuShare(quota, period string) (int64, error) {
	q, err := parseLimit(quota)
	if err != nil || q == 0 {
		return 0, err
	}
	p, err := parseLimit(period)
	if err != nil || p == 0 || q > math.MaxInt64/1000 {
		return 0, fmt.Errorf("the period of a CPU quota: %w", errForm)
	}
	return q * 1000 / p, nil
}

// least is the smaller of a size and a limit; a limit of 0 is none.
func least(size, limit int64) int64 {
	if limit > 0 && limit < size {
		return limit
	}
	return size
}

// diskSlack is by how much free space may change before it is told of.
const diskSlack = 1 << 30

// Changed reports whether b tells anything that a did not. Free space changes
// with every write, so a little of it does not count.
func Changed(a, b *shoalv1.Facts) bool {
	if a == nil || b == nil {
		return a != b
	}
	if max(a.DiskFreeBytes-b.DiskFreeBytes, b.DiskFreeBytes-a.DiskFreeBytes) >= diskSlack {
		return true
	}
	x, y := proto.CloneOf(a), proto.CloneOf(b)
	x.DiskFreeBytes, y.DiskFreeBytes = 0, 0
	return !proto.Equal(x, y)
}
