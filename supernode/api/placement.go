package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/placement"
)

// removeWithin is for how long a removal is waited for; it goes on after that.
const removeWithin = 10 * time.Second

// logsAtOnce bounds the containers whose logs one call reads.
const logsAtOnce = 50

// placementService is for everybody who is logged in: each call decides about
// its own pool and image.
type placementService struct{ Config }

var _ shoalv1connect.PlacementServiceHandler = placementService{}

// image reads the name of a service's image.
func (s placementService) image(m *shoalv1.Service) (blob.Image, error) {
	if m.GetImage() == "" {
		return blob.Image{}, connect.NewError(connect.CodeInvalidArgument, errors.New("no image is named"))
	}
	image, err := blob.ParseImage(m.Image)
	if err != nil {
		return image, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return image, nil
}

func serviceOf(m *shoalv1.Service, image blob.Image) placement.Service {
	return placement.Service{
		Image: image, Digest: string(image.Digest), Args: m.Args, Env: m.Env,
		Need: placement.Need{CPU: m.CpuMilli, Memory: m.MemoryBytes, Ports: m.Ports},
	}
}

func (s placementService) Place(ctx context.Context, req *connect.Request[shoalv1.PlaceRequest], stream *connect.ServerStream[shoalv1.PlaceUpdate]) error {
	m := req.Msg
	image, err := s.image(m.Service)
	if err != nil {
		return err
	}
	if m.Name == "" {
		m.Name = strings.Map(plain, path.Base(image.Repository))
	}
	image, pool, err := s.mayPlace(ctx, m.Pool, image)
	if err != nil {
		return coded(err)
	}
	o := placement.Order{
		Name: m.Name, Pool: pool.Name, By: userOf(ctx).Name, Service: serviceOf(m.Service, image), Replicas: int(m.Replicas),
		Spares: int(m.Spares), Spread: placement.Spread(m.Spread), Tier: m.Tier, Class: m.HardwareClass, Tolerate: m.Tolerate,
		Deadline: time.Duration(m.DeadlineSeconds) * time.Second,
	}
	if o.Tier == "" {
		o.Tier = pool.Tier
	}
	if image.Registry == "" {
		o.Project = projectOfRepository(image.Repository)
	}
	if m.DryRun {
		p, err := s.Placements.Explain(ctx, o)
		out := &shoalv1.PlaceUpdate{Phase: placement.PhasePlanning, Verdicts: verdictMessages(p.Verdicts), Done: true}
		if errors.Is(err, placement.ErrNoRoom) {
			out.Phase, out.Error = placement.PhaseFailed, err.Error()
		} else if err != nil {
			return coded(err)
		}
		return stream.Send(out)
	}
	record, err := s.Placements.Place(ctx, o)
	if err != nil {
		return coded(err)
	}
	return s.follow(ctx, record, stream)
}

// plain makes a name of what images may be called.
func plain(c rune) rune {
	if c == '.' || c == '_' {
		return '-'
	}
	return c
}

// follow tells how a change goes on. When the caller goes, the change does not
// end.
func (s placementService) follow(ctx context.Context, record placement.Record, stream *connect.ServerStream[shoalv1.PlaceUpdate]) error {
	change := record.Ended.ID
	if record.Change != nil {
		change = record.Change.ID
	}
	for v, err := range s.Placements.Watch(ctx, record.Name, change) {
		if err != nil {
			return coded(err)
		}
		if err := stream.Send(updateMessage(v, record.Pool, change)); err != nil {
			return err
		}
		select {
		case <-s.Stopping:
			return connect.NewError(connect.CodeUnavailable, errors.New("the supernode stops; the change goes on when it is back: look with 'dfget place show'"))
		default:
		}
	}
	return nil
}

// deploys reports whether the caller may deploy on a pool, and so see what a
// service is given.
func (s placementService) deploys(ctx context.Context, pool string) bool {
	_, err := s.Inventory.May(ctx, inventoryCaller(ctx), pool, inventory.Deploy)
	return err == nil
}

func (s placementService) ListPlacements(ctx context.Context, req *connect.Request[shoalv1.ListPlacementsRequest]) (*connect.Response[shoalv1.ListPlacementsResponse], error) {
	list, err := s.visible(ctx, req.Msg.Pool)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListPlacementsResponse{}
	for _, v := range list {
		m := placementMessage(v, s.deploys(ctx, v.Pool))
		m.Verdicts, m.Prepulls = nil, nil // of one placement at a time
		out.Placements = append(out.Placements, m)
	}
	return connect.NewResponse(out), nil
}

// visible lists the placements on a pool, or on all pools for "", that the
// caller may see.
func (s placementService) visible(ctx context.Context, pool string) ([]placement.View, error) {
	pools, err := s.Inventory.Pools(ctx, inventoryCaller(ctx))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, p := range pools {
		seen[p.Name] = pool == "" || pool == p.Name
	}
	list, err := s.Placements.Views(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(v placement.View) bool { return !seen[v.Pool] }), nil
}

func (s placementService) GetPlacement(ctx context.Context, req *connect.Request[shoalv1.GetPlacementRequest]) (*connect.Response[shoalv1.GetPlacementResponse], error) {
	v, err := s.find(ctx, req.Msg.Name, inventory.View)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&shoalv1.GetPlacementResponse{Placement: placementMessage(v, s.deploys(ctx, v.Pool))}), nil
}

