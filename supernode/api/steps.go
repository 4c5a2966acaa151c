package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/profile"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// maxRefusal bounds a host's reason for not taking an order, in bytes.
const maxRefusal = 4 << 10

// ReportSteps keeps how a host stands to its pool's profile, and hands it to
// whoever asked.
func (s hostService) ReportSteps(ctx context.Context, req *connect.Request[shoalv1.ReportStepsRequest]) (*connect.Response[shoalv1.ReportStepsResponse], error) {
	from, m := callerOf(ctx), req.Msg
	if len(m.Error) > maxRefusal || m.Error != "" && len(m.Steps) > 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errTooMuch)
	}
	// An order that was not carried out says nothing about the steps.
	if m.Error == "" {
		if err := s.Inventory.SetSteps(ctx, from.PeerID, m); err != nil {
			return nil, coded(err)
		}
		pool, err := s.Inventory.Pool(ctx, from.Membership.Pool)
		if err == nil {
			s.Initialiser.heard(from.PeerID, m.Profile, pool.Profile)
		}
	}
	if m.OrderId != "" {
		s.Fleet.Answer(ctx, from.PeerID, m.OrderId, m, m.Done)
	}
	return connect.NewResponse(&shoalv1.ReportStepsResponse{}), nil
}

// ListProfiles lists the profiles that a pool may have.
func (s inventoryService) ListProfiles(context.Context, *connect.Request[shoalv1.ListProfilesRequest]) (*connect.Response[shoalv1.ListProfilesResponse], error) {
	return connect.NewResponse(&shoalv1.ListProfilesResponse{Profiles: profile.Shipped()}), nil
}

// InitialiseServer has a server carry out its pool's profile, or say what that
// would change. A failed one is initialising from then on. The host goes on
// when the caller goes away, and what it reports is kept.
func (s inventoryService) InitialiseServer(ctx context.Context, req *connect.Request[shoalv1.InitialiseServerRequest], stream *connect.ServerStream[shoalv1.InitialiseServerUpdate]) error {
	m := req.Msg
	server, err := s.Inventory.Owned(ctx, inventoryCaller(ctx), m.Id, inventory.Manage)
	if err != nil {
		return coded(err)
	}
	pool, err := s.Inventory.Pool(ctx, server.Pool)
	if err != nil {
		return coded(err)
	}
	p, err := profileOf(pool)
	if err != nil {
		return coded(err)
	}
	host, err := s.hostOf(server)
	if err != nil {
		return coded(err)
	}
	ctx, stop := s.untilStopping(ctx)
	defer stop()
	release, err := s.Initialiser.claim(ctx, server.PeerID)
	if err != nil {
		return coded(fmt.Errorf("initialise server %s: %w", server.Name, err))
	}
	defer release()
	if !m.DryRun && server.Phase == inventory.Failed {
		why := "it is initialised again, asked for by " + userOf(ctx).Name
		if server, err = s.Inventory.Move(ctx, server.ID, []inventory.Phase{inventory.Failed, inventory.Initialising, inventory.Ready}, inventory.Initialising, "", why, nil); err != nil {
			return coded(err)
		}
	}
	if err := stream.Send(&shoalv1.InitialiseServerUpdate{Steps: waiting(p)}); err != nil {
		return err
	}
	var last *shoalv1.ReportStepsRequest
	err = s.Initialiser.order(ctx, server, host, p, m.DryRun, func(r *shoalv1.ReportStepsRequest) error {
		if last = r; r.Done {
			return nil
		}
		return stream.Send(&shoalv1.InitialiseServerUpdate{Steps: r.Steps})
	})
	if err != nil {
		return coded(fmt.Errorf("initialise server %s: %w", server.Name, err))
	}
	return stream.Send(&shoalv1.InitialiseServerUpdate{Steps: last.GetSteps(), Done: true, Error: failure(last.GetSteps())})
}

// waiting are a profile's steps before the first of them was looked at.
func waiting(p *shoalv1.Profile) []*shoalv1.StepStatus {
	var out []*shoalv1.StepStatus
	for _, s := range p.Steps {
		out = append(out, &shoalv1.StepStatus{Name: s.Name, Version: s.Version, State: shoalv1.StepStatus_WAITING})
	}
	return out
}

// failure is what a run ended by; "" when no step failed.
func failure(steps []*shoalv1.StepStatus) string {
	for _, one := range steps {
		if one.State == shoalv1.StepStatus_FAILED {
			return "step " + one.Name + ": " + one.Error
		}
	}
	return ""
}

// hostOf is the line to a server's host.
func (c Config) hostOf(server inventory.Server) (fleet.Host, error) {
	for _, h := range c.Fleet.Hosts() {
		if server.PeerID != "" && h.PeerID == server.PeerID {
			return h, nil
		}
	}
	return fleet.Host{}, fmt.Errorf("server %s: %w", server.Name, fleet.ErrNotConnected)
}

var errStopping = errors.New("the supernode stops; ask again when it is back")

// untilStopping is ctx until the supernode begins to stop.
func (c Config) untilStopping(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.Stopping:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
