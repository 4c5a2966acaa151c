package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/mirror"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/telemetry"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	// stopWithin is how long local requests in progress may take when the
	// agent stops, stopPiecesWithin those of neighbours.
	stopWithin       = 5 * time.Second
	stopPiecesWithin = time.Second

	piecesName = "pieces"
)

func serve(ctx context.Context, c config, errOut io.Writer) error {
	log := slog.New(slog.NewTextHandler(errOut, nil))
	a, err := open(ctx, c, log)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx), a.close())
}

// listener is one address that the agent answers on.
type listener struct {
	name   string
	net    net.Listener
	server *http.Server
}

// run serves until ctx ends or a listener fails.
func (a *agent) run(ctx context.Context) error {
	listeners, err := a.listeners(ctx)
	if err != nil {
		for _, l := range listeners {
			l.net.Close() //nolint:errcheck // nothing was served yet
		}
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		a.log.Info("listening", "what", l.name, "address", l.net.Addr())
		group.Go(func() error {
			if err := l.server.Serve(l.net); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the %s: %w", l.name, err)
			}
			return nil
		})
	}
	orders := newOrders(a)
	group.Go(func() error { a.tracker.Run(ctx); return nil })
	group.Go(func() error { return a.spread(ctx) })
	group.Go(func() error {
		a.line.KeepRenewed(ctx, time.Now, func(w *shoalv1.Welcome) {
			a.setClock()
			a.hear(w)
			if err := control.SaveWelcome(a.config.Data, w); err != nil {
				a.log.Error("what the supernode said was not kept", "error", err)
			}
		})
		return nil
	})
	group.Go(func() error {
		a.line.Watch(ctx, a.hello(), func(o *shoalv1.Order) { orders.handle(ctx, o) })
		return nil
	})
	if a.runtime != nil {
		group.Go(func() error { return a.watchRuntime(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		stop(listeners)
		return nil
	})
	err = group.Wait()
	orders.wait.Wait()
	return err
}

func (a *agent) hello() *shoalv1.WatchRequest {
	hello := &shoalv1.WatchRequest{Hostname: a.config.Hostname, Version: version, SwarmAddr: a.config.SwarmListen}
	if a.dht != nil {
		hello.P2PAddrs = a.dht.Addrs()
	}
	return hello
}

// stop lets requests in progress end. Neighbours are not waited for as long
// as local readers are: they have others to ask.
func stop(listeners []listener) {
	var group errgroup.Group
	for _, l := range listeners {
		group.Go(func() error {
			within := stopWithin
			if l.name == piecesName {
				within = stopPiecesWithin
			}
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			if l.server.Shutdown(ctx) != nil {
				l.server.Close() //nolint:errcheck // what did not end in time is cut
			}
			return nil
		})
	}
	group.Wait() //nolint:errcheck // none returns one
}

// listeners opens every address before any of them is served, so that a port
// that is taken ends the program before it half works.
func (a *agent) listeners(ctx context.Context) ([]listener, error) {
	var out []listener
	add := func(name, flag, addr string, wrap func(net.Listener) net.Listener, server *http.Server) error {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listen for the %s: %w; choose another address with --%s", name, err, flag)
		}
		if wrap != nil {
			l = wrap(l)
		}
		out = append(out, listener{name, l, server})
		return nil
	}
	pieces := swarm.HTTPServer(a.pieces)
	pieces.ErrorLog = slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)
	member := func(l net.Listener) net.Listener { return a.node.Listener(swarm.Listen(l)) }
	err := add(piecesName, "swarm-listen", a.config.SwarmListen, member, pieces)
	if err == nil {
		err = add("mirror", "mirror", a.config.Mirror, nil, mirror.NewServer(a.mirror(""), a.log))
	}
	if err == nil && a.config.DockerMirror != "" {
		err = add("docker.io mirror", "docker-mirror", a.config.DockerMirror, nil, mirror.NewServer(a.mirror("docker.io"), a.log))
	}
	if err == nil {
		var server *http.Server
		if server, err = telemetry.Server(a.registry, a.config.MetricsToken, a.ready); err == nil {
			err = add("metrics", "metrics-listen", a.config.MetricsListen, nil, server)
		}
	}
	if err == nil {
		var l net.Listener
		if l, err = a.listenSocket(ctx); err == nil {
			mux := http.NewServeMux()
			mux.Handle(shoalv1connect.NewAgentServiceHandler(service{a}))
			out = append(out, listener{"socket", l, &http.Server{Handler: mux, ReadHeaderTimeout: stopWithin}})
		}
	}
	return out, err
}

func (a *agent) listenSocket(ctx context.Context) (net.Listener, error) {
	path := a.config.path(agentSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the agent's socket: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// mirror makes the handler of a mirror listener; only names the registry that
// it always means.
func (a *agent) mirror(only string) http.Handler {
	m := mirror.New(mirror.Config{
		Fetcher: a.pulls, Auth: a.gate, Token: a.gate, Own: a.names.own, Upstream: a.upstreams.Known,
		OnlyRegistry: only, Hosts: a.config.MirrorHosts, PushTo: strings.Join(a.config.Supernodes, ", "),
		Service: a.line.Welcome().TokenService, Log: a.log,
	})
	mux := http.NewServeMux()
	mux.Handle("/", m)
	mux.HandleFunc("GET /healthz", telemetry.Alive)
	mux.HandleFunc("GET /readyz", a.ready)
	return mux
}

// ready says whether the agent can serve pulls: it is a member, or was one
// not long ago.
func (a *agent) ready(w http.ResponseWriter, r *http.Request) {
	if _, err := a.node.Membership(); err != nil {
		http.Error(w, "not a member: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	telemetry.Alive(w, r)
}
