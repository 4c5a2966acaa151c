package containerd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoalproject/shoal/pkg/engine"
)

const (
	logSuffix = ".log"
	// trimEvery is how often logs are looked at: what a program can write in
	// the meantime comes on top of what is kept.
	trimEvery = 2 * time.Second
	// sweepEvery is how often logs without a container are looked for, in
	// looks.
	sweepEvery = 150
	// followEvery is how often a followed log is looked at.
	followEvery = 100 * time.Millisecond
	// page is what the file system gives back at least.
	page = 4096
)

func (e *Engine) logPath(id string) string { return filepath.Join(e.opts.Logs, id+logSuffix) }

// touch makes the file before the shim does, for our eyes alone.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("make its log: %w", err)
	}
	return f.Close()
}

func forget(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove its log: %w", err)
	}
	return nil
}

// keepTrimmed bounds the logs until ctx ends.
func (e *Engine) keepTrimmed(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for look := 0; ; look++ {
		names, err := filepath.Glob(filepath.Join(e.opts.Logs, "*"+logSuffix))
		if err != nil {
			e.opts.Log.Error("the logs of containers are not bounded", "error", err)
			return
		}
		for _, name := range names {
			if err := trim(name, 2*e.opts.LogBytes, punch); err != nil && !errors.Is(err, os.ErrNotExist) {
				e.opts.Log.Warn("the log of a container was not cut", "file", name, "error", err)
			}
		}
		if look%sweepEvery == 0 {
			e.sweep(ctx, names)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep removes logs whose container went while the agent was dying. A log is
// made after its container and goes after it, so names from before the list
// that are not in it are of nothing.
func (e *Engine) sweep(ctx context.Context, names []string) {
	infos, err := e.infos(e.in(ctx))
	if err != nil {
		return // containerd is away; there is a next time
	}
	alive := map[string]bool{}
	for _, info := range infos {
		alive[e.logPath(info.ID)] = true
	}
	for _, name := range names {
		if !alive[name] {
			if err := forget(name); err != nil {
				e.opts.Log.Warn("a log without a container stays", "file", name, "error", err)
			}
		}
	}
}

// trim gives the beginning of a log back when more than half as much again as
// is kept is taken. Who writes and who reads notices nothing: a file that is
// written to cannot be cut at its beginning in another way.
func trim(name string, keep int64, punch func(f *os.File, to int64) error) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	taken := info.Size()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		taken = min(taken, stat.Blocks*512)
	}
	to := (info.Size() - keep) / page * page
	if taken <= keep+keep/2 || to <= 0 {
		return nil
	}
	if err = punch(f, to); errors.Is(err, unix.EOPNOTSUPP) {
		// Rather no log than a full disk. The shim appends, so it goes on at 0.
		err = f.Truncate(0)
	}
	return err
}

// punch makes a hole of the first bytes of a file.
func punch(f *os.File, to int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, to)
}

// Logs implements engine.Engine.
func (e *Engine) Logs(ctx context.Context, id string, tail int, follow bool) (io.ReadCloser, error) {
	_, _, err := e.load(e.in(ctx), id)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(e.logPath(id), os.O_RDONLY|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read the log of container %s: %w", id, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{file: f, keep: e.opts.LogBytes * 3 / 2, follow: follow, ctx: ctx, cancel: cancel}
	if err := r.begin(tail); err != nil {
		return nil, fmt.Errorf("read the log of container %s: %w", id, errors.Join(err, r.Close()))
	}
	return r, nil
}

// reader reads a log that grows, and loses its beginning.
type reader struct {
	file   *os.File
	keep   int64 // bytes at the end that are no hole, with room for what comes meanwhile
	at     int64
	follow bool
	ctx    context.Context
	cancel context.CancelFunc
}

// begin goes to the last so many lines.
func (r *reader) begin(tail int) error {
	size, _, err := r.size()
	if err != nil {
		return err
	}
	if err := r.skip(size); err != nil {
		return err
	}
	r.at, err = engine.Tail(r.file, r.at, size, tail)
	return err
}

func (r *reader) size() (size int64, removed bool, err error) {
	info, err := r.file.Stat()
	if err != nil {
		return 0, false, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return info.Size(), ok && stat.Nlink == 0, nil
}

// skip goes on to the first whole line of what is kept, when what was to be
// read next may be gone.
func (r *reader) skip(size int64) error {
	if size < r.at {
		r.at = 0 // it was emptied
	}
	if r.at >= size-r.keep {
		return nil
	}
	r.at = size - r.keep
	line, err := bufio.NewReader(io.NewSectionReader(r.file, r.at, r.keep)).ReadString('\n')
	if strings.HasSuffix(line, "\n") {
		r.at += int64(len(line))
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (r *reader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		size, removed, err := r.size()
		if err == nil {
			err = r.skip(size)
		}
		if err != nil {
			return 0, err
		}
		if n, err := r.file.ReadAt(p, r.at); n > 0 || err != nil && !errors.Is(err, io.EOF) {
			r.at += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if !r.follow || removed || r.ctx.Err() != nil {
			return 0, io.EOF
		}
		select {
		case <-time.After(followEvery):
		case <-r.ctx.Done():
		}
	}
	return 0, nil
}

func (r *reader) Close() error {
	r.cancel()
	return r.file.Close()
}
