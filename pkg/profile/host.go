package profile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/durable"
)

// Host is what steps look at and change.
type Host struct {
	// Root stands before every path and program; empty means "/".
	Root string
	// Data is the agent's data folder, which the disk step calls "data".
	Data string
	// Sockets are those of the container runtimes that the agent was told of,
	// by "containerd" and "docker"; others lie where they usually do.
	Sockets map[string]string
	// Authority is the PEM certificate of the authority that the supernode's
	// own comes from, empty where that is none of its own.
	Authority func(context.Context) ([]byte, error)
	// Clock tells how well the clock is kept.
	Clock func() (Clock, error)
	// Mirror plans the mirror configuration of "containerd" or "docker".
	Mirror func(engine string) (MirrorPlan, error)
	Agent  Agent

	// For tests: a pause instead of commandGrace, and programs that believe in
	// the real root, since a folder has no shell.
	grace    time.Duration
	unrooted bool
}

// Clock is how well a host's clock is kept.
type Clock struct {
	// Synchronised is what the kernel was told by who keeps the time.
	Synchronised bool
	// Off is by how much the clock differs from the supernode's; 0 within a
	// minute, which is all that an agent can tell.
	Off time.Duration
}

// MirrorPlan is what is to be written for a runtime to use the mirror.
type MirrorPlan struct {
	Diff  string   // empty: everything is in place
	Files []string // that change
	Notes []string
	Apply func() error
}

// Agent is the agent that runs the steps.
type Agent struct {
	// Executable and Args are how it was started, without secrets; Folder is
	// where.
	Executable string
	Args       []string
	Folder     string
	// Member is nil while the agent is a member of the data centre.
	Member func() error
}

// marker is the first line of every file that is a step's alone.
const marker = "# Written by dfagent for the pool's profile; changes made here do not last.\n"

// maxFile is the largest file that a step reads, in bytes.
const maxFile = 4 << 20

// errForeign: somebody else's file stands where a step wants to write its own.
var errForeign = errors.New("not ours to change")

func (h *Host) path(name string) string { return filepath.Join("/", h.Root, name) }

// exists reports whether something has this name, whatever it is.
func (h *Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// read reads a regular file; nil means that there is none.
func (h *Host) read(name string) ([]byte, error) {
	full := h.path(name)
	info, err := os.Stat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look at %s: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", errForeign, name)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes, which is more than such a file holds", name, info.Size())
	}
	data, err := os.ReadFile(full)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return append([]byte{}, data...), nil
}

// ownFile looks at a file that is to hold content below the marker. It reports
// whether it does, and refuses one that somebody else wrote.
func (h *Host) ownFile(name, content string) (same bool, err error) {
	have, err := h.read(name)
	if err != nil {
		return false, err
	}
	if have != nil && !bytes.HasPrefix(have, []byte(marker)) {
		return false, fmt.Errorf("%w: %s was written by somebody else; move it away", errForeign, name)
	}
	return have != nil && string(have) == marker+content, nil
}

// writeOwn writes what ownFile looks for; a power cut leaves the old file or
// the new one.
func (h *Host) writeOwn(name, content string) error {
	if _, err := h.ownFile(name, content); err != nil {
		return err
	}
	return h.write(name, []byte(marker+content))
}

func (h *Host) write(name string, data []byte) error {
	full := h.path(name)
	if err := durable.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", name, err)
	}
	return durable.WriteFile(full, data, 0o644)
}

// binFolders are where programs are looked for.
var binFolders = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// program finds a program under the root; "" when there is none.
func (h *Host) program(name string) string {
	for _, dir := range binFolders {
		full := h.path(path.Join(dir, name))
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full
		}
	}
	return ""
}

// systemd reports whether systemd runs this host, by its own test for that
// (sd_booted(3)).
func (h *Host) systemd() bool { return h.exists("/run/systemd/system") }

// list is a text for people: "a", "a and b", "a, b and c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
