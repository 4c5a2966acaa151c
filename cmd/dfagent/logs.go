package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/engine"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// logsAtOnce bounds the logs that are read side by side.
	logsAtOnce = 32
	// logPiece is the most that is sent at once, in bytes; logRead what is read
	// at once, of which logAhead wait to be sent.
	logPiece = 64 << 10
	logRead  = 4 << 10
	logAhead = 256
	// logBeat is how often a log in which nothing comes is asked about: whoever
	// read it may be gone.
	logBeat = 15 * time.Second
)

// logs sends what containers wrote to the supernode that asks.
type logs struct {
	engine engine.Engine // nil without one
	send   func(ctx context.Context, r *shoalv1.SendLogRequest) (stop bool, err error)
	log    *slog.Logger

	mu      sync.Mutex
	reading map[string]context.CancelFunc // guarded by mu, by order
}

// begin takes an order; the work, which is to run by itself, sends the log. A
// cancel that comes after begin is not missed.
func (l *logs) begin(ctx context.Context, order string, what *shoalv1.ReadLog) (work func()) {
	ctx, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	full := len(l.reading) >= logsAtOnce
	if !full {
		l.reading[order] = cancel
	}
	return func() {
		defer l.cancel(order)
		defer cancel()
		last := &shoalv1.SendLogRequest{OrderId: order, Done: true}
		var err error
		if full {
			err = errors.New("too many logs of this host are being read; try again when others are done")
		} else {
			err = l.copy(ctx, order, what)
		}
		if ctx.Err() != nil {
			return // cancelled: nobody waits for the end
		}
		if err != nil {
			last.Error = strings.ToValidUTF8(err.Error(), "?")
		}
		if _, err := l.send(ctx, last); err != nil {
			l.log.Debug("the end of a log was not told", "container", what.Container, "error", err)
		}
	}
}

// cancel ends an order, if it is one of these.
func (l *logs) cancel(order string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cancel := l.reading[order]; cancel != nil {
		cancel()
		delete(l.reading, order)
	}
}

// errUnread ends a log that nobody reads any more.
var errUnread = errors.New("nobody reads it any more")

func (l *logs) copy(ctx context.Context, order string, what *shoalv1.ReadLog) error {
	if l.engine == nil {
		return errNoEngine
	}
	log, err := l.engine.Logs(ctx, what.Container, int(what.Tail), what.Follow)
	if err != nil {
		return err
	}
	defer log.Close()
	pieces := make(chan []byte, logAhead)
	var readErr error // read when pieces is closed
	go func() {
		defer close(pieces)
		readErr = read(ctx, log, pieces)
	}()
	beat := time.NewTicker(logBeat)
	defer beat.Stop()
	for {
		request := &shoalv1.SendLogRequest{OrderId: order}
		select {
		case piece, more := <-pieces:
			if !more {
				return readErr
			}
			request.Data = gather(piece, pieces)
		case <-beat.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		stop, err := l.send(ctx, request)
		if err != nil {
			return err
		}
		if stop {
			l.cancel(order)
			return errUnread
		}
	}
}

// read cuts a log into pieces until it ends.
func read(ctx context.Context, log io.Reader, pieces chan<- []byte) error {
	for {
		piece := make([]byte, logRead)
		n, err := log.Read(piece)
		if n > 0 {
			select {
			case pieces <- piece[:n]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// gather puts what waits already to a piece.
func gather(piece []byte, pieces <-chan []byte) []byte {
	for len(piece) <= logPiece-logRead {
		select {
		case more := <-pieces: // nil when it ended
			if more == nil {
				return piece
			}
			piece = append(piece, more...)
		default:
			return piece
		}
	}
	return piece
}
