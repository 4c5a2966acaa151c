package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/tracker"
)

// maxDescribed bounds the manifests of an index that are looked at.
const maxDescribed = 50

// World is what placements are decided by: the inventory's servers, who of
// them is connected, and who holds which blob.
type World struct {
	Inventory *inventory.Inventory
	Fleet     *fleet.Fleet
	Tracker   *tracker.Tracker
	// Manifest reads a manifest by its digest, of this registry or of another.
	Manifest func(ctx context.Context, ref blob.Ref, d blob.Digest) ([]byte, error)
	Now      func() time.Time
}

// Hosts implements placement.World.
func (w World) Hosts(ctx context.Context, pool string, image *placement.Image, service *placement.Service) ([]placement.Host, error) {
	servers, err := w.Inventory.Servers(ctx, pool)
	if err != nil {
		return nil, err
	}
	holds := map[string]map[blob.Digest]bool{}
	if image != nil {
		holds = w.holders(image.Parts)
	}
	pools := map[string]inventory.Pool{}
	var out []placement.Host
	for _, s := range servers {
		if !placeable(s) {
			continue
		}
		of, known := pools[s.Pool]
		if !known {
			if of, err = w.pool(ctx, s.Pool); err != nil {
				return nil, err
			}
			pools[s.Pool] = of
		}
		h := placeHost(s, of, w.Fleet.Connected(s.PeerID))
		h.Holds = holds[s.PeerID]
		h.Unpacked = service != nil && slices.Contains(s.Facts.GetImages(), service.Digest)
		out = append(out, h)
	}
	return out, nil
}

// Host implements placement.World.
func (w World) Host(ctx context.Context, server string) (*placement.Host, error) {
	s, err := w.Inventory.ByID(ctx, server)
	if errors.Is(err, inventory.ErrNoServer) || err == nil && !placeable(s) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	of, err := w.pool(ctx, s.Pool)
	if err != nil {
		return nil, err
	}
	h := placeHost(s, of, w.Fleet.Connected(s.PeerID))
	return &h, nil
}

// pool is one that hosts joined, whether anybody made it or not.
func (w World) pool(ctx context.Context, name string) (inventory.Pool, error) {
	of, err := w.Inventory.Pool(ctx, name)
	if errors.Is(err, inventory.ErrNoPool) {
		err = nil
	}
	return of, err
}

// placeable reports whether placing knows of a server at all.
func placeable(s inventory.Server) bool {
	return s.Phase != inventory.Imported && s.Phase != inventory.Retired
}

// placeHost is a server as far as placing goes.
func placeHost(s inventory.Server, of inventory.Pool, connected bool) placement.Host {
	h := placement.Host{
		Server: s.ID, Name: s.Name, PeerID: s.PeerID, Pool: s.Pool, Phase: string(s.Phase), Connected: connected,
		Tier: of.Tier, Class: cmp.Or(s.HardwareClass, of.HardwareClass), Taints: slices.Concat(of.Taints, s.Taints),
	}
	if f := s.Facts; f != nil {
		h.Engine, h.Platform, h.Rack, h.Zone = f.Engine, "linux/"+f.Arch, f.Rack, f.Zone
		h.CPU, h.Memory, h.DiskFree = f.CpuMilli, f.MemoryBytes, f.DiskFreeBytes
	}
	return h
}

// holders are who has which of an image's blobs whole, as the tracker heard.
func (w World) holders(parts []placement.Part) map[string]map[blob.Digest]bool {
	out := map[string]map[blob.Digest]bool{}
	for _, p := range parts {
		swarm, _ := w.Tracker.Swarm(w.Now(), p.Digest)
		for _, m := range swarm.Members {
			if !m.Complete {
				continue
			}
			if out[m.Peer.ID] == nil {
				out[m.Peer.ID] = map[blob.Digest]bool{}
			}
			out[m.Peer.ID][p.Digest] = true
		}
	}
	return out
}

// Quota implements placement.World.
func (w World) Quota(ctx context.Context, pool string) (placement.Need, error) {
	p, err := w.Inventory.Pool(ctx, pool)
	return placement.Need{CPU: p.Quota.CPUMilli, Memory: p.Quota.MemoryBytes}, err
}

// described is as much of a manifest or index as placing is about.
type described struct {
	Manifests []blob.Descriptor `json:"manifests"`
	Config    *blob.Descriptor  `json:"config"`
	Layers    []blob.Descriptor `json:"layers"`
}

// Image implements placement.World. What another registry does not tell now is
// left out: the hosts find out.
func (w World) Image(ctx context.Context, service placement.Service) (placement.Image, error) {
	var out placement.Image
	top, err := w.describe(ctx, service.Image.Ref, blob.Digest(service.Digest))
	if err != nil {
		if service.Image.Registry != "" {
			return out, nil
		}
		return out, err
	}
	if len(top.Manifests) == 0 {
		out.Parts = partsOf(top)
		out.Platforms = w.platformOf(ctx, service.Image.Ref, top)
		return out, nil
	}
	for _, m := range top.Manifests[:min(len(top.Manifests), maxDescribed)] {
		if p := m.Platform; p != nil && p.OS == "linux" {
			out.Platforms = append(out.Platforms, platformName(p.OS, p.Architecture, p.Variant))
		}
		if len(out.Parts) == 0 || m.Platform != nil && m.Platform.OS == "linux" && m.Platform.Architecture == "amd64" {
			one, err := w.describe(ctx, service.Image.Ref, m.Digest)
			if err == nil {
				out.Parts = partsOf(one)
			}
		}
	}
	return out, nil
}

// platformOf reads for what platform a single image is, from its
// configuration; nothing when that cannot be read or does not say.
func (w World) platformOf(ctx context.Context, ref blob.Ref, m described) []string {
	if m.Config == nil || ref.Registry != "" || m.Config.Size > maxMessage {
		return nil
	}
	raw, err := w.Manifest(ctx, ref, m.Config.Digest)
	if err != nil {
		return nil
	}
	var config struct {
		OS, Architecture, Variant string
	}
	if json.Unmarshal(raw, &config) != nil || config.OS == "" || config.Architecture == "" {
		return nil
	}
	return []string{platformName(config.OS, config.Architecture, config.Variant)}
}

func platformName(os, arch, variant string) string {
	if variant == "" {
		return os + "/" + arch
	}
	return os + "/" + arch + "/" + variant
}

func (w World) describe(ctx context.Context, ref blob.Ref, d blob.Digest) (out described, err error) {
	raw, err := w.Manifest(ctx, ref, d)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("read the manifest %s: %w", d, err)
	}
	return out, nil
}

// partsOf are the blobs that a host fetches; each once.
func partsOf(m described) []placement.Part {
	var out []placement.Part
	list := m.Layers
	if m.Config != nil {
		list = append(slices.Clone(list), *m.Config)
	}
	seen := map[blob.Digest]bool{}
	for _, b := range list {
		if !seen[b.Digest] && b.Size >= 0 {
			seen[b.Digest] = true
			out = append(out, placement.Part{Digest: b.Digest, Size: b.Size})
		}
	}
	return out
}
