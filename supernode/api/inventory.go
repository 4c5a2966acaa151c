package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// inventoryService is for everybody who is logged in: the inventory decides in
// each call whether the caller may do that to that pool.
type inventoryService struct {
	Config
	shoalv1connect.UnimplementedInventoryServiceHandler
}

// inventoryCaller is who calls, in the inventory's words.
func inventoryCaller(ctx context.Context) inventory.Caller {
	u := userOf(ctx)
	return inventory.Caller{Name: u.Name, ID: u.ID(), Admin: u.Admin}
}

func (s inventoryService) AddCluster(ctx context.Context, req *connect.Request[shoalv1.AddClusterRequest]) (*connect.Response[shoalv1.AddClusterResponse], error) {
	m := req.Msg
	c, err := s.Inventory.AddCluster(ctx, inventoryCaller(ctx), m.Name, m.Kind, m.Description)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.AddClusterResponse{Cluster: clusterMessage(c)}), nil
}

func (s inventoryService) RemoveCluster(ctx context.Context, req *connect.Request[shoalv1.RemoveClusterRequest]) (*connect.Response[shoalv1.RemoveClusterResponse], error) {
	if err := s.Inventory.RemoveCluster(ctx, inventoryCaller(ctx), req.Msg.Name); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemoveClusterResponse{}), nil
}

func (s inventoryService) ListClusters(ctx context.Context, _ *connect.Request[shoalv1.ListClustersRequest]) (*connect.Response[shoalv1.ListClustersResponse], error) {
	list, err := s.Inventory.Clusters(ctx)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListClustersResponse{}
	for _, c := range list {
		out.Clusters = append(out.Clusters, clusterMessage(c))
	}
	return connect.NewResponse(out), nil
}

func (s inventoryService) CreatePool(ctx context.Context, req *connect.Request[shoalv1.CreatePoolRequest]) (*connect.Response[shoalv1.CreatePoolResponse], error) {
	p, err := s.Inventory.CreatePool(ctx, inventoryCaller(ctx), poolOf(req.Msg.Pool))
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CreatePoolResponse{Pool: poolMessage(p)}), nil
}

func (s inventoryService) SetPool(ctx context.Context, req *connect.Request[shoalv1.SetPoolRequest]) (*connect.Response[shoalv1.SetPoolResponse], error) {
	m := req.Msg
	change := inventory.PoolChange{HardwareClass: m.HardwareClass, Tier: m.Tier, Profile: m.Profile, CPUWeight: m.CpuWeight}
	if m.SetLabels {
		change.Labels = &m.Labels
	}
	if m.SetTaints {
		change.Taints = &m.Taints
	}
	if m.SetProfileSettings {
		change.ProfileSettings = &m.ProfileSettings
	}
	if m.Price != nil {
		price := priceOf(m.Price)
		change.Price = &price
	}
	if m.Quota != nil {
		quota := quotaOf(m.Quota)
		change.Quota = &quota
	}
	p, err := s.Inventory.SetPool(ctx, inventoryCaller(ctx), m.Name, change)
	if err != nil {
		return nil, coded(err)
	}
	s.Initialiser.Changed() // its hosts may have another profile
	return connect.NewResponse(&shoalv1.SetPoolResponse{Pool: poolMessage(p)}), nil
}

func (s inventoryService) DeletePool(ctx context.Context, req *connect.Request[shoalv1.DeletePoolRequest]) (*connect.Response[shoalv1.DeletePoolResponse], error) {
	if err := s.Inventory.DeletePool(ctx, inventoryCaller(ctx), req.Msg.Name); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.DeletePoolResponse{}), nil
}

func (s inventoryService) ListPools(ctx context.Context, _ *connect.Request[shoalv1.ListPoolsRequest]) (*connect.Response[shoalv1.ListPoolsResponse], error) {
	pools, err := s.Inventory.Pools(ctx, inventoryCaller(ctx))
	if err != nil {
		return nil, coded(err)
	}
	servers, err := s.Inventory.Servers(ctx, "")
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListPoolsResponse{}
	for _, p := range pools {
		out.Pools = append(out.Pools, counted(p, servers))
	}
	return connect.NewResponse(out), nil
}

func (s inventoryService) GetPool(ctx context.Context, req *connect.Request[shoalv1.GetPoolRequest]) (*connect.Response[shoalv1.GetPoolResponse], error) {
	by := inventoryCaller(ctx)
	p, err := s.Inventory.May(ctx, by, req.Msg.Name, inventory.View)
	if err != nil {
		return nil, coded(err)
	}
	servers, err := s.Inventory.Servers(ctx, p.Name)
	if err != nil {
		return nil, coded(err)
	}
	roles, err := s.Inventory.Roles(ctx, by, p.Name)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.GetPoolResponse{Pool: counted(p, servers)}
	for _, r := range roles {
		out.Roles = append(out.Roles, roleMessage(r))
	}
	return connect.NewResponse(out), nil
}

