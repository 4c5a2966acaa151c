package profile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

const sysctlFile = "/etc/sysctl.d/60-shoal.conf"

// sysctlKey is a name as sysctl(8) writes it: dots between the folders, and a
// slash for a dot inside one of them.
var sysctlKey = regexp.MustCompile(`^[a-z0-9_-]+([./][A-Za-z0-9_-]+)+$`)

// sysctlStep sets values of the kernel, now and at each start. Its settings
// are the kernel's.
type sysctlStep struct {
	host *Host
	keys []string
	want map[string]string
}

func newSysctlStep(h *Host, v *values) Step {
	s := &sysctlStep{host: h, want: v.rest()}
	s.keys = slices.Sorted(maps.Keys(s.want))
	for _, key := range s.keys {
		value := s.want[key]
		if !sysctlKey.MatchString(key) {
			v.wrong("%q is no name of a sysctl, such as net.core.somaxconn", key)
		}
		if strings.TrimSpace(value) == "" || strings.ContainsAny(value, "\n\x00") {
			v.wrong("%q is no value for the sysctl %s", value, key)
		}
	}
	return s
}

func sysctlPath(key string) string {
	swap := strings.NewReplacer(".", "/", "/", ".")
	return "/proc/sys/" + swap.Replace(key)
}

func (s *sysctlStep) content() string {
	var b strings.Builder
	for _, key := range s.keys {
		fmt.Fprintf(&b, "%s = %s\n", key, s.want[key])
	}
	return b.String()
}

// Check implements Step.
func (s *sysctlStep) Check(context.Context) (Found, error) {
	same, err := s.host.ownFile(sysctlFile, s.content())
	if err != nil {
		return Found{}, err
	}
	var said []string
	holds := same || len(s.keys) == 0
	if !holds {
		said = append(said, sysctlFile+" is not as it is to be")
	}
	for _, key := range s.keys {
		is, err := s.live(key)
		if err != nil {
			return Found{Output: lines(said...)}, err
		}
		line := key + " is " + is
		if !sameValue(is, s.want[key]) {
			holds = false
			line += ", is to be " + s.want[key]
		}
		said = append(said, line)
	}
	return Found{Holds: holds, Output: lines(said...)}, nil
}

func (s *sysctlStep) live(key string) (string, error) {
	raw, err := s.host.readProc(sysctlPath(key))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("this kernel knows no sysctl %s: load the module it belongs to, or take it out of the profile", key)
	}
	return strings.Join(strings.Fields(string(raw)), " "), err
}

func sameValue(a, b string) bool { return slices.Equal(strings.Fields(a), strings.Fields(b)) }

// Apply implements Step.
func (s *sysctlStep) Apply(context.Context) (string, error) {
	if err := s.host.writeOwn(sysctlFile, s.content()); err != nil {
		return "", err
	}
	said := []string{"wrote " + sysctlFile}
	for _, key := range s.keys {
		if is, err := s.live(key); err == nil && sameValue(is, s.want[key]) {
			continue
		}
		if err := s.host.writeProc(sysctlPath(key), s.want[key]); err != nil {
			return lines(said...), fmt.Errorf("set the sysctl %s to %s: %w", key, s.want[key], err)
		}
		said = append(said, "set "+key+" to "+s.want[key])
	}
	return lines(said...), nil
}

// readProc reads a file of the kernel, whose size stands nowhere.
func (h *Host) readProc(name string) ([]byte, error) {
	f, err := os.Open(h.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return raw, nil
}

// writeProc writes a value of the kernel by one call, which is when it takes
// or refuses it.
func (h *Host) writeProc(name, value string) error {
	f, err := os.OpenFile(h.path(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}
