// Package docker runs containers on a Docker daemon of this host, over its
// Unix socket with plain HTTP. Docker keeps labels, logs and exit codes.
//
// Limits: Docker counts its own marks into the bound of a log; a followed log
// ends with the run of its container; containers end with the daemon unless it
// was told otherwise (live-restore); a digest is known by which the image was
// pulled, so an index and the manifest that it names are two.
package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
)

const (
	maxAnswer  = 16 << 20 // bytes of an answer that is read whole
	maxReason  = 4 << 10
	watchRetry = time.Second
	// logFiles is over how many files a log is spread; the oldest goes first.
	logFiles  = 3
	cpuPeriod = 100_000 // microseconds
)

// errNotThere and errConflict are what the daemon says by a status.
var (
	errNotThere = errors.New("docker knows nothing of that name")
	errConflict = errors.New("docker says that it is there")
)

// Options say what of Docker belongs to this agent.
type Options struct {
	// Owner names the agent; containers of others are not touched.
	Owner string
	// LogBytes is how much of a log is kept at least; 0 takes engine.LogBytes.
	LogBytes int64
}

// Engine implements engine.Engine.
type Engine struct {
	http *http.Client
	opts Options
}

var _ engine.Engine = (*Engine)(nil)

// Open makes an engine over a client that connects to the daemon whatever the
// URL says, and has no time-out of its own. It does not wait for the daemon.
func Open(client *http.Client, opts Options) *Engine {
	opts.LogBytes = cmp.Or(opts.LogBytes, engine.LogBytes)
	return &Engine{http: client, opts: opts}
}

// creation is the body of the request that makes a container.
type creation struct {
	Image      string
	Cmd        []string `json:",omitempty"`
	Env        []string
	Labels     map[string]string
	HostConfig hostConfig
}

type hostConfig struct {
	NetworkMode         string
	Memory, MemorySwap  int64 // bytes; the second is of both together
	CPUPeriod, CPUQuota int64 `json:",omitempty"`
	LogConfig           logConfig
}

type logConfig struct {
	Type   string
	Config map[string]string
}

// Create implements engine.Engine.
func (e *Engine) Create(ctx context.Context, s engine.Spec) error {
	if err := s.Check(); err != nil {
		return err
	}
	if err := e.create(ctx, s); err != nil {
		return fmt.Errorf("create container %s of %s@%s: %w", s.ID, s.Image, s.Digest, err)
	}
	return nil
}

