package profile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestShippedProfilesAreGood(t *testing.T) {
	used := map[string]bool{}
	for _, p := range Shipped() {
		if err := Check(p); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if p.Description == "" {
			t.Errorf("%s is not described", p.Name)
		}
		for _, s := range p.Steps {
			used[s.Kind] = true
		}
		if found, err := Find(p.Name); err != nil || !proto.Equal(found, p) {
			t.Errorf("%s is not found: %v", p.Name, err)
		}
	}
	for kind := range kinds {
		if !used[kind] {
			t.Errorf("no shipped profile has a step of kind %s", kind)
		}
	}
	if _, err := Find("nobody"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "host") {
		t.Errorf("an unknown profile: %v", err)
	}
}

func TestWithAPoolsSettings(t *testing.T) {
	base := &shoalv1.Profile{Name: "p", Steps: []*shoalv1.Step{
		{Name: "kernel", Kind: "sysctl", Version: 1, Settings: map[string]string{"vm.swappiness": "1", "vm.max_map_count": "2"}},
		{Name: "clock", Kind: "time", Version: 1},
	}}
	before := proto.CloneOf(base)
	for _, c := range []struct {
		settings map[string]string
		want     string // steps and settings, or "error"
	}{
		{nil, "kernel vm.max_map_count=2 vm.swappiness=1;clock;"},
		{map[string]string{"kernel.vm.swappiness": "9", "clock.wait": "2m"}, "kernel vm.max_map_count=2 vm.swappiness=9;clock wait=2m;"},
		{map[string]string{"kernel.vm.swappiness": ""}, "kernel vm.max_map_count=2;clock;"},
		{map[string]string{"clock.skip": "yes"}, "kernel vm.max_map_count=2 vm.swappiness=1;"},
		{map[string]string{"clock.skip": "no"}, "kernel vm.max_map_count=2 vm.swappiness=1;clock;"},
		{map[string]string{"clock.skip": "true"}, "error"},
		{map[string]string{"clocks.wait": "2m"}, "error"},
		{map[string]string{"clock": "2m"}, "error"},
		{map[string]string{"clock.wait": "soon"}, "error"},
		{map[string]string{"clock.colour": "red"}, "error"},
		{map[string]string{"kernel.vm/../../x": "1"}, "error"},
		{map[string]string{"clock.timeout": "1000h"}, "error"},
	} {
		p, err := With(base, c.settings)
		got := "error"
		if err == nil {
			got = show(p)
		} else if !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v is no ErrInvalid", c.settings, err)
		}
		if got != c.want {
			t.Errorf("%v: got %s (%v), want %s", c.settings, got, err, c.want)
		}
		if !proto.Equal(base, before) {
			t.Fatalf("%v changed the profile itself", c.settings)
		}
	}
}

func show(p *shoalv1.Profile) string {
	out := ""
	for _, s := range p.Steps {
		out += s.Name
		for _, key := range slices.Sorted(maps.Keys(s.Settings)) {
			out += " " + key + "=" + s.Settings[key]
		}
		out += ";"
	}
	return out
}

func TestBadProfiles(t *testing.T) {
	step := func(edit func(*shoalv1.Step)) *shoalv1.Profile {
		s := &shoalv1.Step{Name: "a", Kind: "disk", Version: 1, Settings: map[string]string{}}
		edit(s)
		return &shoalv1.Profile{Name: "p", Steps: []*shoalv1.Step{s}}
	}
	many := &shoalv1.Profile{}
	for i := range maxSteps + 1 {
		many.Steps = append(many.Steps, &shoalv1.Step{Name: fmt.Sprint("s", i), Kind: "disk", Version: 1})
	}
	set := func(kind, key, value string) *shoalv1.Profile {
		return step(func(s *shoalv1.Step) { s.Kind, s.Settings[key] = kind, value })
	}
	for name, p := range map[string]*shoalv1.Profile{
		"unknown kind":       step(func(s *shoalv1.Step) { s.Kind = "shell" }),
		"no version":         step(func(s *shoalv1.Step) { s.Version = 0 }),
		"name with a dot":    step(func(s *shoalv1.Step) { s.Name = "a.b" }),
		"no name":            step(func(s *shoalv1.Step) { s.Name = "" }),
		"twice":              {Steps: []*shoalv1.Step{{Name: "a", Kind: "disk", Version: 1}, {Name: "a", Kind: "disk", Version: 1}}},
		"too many steps":     many,
		"too long a setting": set("disk", "/", strings.Repeat("x", maxSetting+1)),
		"folder not whole":   set("disk", "../etc", "mount"),
		"folder unclean":     set("disk", "/a/../b", "mount"),
		"disk word":          set("disk", "/", "empty"),
		"disk size":          set("disk", "/", "free=much"),
		"engine":             set("runtime", "engine", "lxc"),
		"version":            set("runtime", "min-version", "new"),
		"limit":              set("limits", "nofile", "many"),
		"limit of none":      set("limits", "nofile", "unlimited"),
		"sysctl above /proc": set("sysctl", "net.../x", "1"),
		"sysctl's value":     set("sysctl", "vm.swappiness", "1\nkernel.core_pattern = |/bin/sh"),
		"no value":           set("sysctl", "vm.swappiness", " "),
		"no key":             set("ssh-keys", "keys", "rsa AAAA"),
		"a private key":      set("ssh-keys", "keys", "-----BEGIN OPENSSH PRIVATE KEY-----"),
		"a hidden key":       set("ssh-keys", "keys", testKey+"\x1b[2K"),
		"a user's path":      set("ssh-keys", "user", "../root"),
		"no certificate":     set("ca", "pem", "-----BEGIN CERTIFICATE-----"),
		"a name for a file":  set("ca", "name", "../x"),
		"time":               set("time", "wait", "-1s"),
	} {
		if err := Check(p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPlan gives settings as a pool's administrator may write them.
func FuzzPlan(f *testing.F) {
	for kind := range kinds {
		f.Add(kind, "timeout", "3s")
	}
	f.Add("disk", "/var", "size=1GB free=1e30TB mount fs=")
	f.Add("sysctl", "net.ipv4.conf.eth0/1.forwarding", "1")
	f.Add("ssh-keys", "keys", testKey)
	f.Fuzz(func(t *testing.T, kind, key, value string) {
		steps, err := Plan(&shoalv1.Profile{Steps: []*shoalv1.Step{{Name: "a", Kind: kind, Version: 1, Settings: map[string]string{key: value}}}}, &Host{})
		if err != nil {
			return
		}
		if steps[0].Timeout <= 0 || steps[0].Timeout > maxTimeout {
			t.Errorf("a time of %v", steps[0].Timeout)
		}
		if s, ok := steps[0].Step.(*sysctlStep); ok {
			for _, name := range s.keys {
				if p := sysctlPath(name); strings.Contains(p, "/../") || strings.HasSuffix(p, "/..") {
					t.Errorf("%q leads to %s", name, p)
				}
			}
		}
	})
}

func TestTimeoutsOfShippedSteps(t *testing.T) {
	p, err := Find("host")
	if err != nil {
		t.Fatal(err)
	}
	steps, err := Plan(p, &Host{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		want := usualTimeout
		if s.Kind == kindRuntime {
			want = 15 * time.Minute
		}
		if s.Timeout != want {
			t.Errorf("%s: %v", s.Name, s.Timeout)
		}
	}
}
