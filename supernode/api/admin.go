package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/registry"
)

const (
	// orderToken is how long a host may pull with the token in an order.
	orderToken = token.MaxLife
	// listedSwarms bounds one answer.
	listedSwarms = 1000
	// backupChunk is the size of one message of a backup, in bytes.
	backupChunk = 256 << 10
)

// adminService is the administrator's. Its callers were let in before.
type adminService struct{ Config }

func (s adminService) CreateJoinToken(ctx context.Context, req *connect.Request[shoalv1.CreateJoinTokenRequest]) (*connect.Response[shoalv1.CreateJoinTokenResponse], error) {
	m := req.Msg
	text, expires, err := s.Auth.CreateJoin(ctx, time.Duration(m.TtlSeconds)*time.Second, m.Pool, int(m.Uses))
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	_, err = s.Inventory.Pool(ctx, m.Pool)
	if err != nil && !errors.Is(err, inventory.ErrNoPool) {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CreateJoinTokenResponse{Token: text, Expires: timestamppb.New(expires), NoPool: err != nil}), nil
}

func (s adminService) ListServers(ctx context.Context, _ *connect.Request[shoalv1.ListServersRequest]) (*connect.Response[shoalv1.ListServersResponse], error) {
	list, err := s.listServers(ctx)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ListServersResponse{Servers: list}), nil
}

// listServers joins what the auth gateway remembers with who is connected.
func (c Config) listServers(ctx context.Context) ([]*shoalv1.Server, error) {
	nodes, err := c.Auth.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	connected := map[string]fleet.Host{}
	for _, h := range c.Fleet.Hosts() {
		connected[h.PeerID] = h
	}
	cloned := c.Fleet.Cloned()
	var out []*shoalv1.Server
	for _, n := range nodes {
		h, up := connected[n.PeerID]
		seen := n.LastSeen
		if up {
			seen = c.Now()
		}
		out = append(out, &shoalv1.Server{
			PeerId: n.PeerID, Hostname: n.Hostname, Pool: n.Pool, SwarmAddr: h.SwarmAddr, Version: h.Version,
			Connected: up, Joined: timestamppb.New(n.Joined), LastSeen: timestamppb.New(seen), Revoked: !n.Revoked.IsZero(),
			Cloned: cloned[n.PeerID],
		})
	}
	slices.SortFunc(out, func(a, b *shoalv1.Server) int { return strings.Compare(a.Hostname+a.PeerId, b.Hostname+b.PeerId) })
	return out, nil
}

func (s adminService) RevokeServer(ctx context.Context, req *connect.Request[shoalv1.RevokeServerRequest]) (*connect.Response[shoalv1.RevokeServerResponse], error) {
	if err := s.Auth.Revoke(ctx, req.Msg.PeerId); err != nil {
		return nil, coded(err)
	}
	if err := s.Inventory.RetirePeer(ctx, req.Msg.PeerId); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RevokeServerResponse{}), nil
}

func (s adminService) ListSwarms(ctx context.Context, req *connect.Request[shoalv1.ListSwarmsRequest]) (*connect.Response[shoalv1.ListSwarmsResponse], error) {
	names, err := s.hostNames(ctx)
	if err != nil {
		return nil, coded(err)
	}
	var digests []blob.Digest
	if req.Msg.Digest == "" {
		for _, one := range s.Tracker.Swarms(s.Now(), listedSwarms) {
			digests = append(digests, one.Digest)
		}
	} else {
		d, err := blob.ParseDigest(req.Msg.Digest)
		if err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		digests = append(digests, d)
	}
	out := &shoalv1.ListSwarmsResponse{}
	for _, d := range digests {
		one, ok := s.Tracker.Swarm(s.Now(), d)
		if !ok {
			continue
		}
		swarm := &shoalv1.Swarm{Digest: string(d), Size: one.Size}
		for _, m := range one.Members {
			swarm.Peers = append(swarm.Peers, &shoalv1.SwarmPeer{
				PeerId: m.Peer.ID, Hostname: names(m.Peer.ID), Complete: m.Complete, PiecesHeld: int32(m.Held),
			})
		}
		out.Swarms = append(out.Swarms, swarm)
	}
	return connect.NewResponse(out), nil
}

