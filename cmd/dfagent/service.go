package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/fetch"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// service answers dfget and `dfagent status` on the agent's own socket.
type service struct{ *agent }

func (s service) Status(context.Context, *connect.Request[shoalv1.StatusRequest]) (*connect.Response[shoalv1.StatusResponse], error) {
	stats := s.store.Stats()
	w := s.line.Welcome()
	out := &shoalv1.StatusResponse{
		PeerId:             s.key.PeerID().String(),
		Version:            version,
		Idc:                w.Idc,
		SupernodeReachable: s.line.Reachable(),
		StoreBytes:         stats.Bytes,
		StoreLimit:         stats.MaxBytes,
		Blobs:              int32(stats.Complete + stats.Partial),
		MirrorAddr:         s.config.Mirror,
		SwarmAddr:          s.config.SwarmListen,
	}
	if s.dht != nil {
		out.P2PAddrs = s.dht.Addrs()
	}
	out.Engine = s.config.runs()
	if s.supervisor != nil {
		out.Containers = s.supervisor.Status().Containers
	}
	m, err := s.node.Membership()
	if err != nil {
		out.Problems = append(out.Problems, "membership: "+err.Error())
	} else {
		out.Pool, out.MembershipUntil = m.Pool, timestamppb.New(m.NotAfter)
	}
	if !out.SupernodeReachable {
		out.Problems = append(out.Problems, "no supernode can be reached; neighbours are found through libp2p alone")
	}
	if s.fetcher.Full() {
		out.Problems = append(out.Problems, "no room for blobs: they are passed through without being kept; free disk space or lower the cache size")
	}
	for _, c := range out.Containers {
		if c.Error != "" {
			out.Problems = append(out.Problems, "container "+c.Id+": "+c.Error)
		}
	}
	if open := s.keeper.Open(); len(open) > 0 {
		out.Problems = append(out.Problems, "steps of the pool's profile do not hold: "+strings.Join(open, ", ")+"; 'dfget server init' puts them in place")
	}
	for _, f := range s.fetcher.Status() {
		out.Flights = append(out.Flights, &shoalv1.Flight{
			Digest: string(f.Digest), Size: f.Size, PiecesHeld: int32(f.Held), Pieces: int32(f.Pieces),
			Neighbours: int32(f.Neighbours), Sources: bytesFrom(f.Sources),
		})
	}
	return connect.NewResponse(out), nil
}

func bytesFrom(list []fetch.BytesFrom) []*shoalv1.BytesFrom {
	var out []*shoalv1.BytesFrom
	for _, b := range list {
		out = append(out, &shoalv1.BytesFrom{Kind: b.Kind, Name: b.Name, Bytes: b.Bytes})
	}
	return out
}

func (s service) PullReport(_ context.Context, req *connect.Request[shoalv1.PullReportRequest]) (*connect.Response[shoalv1.PullReportResponse], error) {
	report, ok := s.fetcher.PullReport(req.Msg.Pull)
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such pull is remembered; the last 256 are"))
	}
	out := &shoalv1.PullReportResponse{
		Id: report.ID, Image: report.Image, Started: timestamppb.New(report.Started), Ended: stamp(report.Ended),
	}
	for _, b := range report.Blobs {
		out.Blobs = append(out.Blobs, &shoalv1.BlobReport{
			Digest: string(b.Digest), Size: b.Size, Started: timestamppb.New(b.Started), Ended: stamp(b.Ended),
			Sources: bytesFrom(b.Sources), FirstByteMs: b.FirstByte.Milliseconds(), Hedges: int32(b.Hedges),
			WhyWaited: b.WhyWaited, Error: b.Err,
		})
	}
	return connect.NewResponse(out), nil
}

// stamp leaves out what has not happened yet.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
