// Package memory pretends to run containers. `dfagent serve --engine memory`
// uses it where there is no runtime, to try out placing; tests run their own
// programs in it.
//
// What it pretends to run prints one line, answers on its ports and waits to
// be stopped. Limits of CPU and memory are not held, and nothing outlives the
// process but the list of images.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/durable"
	"github.com/shoalproject/shoal/pkg/engine"
)

// killed is the exit code after SIGKILL.
const killed = 137

// Program is what a container runs. ctx ends with the stop signal.
type Program func(ctx context.Context, s engine.Spec, out io.Writer) int

// Options say what to pretend.
type Options struct {
	// Dir is where the list of images is kept, so that they are there after a
	// restart; empty keeps none.
	Dir string
	// Program runs in each container. Nil: Pretend.
	Program Program
	// LogBytes bounds each log; 0 takes engine.LogBytes.
	LogBytes int
}

// Engine is a runtime that is not there.
type Engine struct {
	opts Options

	mu         sync.Mutex
	images     []blob.Digest          // guarded by mu
	containers map[string]*container  // guarded by mu
	watchers   map[chan struct{}]bool // guarded by mu
}

// Open makes an engine. It fails when the list of images cannot be read.
func Open(opts Options) (*Engine, error) {
	if opts.Program == nil {
		opts.Program = Pretend
	}
	if opts.LogBytes == 0 {
		opts.LogBytes = engine.LogBytes
	}
	e := &Engine{opts: opts, containers: map[string]*container{}, watchers: map[chan struct{}]bool{}}
	if opts.Dir == "" {
		return e, nil
	}
	raw, err := os.ReadFile(e.list())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read which images are unpacked: %w", err)
	}
	for _, line := range strings.Fields(string(raw)) {
		d, err := blob.ParseDigest(line)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w; remove it and prewarm again", e.list(), err)
		}
		e.images = append(e.images, d)
	}
	return e, nil
}

func (e *Engine) list() string { return filepath.Join(e.opts.Dir, "images") }

// Unpack says that an image is there from now on.
func (e *Engine) Unpack(d blob.Digest) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Contains(e.images, d) {
		return nil
	}
	images := append(slices.Clone(e.images), d)
	if e.opts.Dir != "" {
		var text strings.Builder
		for _, d := range images {
			fmt.Fprintln(&text, d)
		}
		if err := durable.WriteFile(e.list(), []byte(text.String()), 0o600); err != nil {
			return fmt.Errorf("remember that %s is unpacked: %w", d, err)
		}
	}
	e.images = images
	return nil
}

// Pretend is the Program of the shipped engine.
func Pretend(ctx context.Context, s engine.Spec, out io.Writer) int {
	fmt.Fprintf(out, "pretending to run %s@%s %q\n", s.Image, s.Digest, s.Args)
	for _, port := range s.Ports {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			fmt.Fprintln(out, err)
			return 1
		}
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
	}
	<-ctx.Done()
	fmt.Fprintln(out, "stopped")
	return 0
}

// container is guarded by its engine's mu, log excepted.
type container struct {
	spec  engine.Spec
	state engine.State
	log   *log
	run   *run // nil when it does not run
}

// run is one life of a container.
type run struct {
	stop  context.CancelFunc
	ended chan struct{} // closed when it is over
}

// Create implements engine.Engine.
func (e *Engine) Create(_ context.Context, s engine.Spec) error {
	if err := s.Check(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if old := e.containers[s.ID]; old != nil {
		if old.state.Hash != s.Hash() {
			return fmt.Errorf("create container %s: %w", s.ID, engine.ErrDiffers)
		}
		return nil
	}
	if !slices.Contains(e.images, s.Digest) {
		return fmt.Errorf("create container %s of %s@%s: %w", s.ID, s.Image, s.Digest, engine.ErrNoImage)
	}
	e.containers[s.ID] = &container{
		spec: s, log: newLog(e.opts.LogBytes), state: engine.State{ID: s.ID, Hash: s.Hash(), ExitCode: -1},
	}
	e.stir()
	return nil
}

// Start implements engine.Engine. The program outlives ctx.
func (e *Engine) Start(ctx context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return fmt.Errorf("start container %s: %w", id, engine.ErrNone)
	}
	if c.run != nil {
		return nil
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &run{stop: stop, ended: make(chan struct{})}
	c.run = r
	c.state.Running, c.state.Started, c.state.Ended, c.state.ExitCode = true, time.Now(), time.Time{}, -1
	out := &output{log: c.log}
	go func() {
		defer stop()
		code := e.opts.Program(life, c.spec, out)
		e.over(c, r, code)
	}()
	e.stir()
	return nil
}

// over ends a run, once.
func (e *Engine) over(c *container, r *run, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.run != r {
		return
	}
	c.run = nil
	c.state.Running, c.state.Ended, c.state.ExitCode = false, time.Now(), code
	close(r.ended)
	e.stir()
}

// Stop implements engine.Engine. A program that takes no notice goes on unseen.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	e.mu.Lock()
	c := e.containers[id]
	var r *run
	if c != nil {
		r = c.run
	}
	e.mu.Unlock()
	if r == nil {
		return nil
	}
	r.stop()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-r.ended:
	case <-patience.C:
		e.over(c, r, killed)
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: %w", id, ctx.Err())
	}
	return nil
}

// Remove implements engine.Engine.
func (e *Engine) Remove(_ context.Context, id string) error {
	e.mu.Lock()
	c := e.containers[id]
	var r *run
	if c != nil {
		r = c.run
	}
	delete(e.containers, id)
	e.stir()
	e.mu.Unlock()
	if r != nil {
		r.stop()
		e.over(c, r, killed)
	}
	if c != nil {
		c.log.close()
	}
	return nil
}

// List implements engine.Engine.
func (e *Engine) List(context.Context) ([]engine.State, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]engine.State, 0, len(e.containers))
	for _, c := range e.containers {
		out = append(out, c.state)
	}
	return out, nil
}

// Watch implements engine.Engine.
func (e *Engine) Watch(ctx context.Context) <-chan struct{} {
	words := make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watchers[words] = true
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, words)
		close(words)
	})
	return words
}

// stir wakes the watchers; the caller holds mu.
func (e *Engine) stir() {
	for words := range e.watchers {
		select {
		case words <- struct{}{}:
		default:
		}
	}
}

// Images implements engine.Engine.
func (e *Engine) Images(context.Context) ([]blob.Digest, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.images), nil
}

// Version implements engine.Engine.
func (e *Engine) Version(context.Context) (string, error) { return "pretended", nil }

// Logs implements engine.Engine.
func (e *Engine) Logs(ctx context.Context, id string, tail int, follow bool) (io.ReadCloser, error) {
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c == nil {
		return nil, fmt.Errorf("read the log of container %s: %w", id, engine.ErrNone)
	}
	return c.log.read(ctx, tail, follow)
}
