package api

import (
	"context"
	"slices"
	"strings"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/console"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/placement"
)

// pools are those that whoever looks at the page may see, with their servers.
func (c Config) pools(ctx context.Context) ([]console.Pool, error) {
	list, err := c.Inventory.Pools(ctx, inventoryCaller(ctx))
	if err != nil {
		return nil, err
	}
	servers, err := c.Inventory.Visible(ctx, inventoryCaller(ctx), "")
	if err != nil {
		return nil, err
	}
	of := map[string][]console.Server{}
	for _, m := range c.serverMessages(servers) {
		if m.Phase == string(inventory.Retired) {
			continue
		}
		of[m.Pool] = append(of[m.Pool], console.Server{
			Name: m.Name, Phase: m.Phase, Reason: m.Reason, Away: m.PeerId != "" && !m.Connected, Engine: m.Facts.GetEngine(),
			CPU: m.Facts.GetCpuMilli(), Memory: m.Facts.GetMemoryBytes(), Version: m.Facts.GetAgentVersion(), PeerID: m.PeerId,
			Seen: timeOf(m.LastSeen),
		})
	}
	var out []console.Pool
	for _, p := range list {
		counts := counted(p, servers)
		out = append(out, console.Pool{
			Name: p.Name, Cluster: p.Cluster, Tier: p.Tier, Class: p.HardwareClass, Ready: int(counts.Ready), Servers: of[p.Name],
		})
	}
	return out, nil
}

// services are what was placed on the pools that whoever looks may see.
func (c Config) services(ctx context.Context) ([]console.Service, error) {
	list, err := placementService{Config: c}.visible(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []console.Service
	for _, v := range list {
		one := console.Service{
			Name: v.Name, Pool: v.Pool, Phase: v.Phase, Reason: v.Reason, Healthy: v.Healthy, Replicas: v.Replicas,
		}
		if n := len(v.Revisions); n > 0 {
			one.Image = imageName(v.Revisions[n-1].Service.Image)
		}
		for _, p := range v.Known {
			status := v.Statuses[p.ID]
			shown := console.Container{
				Server: p.Host, State: stateWord(status.GetState()), Error: status.GetError(), Restarts: int(status.GetRestarts()),
				Started: timeOf(status.GetStarted()),
			}
			if i := slices.IndexFunc(v.Prepulls, func(h placement.Prepull) bool { return h.Host == p.Host }); i >= 0 {
				shown.Ready = v.Prepulls[i].Ready
			}
			one.Containers = append(one.Containers, shown)
		}
		out = append(out, one)
	}
	return out, nil
}

// stateWord is a container's state as people read it.
func stateWord(s shoalv1.ContainerStatus_State) string {
	if s == shoalv1.ContainerStatus_STATE_UNSPECIFIED {
		return "not told yet"
	}
	return strings.ToLower(s.String())
}
