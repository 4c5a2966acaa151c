package containerd

import (
	"os"
	"path"
	"strings"
)

const (
	memoryV1 = "/sys/fs/cgroup/memory"
	unified  = "/sys/fs/cgroup"
)

// cgroupOf is the container's place in each hierarchy.
func cgroupOf(namespace, id string) string { return path.Join("/", namespace, id) }

// outOfMemory reports whether the kernel killed something of a container's for
// its limit. Its cgroup is there until the ended run is cleared away.
func outOfMemory(namespace, id string) bool {
	for _, file := range []string{
		path.Join(memoryV1, cgroupOf(namespace, id), "memory.oom_control"),
		path.Join(unified, cgroupOf(namespace, id), "memory.events"),
	} {
		raw, err := os.ReadFile(file)
		if err == nil {
			return killsIn(string(raw))
		}
	}
	return false
}

// killsIn reads the line "oom_kill N" that both versions have.
func killsIn(text string) bool {
	for line := range strings.Lines(text) {
		if name, n, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == "oom_kill" {
			return n != "0"
		}
	}
	return false
}
