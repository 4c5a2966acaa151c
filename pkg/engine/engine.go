// Package engine holds the words in which the agent speaks with what runs
// containers on its host: pkg/engine/containerd with containerd 1.6 and 2.x,
// pkg/engine/docker with Docker, pkg/engine/memory pretends. All of them pass
// the suite of pkg/engine/enginetest.
//
// An engine does what it is told, once. It restarts nothing by itself and
// knows nothing of health: that is pkg/supervise. What it has is kept by the
// runtime, so that containers, their logs and their exit codes outlive the
// agent.
//
// Limits: containers share the host's network; there are no volumes; the log
// of a container is bounded by LogBytes and keeps standard output and error as
// one stream.
package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// LogBytes is how much of a container's log is kept at least, while it
	// wrote as much.
	LogBytes = 16 << 20
	// MinMemory is the smallest limit that can be asked for; below it no
	// runtime can even start a program.
	MinMemory = 8 << 20
	// MinCPU is the smallest limit in thousandths of a core: the kernel gives
	// time in slices of no less than a millisecond of each hundred.
	MinCPU = 10

	maxID      = 63
	maxStrings = 1024     // arguments, and environment variables
	maxBytes   = 64 << 10 // of all of either
)

// Errors of every engine.
var (
	// ErrNoImage: the image is not unpacked on this host.
	ErrNoImage = errors.New("the image is not unpacked on this host")
	// ErrDiffers: a container of that ID is there, and is another one.
	ErrDiffers = errors.New("a container of this ID is there and differs")
	// ErrNone: there is no container of that ID, or it is not ours.
	ErrNone = errors.New("no such container")
	// ErrSpec: the container cannot be described like this.
	ErrSpec = errors.New("not a container that can be run")
)

// Engine runs containers. All methods may be called at once; two calls about
// one container are made one after the other by the caller.
type Engine interface {
	// Create makes a container without starting it. That it is there already
	// is no error. It wraps ErrNoImage, ErrDiffers or ErrSpec.
	Create(ctx context.Context, s Spec) error
	// Start starts a container that does not run; one that runs is left alone.
	Start(ctx context.Context, id string) error
	// Stop has the container's program end: by its stop signal, and by force
	// when it did not end within grace. It returns when it has ended. One that
	// does not run, or is not there, is no error.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Remove ends the container by force and forgets it and its log. One that
	// is not there is no error.
	Remove(ctx context.Context, id string) error
	// List tells how all containers of this agent stand, those of earlier
	// lives of it included, and no others.
	List(ctx context.Context) ([]State, error)
	// Watch sends a word when a look at List may be worth it. Words may be
	// left out; the channel is closed when ctx ends.
	Watch(ctx context.Context) <-chan struct{}
	// Logs reads what a container wrote: the last so many lines, or all that is
	// kept when tail is 0. With follow it goes on until ctx ends, the reader is
	// closed or the container is removed; else it ends with what is there. It
	// wraps ErrNone.
	Logs(ctx context.Context, id string, tail int, follow bool) (io.ReadCloser, error)
	// Images are the digests of manifests and indexes whose image is unpacked
	// for this host's platform.
	Images(ctx context.Context) ([]blob.Digest, error)
	// Version is what the runtime calls itself.
	Version(ctx context.Context) (string, error)
}

// Spec describes a container. It never changes: a container that is to be
// another one gets another ID.
type Spec struct {
	// ID is the container's name in the runtime as well.
	ID string
	// Image is its name without tag and digest, for people to read.
	Image string
	// Digest is of the image's manifest, or of an index that names one for this
	// host's platform.
	Digest blob.Digest
	// Args take the place of the image's Cmd when there are any.
	Args []string
	// Env is NAME=value, over those of the image.
	Env []string
	// CPUMilli limits it to so many thousandths of a core, 0 does not.
	CPUMilli int64
	// MemoryBytes limits it, and it gets no swap; 0 does not.
	MemoryBytes int64
	// Ports that it listens on; only the engine that pretends opens them itself.
	Ports []int
}

// Check says by ErrSpec what no engine takes.
func (s Spec) Check() error {
	var wrong string
	switch {
	case !validID(s.ID):
		wrong = fmt.Sprintf("ID %q is not letters, digits, '.', '_' and '-', at most %d, a letter or digit first", s.ID, maxID)
	case s.Image == "":
		wrong = "the image has no name"
	case s.CPUMilli < 0 || 0 < s.CPUMilli && s.CPUMilli < MinCPU:
		wrong = fmt.Sprintf("%d thousandths of a core are less than %d", s.CPUMilli, MinCPU)
	case s.MemoryBytes < 0 || 0 < s.MemoryBytes && s.MemoryBytes < MinMemory:
		wrong = fmt.Sprintf("%d bytes of memory are less than %d", s.MemoryBytes, MinMemory)
	case !bounded(s.Args) || !bounded(s.Env):
		wrong = fmt.Sprintf("arguments or environment are more than %d or %d bytes, or hold a NUL byte", maxStrings, maxBytes)
	}
	for _, e := range s.Env {
		if strings.IndexByte(e, '=') < 1 {
			// The value may be a secret, and without "=" all of it may be one.
			wrong = "an environment variable is not NAME=value"
		}
	}
	for _, p := range s.Ports {
		if p < 1 || p > 65535 {
			wrong = fmt.Sprintf("port %d is none", p)
		}
	}
	if _, err := blob.ParseDigest(string(s.Digest)); err != nil && wrong == "" {
		wrong = err.Error()
	}
	if wrong != "" {
		return fmt.Errorf("container %.80q: %w: %s", s.ID, ErrSpec, wrong)
	}
	return nil
}

func validID(id string) bool {
	for i, r := range []byte(id) {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && (i == 0 || r != '-' && r != '_' && r != '.') {
			return false
		}
	}
	return 0 < len(id) && len(id) <= maxID
}

func bounded(list []string) bool {
	sum := 0
	for _, s := range list {
		sum += len(s)
		if strings.IndexByte(s, 0) >= 0 {
			return false
		}
	}
	return len(list) <= maxStrings && sum <= maxBytes
}

// Hash tells two specs apart. Engines keep it beside the container.
func (s Spec) Hash() string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic("engine: strings and numbers are always JSON: " + err.Error())
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

// State is how a container stands.
type State struct {
	ID   string
	Hash string // of the Spec that it was made from
	// Running: its program runs.
	Running bool
	// Started is when it was last started; zero when it never was.
	Started time.Time
	// Ended is when its last run ended; zero while it runs, when it never ran,
	// and when nobody saw it, since the host went down.
	Ended time.Time
	// ExitCode is of the last end, 128 and the signal's number after a signal;
	// -1 when Ended is zero.
	ExitCode int
	// Error says why the runtime could not start it, or killed it, when it is
	// known.
	Error string
}

// Labels by which an engine finds its containers again.
const (
	LabelOwner   = "io.shoal.owner"
	LabelHash    = "io.shoal.spec"
	LabelStarted = "io.shoal.started"
)
