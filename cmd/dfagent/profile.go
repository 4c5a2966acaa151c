package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/nodeconfig"
	"github.com/shoalproject/shoal/pkg/profile"
)

// openKeeper prepares what keeps this host as its pool's profile says.
func (a *agent) openKeeper() error {
	own, err := ownStart(os.Args[1:])
	if err != nil {
		return err
	}
	own.Member = func() error {
		_, err := a.node.Membership()
		return err
	}
	data, err := filepath.Abs(a.config.Data)
	if err != nil {
		return fmt.Errorf("find the data folder: %w", err)
	}
	a.keeper, err = profile.OpenKeeper(profile.KeeperConfig{
		Host: &profile.Host{
			Root: a.config.ProfileRoot, Data: data,
			Sockets:   map[string]string{"containerd": a.config.Containerd, "docker": a.config.Docker},
			Authority: a.authority, Clock: a.timekeeping, Mirror: a.mirrorPlan, Agent: own,
		},
		Folder: data, May: a.config.ApplyProfiles,
		Send: a.line.ReportSteps, Drop: control.NeverTaken, Now: a.clock.Now, Log: a.log,
	})
	return err
}

// ownStart is how this agent was started, as far as it may be written into a
// unit that starts it again: a join token is a secret, and used up by then.
func ownStart(args []string) (profile.Agent, error) {
	executable, err := os.Executable()
	if err != nil {
		return profile.Agent{}, fmt.Errorf("find the agent's own program: %w", err)
	}
	folder, err := os.Getwd()
	if err != nil {
		return profile.Agent{}, fmt.Errorf("find the folder the agent was started in: %w", err)
	}
	return profile.Agent{Executable: executable, Args: withoutToken(args), Folder: folder}, nil
}

func withoutToken(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--join":
			i++
		case strings.HasPrefix(args[i], "--join="):
		default:
			out = append(out, args[i])
		}
	}
	return out
}

// authority is what this node's supernodes are trusted by.
func (a *agent) authority(ctx context.Context) ([]byte, error) {
	if a.config.CA != "" {
		return os.ReadFile(a.config.CA)
	}
	return control.Authority(ctx, a.line.Welcome(), a.clock.Now)
}

// timekeeping is how well this host's clock is kept.
func (a *agent) timekeeping() (profile.Clock, error) {
	kept, err := profile.Synchronised()
	return profile.Clock{Synchronised: kept, Off: time.Duration(a.clock.offset.Load())}, err
}

// mirrorPlan plans what 'dfagent setup' would do, with this agent's own
// addresses.
func (a *agent) mirrorPlan(engine string) (profile.MirrorPlan, error) {
	if engine == string(nodeconfig.Docker) && a.config.DockerMirror == "" {
		return profile.MirrorPlan{}, errors.New("Docker needs the listener that --docker-mirror switches on")
	}
	opts := nodeconfig.Options{
		Root: a.config.ProfileRoot, State: setupState, Mirror: "http://" + a.config.Mirror, DockerMirror: "http://" + a.config.DockerMirror,
	}
	if filepath.Clean(opts.Root) != "/" {
		opts.State = filepath.Join(opts.Root, setupState)
	}
	plan, err := nodeconfig.NewPlan(nodeconfig.Kind(engine), opts)
	if err != nil {
		return profile.MirrorPlan{}, err
	}
	out := profile.MirrorPlan{Diff: plan.Diff(), Notes: plan.Notes, Apply: plan.Apply}
	for _, c := range plan.Changes {
		out.Files = append(out.Files, c.Path)
	}
	return out, nil
}
