package api

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// timeMessage leaves a time out that is not known.
func timeMessage(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func clusterMessage(c inventory.Cluster) *shoalv1.Cluster {
	return &shoalv1.Cluster{Name: c.Name, Kind: c.Kind, Description: c.Description, Created: timeMessage(c.Created)}
}

func roleMessage(r inventory.PoolRole) *shoalv1.PoolRole {
	return &shoalv1.PoolRole{User: r.User, Role: string(r.Role), Since: timeMessage(r.Since), By: r.By}
}

func poolOf(m *shoalv1.Pool) inventory.Pool {
	return inventory.Pool{
		Name: m.GetName(), Cluster: m.GetCluster(), HardwareClass: m.GetHardwareClass(), Tier: m.GetTier(), Labels: m.GetLabels(), Taints: m.GetTaints(),
		Price: priceOf(m.GetPrice()), Quota: quotaOf(m.GetQuota()), Profile: m.GetProfile(), ProfileSettings: m.GetProfileSettings(), CPUWeight: m.GetCpuWeight(),
	}
}

func priceOf(m *shoalv1.Price) inventory.Price {
	return inventory.Price{
		Currency: m.GetCurrency(), HourlyMicro: m.GetHourlyMicro(), PurchaseMicro: m.GetPurchaseMicro(), AmortisationMonths: m.GetAmortisationMonths(),
		PowerMonthlyMicro: m.GetPowerMonthlyMicro(), RackMonthlyMicro: m.GetRackMonthlyMicro(), EgressGBMicro: m.GetEgressGbMicro(),
	}
}

func quotaOf(m *shoalv1.PoolQuota) inventory.Quota {
	return inventory.Quota{Servers: m.GetServers(), CPUMilli: m.GetCpuMilli(), MemoryBytes: m.GetMemoryBytes()}
}

func poolMessage(p inventory.Pool) *shoalv1.Pool {
	m := &shoalv1.Pool{
		Name: p.Name, Cluster: p.Cluster, HardwareClass: p.HardwareClass, Tier: p.Tier, Labels: p.Labels, Taints: p.Taints, Profile: p.Profile,
		ProfileSettings: p.ProfileSettings, CpuWeight: p.CPUWeight, Created: timeMessage(p.Created), Role: string(p.Role),
		Quota: &shoalv1.PoolQuota{Servers: p.Quota.Servers, CpuMilli: p.Quota.CPUMilli, MemoryBytes: p.Quota.MemoryBytes},
	}
	if p.Price.Currency != "" {
		m.Price = &shoalv1.Price{
			Currency: p.Price.Currency, HourlyMicro: p.Price.HourlyMicro, PurchaseMicro: p.Price.PurchaseMicro, AmortisationMonths: p.Price.AmortisationMonths,
			PowerMonthlyMicro: p.Price.PowerMonthlyMicro, RackMonthlyMicro: p.Price.RackMonthlyMicro, EgressGbMicro: p.Price.EgressGBMicro,
		}
	}
	return m
}

// counted is a pool with what its servers add up to.
func counted(p inventory.Pool, servers []inventory.Server) *shoalv1.Pool {
	m := poolMessage(p)
	for _, s := range servers {
		if s.Pool != p.Name || s.Phase == inventory.Retired || s.Phase == inventory.Imported {
			continue
		}
		m.Servers++
		if s.Phase == inventory.Ready {
			m.Ready++
			m.CpuMilli += s.Facts.GetCpuMilli()
			m.MemoryBytes += s.Facts.GetMemoryBytes()
		}
	}
	return m
}

// serverMessages are servers with whether they are connected right now.
func (c Config) serverMessages(list []inventory.Server) []*shoalv1.FleetServer {
	out := make([]*shoalv1.FleetServer, 0, len(list))
	for _, s := range list {
		m := &shoalv1.FleetServer{
			Id: s.ID, Name: s.Name, Pool: s.Pool, Phase: string(s.Phase), FailedAt: s.FailedAt, Reason: s.Reason, Provider: s.Provider,
			ProviderId: s.ProviderID, Address: s.Address, PeerId: s.PeerID, Connected: c.Fleet.Connected(s.PeerID), Taints: s.Taints, Facts: s.Facts,
			Steps: s.Steps, Created: timeMessage(s.Created), PhaseSince: timeMessage(s.PhaseSince), LastSeen: timeMessage(s.LastSeen), Log: s.Log,
			HardwareClass: s.HardwareClass, User: s.User, HostKey: s.HostKey,
		}
		if m.Connected {
			m.LastSeen = timestamppb.New(c.Now())
		}
		out = append(out, m)
	}
	return out
}

func (c Config) serverMessage(s inventory.Server) *shoalv1.FleetServer {
	return c.serverMessages([]inventory.Server{s})[0]
}
