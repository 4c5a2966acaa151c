// Package listen opens the addresses of a program before any of them is
// served, so that a port that is taken ends it before it half works, and
// closes them in good order: each with its own time for what is in progress.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Address is one place to answer at.
type Address struct {
	Name string // for people: "registry"
	Flag string // by which another one is chosen
	Addr string // host:port
	// Wrap may put limits or TLS around the listener; nil leaves it as it is.
	Wrap   func(net.Listener) net.Listener
	Server *http.Server
	Grace  time.Duration // for requests in progress when the program stops
}

// Set is the open addresses of a program. It is used by one goroutine until
// Serve, and safe for concurrent use from then on.
type Set struct {
	log  *slog.Logger
	open []opened
}

type opened struct {
	Address
	net net.Listener
}

// New makes an empty set.
func New(log *slog.Logger) *Set { return &Set{log: log} }

// Open opens a TCP address.
func (s *Set) Open(ctx context.Context, a Address) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.Addr)
	if err != nil {
		return fmt.Errorf("listen for the %s: %w; choose another address with --%s", a.Name, err, a.Flag)
	}
	if a.Wrap != nil {
		l = a.Wrap(l)
	}
	s.add(a, l)
	return nil
}

// OpenSocket opens a Unix socket for this user alone (0600). One that an
// earlier run left is replaced: whoever holds the data folder's lock owns it.
func (s *Set) OpenSocket(ctx context.Context, path string, server *http.Server, grace time.Duration) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen on the socket for other commands: %w; a socket's path has at most 107 characters", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	s.add(Address{Name: "socket", Server: server, Grace: grace}, l)
	return nil
}

func (s *Set) add(a Address, l net.Listener) {
	// What clients do wrong is theirs; it is told only to who asks for more.
	a.Server.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.open = append(s.open, opened{a, l})
}

// Close closes addresses that were opened and will not be served.
func (s *Set) Close() {
	for _, o := range s.open {
		o.net.Close()
	}
}

// Serve answers at every address, as part of the group, until Stop.
func (s *Set) Serve(group *errgroup.Group) {
	for _, o := range s.open {
		s.log.Info("listening", "what", o.Name, "address", o.net.Addr())
		group.Go(func() error {
			if err := o.Server.Serve(o.net); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the %s: %w", o.Name, err)
			}
			return nil
		})
	}
}

// Stop takes no more requests, waits for those in progress, each address for
// its own grace, and cuts what is left.
func (s *Set) Stop() {
	var wait sync.WaitGroup
	for _, o := range s.open {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), o.Grace) //nolint:forbidigo // whoever orders a stop has ended its own
			defer cancel()
			if o.Server.Shutdown(ctx) != nil {
				o.Server.Close()
			}
		})
	}
	wait.Wait()
}
