package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

// The kinds of clusters.
const (
	KindMetal      = "metal"
	KindOpenStack  = "openstack"
	KindEC2        = "ec2"
	KindKubernetes = "kubernetes"
)

var kinds = []string{KindMetal, KindOpenStack, KindEC2, KindKubernetes}

const (
	maxName        = 63   // bytes of a name
	maxDescription = 1024 // bytes
	maxClusters    = 100
	maxPools       = 1000
)

// Cluster is where pools are: machines that are had in one way.
type Cluster struct {
	Name        string    `json:"name"`
	Kind        string    `json:"kind"`
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`
	// Pools counts those in it, so that none can be made while it goes.
	Pools int `json:"pools"`
}

// wellNamed reports whether a cluster or a pool may have this name: what a
// pool's name may be in a join token, and not empty.
func wellNamed(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
	})
}

func badName(what, name string) error {
	return fmt.Errorf("the %s's name %.70q is %w: 1 to %d of a-z, 0-9, - and .", what, name, ErrInvalid, maxName)
}

func govern(by Caller, what string) error {
	if by.Admin {
		return nil
	}
	return fmt.Errorf("%w: only system administrators %s", ErrDenied, what)
}

// AddCluster makes a cluster. Only system administrators may.
func (i *Inventory) AddCluster(ctx context.Context, by Caller, name, kind, description string) (Cluster, error) {
	switch {
	case !by.Admin:
		return Cluster{}, govern(by, "add clusters")
	case !wellNamed(name):
		return Cluster{}, badName("cluster", name)
	case !slices.Contains(kinds, kind):
		return Cluster{}, fmt.Errorf("the kind %.40q is %w: give one of %s", kind, ErrInvalid, strings.Join(kinds, ", "))
	case len(description) > maxDescription:
		return Cluster{}, fmt.Errorf("a description of %d bytes is %w: at most %d are kept", len(description), ErrInvalid, maxDescription)
	}
	have, err := i.Clusters(ctx)
	if err != nil {
		return Cluster{}, err
	}
	if len(have) >= maxClusters {
		return Cluster{}, fmt.Errorf("%d clusters are enough: more are %w", len(have), ErrInvalid)
	}
	c := Cluster{Name: name, Kind: kind, Description: description, Created: i.cfg.Now().UTC()}
	err = update(ctx, i.cfg.Meta, clusterPrefix+name, func(old *Cluster) (*Cluster, []meta.Compare, []meta.Op, error) {
		if old != nil {
			return nil, nil, nil, ErrExists
		}
		return &c, nil, nil, nil
	})
	if err != nil {
		return Cluster{}, fmt.Errorf("add cluster %s: %w", name, err)
	}
	return c, nil
}

// RemoveCluster takes out one without pools. Only system administrators may.
func (i *Inventory) RemoveCluster(ctx context.Context, by Caller, name string) error {
	if err := govern(by, "remove clusters"); err != nil {
		return err
	}
	if !wellNamed(name) {
		return badName("cluster", name)
	}
	err := update(ctx, i.cfg.Meta, clusterPrefix+name, func(old *Cluster) (*Cluster, []meta.Compare, []meta.Op, error) {
		switch {
		case old == nil:
			return nil, nil, nil, ErrNoCluster
		case old.Pools > 0:
			return nil, nil, nil, fmt.Errorf("%w: %d pools are in it; delete them first", ErrHolds, old.Pools)
		}
		return nil, nil, nil, nil
	})
	if err != nil {
		return fmt.Errorf("remove cluster %s: %w", name, err)
	}
	return nil
}

// Clusters lists them by name. Everybody who is logged in may see them.
func (i *Inventory) Clusters(ctx context.Context) ([]Cluster, error) {
	out, err := meta.Records[Cluster](ctx, i.cfg.Meta, clusterPrefix)
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	return out, nil
}
