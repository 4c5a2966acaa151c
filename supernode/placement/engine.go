package placement

import (
	"context"
	"errors"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// ErrUnreachable is wrapped by an Engine when a host cannot be spoken to now.
var ErrUnreachable = errors.New("the host cannot be reached")

// Engine is what hosts are reached through. How containers fare comes back by
// Runner.Report. Package placementtest holds what every engine has to do.
type Engine interface {
	// Prepull brings a service's image onto a host and returns when all of it is
	// there, verified and unpacked, so that a start needs no byte more. progress
	// may be called from another goroutine, until Prepull returns.
	Prepull(ctx context.Context, host Host, service Service, progress func(done, total int64)) error
	// Assign tells a host all that it is to run. A host that has a newer
	// generation ignores it; the same one again changes nothing.
	Assign(ctx context.Context, host Host, desired *shoalv1.Desired) error
	// Logs hands what a container wrote to write, piece by piece, from its last
	// tail lines (0: all that is kept) on; with follow, until ctx ends or write
	// fails. A host that knows nothing of the container says so by an error.
	Logs(ctx context.Context, host Host, container string, tail int, follow bool, write func([]byte) error) error
}

// Image is what is known of an image before anybody fetches it.
type Image struct {
	Platforms []string
	Parts     []Part
}

// World is what a Runner knows of hosts and images. Each is asked anew when
// something is decided.
type World interface {
	// Hosts lists all servers of a pool, or of all pools for "", those that are
	// away too; Holds and Unpacked say how they stand to the image, when one is
	// named.
	Hosts(ctx context.Context, pool string, image *Image, service *Service) ([]Host, error)
	// Host looks one server up, whatever its pool; nil is one that is not there.
	// It is for what is done for each of many servers.
	Host(ctx context.Context, server string) (*Host, error)
	// Quota is what the containers of a pool may take together; 0 is no limit.
	Quota(ctx context.Context, pool string) (Need, error)
	// Image describes an image. What cannot be found out is left empty.
	Image(ctx context.Context, service Service) (Image, error)
}
