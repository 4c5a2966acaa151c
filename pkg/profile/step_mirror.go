package profile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// mirrorStep writes the configuration by which the container runtimes find the
// agent's mirror.
type mirrorStep struct {
	host    *Host
	engine  string
	restart bool
}

func newMirrorStep(h *Host, v *values) Step {
	return &mirrorStep{host: h, engine: v.choice("engine", "installed", "containerd", "docker"), restart: v.yes("restart", false)}
}

// runtimes are those that are to use the mirror.
func (s *mirrorStep) runtimes() ([]string, error) {
	if s.engine != "installed" {
		return []string{s.engine}, nil
	}
	var out []string
	switch {
	case s.host.program("dockerd") != "":
		out = append(out, "docker")
		if s.host.Sockets["containerd"] == "" {
			break // it is Docker's own
		}
		fallthrough
	case s.host.program("containerd") != "":
		out = append(out, "containerd")
	}
	if len(out) == 0 {
		return nil, errors.New("no container runtime is installed that could use the mirror: the profile needs a runtime step before this one")
	}
	return out, nil
}

// Check implements Step.
func (s *mirrorStep) Check(context.Context) (Found, error) {
	runtimes, err := s.runtimes()
	if err != nil {
		return Found{}, err
	}
	out := Found{Holds: true}
	for _, engine := range runtimes {
		plan, err := s.host.Mirror(engine)
		if err != nil {
			return out, fmt.Errorf("configure %s: %w", engine, err)
		}
		if plan.Diff == "" {
			out.Output = lines(out.Output, engine+" is configured")
			continue
		}
		out.Holds = false
		out.Output = lines(out.Output, plan.Diff)
	}
	return out, nil
}

// Apply implements Step.
func (s *mirrorStep) Apply(ctx context.Context) (string, error) {
	runtimes, err := s.runtimes()
	if err != nil {
		return "", err
	}
	said := ""
	for _, engine := range runtimes {
		plan, err := s.host.Mirror(engine)
		if err == nil && plan.Diff != "" {
			err = plan.Apply()
		}
		if err != nil {
			return said, fmt.Errorf("configure %s: %w", engine, err)
		}
		if plan.Diff == "" {
			continue
		}
		said = lines(said, "wrote "+list(plan.Files), strings.Join(plan.Notes, "\n"))
		told, err := s.reload(ctx, engine, plan.Files)
		said = lines(said, told)
		if err != nil {
			return said, err
		}
	}
	return said, nil
}

// reload has the runtime read its configuration, where it must: Docker does so
// at a signal; containerd has to be restarted for its main file, which leaves
// its containers alone, and reads the others each time.
func (s *mirrorStep) reload(ctx context.Context, engine string, files []string) (string, error) {
	isMain := func(name string) bool {
		return strings.HasSuffix(name, "/config.toml") || strings.HasSuffix(name, "/daemon.json")
	}
	if !slices.ContainsFunc(files, isMain) {
		return "", nil
	}
	verb := "restart"
	if engine == "docker" {
		verb = "reload"
	}
	if !s.restart || !s.host.systemd() {
		return fmt.Sprintf("%s %s for it to read the new configuration", verb, engine), nil
	}
	return s.host.run(ctx, "systemctl", verb, engines[engine].unit)
}
