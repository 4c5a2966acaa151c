package profile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// commandGrace is how long a program has to end after its time ran out: a
	// package manager puts its own state in order first.
	commandGrace = 10 * time.Second
	// kept bounds what is kept of a program's output, at each end, in bytes.
	kept = 8 << 10
)

// passedOn are the variables that a program inherits. The agent's environment
// may hold what is nobody else's business.
var passedOn = []string{"HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// run runs a program of the host, under its root, and returns what it said,
// clipped, on both its outputs. When ctx ends, it and all that it started are
// ended.
func (h *Host) run(ctx context.Context, name string, args ...string) (string, error) {
	full := h.program(name)
	if full == "" {
		return "", fmt.Errorf("run %s: there is no such program on this host", name)
	}
	var said clipped
	root := h.path("/")
	if h.unrooted {
		root = "/"
	}
	cmd := exec.CommandContext(ctx, filepath.Join("/", strings.TrimPrefix(full, root)), args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = []string{"PATH=" + strings.Join(binFolders, string(filepath.ListSeparator)), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	for _, name := range passedOn {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if root != "/" {
		// A package manager that came from there must not change what is here.
		cmd.SysProcAttr.Chroot = root
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = cmp.Or(h.grace, commandGrace)
	err := cmd.Run()
	if ctx.Err() != nil && cmd.Process != nil {
		// Whatever of its family is left; ESRCH when nothing is.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	line := strings.Join(append([]string{name}, args...), " ")
	if err != nil {
		err = fmt.Errorf("run %q: %w", line, errors.Join(err, context.Cause(ctx)))
	}
	return lines("$ "+line, said.String()), err
}

// clipped keeps the beginning and the end of what is written to it. Its memory
// is bounded whatever a program says.
type clipped struct {
	head, tail []byte
	lost       bool
}

// Write implements io.Writer; it never fails.
func (c *clipped) Write(p []byte) (int, error) {
	n := len(p)
	if free := kept - len(c.head); free > 0 {
		c.head = append(c.head, p[:min(free, n)]...)
		p = p[min(free, n):]
	}
	if len(p) > kept {
		p, c.lost, c.tail = p[len(p)-kept:], true, c.tail[:0]
	}
	c.tail = append(c.tail, p...)
	if over := len(c.tail) - kept; over > 0 {
		c.tail, c.lost = append(c.tail[:0], c.tail[over:]...), true
	}
	return n, nil
}

// String is what was kept.
func (c *clipped) String() string {
	if c.lost {
		return string(c.head) + "\n[…]\n" + string(c.tail)
	}
	return string(c.head) + string(c.tail)
}
