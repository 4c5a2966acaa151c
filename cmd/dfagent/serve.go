package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/listen"
	"github.com/shoalproject/shoal/pkg/mirror"
	"github.com/shoalproject/shoal/pkg/swarm"
	"github.com/shoalproject/shoal/pkg/telemetry"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	// localGrace is how long requests of this host's runtime may take when
	// the agent stops; neighbours have others to ask.
	localGrace  = 5 * time.Second
	piecesGrace = time.Second
	// headersWithin bounds how long a client may take to send its headers.
	headersWithin = 5 * time.Second
)

func serve(ctx context.Context, c config, errOut io.Writer) error {
	log := slog.New(slog.NewTextHandler(errOut, nil))
	a, err := open(ctx, c, log)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx), a.close())
}

// run serves until ctx ends or a listener fails.
func (a *agent) run(ctx context.Context) error {
	addresses, err := a.listen(ctx)
	if err != nil {
		addresses.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	addresses.Serve(group)
	orders := newOrders(a)
	group.Go(func() error { a.tracker.Run(ctx); return nil })
	group.Go(func() error { return a.spread(ctx) })
	group.Go(func() error { a.keeper.Run(ctx); return nil })
	group.Go(func() error { a.keepFacts(ctx); return nil })
	if a.supervisor != nil {
		group.Go(func() error { a.supervisor.Run(ctx); return nil })
	}
	group.Go(func() error { a.decided.tell(ctx, a.line.TellPulls, a.log); return nil })
	group.Go(func() error { newTraffic(a.fetcher.Totals).run(ctx, a.line.ReportTraffic, a.log); return nil })
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
		err := a.line.Watch(ctx, a.hello(), func(o *shoalv1.Order) { orders.handle(ctx, o) })
		if errors.Is(err, control.ErrCloned) {
			err = fmt.Errorf("%w: was %s copied from another host? Remove node.key and welcome.pb there and join with a new token", err, a.config.Data)
		}
		return err
	})
	if a.runtime != nil {
		group.Go(func() error { return a.watchRuntime(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		addresses.Stop()
		return nil
	})
	err = group.Wait()
	orders.wait.Wait()
	return err
}

func (a *agent) hello() *shoalv1.WatchRequest {
	hello := &shoalv1.WatchRequest{Instance: rand.Text(), Hostname: a.config.Hostname, Version: version, SwarmAddr: a.config.SwarmListen}
	if a.dht != nil {
		hello.P2PAddrs = a.dht.Addrs()
	}
	return hello
}

// listen opens every address of the agent.
func (a *agent) listen(ctx context.Context) (*listen.Set, error) {
	set := listen.New(a.log)
	insides, err := telemetry.Server(a.registry, a.config.MetricsToken, a.ready)
	if err != nil {
		return set, err
	}
	addresses := []listen.Address{
		{Name: "pieces", Flag: "swarm-listen", Addr: a.config.SwarmListen, Grace: piecesGrace,
			Wrap:   func(l net.Listener) net.Listener { return a.node.Listener(swarm.Listen(l)) },
			Server: swarm.HTTPServer(a.pieces)},
		{Name: "mirror", Flag: "mirror", Addr: a.config.Mirror, Grace: localGrace, Server: mirror.NewServer(a.mirror(""), a.log)},
		{Name: "metrics", Flag: "metrics-listen", Addr: a.config.MetricsListen, Grace: piecesGrace, Server: insides},
	}
	if a.config.DockerMirror != "" {
		addresses = append(addresses, listen.Address{
			Name: "docker.io mirror", Flag: "docker-mirror", Addr: a.config.DockerMirror, Grace: localGrace,
			Server: mirror.NewServer(a.mirror("docker.io"), a.log),
		})
	}
	for _, address := range addresses {
		if err := set.Open(ctx, address); err != nil {
			return set, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle(shoalv1connect.NewAgentServiceHandler(service{a}))
	own := &http.Server{Handler: mux, ReadHeaderTimeout: headersWithin}
	return set, set.OpenSocket(ctx, a.config.path(agentSocket), own, piecesGrace)
}

// mirror makes the handler of a mirror listener; only names the registry that
// it always means.
func (a *agent) mirror(only string) http.Handler {
	m := mirror.New(mirror.Config{
		Fetcher: a.pulls, Auth: a.gate, Token: a.gate, Own: a.names.own, Upstream: a.upstreams.Known,
		OnlyRegistry: only, Hosts: a.config.MirrorHosts, PushTo: strings.Join(a.config.Supernodes, ", "),
		Service: a.line.Welcome().TokenService, Told: a.decided.add, Log: a.log,
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
