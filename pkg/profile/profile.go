package profile

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// maxSteps keeps a whole report well below what a supernode takes at once.
	maxSteps    = 24
	maxSettings = 256
	// maxSetting bounds one setting's value, in bytes.
	maxSetting = 64 << 10
	// maxTimeout and usualTimeout are of a step's check and of its change.
	maxTimeout   = time.Hour
	usualTimeout = 2 * time.Minute
)

var (
	// ErrInvalid is wrapped when a profile or its settings cannot be used.
	ErrInvalid = errors.New("invalid profile")
	// ErrUnknown is wrapped when no profile has the name.
	ErrUnknown = errors.New("no such profile")
)

// stepName has no dot, since a pool's settings are named STEP.KEY.
var stepName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Shipped are the profiles that come with the programs, by name.
func Shipped() []*shoalv1.Profile {
	step := func(kind string, version int32, settings ...string) *shoalv1.Step {
		s := &shoalv1.Step{Name: kind, Kind: kind, Version: version, Settings: map[string]string{}}
		for i := 0; i+1 < len(settings); i += 2 {
			s.Settings[settings[i]] = settings[i+1]
		}
		return s
	}
	return []*shoalv1.Profile{
		{
			Name:        "host",
			Description: "A host of its own: runtime, mirror, limits, clock and keys are put in place.",
			Steps: []*shoalv1.Step{
				step(kindDisk, 1, "/", "free=2GB", "data", "free=10GB"),
				step(kindTime, 1, "install", "apt"),
				step(kindCA, 1, "install", "apt"),
				step(kindRuntime, 1, "engine", "containerd", "install", "apt", "timeout", "15m"),
				step(kindSysctl, 1,
					"fs.inotify.max_user_instances", "8192", "fs.inotify.max_user_watches", "524288",
					"net.core.somaxconn", "4096", "vm.max_map_count", "262144"),
				step(kindLimits, 1, "nofile", "1048576"),
				step(kindMirror, 1, "restart", "yes"),
				step(kindSSHKeys, 1),
				step(kindAgent, 1),
			},
		},
		{
			Name:        "light",
			Description: "A host that others look after: nothing is installed, only the mirror is set up.",
			Steps: []*shoalv1.Step{
				step(kindDisk, 1, "data", "free=1GB"),
				step(kindMirror, 1),
				step(kindAgent, 1, "boot", "no"),
			},
		},
	}
}

// Find returns the shipped profile of a name.
func Find(name string) (*shoalv1.Profile, error) {
	var names []string
	for _, p := range Shipped() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return nil, fmt.Errorf("%w: %q; there are %s", ErrUnknown, name, list(names))
}

// skip is the setting that leaves a step out.
const skip = "skip"

// With is the profile with a pool's settings, named STEP.KEY, over its own. An
// empty value takes a setting away; "STEP.skip" set to "yes" leaves a whole
// step out. The result was checked.
func With(p *shoalv1.Profile, settings map[string]string) (*shoalv1.Profile, error) {
	out := proto.CloneOf(p)
	skipped := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		at, key, _ := strings.Cut(name, ".")
		i := slices.IndexFunc(out.Steps, func(s *shoalv1.Step) bool { return s.Name == at })
		if i < 0 || key == "" {
			return nil, fmt.Errorf("%w: setting %q is not of the form STEP.KEY with a step of profile %q: %s", ErrInvalid, name, p.Name, list(stepNames(p)))
		}
		step, value := out.Steps[i], settings[name]
		switch {
		case key == skip && value != "yes" && value != "no":
			return nil, fmt.Errorf("%w: setting %q is %q; want yes or no", ErrInvalid, name, value)
		case key == skip:
			skipped[at] = value == "yes"
		case value == "":
			delete(step.Settings, key)
		default:
			if step.Settings == nil {
				step.Settings = map[string]string{}
			}
			step.Settings[key] = value
		}
	}
	out.Steps = slices.DeleteFunc(out.Steps, func(s *shoalv1.Step) bool { return skipped[s.Name] })
	return out, Check(out)
}

func stepNames(p *shoalv1.Profile) []string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, s.Name)
	}
	return out
}

// Check reports what is wrong with a profile, as far as that can be known
// away from a host.
func Check(p *shoalv1.Profile) error {
	_, err := Plan(p, &Host{})
	return err
}

