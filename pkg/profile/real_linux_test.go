package profile

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRealSysctl sets a value of the real kernel, in a network namespace that
// is gone with its thread.
func TestRealSysctl(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: a network namespace needs root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
			return
		}
		p := newPlace(t, map[string]string{"/etc/x": ""})
		if err := os.Symlink("/proc", p.path("/proc")); err != nil {
			t.Error(err)
			return
		}
		const key = "net.ipv4.ip_local_port_range"
		p.says(p.dry(kindSysctl, would, key, "20000 30000"), "is to be 20000 30000")
		p.step(kindSysctl, changed, key, "20000 30000")
		p.step(kindSysctl, ok, key, "20000 30000")
		if got := p.get("/proc/sys/net/ipv4/ip_local_port_range"); got != "20000\t30000\n" {
			t.Errorf("the kernel has %q", got)
		}
		p.says(p.step(kindSysctl, fails, key, "30000 20000"), "invalid argument")
	}()
	<-done
}

// TestRealSystemdTakesTheUnit has systemd read it.
func TestRealSystemdTakesTheUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("NOT RUN: there is no systemd-analyze")
	}
	file := filepath.Join(t.TempDir(), AgentUnit)
	unit := UnitFile(Agent{Executable: "/bin/sh", Args: []string{"-c", `echo "50%" $HOME \ `}, Folder: "/"})
	if err := os.WriteFile(file, []byte(marker+unit), 0o644); err != nil {
		t.Fatal(err)
	}
	said, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(said), AgentUnit) {
		t.Errorf("systemd does not take the unit: %v\n%s", err, said)
	}
}

func TestRealClock(t *testing.T) {
	if _, err := Synchronised(); err != nil {
		t.Errorf("the kernel does not tell: %v", err)
	}
}

func TestRealDisk(t *testing.T) {
	h := &Host{Data: t.TempDir()}
	mounts, err := h.readProc("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	state, err := h.lookAt(h.Data, parseMounts(mounts))
	if err != nil || state.size <= 0 || state.kind == "" || state.mount == "" {
		t.Errorf("%+v, %v", state, err)
	}
}

// TestProgramsAreEnded: when the time is over, so is whatever a program
// started.
func TestProgramsAreEnded(t *testing.T) {
	p := newPlace(t, nil)
	p.grace = 100 * time.Millisecond
	p.program("/usr/bin/slow", `(trap '' TERM; echo $$ >"$root/child"; exec /bin/sleep 60) & wait`)
	steps := Planned{Name: "slow", Version: 1, Timeout: 500 * time.Millisecond, Step: runs{p}}
	got, err := Run(t.Context(), []Planned{steps}, Options{Memory: notes{}, Now: now})
	if err != nil || got[0].State != fails {
		t.Fatalf("%v, %v", got, err)
	}
	p.says(got[0], "500ms")
	group := strings.TrimSpace(p.get("/child"))
	all, err := exec.CommandContext(t.Context(), "ps", "-eo", "pgid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == group && strings.Contains(line, "sleep 60") {
			t.Errorf("it goes on: %s", line)
		}
	}
}

// runs is a step that is a program.
type runs struct{ p *place }

func (r runs) Check(ctx context.Context) (Found, error) {
	said, err := r.p.Host.run(ctx, "slow")
	return Found{Output: said}, err
}
func (r runs) Apply(context.Context) (string, error) { return "", nil }

func TestProgramsOutputIsBounded(t *testing.T) {
	p := newPlace(t, nil)
	p.program("/usr/bin/loud", `echo first; /usr/bin/head -c 10000000 /dev/zero; echo; echo last; exit 3`)
	said, err := p.Host.run(t.Context(), "loud", "word")
	if err == nil || len(said) > 3*kept || !strings.Contains(said, "$ loud word\nfirst") || !strings.HasSuffix(said, "last") {
		t.Errorf("%d bytes, %v", len(said), err)
	}
	t.Setenv("SHOAL_SECRET", "secret")
	p.program("/usr/bin/env", "/usr/bin/env")
	if said, err := p.Host.run(t.Context(), "env"); err != nil || strings.Contains(said, "SHOAL_SECRET") || !strings.Contains(said, "LC_ALL=C") {
		t.Errorf("it inherits %s (%v)", said, err)
	}
}