// resolve takes the name of an image apart and turns its tag into a digest,
// once for all hosts.
func (c Config) resolve(ctx context.Context, name string) (i blob.Image, err error) {
	if i, err = blob.ParseImage(name); err != nil {
		return i, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if slices.Contains(c.Registry.PublicNames, i.Registry) {
		i.Registry = ""
	}
	if i.Digest != "" {
		return i, nil
	}
	if i.Registry != "" {
		i.Digest, err = c.Seed.Resolve(ctx, i.Ref, i.Tag)
	} else {
		var record *blob.TagRecord
		if record, err = c.Registry.TagRecord(ctx, i.Repository, i.Tag); err == nil {
			i.Digest = record.Digest
		}
	}
	if err != nil {
		return i, coded(fmt.Errorf("resolve %s: %w", name, err))
	}
	return i, nil
}

func (s adminService) Prewarm(ctx context.Context, req *connect.Request[shoalv1.PrewarmRequest], stream *connect.ServerStream[shoalv1.PrewarmUpdate]) error {
	m := req.Msg
	if len(m.Images) == 0 || len(m.Images) > 100 {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("name between one and a hundred images"))
	}
	hosts, err := fleet.Selection{
		Pool: m.Pool, Servers: m.Servers, Count: int(m.Count), Percent: m.Percent,
	}.Pick(s.Fleet.Hosts())
	if err != nil {
		return coded(err)
	}
	for _, name := range m.Images {
		image, err := s.resolve(ctx, name)
		if err != nil {
			return err
		}
		if err := s.prewarm(ctx, name, image, m, hosts, stream); err != nil {
			return err
		}
	}
	return nil
}

// prewarm gives one image's order to each host and passes on what they say.
func (s adminService) prewarm(ctx context.Context, name string, image blob.Image, m *shoalv1.PrewarmRequest, hosts []fleet.Host, stream *connect.ServerStream[shoalv1.PrewarmUpdate]) error {
	order := &shoalv1.Prewarm{
		Registry: image.Registry, Repository: image.Repository, Tag: image.Tag, Digest: string(image.Digest),
		Platform: m.Platform, Unpack: m.Unpack,
	}
	write := func(h fleet.Host) (*shoalv1.Order, error) {
		own := proto.Clone(order).(*shoalv1.Prewarm)
		if image.Registry == "" {
			var err error
			if own.Token, err = s.Auth.IssuePull(h.PeerID, image.Repository, orderToken); err != nil {
				return nil, err
			}
		}
		return &shoalv1.Order{What: &shoalv1.Order_Prewarm{Prewarm: own}}, nil
	}
	say := func(u fleet.Update) error {
		return stream.Send(&shoalv1.PrewarmUpdate{
			Image: name, Digest: string(image.Digest), PeerId: u.Host.PeerID, Hostname: u.Host.Hostname,
			BytesDone: u.Bytes, BytesTotal: u.Size, Done: u.Done, Error: u.Error,
		})
	}
	for _, h := range hosts { // who is asked is known before the first of them answers
		if err := say(fleet.Update{Host: h}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan fleet.Update)
	go func() {
		s.Fleet.Do(ctx, hosts, write, updates)
		close(updates)
	}()
	for u := range updates {
		if err := say(u); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s adminService) CollectGarbage(ctx context.Context, _ *connect.Request[shoalv1.CollectGarbageRequest]) (*connect.Response[shoalv1.CollectGarbageResponse], error) {
	report, err := s.Collect(ctx)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CollectGarbageResponse{
		BlobsRemoved: int64(report.Blobs), BytesRemoved: report.Bytes, LinksRemoved: int64(report.Links), UploadsRemoved: int64(report.Uploads),
	}), nil
}

func (s adminService) Verify(ctx context.Context, _ *connect.Request[shoalv1.VerifyRequest], stream *connect.ServerStream[shoalv1.VerifyUpdate]) error {
	var sent error
	report, err := s.Registry.Verify(ctx, func(p registry.VerifyProgress) {
		if sent == nil {
			sent = stream.Send(&shoalv1.VerifyUpdate{BlobsChecked: int64(p.Blobs), BytesChecked: p.Bytes})
		}
	})
	if err := errors.Join(err, sent); err != nil {
		return coded(err)
	}
	last := &shoalv1.VerifyUpdate{BlobsChecked: int64(report.Blobs), BytesChecked: report.Bytes, Done: true}
	for _, p := range report.Problems {
		last.Problems = append(last.Problems, strings.TrimSpace(p.Repository+" "+p.Name)+": "+p.What)
	}
	if report.More > 0 {
		last.Problems = append(last.Problems, fmt.Sprintf("and %d more", report.More))
	}
	chain, err := s.Audit.Verify(ctx)
	if err != nil {
		return coded(err)
	}
	for _, b := range chain.Broken {
		last.Problems = append(last.Problems, b.Error())
	}
	return stream.Send(last)
}

func (s adminService) Backup(ctx context.Context, _ *connect.Request[shoalv1.BackupRequest], stream *connect.ServerStream[shoalv1.BackupChunk]) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(s.Meta.Backup(pw)) }()
	defer pr.Close()
	buffer := make([]byte, backupChunk)
	for {
		n, err := io.ReadFull(pr, buffer)
		if n > 0 {
			if err := stream.Send(&shoalv1.BackupChunk{Data: buffer[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return connect.NewError(connect.CodeInternal, err)
		}
	}
}
