package inventory

import (
	"context"
	"fmt"
)

// Note changes what is kept of a server beside its phase, and adds a line to
// its log unless that is empty. edit may be nil, and may be called more than
// once. The error wraps ErrNoServer.
func (i *Inventory) Note(ctx context.Context, id, line string, edit func(*Server)) (Server, error) {
	s, err := i.change(ctx, id, func(s *Server) (besides, error) {
		if line != "" {
			s.note(i.cfg.Now(), line)
		}
		if edit != nil {
			edit(s)
		}
		return besides{}, nil
	})
	if err != nil {
		return s, fmt.Errorf("note something of server %s: %w", id, err)
	}
	return s, nil
}
