package inventory

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// maxImported bounds the imported servers of one pool: they are in no quota, and
// each costs room and time.
const maxImported = 10_000

// ImportServers writes down machines that stand already, from a list, for an
// admin of the pool. They are in phase imported: nothing is done to them until
// each is adopted. It returns what was taken, and says of the rest why not. A
// name that is there already stays as it is, so a list may be read again. A dry
// run writes nothing.
func (i *Inventory) ImportServers(ctx context.Context, by Caller, pool, format, content string, dryRun bool) ([]Server, []string, error) {
	p, err := i.May(ctx, by, pool, Manage)
	if err != nil {
		return nil, nil, err
	}
	if p.Created.IsZero() {
		return nil, nil, errUnmade
	}
	found, wrong, err := readList(format, content)
	if err != nil {
		return nil, nil, fmt.Errorf("import servers: %w", err)
	}
	var out []Server
	for _, e := range found {
		has, err := i.idOf(ctx, e.name)
		if err != nil {
			return nil, nil, fmt.Errorf("import server %s: %w", e.name, err)
		}
		if has != "" {
			wrong.add(e.line, "there is a server %s already; it stays as it is", e.name)
			continue
		}
		s := i.imported(by, pool, e)
		if !dryRun {
			switch err = i.insert(ctx, s); {
			case errors.Is(err, ErrExists):
				wrong.add(e.line, "there is a server %s already; it stays as it is", e.name)
				continue
			case err != nil:
				return nil, nil, fmt.Errorf("import server %s: %w", e.name, err)
			}
		}
		out = append(out, s)
	}
	return out, wrong.lines(), nil
}

func (i *Inventory) imported(by Caller, pool string, e entry) Server {
	now := i.cfg.Now().UTC()
	s := Server{
		ID: derived("imported", pool, e.name, strconv.FormatInt(now.UnixNano(), 10)), Name: e.name, Pool: pool, Phase: Imported, Provider: ProviderSSH,
		Released: true, Address: e.address, User: e.user, HostKey: e.hostKey, HardwareClass: e.hardwareClass, Created: now, PhaseSince: now,
	}
	s.note(now, "imported: by "+by.Name)
	return s
}