func (s placementService) ScalePlacement(ctx context.Context, req *connect.Request[shoalv1.ScalePlacementRequest], stream *connect.ServerStream[shoalv1.PlaceUpdate]) error {
	v, err := s.findToPlace(ctx, req.Msg.Name)
	if err != nil {
		return err
	}
	record, err := s.Placements.Scale(ctx, v.Name, int(req.Msg.Replicas))
	if err != nil {
		return coded(err)
	}
	return s.follow(ctx, record, stream)
}

func (s placementService) UpdatePlacement(ctx context.Context, req *connect.Request[shoalv1.UpdatePlacementRequest], stream *connect.ServerStream[shoalv1.PlaceUpdate]) error {
	m := req.Msg
	v, err := s.find(ctx, m.Name, inventory.Deploy)
	if err != nil {
		return err
	}
	if m.Service == nil {
		m.Service = &shoalv1.Service{}
	}
	image := v.Revisions[len(v.Revisions)-1].Service.Image
	if m.Service.Image != "" {
		if image, err = s.image(m.Service); err != nil {
			return err
		}
	}
	if image, _, err = s.mayPlace(ctx, v.Pool, image); err != nil {
		return coded(err)
	}
	record, err := s.Placements.Update(ctx, v.Name, userOf(ctx).Name, time.Duration(m.DeadlineSeconds)*time.Second,
		func(now placement.Record, before placement.Service) (placement.Service, error) {
			if now.Pool != v.Pool || now.Drawn != v.Drawn { // what was decided about is another version
				return before, errUpdatedMeanwhile(v.Name)
			}
			return updated(m, before, image), nil
		})
	if err != nil {
		return coded(err)
	}
	return s.follow(ctx, record, stream)
}

// errUpdatedMeanwhile refuses an update of a version that was replaced while it
// was looked whether the caller may have it: the other's image would be taken
// back.
func errUpdatedMeanwhile(name string) error {
	return fmt.Errorf("%w: %q was updated by somebody else a moment ago; look at it and try again", placement.ErrBusy, name)
}

// updated is a service with what an update names.
func updated(m *shoalv1.UpdatePlacementRequest, s placement.Service, image blob.Image) placement.Service {
	s.Image, s.Digest = image, string(image.Digest)
	if m.SetArgs {
		s.Args = m.Service.Args
	}
	if m.SetEnv {
		s.Env = m.Service.Env
	}
	if m.SetPorts {
		s.Need.Ports = m.Service.Ports
	}
	if m.Service.CpuMilli != 0 {
		s.Need.CPU = m.Service.CpuMilli
	}
	if m.Service.MemoryBytes != 0 {
		s.Need.Memory = m.Service.MemoryBytes
	}
	return s
}

func (s placementService) RevertPlacement(ctx context.Context, req *connect.Request[shoalv1.RevertPlacementRequest], stream *connect.ServerStream[shoalv1.PlaceUpdate]) error {
	v, err := s.find(ctx, req.Msg.Name, inventory.Deploy)
	if err != nil {
		return err
	}
	record, err := s.Placements.RollBack(ctx, v.Name, userOf(ctx).Name, req.Msg.Revision, func(service placement.Service) error {
		_, _, err := s.mayPlace(ctx, v.Pool, service.Image)
		return err
	})
	if err != nil {
		return coded(err)
	}
	return s.follow(ctx, record, stream)
}