// Plan makes the steps of a profile for a host. The error wraps ErrInvalid.
func Plan(p *shoalv1.Profile, h *Host) ([]Planned, error) {
	if len(p.GetSteps()) > maxSteps {
		return nil, fmt.Errorf("%w: %d steps; %d are the most", ErrInvalid, len(p.Steps), maxSteps)
	}
	seen := map[string]bool{}
	var out []Planned
	for _, s := range p.GetSteps() {
		if !stepName.MatchString(s.Name) || seen[s.Name] {
			return nil, fmt.Errorf("%w: step name %q is used twice, or is more than small letters, digits and dashes", ErrInvalid, s.Name)
		}
		seen[s.Name] = true
		one, err := plan(s, h)
		if err != nil {
			return nil, fmt.Errorf("%w: step %q: %w", ErrInvalid, s.Name, err)
		}
		out = append(out, one)
	}
	return out, nil
}

func plan(s *shoalv1.Step, h *Host) (Planned, error) {
	out := Planned{Name: s.Name, Kind: s.Kind, Version: s.Version}
	if s.Version < 1 {
		return out, fmt.Errorf("version %d; versions count from 1", s.Version)
	}
	if len(s.Settings) > maxSettings {
		return out, fmt.Errorf("%d settings; %d are the most", len(s.Settings), maxSettings)
	}
	for key, value := range s.Settings {
		if len(value) > maxSetting || len(key) > maxSetting {
			return out, fmt.Errorf("a setting has %d bytes; %d are the most", max(len(value), len(key)), maxSetting)
		}
	}
	build := kinds[s.Kind]
	if build == nil {
		return out, fmt.Errorf("this agent knows no kind %q, it knows %s; is it older than the supernode?", s.Kind, list(slices.Sorted(maps.Keys(kinds))))
	}
	v := &values{left: maps.Clone(s.Settings)}
	out.Timeout = v.duration("timeout", usualTimeout, maxTimeout)
	out.Step = build(h, v)
	return out, v.done()
}

// The kinds of steps.
const (
	kindAgent   = "agent"
	kindCA      = "ca"
	kindDisk    = "disk"
	kindLimits  = "limits"
	kindMirror  = "mirror"
	kindRuntime = "runtime"
	kindSSHKeys = "ssh-keys"
	kindSysctl  = "sysctl"
	kindTime    = "time"
)

// kinds make steps of their settings.
var kinds = map[string]func(*Host, *values) Step{
	kindAgent:   newAgentStep,
	kindCA:      newCAStep,
	kindDisk:    newDiskStep,
	kindLimits:  newLimitsStep,
	kindMirror:  newMirrorStep,
	kindRuntime: newRuntimeStep,
	kindSSHKeys: newSSHKeysStep,
	kindSysctl:  newSysctlStep,
	kindTime:    newTimeStep,
}

// values takes a step's settings apart. The first thing that is wrong stays.
type values struct {
	left map[string]string
	err  error
}

func (v *values) wrong(format string, args ...any) {
	if v.err == nil {
		v.err = fmt.Errorf(format, args...)
	}
}

// text takes a setting out.
func (v *values) text(key, otherwise string) string {
	value, set := v.left[key]
	delete(v.left, key)
	if !set {
		return otherwise
	}
	return value
}

// choice takes out a setting of which only some values make sense; the first
// is what it is when it is not set.
func (v *values) choice(key string, from ...string) string {
	value := v.text(key, from[0])
	if !slices.Contains(from, value) {
		v.wrong("setting %q is %q; want %s", key, value, strings.Join(from, " or "))
	}
	return value
}

func (v *values) yes(key string, otherwise bool) bool {
	if otherwise {
		return v.choice(key, "yes", "no") == "yes"
	}
	return v.choice(key, "no", "yes") == "yes"
}

func (v *values) duration(key string, otherwise, most time.Duration) time.Duration {
	text := v.text(key, otherwise.String())
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > most {
		v.wrong("setting %q is %q; want a time such as 30s, at most %v", key, text, most)
	}
	return d
}

// rest takes out all that is left, for kinds whose keys are the host's.
func (v *values) rest() map[string]string {
	out := v.left
	v.left = nil
	return out
}

// done reports the first thing that was wrong, settings that nobody took
// included.
func (v *values) done() error {
	if v.err == nil && len(v.left) > 0 {
		v.wrong("there is no setting %s", list(slices.Sorted(maps.Keys(v.left))))
	}
	return v.err
}
