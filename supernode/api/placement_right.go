package api

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/placement"
)

// hiddenPlacement is the answer about a placement in a pool that somebody may
// not see: the words are those for one that is not there.
type hiddenPlacement struct{ error }

// Unwrap makes it a refusal for the audit.
func (h hiddenPlacement) Unwrap() []error { return []error{h.error, inventory.ErrNoPool} }

// mayPlace decides whether the caller may have an image run in a pool: by the
// right to pull the image and by the right to deploy on the pool, both of which
// stand in the call's row of the audit. The image is returned with its digest.
func (s placementService) mayPlace(ctx context.Context, pool string, image blob.Image) (blob.Image, inventory.Pool, error) {
	of, deploy := s.Inventory.May(ctx, inventoryCaller(ctx), pool, inventory.Deploy)
	image, pull := s.mayPull(ctx, image)
	say(ctx, "pool", pool)
	say(ctx, "deploy", yesNo(deploy))
	say(ctx, "pull", yesNo(pull))
	if image.Registry == "" && pull == nil {
		say(ctx, "project", projectOfRepository(image.Repository))
	}
	if deploy != nil {
		return image, of, deploy
	}
	return image, of, pull
}

func yesNo(err error) string {
	if err != nil {
		return "no"
	}
	return "yes"
}

// mayPull resolves an image and decides whether the caller may pull it. Who may
// not read a project hears the same as if it were not there.
func (s placementService) mayPull(ctx context.Context, image blob.Image) (blob.Image, error) {
	if slices.Contains(s.Registry.PublicNames, image.Registry) {
		image.Registry = ""
	}
	if image.Registry != "" { // that registry decides, by what it lets this reader have
		d, _, err := s.Foreign(ctx, userOf(ctx).Name, image.Ref, image.Reference())
		if image.Digest == "" {
			image.Digest = d
		}
		return image, err
	}
	may, err := s.Auth.ReadableBy(ctx, userOf(ctx).User)(image.Repository)
	if err != nil {
		return image, err
	}
	if !may {
		return image, fmt.Errorf("the image %s: %w", image.Repository, auth.ErrNoProject)
	}
	if image.Digest == "" {
		record, err := s.Registry.TagRecord(ctx, image.Repository, image.Tag)
		if err != nil {
			return image, fmt.Errorf("resolve %s:%s: %w", image.Repository, image.Tag, err)
		}
		image.Digest = record.Digest
		return image, nil
	}
	holds, err := s.Registry.Holds(ctx, image.Repository, image.Digest)
	if err == nil && !holds {
		err = connect.NewError(connect.CodeNotFound, fmt.Errorf("the repository %s holds no %s", image.Repository, image.Digest))
	}
	return image, err
}

// find is a placement that the caller may do something to: see it, or deploy
// on its pool.
func (s placementService) find(ctx context.Context, name string, right inventory.Right) (placement.View, error) {
	v, err := s.Placements.Look(ctx, name)
	if err != nil {
		return v, coded(err)
	}
	say(ctx, "pool", v.Pool)
	if v.Project != "" {
		say(ctx, "project", v.Project)
	}
	_, err = s.Inventory.May(ctx, inventoryCaller(ctx), v.Pool, right)
	if errors.Is(err, inventory.ErrNoPool) {
		return v, coded(hiddenPlacement{fmt.Errorf("%w: %q", placement.ErrNotFound, name)})
	}
	if err != nil {
		return v, coded(err)
	}
	return v, nil
}

// findToPlace is find for a change by which an image is started anew: it needs
// the right to pull it as well.
func (s placementService) findToPlace(ctx context.Context, name string) (placement.View, error) {
	v, err := s.find(ctx, name, inventory.Deploy)
	if err != nil {
		return v, err
	}
	if n := len(v.Revisions); n > 0 {
		if _, _, err := s.mayPlace(ctx, v.Pool, v.Revisions[n-1].Service.Image); err != nil {
			return v, coded(err)
		}
	}
	return v, nil
}
