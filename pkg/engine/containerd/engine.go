// Package containerd runs containers on containerd 1.6 or 2.x through its
// client. What it knows of a container is kept by containerd as labels, its
// log is a file that the container's shim writes, so both go on while the
// agent is away, and while containerd is.
//
// Limits: the shim's file grows; its beginning is given back to the file
// system (a hole), so its apparent size says nothing. While no agent runs,
// nothing does that. Containers get no AppArmor profile.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/shoalproject/shoal/pkg/engine"
)

const (
	// killed is the exit code after SIGKILL.
	killed = 128 + int(syscall.SIGKILL)
	// endsWithin is how long a killed program may take to be gone.
	endsWithin = 10 * time.Second
	// watchRetry is the pause before containerd is asked for events again.
	watchRetry = time.Second
)

// Options say what of containerd belongs to this agent.
type Options struct {
	// Namespace that images were unpacked into and that containers run in.
	Namespace string
	// Snapshotter of the unpacked images. Empty: containerd's default.
	Snapshotter string
	// Owner names the agent; containers of others are not touched.
	Owner string
	// Logs is the folder for the containers' logs.
	Logs string
	// LogBytes is how much of a log is kept at least; 0 takes engine.LogBytes.
	LogBytes int64
	// Log takes what is worth telling. Nil: nothing is told.
	Log *slog.Logger
}

// Engine implements engine.Engine.
type Engine struct {
	client *containerd.Client
	opts   Options
}

var _ engine.Engine = (*Engine)(nil)

// Open makes an engine over a client, which stays the caller's. It does not
// wait for containerd. Until ctx ends it keeps the logs from growing.
func Open(ctx context.Context, client *containerd.Client, opts Options) (*Engine, error) {
	if opts.LogBytes == 0 {
		opts.LogBytes = engine.LogBytes
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	// The shim opens the file by its own idea of where it stands.
	logs, err := filepath.Abs(opts.Logs)
	if err != nil {
		return nil, fmt.Errorf("folder for logs of containers: %w", err)
	}
	opts.Logs = logs
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, fmt.Errorf("folder for logs of containers: %w", err)
	}
	e := &Engine{client: client, opts: opts}
	go e.keepTrimmed(ctx)
	return e, nil
}

func (e *Engine) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.opts.Namespace)
}

// snapshotKey is where the container's own files are, told apart from those of
// other users of the namespace.
func snapshotKey(id string) string { return "shoal-" + id }

// load finds a container of this agent; it wraps ErrNone.
func (e *Engine) load(ctx context.Context, id string) (containerd.Container, containers.Container, error) {
	c, err := e.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return nil, containers.Container{}, engine.ErrNone
	}
	if err != nil {
		return nil, containers.Container{}, err
	}
	info, err := c.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return nil, containers.Container{}, err
	}
	if info.Labels[engine.LabelOwner] != e.opts.Owner {
		return nil, info, fmt.Errorf("it belongs to somebody else: %w", engine.ErrNone)
	}
	return c, info, nil
}

// task is the container's last run as far as containerd remembers it; nil
// without one.
func taskOf(ctx context.Context, c containerd.Container) (containerd.Task, containerd.Status, error) {
	t, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil, containerd.Status{}, nil
	}
	if err != nil {
		return nil, containerd.Status{}, err
	}
	status, err := t.Status(ctx)
	if errdefs.IsNotFound(err) {
		return nil, containerd.Status{}, nil
	}
	return t, status, err
}

