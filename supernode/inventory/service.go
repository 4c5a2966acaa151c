package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Owned finds a server and decides whether somebody may do something to its
// pool. Who may not see the pool gets the same answer as for a server that is
// not there.
func (i *Inventory) Owned(ctx context.Context, by Caller, idOrName string, right Right) (Server, error) {
	s, err := i.Server(ctx, idOrName)
	if err != nil {
		return Server{}, err
	}
	_, err = i.May(ctx, by, s.Pool, right)
	if errors.Is(err, ErrNoPool) && !by.Admin {
		return Server{}, fmt.Errorf("%.70q: %w", idOrName, ErrNoServer)
	}
	if err != nil && !errors.Is(err, ErrNoPool) { // what is left of a pool that is gone is the administrators'
		return Server{}, err
	}
	return s, nil
}

// Drain takes a server out of service, so that nothing new comes onto it, or
// puts it back.
func (i *Inventory) Drain(ctx context.Context, by Caller, idOrName string, undo bool) (Server, error) {
	s, err := i.Owned(ctx, by, idOrName, Manage)
	if err != nil {
		return Server{}, err
	}
	from, to, why := []Phase{Initialising, Ready, Draining}, Draining, "asked for by "+by.Name
	if undo {
		from, to = []Phase{Draining, Ready}, Ready
	}
	if s.Phase == to {
		return s, nil
	}
	return i.Move(ctx, s.ID, from, to, "", why, nil)
}

// Retire ends a server. It says nothing about what runs there and whether the
// host is still a member: that is the caller's to see to, before.
func (i *Inventory) Retire(ctx context.Context, by Caller, idOrName string) (Server, error) {
	s, err := i.Owned(ctx, by, idOrName, Manage)
	if err != nil || s.Phase == Retired {
		return s, err
	}
	return i.Move(ctx, s.ID, nil, Retired, "", "asked for by "+by.Name, nil)
}

// RetirePeer retires the server of a node that was turned away. One that is
// not known is none.
func (i *Inventory) RetirePeer(ctx context.Context, peerID string) error {
	id, err := i.idOfPeer(ctx, peerID)
	if err != nil || id == "" {
		return err
	}
	_, err = i.change(ctx, id, func(s *Server) (besides, error) {
		if s.Phase != Retired {
			s.enter(i.cfg.Now(), outcome{phase: Retired}, "its membership was revoked")
		}
		return besides{}, nil
	})
	if err != nil && !errors.Is(err, ErrNoServer) {
		return fmt.Errorf("retire the server of a revoked node: %w", err)
	}
	return nil
}

// SetTaint keeps containers off a server that do not tolerate the taint, or
// takes the taint away.
func (i *Inventory) SetTaint(ctx context.Context, by Caller, idOrName, taint string, remove bool) (Server, error) {
	s, err := i.Owned(ctx, by, idOrName, Manage)
	if err != nil {
		return Server{}, err
	}
	if err := checkTaints([]string{taint}); err != nil {
		return Server{}, err
	}
	return i.change(ctx, s.ID, func(s *Server) (besides, error) {
		s.Taints = slices.DeleteFunc(s.Taints, func(t string) bool { return t == taint })
		if !remove {
			s.Taints = append(s.Taints, taint)
		}
		slices.Sort(s.Taints)
		return besides{}, checkTaints(s.Taints)
	})
}

// Visible lists the servers of a pool, or of all pools for "", that somebody
// may see, by name.
func (i *Inventory) Visible(ctx context.Context, by Caller, pool string) ([]Server, error) {
	if pool != "" {
		if _, err := i.May(ctx, by, pool, View); err != nil {
			return nil, err
		}
	}
	list, err := i.Servers(ctx, pool)
	if err != nil {
		return nil, err
	}
	if pool == "" && !by.Admin {
		pools, err := i.Pools(ctx, by)
		if err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		for _, p := range pools {
			seen[p.Name] = true
		}
		list = slices.DeleteFunc(list, func(s Server) bool { return !seen[s.Pool] })
	}
	slices.SortFunc(list, func(a, b Server) int { return strings.Compare(a.Name+"\x00"+a.ID, b.Name+"\x00"+b.ID) })
	return list, nil
}
