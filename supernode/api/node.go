package api

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/gateway"
	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/tracker"
)

const (
	// alive is how often an idle line says that it is alive.
	alive = 15 * time.Second
	// maxAnnouncements bounds one announce request.
	maxAnnouncements = 4096
	// maxLabel bounds host names, racks, zones and addresses, in bytes.
	maxLabel = 255
	// maxAddrs bounds the libp2p addresses of a node.
	maxAddrs = 16
)

// nodeService answers members, over mutual TLS.
type nodeService struct{ Config }

// caller is the member behind a request and the address it came from.
type caller struct {
	identity.Member
	host string // IP address
}

type callerKey struct{}

type upstreamTokenKey struct{}

// UpstreamToken is the pull token of another registry that an agent passed on
// for its reader, "" without one.
func UpstreamToken(ctx context.Context) string {
	token, _ := ctx.Value(upstreamTokenKey{}).(string)
	return token
}

// membersOnly refuses whoever is no member any more: a connection outlives a
// revocation, so each request is checked.
func (c Config) membersOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := c.Node.FromRequest(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		c.Fleet.Heard(c.Now(), m.PeerID)
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		ctx := context.WithValue(r.Context(), callerKey{}, caller{m, host})
		if token := r.Header.Get(gateway.HeaderUpstreamToken); token != "" {
			ctx = context.WithValue(ctx, upstreamTokenKey{}, token)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// Gatekeeper is the registry's authorizer: the auth gateway for everybody,
// and for agents that come without a reader's token the membership: it opens
// what the host's own pool may pull, and lets it read other registries through
// this one, which decide about that.
type Gatekeeper struct{ *auth.Auth }

// Authorize implements registry.Authorizer.
func (g Gatekeeper) Authorize(r *http.Request, repository string, actions ...string) (string, error) {
	subject, err := g.authorize(r, repository, actions...)
	noteDecision(r.Context(), subject, err)
	return subject, err
}

func (g Gatekeeper) authorize(r *http.Request, repository string, actions ...string) (string, error) {
	from := callerOf(r.Context())
	if from.PeerID == "" || r.Header.Get("Authorization") != "" {
		return g.Auth.Authorize(r, repository, actions...)
	}
	subject := nodeSubject(from.PeerID)
	if repository == "" && len(actions) == 0 {
		return subject, nil
	}
	if slices.Equal(actions, []string{"pull"}) && g.MayStillPull(r.Context(), subject, repository) == nil {
		return subject, nil
	}
	return g.Auth.Authorize(r, repository, actions...)
}

// nodeSubject names a node in the words of auth.
func nodeSubject(peerID string) string { return "node:" + peerID }

// addrOf completes an address that a node listens on, such as ":65002", by
// the address it was seen to call from.
func (c caller) addrOf(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = c.host
	}
	return net.JoinHostPort(host, port)
}

// Renew gives a member another day, unless it was revoked.
func (s nodeService) Renew(ctx context.Context, _ *connect.Request[shoalv1.RenewRequest]) (*connect.Response[shoalv1.RenewResponse], error) {
	from := callerOf(ctx)
	membership, err := s.Auth.Renew(ctx, from.PeerID)
	if err != nil {
		return nil, coded(err)
	}
	welcome, err := s.Welcome(membership, localHost(ctx))
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RenewResponse{Welcome: welcome}), nil
}

// Announce takes in what a node holds and wants, starts the seed on what is
// known outside, and names neighbours.
func (s nodeService) Announce(ctx context.Context, req *connect.Request[shoalv1.AnnounceRequest]) (*connect.Response[shoalv1.AnnounceResponse], error) {
	from := callerOf(ctx)
	m := req.Msg
	if len(m.Announcements) > maxAnnouncements || len(m.SwarmAddr) > maxLabel || len(m.Rack) > maxLabel || len(m.Zone) > maxLabel {
		return nil, connect.NewError(connect.CodeInvalidArgument, errTooMuch)
	}
	list := make([]tracker.Announcement, 0, len(m.Announcements))
	for _, a := range m.Announcements {
		d, err := blob.ParseDigest(a.Digest)
		if err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		list = append(list, s.announcement(ctx, from, d, a))
	}
	peer := tracker.Peer{ID: from.PeerID, Addr: from.addrOf(m.SwarmAddr), Rack: m.Rack, Zone: m.Zone}
	replies := s.Tracker.Announce(s.Now(), peer, list)
	answer := &shoalv1.AnnounceResponse{Epoch: s.Tracker.Epoch(), BeatMs: s.Tracker.Beat().Milliseconds()}
	for i, r := range replies {
		n := neighbours(r, localHost(ctx))
		s.grant(n, from, list[i])
		answer.Neighbours = append(answer.Neighbours, n)
	}
	return connect.NewResponse(answer), nil
}

func (s nodeService) announcement(ctx context.Context, from caller, d blob.Digest, a *shoalv1.Announcement) tracker.Announcement {
	out := tracker.Announcement{Digest: d, Size: a.Size, State: tracker.State(a.State), Held: int(a.PiecesHeld)}
	if out.State != tracker.Wants {
		return out
	}
	origin := blob.Origin{}
	if o := a.Origin; o != nil {
		origin = blob.Origin{Ref: blob.Ref{Registry: o.Registry, Repository: o.Repository}, Token: o.Token}
	}
	out.Outside = origin.Ref.Registry != ""
	may := out.Outside || s.mayFetch(ctx, from, d, origin)
	if !out.Outside {
		s.Audit.Record(piecesEvent(from, d, origin.Ref.Repository, may))
	}
	if !may {
		// The same answer as for a digest that does not exist.
		out.Seed, out.RefusedStatus, out.RefusedReason = tracker.SeedRefused, http.StatusNotFound, "no repository here holds it"
		return out
	}
	s.Seed.Ensure(ctx, nodeSubject(from.PeerID), &out, origin)
	return out
}

