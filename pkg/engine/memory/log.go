package memory

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/shoalproject/shoal/pkg/engine"
)

// log keeps the end of what a container wrote.
type log struct {
	most int

	mu      sync.Mutex
	kept    []byte        // guarded by mu
	dropped int64         // guarded by mu: bytes before kept
	changed chan struct{} // guarded by mu: closed at the next change
	over    bool          // guarded by mu: the container was removed
}

func newLog(most int) *log { return &log{most: most, changed: make(chan struct{})} }

// output is the writer of a program.
type output struct{ log *log }

func (o *output) Write(p []byte) (int, error) {
	l := o.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return 0, io.ErrClosedPipe
	}
	l.kept = append(l.kept, p...)
	// Twice as much at most, so that not every line moves all of it.
	if len(l.kept) > 2*l.most {
		drop := len(l.kept) - l.most
		l.dropped += int64(drop)
		l.kept = bytes.Clone(l.kept[drop:])
	}
	l.stir()
	return len(p), nil
}

// stir wakes the readers; the caller holds mu.
func (l *log) stir() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.stir()
}

func (l *log) read(ctx context.Context, tail int, follow bool) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, err := engine.Tail(bytes.NewReader(l.kept), 0, int64(len(l.kept)), tail)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	return &reader{log: l, at: l.dropped + at, follow: follow, ctx: ctx, cancel: cancel}, nil
}

// reader reads on from a place in the log.
type reader struct {
	log    *log
	at     int64
	follow bool
	ctx    context.Context
	cancel context.CancelFunc
}

func (r *reader) Close() error {
	r.cancel()
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		n, changed, over := r.take(p)
		switch {
		case n > 0 || len(p) == 0:
			return n, nil
		case over || !r.follow || r.ctx.Err() != nil:
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
		}
	}
}

func (r *reader) take(p []byte) (n int, changed <-chan struct{}, over bool) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	r.at = max(r.at, l.dropped)
	n = copy(p, l.kept[r.at-l.dropped:])
	r.at += int64(n)
	return n, l.changed, l.over
}
