package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"golang.org/x/sys/unix"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/engine/enginetest"
	"github.com/shoalproject/shoal/pkg/runtime"
	runtimes "github.com/shoalproject/shoal/pkg/runtime/containerd"
	"github.com/shoalproject/shoal/pkg/runtime/runtimetest"
)

// house is one containerd with the suite's image.
type house struct {
	daemon          *runtimetest.Daemon
	namespace       string // of its own: the low-level runtime's state is the machine's
	client          *containerd.Client
	manifest, index blob.Digest
}

func start(t *testing.T, binary string) *house {
	t.Helper()
	if filepath.Dir(binary) != "/usr/bin" { // the shim beside it
		t.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
	}
	h := &house{namespace: "shoal-" + strconv.Itoa(os.Getpid()) + strconv.Itoa(len(binary)), daemon: runtimetest.StartContainerd(t, binary, func(ctx context.Context, socket string) error {
		client, err := containerd.New(socket, containerd.WithTimeout(time.Second))
		if err != nil {
			return err
		}
		defer client.Close()
		_, err = client.Version(ctx)
		return err
	})}
	t.Cleanup(h.clear)
	var err error
	if h.client, err = containerd.New(h.daemon.Socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.client.Close() })
	var mirror string
	mirror, h.manifest, h.index = enginetest.Serve(t)
	hands, err := runtimes.Open(t.Context(), runtimes.Options{Address: h.daemon.Socket, Namespaces: []string{h.namespace}, Mirror: mirror})
	if err != nil {
		t.Fatal(err)
	}
	defer hands.Close()
	if _, err := hands.Pull(t.Context(), runtime.Pull{Image: enginetest.ImageName + "@" + string(h.index), Unpack: true}); err != nil {
		t.Fatal(err)
	}
	return h
}

// clear removes the folders that the namespace leaves on the machine.
func (h *house) clear() {
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + h.namespace) // the pattern is good
	for _, dir := range append(left, "/run/containerd/runc/"+h.namespace, "/sys/fs/cgroup/"+h.namespace) {
		_ = os.Remove(dir) // empty, or not there
	}
}

// open opens an engine that leaves nothing behind.
func (h *house) open(t *testing.T, owner, logs string) *Engine {
	t.Helper()
	e, err := Open(t.Context(), h.client, Options{Namespace: h.namespace, Owner: owner, Logs: logs, LogBytes: enginetest.LogBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, err := e.List(context.Background())
		for _, c := range list {
			err = errors.Join(err, e.Remove(context.Background(), c.ID))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestRealContainerd(t *testing.T) {
	for name, binary := range map[string]string{
		"1.6": runtimetest.Need(t, "containerd"), "2.x": runtimetest.Containerd2(t),
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, binary)
			enginetest.Run(t, func(t *testing.T) enginetest.Subject {
				logs := t.TempDir()
				return enginetest.Subject{
					Engine: h.open(t, t.Name(), logs), Manifest: h.manifest, Index: h.index,
					Reopen: func(t *testing.T) engine.Engine { return h.open(t, t.Name(), logs) },
					Other:  h.open(t, "another of "+t.Name(), t.TempDir()),
					Bounce: func(*testing.T) { h.daemon.Stop(); h.daemon.Start() },
					Limits: true,
				}
			})
			t.Run("leftovers", func(t *testing.T) { leftovers(t, h) })
			t.Run("shimless", func(t *testing.T) { shimless(t, h) })
		})
	}
}

// leftovers are what an agent that was killed leaves: files of a container
// that was never made, and a log without a container.
func leftovers(t *testing.T, h *house) {
	e := h.open(t, "leftovers", t.TempDir())
	s := engine.Spec{ID: "leftover", Image: enginetest.ImageName, Digest: h.manifest, Args: []string{"wait"}}
	ctx := e.in(t.Context())
	if _, err := e.client.SnapshotService("").Prepare(ctx, snapshotKey(s.ID), ""); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{s.ID, "gone"} {
		if err := os.WriteFile(e.logPath(id), []byte("of an earlier life\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	// The agent died between making the run and starting it.
	c, _, err := e.load(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewTask(ctx, cio.NullIO); err != nil {
		t.Fatal(err)
	}
	if list, err := e.List(t.Context()); err != nil || len(list) != 1 || list[0].Running {
		t.Errorf("made and not started, it stands at %+v, %v", list, err)
	}
	if err := e.Start(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	names := []string{e.logPath(s.ID), e.logPath("gone")}
	e.sweep(t.Context(), names)
	for _, name := range names {
		_, err := os.Stat(name)
		if kept := err == nil; kept != (name == e.logPath(s.ID)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if raw, err := os.ReadFile(e.logPath(s.ID)); err != nil || strings.Contains(string(raw), "earlier") {
		t.Errorf("its log says %q, %v", raw, err)
	}
}

// shimless takes a container's shim away, as a reboot does, and starts the
// container again.
func shimless(t *testing.T, h *house) {
	e := h.open(t, "shimless", t.TempDir())
	s := engine.Spec{ID: "shimless", Image: enginetest.ImageName, Digest: h.manifest, Args: []string{"count"}}
	if err := errors.Join(e.Create(t.Context(), s), e.Start(t.Context(), s.ID)); err != nil {
		t.Fatal(err)
	}
	c, _, err := e.load(e.in(t.Context()), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	run, _, err := taskOf(e.in(t.Context()), c)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", run.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var pid, parent int
	var name, state string
	if _, err := fmt.Sscan(string(raw), &pid, &name, &state, &parent); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Kill(parent, syscall.SIGKILL), syscall.Kill(pid, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	stands := func(good func(engine.State) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; <-tick.C {
			list, err := e.List(t.Context())
			if err == nil && len(list) == 1 && good(list[0]) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("it stands at %+v, %v", list, err)
			}
		}
	}
	stands(func(s engine.State) bool { return !s.Running })
	// containerd still clears away what the shim left; who supervises tries again.
	for deadline := time.Now().Add(time.Minute); e.Start(t.Context(), s.ID) != nil && time.Now().Before(deadline); {
		<-tick.C
	}
	stands(func(s engine.State) bool { return s.Running })
}

func TestTrimWhereTheFileSystemMakesNoHoles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.log")
	for size, want := range map[int]int64{3000: 3000, 1000 << 10: 0} {
		if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		err := trim(name, 100<<10, func(*os.File, int64) error { return unix.EOPNOTSUPP })
		info, statErr := os.Stat(name)
		if err := errors.Join(err, statErr); err != nil || info.Size() != want {
			t.Errorf("of %d bytes %d are left, %v; want %d", size, info.Size(), err, want)
		}
	}
}

func TestReaderGoesOnAfterALogWasEmptied(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &reader{file: f, keep: 1 << 20, ctx: t.Context(), cancel: func() {}}
	for _, text := range []string{"a longer line\n", "short\n"} {
		if err := errors.Join(f.Truncate(0), os.WriteFile(f.Name(), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		if n, err := r.Read(got); err != nil || string(got[:n]) != text {
			t.Errorf("read %q, %v; want %q", got[:n], err, text)
		}
	}
}

func TestOutOfMemoryIsReadFromBothVersions(t *testing.T) {
	for text, want := range map[string]bool{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n": true,
		"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n": false,
		"low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n":     true,
		"": false,
	} {
		if got := killsIn(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
