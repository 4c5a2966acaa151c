package facts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestParseMemInfo(t *testing.T) {
	for text, want := range map[string]int64{
		"MemTotal:       24684092 kB\nMemFree: 1 kB\n": 24684092 << 10,
		"Buffers: 5 kB\nMemTotal: 1 kB":                1 << 10,
		"":                                             -1, "MemTotal: kB\n": -1, "MemTotal: 5 MB\n": -1, "MemTotal: -5 kB\n": -1, "MemTotal: 9223372036854775807 kB\n": -1,
	} {
		got, err := parseMemInfo(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestParseOSRelease(t *testing.T) {
	for text, want := range map[string]string{
		"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian\"\n": "Debian GNU/Linux 12 (bookworm)",
		"NAME='Alpine Linux'\n":                           "Alpine Linux",
		"#PRETTY_NAME=no\nPRETTY_NAME=\"say \\\"hi\\\"\"": `say "hi"`,
		"PRETTY_NAME=plain":                               "plain",
		"PRETTY_NAME=\"":                                  `"`,
		"":                                                "",
		"no equals sign\nPRETTY_NAME=\"\"\nNAME=\"fall back\"": "fall back",
	} {
		if got := parseOSRelease(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestParseCPUMax(t *testing.T) {
	for text, want := range map[string]int64{
		"max 100000\n": 0, "50000 100000": 500, "400000 100000": 4000, "-1 100000": 0, "1 0": -1, "x 1": -1, "": -1, "1": -1, "-5 1": -1, "1152921504606846975 1": -1,
	} {
		got, err := parseCPUMax(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

// system makes a root folder with these files.
func system(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const memInfo = "MemTotal: 16777216 kB\n"

func TestLook(t *testing.T) {
	var images []string
	for n := range MaxImages + 5 {
		images = append(images, fmt.Sprintf("sha256:%064d", MaxImages+5-n))
	}
	root := system(t, map[string]string{
		"proc/meminfo": memInfo, "proc/sys/kernel/osrelease": "6.1.0-9-amd64\n", "usr/lib/os-release": "PRETTY_NAME=Test\n",
	})
	h := Host{
		Root: root, Data: root, Hostname: "h", Rack: "r1", Zone: "z1", Version: strings.Repeat("v", 300), CPUs: 12,
		Engine: func(context.Context) (Engine, error) { return Engine{"containerd", "2.4.2", slices.Clone(images)}, nil },
	}
	f, err := h.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.Hostname != "h" || f.Os != "Test" || f.Kernel != "6.1.0-9-amd64" || f.CpuMilli != 12_000 || f.MemoryBytes != 16<<30 || f.Rack != "r1" || f.Zone != "z1" ||
		f.Engine != "containerd" || f.EngineVersion != "2.4.2" || f.Arch == "" || len(f.AgentVersion) != 255 {
		t.Errorf("%v", f)
	}
	if f.DiskBytes <= 0 || f.DiskFreeBytes <= 0 || f.DiskFreeBytes > f.DiskBytes {
		t.Errorf("a disk of %d bytes with %d free", f.DiskBytes, f.DiskFreeBytes)
	}
	if len(f.Images) != MaxImages || f.Images[0] != images[len(images)-1] {
		t.Errorf("%d images, the first is %s", len(f.Images), f.Images[0])
	}
	// What is missing is left out, and said.
	h.Engine = func(context.Context) (Engine, error) { return Engine{}, errors.New("the engine is down") }
	h.Root, h.Data = t.TempDir(), filepath.Join(root, "nowhere")
	f, err = h.Look(t.Context())
	for _, part := range []string{"memory", "disk of", "the engine is down"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
	if f.Hostname != "h" || f.CpuMilli != 12_000 || f.MemoryBytes != 0 || f.Engine != "" {
		t.Errorf("%v", f)
	}
}

// A limit of the cgroup that everything lives in is less than the machine.
func TestLookInACgroup(t *testing.T) {
	for name, c := range map[string]struct {
		files       map[string]string
		cpu, memory int64
		bad         bool
	}{
		"v2":              {map[string]string{"sys/fs/cgroup/cpu.max": "250000 100000\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, 2500, 1 << 30, false},
		"v2, no limit":    {map[string]string{"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}, 8000, 16 << 30, false},
		"v2, above":       {map[string]string{"sys/fs/cgroup/cpu.max": "9000000 100000\n", "sys/fs/cgroup/memory.max": "99999999999\n"}, 8000, 16 << 30, false},
		"v1":              {map[string]string{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n"}, 1500, 512 << 20, false},
		"v1, no limit":    {map[string]string{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8000, 16 << 30, false},
		"v2, another one": {map[string]string{"sys/fs/cgroup/cpu.max": "lots", "sys/fs/cgroup/memory.max": "lots"}, 8000, 16 << 30, true},
	} {
		c.files["proc/meminfo"] = memInfo
		root := system(t, c.files)
		f, err := Host{Root: root, Data: root, CPUs: 8}.Look(t.Context())
		if (err != nil) != c.bad || f.CpuMilli != c.cpu || f.MemoryBytes != c.memory {
			t.Errorf("%s: %d, %d, %v", name, f.CpuMilli, f.MemoryBytes, err)
		}
	}
}

// The real one: whatever this machine is, it is something.
func TestLookHere(t *testing.T) {
	f, err := Host{Data: t.TempDir()}.Look(t.Context())
	if err != nil || f.CpuMilli < 1 || f.MemoryBytes < 1<<20 || f.DiskBytes < 1 || f.Kernel == "" || f.Os == "" {
		t.Errorf("%v, %v", f, err)
	}
}

func TestChanged(t *testing.T) {
	base := &shoalv1.Facts{Hostname: "h", DiskFreeBytes: 10 << 30, Images: []string{"a"}}
	with := func(change func(*shoalv1.Facts)) *shoalv1.Facts {
		f := proto.CloneOf(base)
		change(f)
		return f
	}
	for name, c := range map[string]struct {
		a, b *shoalv1.Facts
		want bool
	}{
		"the first":         {nil, base, true},
		"nothing":           {base, with(func(*shoalv1.Facts) {}), false},
		"a little space":    {base, with(func(f *shoalv1.Facts) { f.DiskFreeBytes -= 1<<30 - 1 }), false},
		"much less space":   {base, with(func(f *shoalv1.Facts) { f.DiskFreeBytes -= 1 << 30 }), true},
		"much more space":   {base, with(func(f *shoalv1.Facts) { f.DiskFreeBytes += 1 << 30 }), true},
		"an image":          {base, with(func(f *shoalv1.Facts) { f.Images = append(f.Images, "b") }), true},
		"none and none":     {nil, nil, false},
		"another rack":      {base, with(func(f *shoalv1.Facts) { f.Rack = "r" }), true},
		"one image instead": {base, with(func(f *shoalv1.Facts) { f.Images = []string{"b"} }), true},
	} {
		if got := Changed(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
