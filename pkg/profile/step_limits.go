package profile

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	limitsFile  = "/etc/security/limits.d/60-shoal.conf"
	systemdFile = "/etc/systemd/system.conf.d/60-shoal.conf"
)

// limitNames are the limits that can be set: by their names in limits.conf(5),
// with those in systemd-system.conf(5).
var limitNames = map[string]string{
	"core": "DefaultLimitCORE", "memlock": "DefaultLimitMEMLOCK",
	"nofile": "DefaultLimitNOFILE", "nproc": "DefaultLimitNPROC",
}

// limitsStep sets what logins and services may take, soft and hard alike. Its
// settings are numbers or "unlimited", in the units of limits.conf(5).
type limitsStep struct {
	host *Host
	// What the two files hold.
	logins, services string
}

func newLimitsStep(h *Host, v *values) Step {
	var logins, services strings.Builder
	services.WriteString("[Manager]\n")
	for _, name := range []string{"core", "memlock", "nofile", "nproc"} {
		value := v.text(name, "")
		if value == "" {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 52)
		if err != nil && value != "unlimited" || slices.Contains([]string{"nofile", "nproc"}, name) && (n == 0) {
			v.wrong("limit %s is %q; want a number, or unlimited for core and memlock", name, value)
		}
		fmt.Fprintf(&logins, "* - %s %s\nroot - %s %s\n", name, value, name, value)
		if value == "unlimited" {
			value = "infinity"
		} else if name == "core" || name == "memlock" {
			value += "K" // limits.conf(5) counts these in KiB
		}
		fmt.Fprintf(&services, "%s=%s\n", limitNames[name], value)
	}
	return &limitsStep{host: h, logins: logins.String(), services: services.String()}
}

// files are those that are to be, with their content; that of systemd only
// where it is.
func (s *limitsStep) files() [][2]string {
	if s.logins == "" {
		return nil
	}
	out := [][2]string{{limitsFile, s.logins}}
	if s.host.systemd() {
		out = append(out, [2]string{systemdFile, s.services})
	}
	return out
}

// Check implements Step.
func (s *limitsStep) Check(context.Context) (Found, error) {
	out := Found{Holds: true}
	for _, file := range s.files() {
		same, err := s.host.ownFile(file[0], file[1])
		if err != nil {
			return Found{}, err
		}
		if !same {
			out.Holds = false
			out.Output = lines(out.Output, file[0]+" is to hold:", file[1])
		}
	}
	return out, nil
}

// Apply implements Step.
func (s *limitsStep) Apply(ctx context.Context) (string, error) {
	said := ""
	for _, file := range s.files() {
		if err := s.host.writeOwn(file[0], file[1]); err != nil {
			return said, err
		}
		said = lines(said, "wrote "+file[0])
	}
	if s.host.systemd() {
		told, err := s.host.run(ctx, "systemctl", "daemon-reexec")
		if err != nil {
			return lines(said, told), err
		}
		said = lines(said, told)
	}
	return lines(said, "they count for logins and services that begin from now on"), nil
}