// Start implements engine.Engine.
func (e *Engine) Start(ctx context.Context, id string) error {
	ctx = e.in(ctx)
	c, _, err := e.load(ctx, id)
	if err == nil {
		err = e.start(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

func (e *Engine) start(ctx context.Context, c containerd.Container) error {
	old, status, err := taskOf(ctx, c)
	if err != nil {
		return err
	}
	if old != nil {
		switch status.Status {
		case containerd.Stopped, containerd.Created, containerd.Unknown:
			// An ended run, or one whose agent died before it began.
			if _, err := old.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("clear away the last run: %w", err)
			}
		default:
			return nil
		}
	}
	if err := touch(e.logPath(c.ID())); err != nil {
		return err
	}
	if _, err := c.SetLabels(ctx, map[string]string{engine.LabelStarted: time.Now().UTC().Format(time.RFC3339Nano)}); err != nil {
		return fmt.Errorf("note when it started: %w", err)
	}
	run, err := c.NewTask(ctx, cio.LogFile(e.logPath(c.ID())))
	if err != nil {
		return err
	}
	if err := run.Start(ctx); err != nil {
		_, gone := run.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
		return errors.Join(err, gone)
	}
	return nil
}

// Stop implements engine.Engine.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx = e.in(ctx)
	c, _, err := e.load(ctx, id)
	if errors.Is(err, engine.ErrNone) {
		return nil
	}
	if err == nil {
		err = stop(ctx, c, grace)
	}
	if err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

func stop(ctx context.Context, c containerd.Container, grace time.Duration) error {
	run, status, err := taskOf(ctx, c)
	if err != nil || run == nil || status.Status == containerd.Stopped {
		return err
	}
	signal, err := containerd.GetStopSignal(ctx, c, syscall.SIGTERM)
	if err != nil || status.Status == containerd.Created {
		signal = syscall.SIGKILL // an unknown signal of the image's, or nothing that could hear one
	}
	ended, err := run.Wait(ctx)
	if err != nil {
		return fmt.Errorf("wait for its end: %w", err)
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{signal, grace}, {syscall.SIGKILL, endsWithin}} {
		if err := run.Kill(ctx, step.signal); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("send it %s: %w", step.signal, err)
		}
		patience := time.NewTimer(step.wait)
		select {
		case end := <-ended:
			patience.Stop()
			return end.Error()
		case <-ctx.Done():
			patience.Stop()
			return ctx.Err()
		case <-patience.C:
		}
	}
	return fmt.Errorf("it did not end within %s of SIGKILL", endsWithin)
}

// Remove implements engine.Engine.
func (e *Engine) Remove(ctx context.Context, id string) error {
	ctx = e.in(ctx)
	c, _, err := e.load(ctx, id)
	if errors.Is(err, engine.ErrNone) {
		return nil
	}
	if err == nil {
		err = e.remove(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

func (e *Engine) remove(ctx context.Context, c containerd.Container) error {
	run, _, err := taskOf(ctx, c)
	if err != nil {
		return err
	}
	if run != nil {
		if _, err := run.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return forget(e.logPath(c.ID()))
}

// List implements engine.Engine.
func (e *Engine) List(ctx context.Context) ([]engine.State, error) {
	ctx = e.in(ctx)
	infos, err := e.infos(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	answer, err := e.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list what runs: %w", err)
	}
	runs := map[string]*task.Process{}
	for _, run := range answer.Tasks {
		runs[run.ID] = run
	}
	out := make([]engine.State, 0, len(infos))
	for _, info := range infos {
		out = append(out, e.state(info, runs[info.ID]))
	}
	return out, nil
}

// infos are the containers of this agent.
func (e *Engine) infos(ctx context.Context) ([]containers.Container, error) {
	return e.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", engine.LabelOwner, e.opts.Owner))
}

func (e *Engine) state(info containers.Container, run *task.Process) engine.State {
	s := engine.State{ID: info.ID, Hash: info.Labels[engine.LabelHash], ExitCode: -1}
	if at, err := time.Parse(time.RFC3339Nano, info.Labels[engine.LabelStarted]); err == nil {
		s.Started = at
	}
	if run == nil {
		return s
	}
	switch run.Status {
	case task.Status_RUNNING, task.Status_PAUSED, task.Status_PAUSING:
		s.Running = true
	case task.Status_STOPPED:
		s.Ended, s.ExitCode = run.ExitedAt.AsTime(), int(run.ExitStatus)
		if s.ExitCode == killed && outOfMemory(e.opts.Namespace, info.ID) {
			s.Error = "killed: it took more memory than its limit"
		}
	}
	return s
}

// Watch implements engine.Engine.
func (e *Engine) Watch(ctx context.Context) <-chan struct{} {
	words := make(chan struct{}, 1)
	go func() {
		defer close(words)
		for ctx.Err() == nil {
			e.watch(ctx, words)
			select {
			case <-time.After(watchRetry):
			case <-ctx.Done():
			}
		}
	}()
	return words
}

// watch sends words until the connection breaks or ctx ends.
func (e *Engine) watch(ctx context.Context, words chan<- struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, broken := e.client.Subscribe(ctx, fmt.Sprintf("namespace==%q,topic==\"/tasks/exit\"", e.opts.Namespace))
	for {
		select {
		case <-events:
		case err := <-broken:
			if ctx.Err() == nil {
				e.opts.Log.Debug("containerd tells of no ends for now", "error", err)
			}
			return
		case <-ctx.Done():
			return
		}
		select {
		case words <- struct{}{}:
		default: // one waits already
		}
	}
}

// Version implements engine.Engine.
func (e *Engine) Version(ctx context.Context) (string, error) {
	v, err := e.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	return v.Version, nil
}
