package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/api"
	"github.com/shoalproject/shoal/supernode/cost"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/seed"
)

// largestManifest bounds what is read to learn of what an image is made, in
// bytes.
const largestManifest = 4 << 20

// openPlacements makes what carries placements out, over the lines to the
// hosts.
func (h *house) openPlacements() {
	h.placements = placement.New(placement.Config{
		Meta: h.meta,
		World: api.World{
			Inventory: h.book, Fleet: h.fleet, Tracker: h.tracker, Manifest: h.manifest, Now: time.Now,
		},
		Engine: placement.Agents{
			Lines: h.fleet, Away: fleet.ErrNotConnected,
			Token: func(peerID, repository string) (string, error) {
				return h.auth.IssuePull(peerID, repository, token.MaxLife)
			},
		},
		OnHost: h.notePlaced, Now: time.Now, Log: h.log,
	})
}

// placedUsage is what a container takes of its host.
func placedUsage(u placement.Use) cost.Usage {
	return cost.Usage{
		Kind: cost.Container, ID: u.Container, Name: u.Container, Pool: u.Pool, CPUMilli: u.Need.CPU, MemoryBytes: u.Need.Memory,
		Server: u.Server, Placement: u.Placement, Project: u.Project, Ended: u.Ended,
	}
}

// notePlaced writes down what began and ended on a host. What fails is made
// good when the whole fleet is looked at.
func (h *house) notePlaced(ctx context.Context, before, after placement.HostRecord) {
	for _, u := range placement.UsesChanged(before, after) {
		if err := h.cost.Note(context.WithoutCancel(ctx), placedUsage(u)); err != nil {
			h.log.Warn("the use of a container was not written down; it is tried again", "container", u.Container, "error", err)
		}
	}
}

// manifest reads a manifest by its digest for the supernode's own use.
func (h *house) manifest(ctx context.Context, ref blob.Ref, d blob.Digest) ([]byte, error) {
	if ref.Registry != "" {
		m, err := h.seed.Manifest(ctx, seed.Reader{Operator: true}, ref, d.String())
		return m.Body, err
	}
	content, err := h.registry.Content(ctx, d)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	if content.Size() > largestManifest {
		return nil, fmt.Errorf("%s is of %d bytes, no manifest is larger than %d", d, content.Size(), largestManifest)
	}
	raw := make([]byte, content.Size())
	if _, err := content.ReadAt(raw, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the manifest %s: %w", d, err)
	}
	return raw, nil
}

// foreignManifest reads a manifest of another registry as somebody may who is
// logged in here.
func (h *house) foreignManifest(ctx context.Context, subject string, ref blob.Ref, reference string) (blob.Digest, []byte, error) {
	m, err := h.seed.Manifest(ctx, seed.Reader{Subject: subject}, ref, reference)
	return m.Descriptor.Digest, m.Body, err
}
