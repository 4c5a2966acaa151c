package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/control"
	enginecontainerd "github.com/shoalproject/shoal/pkg/engine/containerd"
	enginedocker "github.com/shoalproject/shoal/pkg/engine/docker"
	"github.com/shoalproject/shoal/pkg/engine/memory"
	"github.com/shoalproject/shoal/pkg/facts"
	"github.com/shoalproject/shoal/pkg/supervise"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// What --engine may name.
const (
	onContainerd = "containerd"
	onDocker     = "docker"
	inMemory     = "memory"
	onNothing    = "none"
)

// containersFolder is where logs and lists of containers lie in the data
// folder.
const containersFolder = "containers"

// runs is the engine that the settings mean.
func (c *config) runs() string {
	switch {
	case c.Engine != "":
		return c.Engine
	case c.Containerd != "":
		return onContainerd
	case c.Docker != "":
		return onDocker
	}
	return onNothing
}

// checkEngine sees that the engine has what it needs.
func (c *config) checkEngine() error {
	switch c.runs() {
	case onContainerd:
		if c.Containerd == "" {
			return errors.New("--engine containerd needs its socket: name it with --containerd")
		}
	case onDocker:
		if c.Docker == "" {
			return errors.New("--engine docker needs its socket: name it with --docker")
		}
	case inMemory, onNothing:
	default:
		return fmt.Errorf("--engine %q: it is containerd, docker, memory or none", c.Engine)
	}
	return nil
}

// openContainers opens what runs containers here, and what keeps them as the
// supernode wants them; without an engine there is neither. What runs belongs
// to this node's key.
func (a *agent) openContainers(ctx context.Context) error {
	dir := a.config.path(containersFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for containers: %w", err)
	}
	owner := a.key.PeerID().String()
	switch a.config.runs() {
	case onContainerd:
		e, err := enginecontainerd.Open(ctx, a.runtime.Client(), enginecontainerd.Options{
			Namespace: a.config.ContainerdNS, Owner: owner, Logs: dir, Log: a.log,
		})
		if err != nil {
			return err
		}
		a.engine = e
	case onDocker:
		client := control.Socket(a.config.Docker)
		a.closers = append(a.closers, func() error { client.CloseIdleConnections(); return nil })
		a.engine = enginedocker.Open(client, enginedocker.Options{Owner: owner})
	case inMemory:
		e, err := memory.Open(memory.Options{Dir: dir})
		if err != nil {
			return err
		}
		a.log.Warn("containers are only pretended: --engine memory")
		a.engine, a.pretends = e, e
	}
	if a.engine != nil {
		a.supervisor = supervise.New(supervise.Config{
			Engine: a.engine, Dir: dir, Bring: a.bringAgain, Report: a.line.ReportContainers, Log: a.log,
		})
	}
	a.logs = &logs{engine: a.engine, send: a.line.SendLog, reading: map[string]context.CancelFunc{}, log: a.log}
	return nil
}

// bringAgain fetches the image of a container that went from this host since
// it was prewarmed. No reader's right comes with the wish to run it, so this
// is for images that the host's pool may pull, or anybody.
func (a *agent) bringAgain(ctx context.Context, c *shoalv1.Container) error {
	var m meter
	return a.bring(ctx, &shoalv1.Prewarm{
		Registry: c.Registry, Repository: c.Repository, Tag: c.Tag, Digest: c.Digest, Unpack: true,
	}, &m)
}

// desired takes on what is wanted here.
func (o *orders) desired(ctx context.Context, d *shoalv1.Desired) {
	a := o.agent
	if a.supervisor != nil {
		if err := a.supervisor.Take(d); err != nil {
			a.log.Error("what the supernode wants to run here is not taken on", "generation", d.Generation, "error", err)
		}
		return
	}
	report := &shoalv1.ReportContainersRequest{Generation: d.Generation}
	for _, c := range d.Containers {
		report.Containers = append(report.Containers, &shoalv1.ContainerStatus{
			Id: c.Id, State: shoalv1.ContainerStatus_FAILED, ExitCode: -1, Error: errNoEngine.Error(),
		})
	}
	o.wait.Go(func() {
		if err := a.line.ReportContainers(ctx, report); err != nil && ctx.Err() == nil {
			a.log.Warn("that no containers run here was not told", "error", err)
		}
	})
}

// errNoEngine says why this host runs no containers.
var errNoEngine = errors.New("this agent runs no containers: start it with --containerd or --docker, or see --engine")

// engineFacts is what the supernode is told of the engine.
func (a *agent) engineFacts(ctx context.Context) (facts.Engine, error) {
	if a.engine == nil {
		return facts.Engine{}, nil
	}
	version, err := a.engine.Version(ctx)
	if err != nil {
		return facts.Engine{}, err // nothing is placed where it does not answer
	}
	f := facts.Engine{Name: a.config.runs(), Version: version}
	images, err := a.engine.Images(ctx)
	for _, d := range images {
		f.Images = append(f.Images, string(d))
	}
	return f, err
}

// unpacker is an engine that is told what is unpacked, since it pretends.
type unpacker interface{ Unpack(d blob.Digest) error }
