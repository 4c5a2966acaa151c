package nodeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Kind is the program that is configured.
type Kind string

// The programs that are known.
const (
	Containerd Kind = "containerd"
	Docker     Kind = "docker"
)

var (
	// ErrForeign: a file that somebody else wrote stands in the way. The
	// message says what to add to it by hand.
	ErrForeign = errors.New("not ours to change")
	// ErrChanged: a file is no longer what it was when it was planned or
	// written.
	ErrChanged = errors.New("changed by somebody else")
)

// Options say where and what to write.
type Options struct {
	// Root stands before every path; empty means "/".
	Root string
	// State is the folder for backups and the record of what was done. It is
	// not under Root.
	State string
	// Mirror and DockerMirror are the URLs of the agent's two listeners;
	// empty means http://127.0.0.1:65001 and http://127.0.0.1:65004.
	Mirror, DockerMirror string
	// DialTimeout is how long containerd waits for the mirror's connection;
	// 0 means 1 s. containerd 1.x knows no such setting and ignores it.
	DialTimeout time.Duration
	// ContainerdMajor is containerd's version, where it is known (1, 2); it
	// decides the format of a config.toml that does not exist yet.
	ContainerdMajor int
}

func (o Options) withDefaults() Options {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Mirror == "" {
		o.Mirror = "http://127.0.0.1:65001"
	}
	if o.DockerMirror == "" {
		o.DockerMirror = "http://127.0.0.1:65004"
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = time.Second
	}
	return o
}

// Change is one file, before and after.
type Change struct {
	Path   string // absolute, without Root
	Before []byte // nil: there is no such file
	After  []byte // nil: the file goes away
}

// Diff shows the change in the unified format.
func (c Change) Diff() string { return unified(c.Path, c.Before, c.After) }

// Plan is what Apply would do.
type Plan struct {
	Kind    Kind
	Changes []Change // empty: everything is in place
	// Notes tell what a person should know besides: who must be restarted,
	// which registries do not come through the mirror.
	Notes []string

	opts Options
}

// Diff shows all changes.
func (p *Plan) Diff() string {
	var b strings.Builder
	for _, c := range p.Changes {
		b.WriteString(c.Diff())
	}
	return b.String()
}

// NewPlan finds out what must change. It writes nothing.
func NewPlan(kind Kind, opts Options) (*Plan, error) {
	p := &Plan{Kind: kind, opts: opts.withDefaults()}
	var err error
	switch kind {
	case Containerd:
		err = p.containerd()
	case Docker:
		err = p.docker()
	default:
		err = fmt.Errorf("set up %q: want %q or %q", kind, Containerd, Docker)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// want adds a change, unless the file is already so.
func (p *Plan) want(path string, before, after []byte) {
	if before == nil || !bytes.Equal(before, after) {
		p.Changes = append(p.Changes, Change{Path: path, Before: before, After: after})
	}
}

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// maxFile is the largest configuration file that is read, in bytes.
const maxFile = 4 << 20

// read reads a file under Root; nil means that there is none. Only regular
// files are taken: a link would be replaced by the file that is renamed over
// it.
func read(root, path string) ([]byte, error) {
	full := filepath.Join(root, path)
	info, err := os.Lstat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look at %s: %w", path, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file; edit by hand what it points to", ErrForeign, path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%w: %s has %d bytes, which is no configuration file", ErrForeign, path, info.Size())
	}
	data, err := os.ReadFile(full)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// entries are the names in a folder under Root, none when it is not there.
func entries(root, path string) []string {
	found, err := os.ReadDir(filepath.Join(root, path))
	if err != nil {
		return nil // for notes only
	}
	var out []string
	for _, e := range found {
		out = append(out, e.Name())
	}
	return out
}
