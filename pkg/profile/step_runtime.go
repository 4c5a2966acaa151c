package profile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// socketWithin is how long a runtime may take to answer on its socket.
const socketWithin = 5 * time.Second

// engineFacts are what has to be known of a container runtime.
type engineFacts struct {
	programs []string // all of them have to be there; the first tells its version
	packages []string // Debian's
	unit     string
	socket   string
}

var engines = map[string]engineFacts{
	"containerd": {[]string{"containerd", "runc"}, []string{"containerd", "runc"}, "containerd", "/run/containerd/containerd.sock"},
	"docker":     {[]string{"dockerd", "containerd", "runc"}, []string{"docker.io"}, "docker", "/run/docker.sock"},
}

func (h *Host) socket(engine string) string {
	if told := h.Sockets[engine]; told != "" {
		return told
	}
	return h.path(engines[engine].socket)
}

// runtimeStep sees that a container runtime is installed and answers.
type runtimeStep struct {
	host    *Host
	engine  string
	least   []int // version
	install bool
}

func newRuntimeStep(h *Host, v *values) Step {
	s := &runtimeStep{host: h, engine: v.choice("engine", "containerd", "docker"), install: v.choice("install", "no", "apt") == "apt"}
	least := v.text("min-version", "0")
	if s.least = parseVersion(least); s.least == nil {
		v.wrong("setting \"min-version\" is %q; want a version such as 1.6", least)
	}
	return s
}

var versionNumber = regexp.MustCompile(`(?:^| )v?(\d{1,6}(?:\.\d{1,6}){0,2})`)

// parseVersion finds the first version number in what a program says of
// itself; nil when there is none.
func parseVersion(s string) []int {
	found := versionNumber.FindStringSubmatch(s)
	if found == nil {
		return nil
	}
	var out []int
	for _, part := range strings.Split(found[1], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// older reports whether version a comes before b.
func older(a, b []int) bool {
	for i := range max(len(a), len(b)) {
		x, y := 0, 0
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return x < y
		}
	}
	return false
}

// missing are the programs that are not there.
func (s *runtimeStep) missing() []string {
	var out []string
	for _, name := range engines[s.engine].programs {
		if s.host.program(name) == "" {
			out = append(out, name)
		}
	}
	return out
}

// Check implements Step.
func (s *runtimeStep) Check(ctx context.Context) (Found, error) {
	if missing := s.missing(); len(missing) > 0 {
		return Found{Output: list(missing) + ": not installed"}, nil
	}
	said, err := s.host.run(ctx, engines[s.engine].programs[0], "--version")
	if err != nil {
		return Found{Output: said}, err
	}
	_, said, _ = strings.Cut(said, "\n") // the first line is the command
	version := parseVersion(said)
	if version == nil {
		return Found{Output: said}, fmt.Errorf("%s does not say which version it is", s.engine)
	}
	if older(version, s.least) {
		return Found{Output: said}, fmt.Errorf("%s is older than the profile wants: upgrade it by hand, its containers have to be moved first", s.engine)
	}
	if err := s.answers(ctx); err != nil {
		return Found{Output: lines(said, "it does not answer: "+err.Error())}, nil
	}
	return Found{Holds: true, Output: lines(said, "it answers on "+s.host.socket(s.engine))}, nil
}

// answers reports whether somebody accepts calls at the runtime's socket.
func (s *runtimeStep) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, socketWithin)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.host.socket(s.engine))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Apply implements Step.
func (s *runtimeStep) Apply(ctx context.Context) (string, error) {
	said := ""
	if missing := s.missing(); len(missing) > 0 {
		if !s.install {
			return "", fmt.Errorf("install %s, or let the step do so (setting install=apt)", list(missing))
		}
		var err error
		if said, err = s.host.aptInstall(ctx, engines[s.engine].packages...); err != nil {
			return said, err
		}
	}
	if !s.host.systemd() {
		if s.answers(ctx) == nil {
			return said, nil
		}
		return said, fmt.Errorf("systemd does not run this host: start %s as it is done here", s.engine)
	}
	told, err := s.host.run(ctx, "systemctl", "enable", "--now", engines[s.engine].unit)
	return lines(said, told), err
}

// aptInstall installs packages of Debian, or of what is made of it. Another
// run of the package manager is waited for; one that was cut off is finished.
func (h *Host) aptInstall(ctx context.Context, packages ...string) (string, error) {
	if h.program("apt-get") == "" {
		return "", fmt.Errorf("there is no apt-get here: install %s by hand", list(packages))
	}
	said := ""
	for _, line := range [][]string{
		{"dpkg", "--configure", "-a", "--force-confdef", "--force-confold"},
		{"apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "update"},
		append([]string{"apt-get", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120",
			"-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", "install"}, packages...),
	} {
		told, err := h.run(ctx, line[0], line[1:]...)
		said = lines(said, told)
		if err != nil {
			return said, errors.Join(fmt.Errorf("install %s", list(packages)), err)
		}
	}
	return said, nil
}
