// Package netns puts a small data centre on one machine: hosts are network
// namespaces, joined by a switch (a bridge in a namespace of its own), with
// links shaped both ways. The machine's own network is not touched, and what
// an earlier run that was killed left behind is swept away by the next.
//
// Limits: needs root and iproute2; the kernel's tbf does the shaping, so
// there is a rate and no latency.
package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// namePrefix marks our namespaces; the process that made them follows, so
// that leftovers are known by a process that is gone.
const namePrefix = "shoal-"

var ourName = regexp.MustCompile(`^shoal-(\d+)-`)

// Missing says why namespaces cannot be used here, or that one of the
// commands is not installed; nil means that all is there.
func Missing(commands ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	for _, c := range append([]string{"ip", "tc", "nsenter"}, commands...) {
		if _, err := exec.LookPath(c); err != nil {
			return fmt.Errorf("needs the command %s (scripts/install-parts)", c)
		}
	}
	return nil
}

// Net is a switch and the hosts on it. Close it.
type Net struct {
	prefix string
	dir    string

	mu    sync.Mutex
	hosts []*Host // guarded by mu
}

// New makes a switch. Logs of processes go under dir.
func New(ctx context.Context, dir string) (*Net, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	Sweep(ctx)
	n := &Net{prefix: fmt.Sprintf("%s%d-%d-", namePrefix, os.Getpid(), serial()), dir: dir}
	sw := n.prefix + "switch"
	err := errors.Join(
		ip(ctx, "netns", "add", sw),
		ip(ctx, "-n", sw, "link", "add", "bridge", "type", "bridge", "stp_state", "0", "forward_delay", "0"),
		ip(ctx, "-n", sw, "link", "set", "bridge", "up"))
	// Where a container engine has loaded it, the machine's packet filter looks
	// at each frame of the bridge, which a switch does not; elsewhere there is
	// no such key.
	_ = ip(ctx, "netns", "exec", sw, "sysctl", "-q", "-w", "net.bridge.bridge-nf-call-iptables=0")
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("make a switch: %w", err)
	}
	return n, nil
}

var (
	serialMu sync.Mutex
	serialNo int // guarded by serialMu
)

func serial() int {
	serialMu.Lock()
	defer serialMu.Unlock()
	serialNo++
	return serialNo
}

// Link is what a host's link can do. Zero means as fast as the machine is.
type Link struct {
	UpMbit, DownMbit float64
}

// AddHost puts a host on the switch. Its address is 10.77.0.N/16, N counting
// from 1.
func (n *Net) AddHost(ctx context.Context, name string, link Link) (*Host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	no := len(n.hosts) + 1
	h := &Host{
		Name: name,
		Addr: fmt.Sprintf("10.77.%d.%d", no/250, no%250+1),
		Dir:  filepath.Join(n.dir, name),
		ns:   n.prefix + name,
		sw:   n.prefix + "switch",
		port: "port" + strconv.Itoa(no),
	}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("add host %s: %w", name, err)
	}
	n.hosts = append(n.hosts, h)
	for _, args := range [][]string{
		{"netns", "add", h.ns},
		{"-n", h.sw, "link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", h.ns},
		{"-n", h.sw, "link", "set", h.port, "master", "bridge", "up"},
		{"-n", h.ns, "link", "set", "lo", "up"},
		{"-n", h.ns, "link", "set", "eth0", "up"},
		{"-n", h.ns, "addr", "add", h.Addr + "/16", "dev", "eth0"},
		{"-n", h.ns, "route", "add", "default", "dev", "eth0"},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, fmt.Errorf("add host %s: %w", name, err)
		}
	}
	if err := h.settle(ctx); err != nil {
		return nil, err
	}
	if err := h.Shape(ctx, link); err != nil {
		return nil, err
	}
	return h, nil
}

// Hosts are those added so far.
func (n *Net) Hosts() []*Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.hosts)
}

// Close kills what runs on the hosts and removes them and the switch.
func (n *Net) Close() {
	ctx := context.Background()
	for _, h := range n.Hosts() {
		h.Close()
	}
	remove(ctx, func(ns string) bool { return strings.HasPrefix(ns, n.prefix) })
	unmountUnder(n.dir)
}

// unmountUnder takes down what a killed container engine left mounted below
// the folder, the latest mount first.
func unmountUnder(dir string) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	lines := strings.Split(string(raw), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		// The fifth field is the mount point (proc(5)).
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			_ = unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
}

// Sweep removes what runs left behind whose process is gone.
func Sweep(ctx context.Context) {
	remove(ctx, func(ns string) bool {
		m := ourName.FindStringSubmatch(ns)
		if m == nil {
			return false
		}
		pid, err := strconv.Atoi(m[1])
		return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	})
}

// remove deletes the namespaces that which picks, with the processes in them.
func remove(ctx context.Context, which func(ns string) bool) {
	out, err := exec.CommandContext(ctx, "ip", "-j", "netns", "list").Output()
	var list []struct{ Name string }
	if err != nil || len(out) == 0 || json.Unmarshal(out, &list) != nil {
		return
	}
	for _, ns := range list {
		if !which(ns.Name) {
			continue
		}
		pids, err := exec.CommandContext(ctx, "ip", "netns", "pids", ns.Name).Output()
		if err == nil {
			for _, field := range strings.Fields(string(pids)) {
				if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		_ = ip(ctx, "netns", "delete", ns.Name)
	}
}

// ip runs iproute2's command.
func ip(ctx context.Context, args ...string) error { return command(ctx, "ip", args...) }

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