func (s inventoryService) SetPoolRole(ctx context.Context, req *connect.Request[shoalv1.SetPoolRoleRequest]) (*connect.Response[shoalv1.SetPoolRoleResponse], error) {
	m := req.Msg
	if err := s.Inventory.SetRole(ctx, inventoryCaller(ctx), m.Pool, m.User, inventory.Role(m.Role)); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetPoolRoleResponse{}), nil
}

func (s inventoryService) RemovePoolRole(ctx context.Context, req *connect.Request[shoalv1.RemovePoolRoleRequest]) (*connect.Response[shoalv1.RemovePoolRoleResponse], error) {
	if err := s.Inventory.RemoveRole(ctx, inventoryCaller(ctx), req.Msg.Pool, req.Msg.User); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemovePoolRoleResponse{}), nil
}

func (s inventoryService) CreateServers(ctx context.Context, req *connect.Request[shoalv1.CreateServersRequest]) (*connect.Response[shoalv1.CreateServersResponse], error) {
	m := req.Msg
	made, err := s.Inventory.CreateServers(ctx, inventoryCaller(ctx), m.Pool, int(m.Count), m.Key)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CreateServersResponse{Servers: s.serverMessages(made)}), nil
}

func (s inventoryService) AdoptServer(ctx context.Context, req *connect.Request[shoalv1.AdoptServerRequest]) (*connect.Response[shoalv1.AdoptServerResponse], error) {
	m := req.Msg
	taken, err := s.Inventory.AdoptServer(ctx, inventoryCaller(ctx), inventory.Adoption{
		Pool: m.Pool, Name: m.Name, Address: m.Address, User: m.User, HostKey: m.HostKey,
	})
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.AdoptServerResponse{Server: s.serverMessage(taken)}), nil
}

func (s inventoryService) ImportServers(ctx context.Context, req *connect.Request[shoalv1.ImportServersRequest]) (*connect.Response[shoalv1.ImportServersResponse], error) {
	m := req.Msg
	list, problems, err := s.Inventory.ImportServers(ctx, inventoryCaller(ctx), m.Pool, m.Format, m.Content, m.DryRun)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ImportServersResponse{Servers: s.serverMessages(list), Problems: problems}), nil
}

func (s inventoryService) DrainServer(ctx context.Context, req *connect.Request[shoalv1.DrainServerRequest]) (*connect.Response[shoalv1.DrainServerResponse], error) {
	drained, err := s.Inventory.Drain(ctx, inventoryCaller(ctx), req.Msg.Id, req.Msg.Undo)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.DrainServerResponse{Server: s.serverMessage(drained)}), nil
}

// RetireServer turns the host away before its server is retired: a supernode
// that is killed in between finds a revoked node, whose server is retired when
// it starts again.
func (s inventoryService) RetireServer(ctx context.Context, req *connect.Request[shoalv1.RetireServerRequest]) (*connect.Response[shoalv1.RetireServerResponse], error) {
	m, by := req.Msg, inventoryCaller(ctx)
	server, err := s.Inventory.Owned(ctx, by, m.Id, inventory.Manage)
	if err != nil {
		return nil, coded(err)
	}
	if s.Running != nil && !m.Force && server.Phase != inventory.Retired {
		n, err := s.Running(ctx, server.ID)
		if err != nil {
			return nil, coded(err)
		}
		if n > 0 {
			return nil, coded(fmt.Errorf("retire server %s: %w: %d containers run on it; drain it first, or force it", server.Name, inventory.ErrHolds, n))
		}
	}
	if server.PeerID != "" && server.Phase != inventory.Retired {
		if err := s.Auth.Revoke(ctx, server.PeerID); err != nil {
			return nil, coded(err)
		}
	}
	retired, err := s.Inventory.Retire(ctx, by, server.ID)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RetireServerResponse{Server: s.serverMessage(retired)}), nil
}

func (s inventoryService) SetTaint(ctx context.Context, req *connect.Request[shoalv1.SetTaintRequest]) (*connect.Response[shoalv1.SetTaintResponse], error) {
	m := req.Msg
	server, err := s.Inventory.SetTaint(ctx, inventoryCaller(ctx), m.Id, m.Taint, m.Remove)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetTaintResponse{Server: s.serverMessage(server)}), nil
}

func (s inventoryService) ListFleet(ctx context.Context, req *connect.Request[shoalv1.ListFleetRequest]) (*connect.Response[shoalv1.ListFleetResponse], error) {
	list, err := s.Inventory.Visible(ctx, inventoryCaller(ctx), req.Msg.Pool)
	if err != nil {
		return nil, coded(err)
	}
	if !req.Msg.All {
		kept := list[:0]
		for _, one := range list {
			if one.Phase != inventory.Retired {
				kept = append(kept, one)
			}
		}
		list = kept
	}
	return connect.NewResponse(&shoalv1.ListFleetResponse{Servers: s.serverMessages(list)}), nil
}

func (s inventoryService) GetFleetServer(ctx context.Context, req *connect.Request[shoalv1.GetFleetServerRequest]) (*connect.Response[shoalv1.GetFleetServerResponse], error) {
	server, err := s.Inventory.Owned(ctx, inventoryCaller(ctx), req.Msg.Id, inventory.View)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.GetFleetServerResponse{Server: s.serverMessage(server)}), nil
}