// neighbours puts a reply into its wire form. A supernode that listens
// everywhere is reached where the node reached it.
func neighbours(r tracker.Reply, local string) *shoalv1.Neighbours {
	n := &shoalv1.Neighbours{
		Digest: string(r.Digest), AgainMs: r.Again.Milliseconds(), OriginBytes: r.OriginBytes,
		RefusedStatus: int32(r.RefusedStatus), RefusedReason: r.RefusedReason,
	}
	for _, p := range r.Peers {
		if p.Seed {
			p.Addr = caller{host: local}.addrOf(p.Addr)
		}
		n.Peers = append(n.Peers, &shoalv1.Neighbour{
			PeerId: p.ID, SwarmAddr: p.Addr, Seed: p.Seed, Complete: p.Complete, Distance: int32(p.Distance),
		})
	}
	return n
}

// Report notes a peer that sent wrong bytes.
func (s nodeService) Report(ctx context.Context, req *connect.Request[shoalv1.ReportRequest]) (*connect.Response[shoalv1.ReportResponse], error) {
	d, err := blob.ParseDigest(req.Msg.Digest)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	from := callerOf(ctx)
	s.Log.Warn("a peer was reported", "peer", req.Msg.PeerId, "by", from.PeerID, "digest", d, "piece", req.Msg.Piece)
	s.Tracker.Report(s.Now(), from.PeerID, req.Msg.PeerId, d, false)
	return connect.NewResponse(&shoalv1.ReportResponse{}), nil
}

// Watch keeps the line for orders open until the node goes, is replaced by a
// newer line of its own, or the supernode stops.
func (s nodeService) Watch(ctx context.Context, req *connect.Request[shoalv1.WatchRequest], stream *connect.ServerStream[shoalv1.Order]) error {
	from := callerOf(ctx)
	m := req.Msg
	tooLong := func(s string) bool { return len(s) > maxLabel }
	if tooLong(m.Hostname) || tooLong(m.Version) || tooLong(m.SwarmAddr) || tooLong(m.Instance) || len(m.P2PAddrs) > maxAddrs || slices.ContainsFunc(m.P2PAddrs, tooLong) {
		return connect.NewError(connect.CodeInvalidArgument, errTooMuch)
	}
	s.Auth.Seen(from.PeerID)
	line, clone, err := s.Fleet.Connect(fleet.Host{
		PeerID: from.PeerID, Instance: m.Instance, Hostname: m.Hostname, Pool: from.Membership.Pool, Version: m.Version,
		SwarmAddr: from.addrOf(m.SwarmAddr), P2PAddrs: m.P2PAddrs,
	})
	if clone != "" {
		s.Log.Error("two hosts use one key: the younger one is refused; it has to join with a key of its own", "peer", from.PeerID, "hostname", m.Hostname)
	}
	if err != nil {
		return connect.NewError(connect.CodeAlreadyExists, err)
	}
	defer line.Close()
	if err := s.opened(ctx, from, m.Hostname); err != nil {
		return coded(err)
	}
	s.tellDesired(ctx, from.PeerID)
	// The line may have ended because the request did, or the supernode stops.
	defer s.closed(context.WithoutCancel(ctx), from.PeerID)
	tick := time.NewTicker(alive)
	defer tick.Stop()
	order := s.idle()
	// What was told while the line was down.
	missed := s.Auth.Revoked(s.Now().Add(-identity.MembershipLife))
	for {
		if err := stream.Send(order); err != nil {
			return err
		}
		if len(missed) > 0 {
			order, missed = &shoalv1.Order{What: &shoalv1.Order_Revoked{Revoked: &shoalv1.Revoked{PeerIds: missed}}}, nil
			continue
		}
		select {
		case order = <-line.Orders():
		case <-tick.C:
			order = s.idle()
		case <-line.Gone():
			return nil
		case <-s.Stopping:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// idle is a sign of life. The number in it is of a change whose order is on
// its way at the latest.
func (s nodeService) idle() *shoalv1.Order {
	return &shoalv1.Order{What: &shoalv1.Order_Idle{Idle: &shoalv1.Idle{RightsNumber: s.Auth.LastChange()}}}
}

// RightsChanged is the order by which nodes hear of a change.
func RightsChanged(c auth.Change) *shoalv1.Order {
	return &shoalv1.Order{What: &shoalv1.Order_RightsChanged{RightsChanged: &shoalv1.RightsChanged{
		Number: c.Number, Before: c.Before, Project: c.Project, User: c.User, Pools: c.Pools,
	}}}
}

// Progress takes a node's answer to an order.
func (s nodeService) Progress(ctx context.Context, req *connect.Request[shoalv1.ProgressRequest]) (*connect.Response[shoalv1.ProgressResponse], error) {
	m := req.Msg
	s.Fleet.Progress(ctx, callerOf(ctx).PeerID, m.OrderId, fleet.Update{
		Bytes: m.BytesDone, Size: m.BytesTotal, Done: m.Done, Error: m.Error,
	})
	s.Fleet.Answer(ctx, callerOf(ctx).PeerID, m.OrderId, m, m.Done)
	return connect.NewResponse(&shoalv1.ProgressResponse{}), nil
}

// localHost is the address by which this node reached the supernode.
func localHost(ctx context.Context) string {
	addr, ok := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return ""
	}
	return host
}
