package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// errRetired turns a host away whose server is at its end.
var errRetired = fmt.Errorf("the server is retired: %w; adopt or make another one", auth.ErrRevoked)

// arrived writes a host down that joined or opened its line. One that comes
// with the token of a server which was retired meanwhile is turned away.
func (c Config) arrived(ctx context.Context, a inventory.Arrival) error {
	server, err := c.Inventory.Arrived(ctx, a)
	if err != nil {
		return err
	}
	if server.Phase != inventory.Retired {
		return nil
	}
	return errors.Join(errRetired, c.Auth.Revoke(ctx, a.PeerID))
}

// opened writes down that a host has a line.
func (s nodeService) opened(ctx context.Context, from caller, hostname string) error {
	server, err := s.Auth.ServerOf(ctx, from.PeerID)
	if err != nil {
		return err
	}
	return s.arrived(ctx, inventory.Arrival{PeerID: from.PeerID, Hostname: hostname, Pool: from.Membership.Pool, Server: server})
}

// closed writes down that it has none any more.
func (s nodeService) closed(ctx context.Context, peerID string) {
	if err := s.Inventory.Gone(ctx, peerID); err != nil {
		s.Log.Warn("it was not written down when a host went away", "peer", peerID, "error", err)
	}
}

// RetireRevoked retires the servers of all nodes that were turned away: what a
// supernode that was killed did not come to.
func (c Config) RetireRevoked(ctx context.Context) error {
	nodes, err := c.Auth.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Revoked.IsZero() {
			continue
		}
		if err := c.Inventory.RetirePeer(ctx, n.PeerID); err != nil {
			return err
		}
	}
	return nil
}

// ReportFacts keeps what a host found out about itself.
func (s hostService) ReportFacts(ctx context.Context, req *connect.Request[shoalv1.ReportFactsRequest]) (*connect.Response[shoalv1.ReportFactsResponse], error) {
	if err := s.Inventory.SetFacts(ctx, callerOf(ctx).PeerID, req.Msg.Facts); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ReportFactsResponse{}), nil
}