func (e *Engine) create(ctx context.Context, s engine.Spec) error {
	switch old, err := e.inspect(ctx, s.ID); {
	case err == nil:
		return e.same(old, s)
	case !errors.Is(err, errNotThere):
		return err
	}
	image, err := e.find(ctx, s.Digest)
	if err != nil {
		return err
	}
	body := creation{
		Image: image, Cmd: s.Args, Env: s.Env,
		Labels: map[string]string{engine.LabelOwner: e.opts.Owner, engine.LabelHash: s.Hash()},
		HostConfig: hostConfig{
			NetworkMode: "host", Memory: s.MemoryBytes, MemorySwap: s.MemoryBytes,
			LogConfig: logConfig{Type: "json-file", Config: map[string]string{
				"max-size": strconv.FormatInt(e.opts.LogBytes, 10), "max-file": strconv.Itoa(logFiles),
			}},
		},
	}
	if s.CPUMilli > 0 {
		body.HostConfig.CPUPeriod, body.HostConfig.CPUQuota = cpuPeriod, s.CPUMilli*cpuPeriod/1000
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	err = e.call(ctx, http.MethodPost, "/containers/create?"+url.Values{"name": {s.ID}}.Encode(), raw, nil)
	switch {
	case errors.Is(err, errNotThere):
		return fmt.Errorf("%w: %w", engine.ErrNoImage, err)
	case errors.Is(err, errConflict):
		old, err := e.inspect(ctx, s.ID)
		if err != nil {
			return err
		}
		return e.same(old, s)
	}
	return err
}

func (e *Engine) same(old *container, s engine.Spec) error {
	if old.Config.Labels[engine.LabelOwner] != e.opts.Owner || old.Config.Labels[engine.LabelHash] != s.Hash() {
		return engine.ErrDiffers
	}
	return nil
}

// images maps each digest by which an image was pulled to a name of it.
func (e *Engine) images(ctx context.Context) (map[blob.Digest]string, error) {
	var list []struct{ RepoDigests []string }
	if err := e.call(ctx, http.MethodGet, "/images/json", nil, &list); err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := map[blob.Digest]string{}
	for _, image := range list {
		for _, name := range image.RepoDigests {
			_, digest, _ := strings.Cut(name, "@")
			if d, err := blob.ParseDigest(digest); err == nil {
				out[d] = name
			}
		}
	}
	return out, nil
}

func (e *Engine) find(ctx context.Context, d blob.Digest) (string, error) {
	all, err := e.images(ctx)
	if err == nil && all[d] == "" {
		err = engine.ErrNoImage
	}
	return all[d], err
}

// Images implements engine.Engine.
func (e *Engine) Images(ctx context.Context) ([]blob.Digest, error) {
	all, err := e.images(ctx)
	out := make([]blob.Digest, 0, len(all))
	for d := range all {
		out = append(out, d)
	}
	return out, err
}

// container is what the daemon says of one.
type container struct {
	Name   string // with a slash before
	Config struct{ Labels map[string]string }
	State  struct {
		Running, OOMKilled    bool
		ExitCode              int
		Error                 string
		StartedAt, FinishedAt time.Time
	}
}

func (e *Engine) inspect(ctx context.Context, id string) (*container, error) {
	var c container
	if err := e.call(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/json", nil, &c); err != nil {
		return nil, err
	}
	if c.Name != "/"+id { // the daemon takes the beginning of its own ID as well
		return nil, errNotThere
	}
	return &c, nil
}

// own finds a container of this agent; it wraps ErrNone.
func (e *Engine) own(ctx context.Context, id string) (*container, error) {
	c, err := e.inspect(ctx, id)
	switch {
	case errors.Is(err, errNotThere):
		return nil, engine.ErrNone
	case err == nil && c.Config.Labels[engine.LabelOwner] != e.opts.Owner:
		return nil, fmt.Errorf("it belongs to somebody else: %w", engine.ErrNone)
	}
	return c, err
}

// Start implements engine.Engine.
func (e *Engine) Start(ctx context.Context, id string) error {
	_, err := e.own(ctx, id)
	if err == nil {
		err = e.call(ctx, http.MethodPost, "/containers/"+url.PathEscape(id)+"/start", nil, nil)
	}
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

// Stop implements engine.Engine. Docker counts grace in whole seconds.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	_, err := e.own(ctx, id)
	if err == nil {
		seconds := int((grace + time.Second - 1) / time.Second)
		err = e.call(ctx, http.MethodPost, fmt.Sprintf("/containers/%s/stop?t=%d", url.PathEscape(id), seconds), nil, nil)
	}
	if err != nil && !errors.Is(err, engine.ErrNone) && !errors.Is(err, errNotThere) {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

// Remove implements engine.Engine.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.own(ctx, id)
	if err == nil {
		err = e.call(ctx, http.MethodDelete, "/containers/"+url.PathEscape(id)+"?force=1&v=1", nil, nil)
	}
	if err != nil && !errors.Is(err, engine.ErrNone) && !errors.Is(err, errNotThere) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// filter is how the daemon wants to be told what is meant.
func filter(of map[string][]string) string {
	raw, err := json.Marshal(of)
	if err != nil {
		panic("docker: strings are always JSON: " + err.Error())
	}
	return "filters=" + url.QueryEscape(string(raw))
}

// List implements engine.Engine.
func (e *Engine) List(ctx context.Context) ([]engine.State, error) {
	var list []struct{ Names []string }
	path := "/containers/json?all=1&" + filter(map[string][]string{"label": {engine.LabelOwner + "=" + e.opts.Owner}})
	if err := e.call(ctx, http.MethodGet, path, nil, &list); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	out := make([]engine.State, 0, len(list))
	for _, l := range list {
		if len(l.Names) == 0 {
			continue // it is being removed
		}
		id := strings.TrimPrefix(l.Names[0], "/")
		c, err := e.own(ctx, id)
		if errors.Is(err, engine.ErrNone) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at container %s: %w", id, err)
		}
		out = append(out, c.state(id))
	}
	return out, nil
}

func (c *container) state(id string) engine.State {
	s := engine.State{
		ID: id, Hash: c.Config.Labels[engine.LabelHash], Running: c.State.Running,
		Started: c.State.StartedAt, ExitCode: -1, Error: c.State.Error,
	}
	if !s.Running && !c.State.FinishedAt.IsZero() && !s.Started.IsZero() {
		s.Ended, s.ExitCode = c.State.FinishedAt, c.State.ExitCode
	}
	if c.State.OOMKilled && !s.Running {
		s.Error = "killed: it took more memory than its limit"
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
	body, err := e.do(ctx, http.MethodGet, "/events?"+filter(map[string][]string{
		"type": {"container"}, "event": {"die"}, "label": {engine.LabelOwner + "=" + e.opts.Owner},
	}), nil)
	if err != nil {
		return
	}
	defer body.Close()
	events := json.NewDecoder(body)
	for {
		var event struct{}
		if events.Decode(&event) != nil {
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
	var v struct{ Version string }
	err := e.call(ctx, http.MethodGet, "/version", nil, &v)
	return v.Version, err
}

// do sends a request and returns the body of a good answer.
func (e *Engine) do(ctx context.Context, method, path string, body []byte) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := e.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask docker: %w; is the daemon running, and may this user open its socket?", err)
	}
	if answer.StatusCode < 400 {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(answer.Body, maxReason)) // a reason, as far as it came
	var reason struct{ Message string }
	if json.Unmarshal(raw, &reason) != nil || reason.Message == "" {
		reason.Message = answer.Status
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s", errNotThere, reason.Message)
	case http.StatusConflict:
		return nil, fmt.Errorf("%w: %s", errConflict, reason.Message)
	}
	return nil, fmt.Errorf("docker refused: %s", reason.Message)
}

// call is do for answers of bounded size; into may be nil.
func (e *Engine) call(ctx context.Context, method, path string, body []byte, into any) error {
	answer, err := e.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	raw, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
	if err == nil && into != nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("read docker's answer: %w", err)
	}
	return nil
}