// turn is a change that starts no image anew.
func (s placementService) turn(ctx context.Context, name string, do func(context.Context, string) (placement.Record, error)) (*shoalv1.Placement, error) {
	if _, err := s.find(ctx, name, inventory.Deploy); err != nil {
		return nil, err
	}
	if _, err := do(ctx, name); err != nil {
		return nil, coded(err)
	}
	v, err := s.Placements.Look(ctx, name)
	if err != nil {
		return nil, coded(err)
	}
	return placementMessage(v, true), nil
}

func (s placementService) StopPlacement(ctx context.Context, req *connect.Request[shoalv1.StopPlacementRequest]) (*connect.Response[shoalv1.StopPlacementResponse], error) {
	p, err := s.turn(ctx, req.Msg.Name, s.Placements.Stop)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&shoalv1.StopPlacementResponse{Placement: p}), nil
}

func (s placementService) StartPlacement(ctx context.Context, req *connect.Request[shoalv1.StartPlacementRequest]) (*connect.Response[shoalv1.StartPlacementResponse], error) {
	if _, err := s.findToPlace(ctx, req.Msg.Name); err != nil {
		return nil, err
	}
	p, err := s.turn(ctx, req.Msg.Name, s.Placements.Start)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&shoalv1.StartPlacementResponse{Placement: p}), nil
}

func (s placementService) RestartPlacement(ctx context.Context, req *connect.Request[shoalv1.RestartPlacementRequest]) (*connect.Response[shoalv1.RestartPlacementResponse], error) {
	p, err := s.turn(ctx, req.Msg.Name, s.Placements.Restart)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&shoalv1.RestartPlacementResponse{Placement: p}), nil
}

func (s placementService) RemovePlacement(ctx context.Context, req *connect.Request[shoalv1.RemovePlacementRequest]) (*connect.Response[shoalv1.RemovePlacementResponse], error) {
	v, err := s.find(ctx, req.Msg.Name, inventory.Deploy)
	if err != nil {
		return nil, err
	}
	if err := s.Placements.Remove(ctx, v.Name); err != nil {
		return nil, coded(err)
	}
	soon, cancel := context.WithTimeout(ctx, removeWithin)
	defer cancel()
	err = s.Placements.Gone(soon, v.Name)
	if err != nil && soon.Err() == nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemovePlacementResponse{Waits: err != nil}), nil
}

// ReadLogs is for who may deploy: logs hold what environments hold.
func (s placementService) ReadLogs(ctx context.Context, req *connect.Request[shoalv1.ReadLogsRequest], stream *connect.ServerStream[shoalv1.LogLine]) error {
	m := req.Msg
	v, err := s.find(ctx, m.Name, inventory.Deploy)
	if err != nil {
		return err
	}
	if m.Tail < 0 {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("a log has no negative number of last lines"))
	}
	var from []placement.Placed
	for _, c := range v.Known {
		if m.Container == "" || m.Container == c.ID {
			from = append(from, c)
		}
	}
	if len(from) == 0 {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("placement %s has no container %q", v.Name, m.Container))
	}
	if len(from) > logsAtOnce {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("placement %s has %d containers, the logs of at most %d are read at once: name one", v.Name, len(from), logsAtOnce))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // of the stream
	var wait sync.WaitGroup
	defer wait.Wait()
	lines := make(chan error, len(from))
	for _, c := range from {
		wait.Go(func() {
			lines <- s.readLog(ctx, c, m, func(line *shoalv1.LogLine) error {
				mu.Lock()
				defer mu.Unlock()
				return stream.Send(line)
			})
		})
	}
	for range from {
		select {
		case err := <-lines:
			if err != nil {
				cancel()
				return err
			}
		case <-s.Stopping:
			cancel()
			return nil
		}
	}
	return nil
}

// readLog reads one container's log; that its host cannot be read is told as a
// line.
func (s placementService) readLog(ctx context.Context, c placement.Placed, m *shoalv1.ReadLogsRequest, send func(*shoalv1.LogLine) error) error {
	var sent error
	err := s.Placements.Logs(ctx, c.Server, c.ID, int(m.Tail), m.Follow, func(data []byte) error {
		sent = send(&shoalv1.LogLine{Container: c.ID, Server: c.Host, Data: data})
		return sent
	})
	if sent != nil {
		return sent
	}
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		return send(&shoalv1.LogLine{Container: c.ID, Server: c.Host, Error: err.Error()})
	}
	return nil
}
