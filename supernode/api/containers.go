package api

import (
	"context"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// reportedContainers bounds one report of a host.
	reportedContainers = 1000
	// logPiece bounds one piece of a log, in bytes.
	logPiece = 64 << 10
)

// ReportContainers takes what a host says of its containers. A host that is in
// no inventory runs none of ours.
func (s hostService) ReportContainers(ctx context.Context, req *connect.Request[shoalv1.ReportContainersRequest]) (*connect.Response[shoalv1.ReportContainersResponse], error) {
	if len(req.Msg.Containers) > reportedContainers {
		return nil, connect.NewError(connect.CodeInvalidArgument, errTooMuch)
	}
	server, err := s.Inventory.OfPeer(ctx, callerOf(ctx).PeerID)
	if err != nil {
		return nil, coded(err)
	}
	if err := s.Placements.Report(ctx, server.ID, req.Msg); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ReportContainersResponse{}), nil
}

// SendLog hands a piece of a log to who asked for it.
func (s hostService) SendLog(ctx context.Context, req *connect.Request[shoalv1.SendLogRequest]) (*connect.Response[shoalv1.SendLogResponse], error) {
	m := req.Msg
	if len(m.Data) > logPiece {
		return nil, connect.NewError(connect.CodeInvalidArgument, errTooMuch)
	}
	read := s.Fleet.Answer(ctx, callerOf(ctx).PeerID, m.OrderId, m, m.Done || m.Error != "")
	return connect.NewResponse(&shoalv1.SendLogResponse{Stop: !read}), nil
}

// tellDesired tells a host that came back what it is to run.
func (c Config) tellDesired(ctx context.Context, peerID string) {
	server, err := c.Inventory.OfPeer(ctx, peerID)
	if err != nil {
		c.Log.Warn("a host was not told what it is to run", "peer", peerID, "error", err)
		return
	}
	c.Placements.Connected(server.ID)
}
