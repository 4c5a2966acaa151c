package facts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// maxFile bounds what is read of a file of the kernel's, in bytes.
	maxFile = 64 << 10
	// MaxImages is how many images are told of; the supernode takes no more.
	MaxImages = 1000
	// maxText bounds a fact that is a text, in bytes, as the supernode does.
	maxText = 255
)

// Engine is what runs containers on this host.
type Engine struct {
	Name    string // "" for none
	Version string
	Images  []string // manifest digests of what is unpacked
}

// Host is what is known of this host beforehand, and where to look.
type Host struct {
	Root     string // folder of the system; "" is /
	Data     string // whose disk counts
	Hostname string
	Rack     string
	Zone     string
	Version  string // of the agent
	// CPUs is the number of processors; 0 takes the system's.
	CPUs int
	// Engine looks at what runs containers. May be nil for none.
	Engine func(ctx context.Context) (Engine, error)
}

// Look finds out what the host is. The error tells what is missing in the
// facts, which are good without it.
func (h Host) Look(ctx context.Context) (*shoalv1.Facts, error) {
	f := &shoalv1.Facts{
		Hostname: h.Hostname, Rack: h.Rack, Zone: h.Zone, AgentVersion: h.Version, Arch: runtime.GOARCH,
		Kernel: first(h.read("proc/sys/kernel/osrelease")),
	}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	f.Os = h.system()
	var err error
	f.MemoryBytes, err = h.memory()
	note(err)
	f.CpuMilli, err = h.cpu()
	note(err)
	f.DiskBytes, f.DiskFreeBytes, err = disk(h.Data)
	note(err)
	if h.Engine != nil {
		engine, err := h.Engine(ctx)
		note(err)
		slices.Sort(engine.Images)
		f.Engine, f.EngineVersion = engine.Name, engine.Version
		f.Images = engine.Images[:min(len(engine.Images), MaxImages)]
	}
	for _, text := range []*string{&f.Hostname, &f.Os, &f.Kernel, &f.Rack, &f.Zone, &f.Engine, &f.EngineVersion, &f.AgentVersion} {
		if len(*text) > maxText {
			*text = (*text)[:maxText]
		}
	}
	if len(errs) > 0 {
		return f, fmt.Errorf("look at this host: %w", errors.Join(errs...))
	}
	return f, nil
}

// read reads a file of the system, "" where there is none.
func (h Host) read(name string) (string, error) {
	root := h.Root
	if root == "" {
		root = "/"
	}
	file, err := os.Open(filepath.Join(root, name))
	if err != nil {
		return "", err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxFile))
	return string(raw), err
}

// first is the first line of what was read, if it was.
func first(text string, err error) string {
	if err != nil {
		return ""
	}
	for i, c := range text {
		if c == '\n' {
			return text[:i]
		}
	}
	return text
}

func (h Host) system() string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if text, err := h.read(name); err == nil {
			return parseOSRelease(text)
		}
	}
	return runtime.GOOS
}

// memory is what the machine has, or what the cgroup of the whole system may
// use, in bytes.
func (h Host) memory() (int64, error) {
	text, err := h.read("proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("find out about the memory: %w", err)
	}
	size, err := parseMemInfo(text)
	if err != nil {
		return 0, fmt.Errorf("read /proc/meminfo: %w", err)
	}
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := h.read(name)
		if err != nil {
			continue // the other version of cgroups, or no limit
		}
		limit, err := parseLimit(text)
		if err != nil {
			return size, fmt.Errorf("read /%s: %w", name, err)
		}
		size = least(size, limit)
	}
	return size, nil
}

// cpu is what the machine has, or what the cgroup of the whole system may use,
// in thousandths of a core.
func (h Host) cpu() (int64, error) {
	cores := int64(h.CPUs)
	if cores == 0 {
		cores = int64(runtime.NumCPU())
	}
	size := cores * 1000
	limit, err := int64(0), error(nil)
	if text, missing := h.read("sys/fs/cgroup/cpu.max"); missing == nil {
		limit, err = parseCPUMax(text)
	} else if quota, missing := h.read("sys/fs/cgroup/cpu/cpu.cfs_quota_us"); missing == nil {
		limit, err = cpuShare(first(quota, nil), first(h.read("sys/fs/cgroup/cpu/cpu.cfs_period_us")))
	}
	if err != nil {
		return size, fmt.Errorf("find out about the processors: %w", err)
	}
	return least(size, limit), nil
}

// disk is the size of the file system that holds a folder, and what anybody
// may still write there, in bytes.
func disk(folder string) (size, free int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return 0, 0, fmt.Errorf("find out about the disk of %s: %w", folder, err)
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}
