package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/supernode/meta"
)

// poolPrefix is followed by project/pool.
const poolPrefix = "auth/pool/"

// PoolGrant lets every host of a pool, and so whoever may use such a host,
// pull the images of a project without a login.
type PoolGrant struct {
	Project string    `json:"project"`
	Pool    string    `json:"pool"`
	Since   time.Time `json:"since"`
	By      string    `json:"by"`
}

// GrantPool gives a pool's hosts a right of their own to pull from a project.
// Its admins decide.
func (a *Auth) GrantPool(ctx context.Context, by User, project, pool string) error {
	if pool == "" || !poolName(pool) {
		return fmt.Errorf("the pool's name %.70q is %w: 1 to %d of a-z, 0-9, - and .", pool, ErrInvalid, maxPool)
	}
	err := a.changeProject(ctx, by, project, manageProject, func(*Project) (edit, error) {
		had, err := a.poolProjects(ctx, pool)
		if err != nil {
			return edit{}, err
		}
		if len(had) >= identity.MaxProjects {
			return edit{}, fmt.Errorf("pool %s has %d projects, more are %w: a membership holds no more", pool, len(had), ErrInvalid)
		}
		data, err := json.Marshal(PoolGrant{Project: project, Pool: pool, Since: a.cfg.Now().UTC(), By: by.Name})
		if err != nil {
			return edit{}, fmt.Errorf("encode a pool's right: %w", err)
		}
		return edit{ops: []meta.Op{meta.Put(poolPrefix+project+"/"+pool, data)}, pools: true}, nil
	})
	if err != nil {
		return fmt.Errorf("grant project %q to pool %q: %w", project, pool, err)
	}
	return nil
}

// RevokePool takes that right away. A right that is not there is none.
func (a *Auth) RevokePool(ctx context.Context, by User, project, pool string) error {
	if !poolName(pool) {
		return fmt.Errorf("the pool's name %.70q is %w", pool, ErrInvalid)
	}
	err := a.changeProject(ctx, by, project, manageProject, func(*Project) (edit, error) {
		return edit{ops: []meta.Op{meta.Delete(poolPrefix + project + "/" + pool)}, pools: true}, nil
	})
	if err != nil {
		return fmt.Errorf("take project %q from pool %q: %w", project, pool, err)
	}
	return nil
}

// PoolGrants lists the pools that a project was granted to, by name, for its
// members and system administrators.
func (a *Auth) PoolGrants(ctx context.Context, by User, project string) ([]PoolGrant, error) {
	if _, err := a.allowed(ctx, by, project, seeMembers); err != nil {
		return nil, fmt.Errorf("pools of project %q: %w", project, err)
	}
	list, err := meta.Records[PoolGrant](ctx, a.cfg.Meta, poolPrefix+project+"/")
	if err != nil {
		return nil, fmt.Errorf("pools of project %s: %w", project, err)
	}
	return list, nil
}

// poolProjects are the projects that were granted to a pool, by name.
func (a *Auth) poolProjects(ctx context.Context, pool string) ([]string, error) {
	if pool == "" {
		return nil, nil
	}
	all, err := meta.Records[PoolGrant](ctx, a.cfg.Meta, poolPrefix)
	if err != nil {
		return nil, fmt.Errorf("read what pool %s may pull: %w", pool, err)
	}
	var out []string
	for _, g := range all {
		if g.Pool == pool {
			out = append(out, g.Project)
		}
	}
	return out, nil
}

// poolMay reports whether a project was granted to a pool.
func (a *Auth) poolMay(ctx context.Context, project, pool string) (bool, error) {
	if pool == "" {
		return false, nil
	}
	g, _, err := meta.ReadRecord[PoolGrant](ctx, a.cfg.Meta, poolPrefix+project+"/"+pool)
	if err != nil {
		return false, fmt.Errorf("look up what pool %s may pull: %w", pool, err)
	}
	return g != nil, nil
}
