package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	maxLog  = 100 // lines
	maxLine = 300 // bytes
	// joined is the provider of a server that nobody made: its host came with
	// a join token.
	joined = "joined"
	// ProviderSSH is that of a machine that was adopted.
	ProviderSSH = "ssh"
)

// Server is a machine, asked for, there, or gone.
type Server struct {
	ID    string `json:"id"`
	Name  string `json:"name"` // no other server that is not retired has it
	Pool  string `json:"pool"`
	Phase Phase  `json:"phase"`
	// FailedAt and Reason are of a failed one: in which phase or step, and what
	// was said.
	FailedAt string `json:"failed_at,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Provider names who makes the machine and takes it back, and ProviderID
	// the machine there. Released says that the provider has nothing of it any
	// more; it is the provisioner's to say.
	Provider   string `json:"provider"`
	ProviderID string `json:"provider_id,omitempty"`
	Released   bool   `json:"released,omitempty"`
	// Key is what the server was asked for by; "" for one that was not.
	Key           string    `json:"key,omitempty"`
	Address       string    `json:"address,omitempty"`  // host[:port], for SSH
	User          string    `json:"user,omitempty"`     // for SSH
	HostKey       string    `json:"host_key,omitempty"` // one line of known_hosts, or SHA256:…
	HardwareClass string    `json:"hardware_class,omitempty"`
	PeerID        string    `json:"peer_id,omitempty"` // "": it has not arrived
	Hostname      string    `json:"hostname,omitempty"`
	Taints        []string  `json:"taints,omitempty"`
	Created       time.Time `json:"created"`
	PhaseSince    time.Time `json:"phase_since"`
	// LastSeen is when the host's line was opened or closed last.
	LastSeen time.Time `json:"last_seen,omitzero"`
	// Log is what happened, the newest last; at most 100 lines.
	Log []string `json:"log,omitempty"`

	// Facts are what the host told of itself, nil before it did.
	Facts *shoalv1.Facts `json:"-"`
	// Steps is how it stands to its pool's profile; of Inventory.Server alone,
	// since a list of servers would be long with them.
	Steps []*shoalv1.StepStatus `json:"-"`
}

// Joined reports whether the host came by itself.
func (s *Server) Joined() bool { return s.Provider == joined }

func (s *Server) clone() Server {
	c := *s
	c.Taints, c.Log = slices.Clone(s.Taints), slices.Clone(s.Log)
	return c
}

// note adds a line to the log.
func (s *Server) note(now time.Time, line string) {
	line = strings.ToValidUTF8(line, "?")
	if len(line) > maxLine {
		line = strings.ToValidUTF8(line[:maxLine], "") + "…"
	}
	s.Log = append(s.Log, now.UTC().Format(time.RFC3339)+" "+strings.ReplaceAll(line, "\n", " "))
	s.Log = slices.Clone(s.Log[max(0, len(s.Log)-maxLog):])
}

// enter puts the server into a phase; why may be empty.
func (s *Server) enter(now time.Time, as outcome, why string) {
	line := string(as.phase)
	if as.at != "" {
		line += " at " + as.at
	}
	if said := strings.TrimSpace(as.reason + " " + why); said != "" {
		line += ": " + said
	}
	if s.Phase != as.phase || as.at != s.FailedAt || as.reason != s.Reason || why != "" {
		s.note(now, line)
	}
	if s.Phase != as.phase {
		s.PhaseSince = now.UTC()
	}
	s.Phase, s.FailedAt, s.Reason = as.phase, as.at, as.reason
}

// seats counts the servers of a pool. It is written with every server that
// comes or goes, so that a quota can be compared in that very commit.
type seats struct {
	Servers  int `json:"servers"`
	Imported int `json:"imported,omitempty"`
}

func (s *seats) add(p Phase, n int) {
	switch {
	case p == Imported:
		s.Imported += n
	case p.seated():
		s.Servers += n
	}
}

func (i *Inventory) seatsOf(ctx context.Context, pool string) (seats, meta.Compare, error) {
	s, revision, err := meta.ReadRecord[seats](ctx, i.cfg.Meta, seatsPrefix+pool)
	if s == nil {
		s = &seats{}
	}
	return *s, meta.Compare{Key: seatsPrefix + pool, Revision: revision}, err
}

// readServer returns nil for one that is not there.
func (i *Inventory) readServer(ctx context.Context, id string) (*Server, meta.Revision, error) {
	if id == "" || len(id) > maxName || strings.Contains(id, "/") {
		return nil, 0, nil
	}
	s, revision, err := meta.ReadRecord[Server](ctx, i.cfg.Meta, serverPrefix+id)
	if err != nil || s == nil {
		return nil, 0, err
	}
	s.Facts, err = i.readFacts(ctx, id)
	return s, revision, err
}

func (i *Inventory) readFacts(ctx context.Context, id string) (*shoalv1.Facts, error) {
	v, err := i.cfg.Meta.Get(ctx, factsPrefix+id)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodedFacts(v)
}

func decodedFacts(v meta.Value) (*shoalv1.Facts, error) {
	f := &shoalv1.Facts{}
	if err := proto.Unmarshal(v.Data, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", v.Key, err)
	}
	return f, nil
}

// idOf finds a server by its ID or name; "" for none.
func (i *Inventory) idOf(ctx context.Context, idOrName string) (string, error) {
	if !plainWord(idOrName) && !hostName(idOrName) {
		return "", nil
	}
	s, _, err := i.readServer(ctx, idOrName)
	if err != nil || s != nil {
		return idOrName, err
	}
	id, _, err := meta.ReadRecord[string](ctx, i.cfg.Meta, namePrefix+idOrName)
	if err != nil || id == nil {
		return "", err
	}
	return *id, nil
}

// Server returns one by its ID or name, with its steps, for who asked May
// before. The error wraps ErrNoServer.
func (i *Inventory) Server(ctx context.Context, idOrName string) (Server, error) {
	id, err := i.idOf(ctx, idOrName)
	if err != nil {
		return Server{}, fmt.Errorf("look a server up: %w", err)
	}
	s, _, err := i.readServer(ctx, id)
	if err != nil {
		return Server{}, fmt.Errorf("look server %s up: %w", id, err)
	}
	if s == nil {
		return Server{}, fmt.Errorf("%.70q: %w", idOrName, ErrNoServer)
	}
	told, err := i.readReport(ctx, id)
	if err != nil {
		return Server{}, fmt.Errorf("look server %s up: %w", id, err)
	}
	s.Steps = told.steps
	return *s, nil
}

// Servers lists the servers of a pool, or of all for "", by ID, without their
// steps: those that are retired too. For who asked May before.
func (i *Inventory) Servers(ctx context.Context, pool string) ([]Server, error) {
	facts := map[string]*shoalv1.Facts{}
	for v, err := range meta.Scan(ctx, i.cfg.Meta, factsPrefix) {
		if err == nil {
			facts[v.Key[len(factsPrefix):]], err = decodedFacts(v)
		}
		if err != nil {
			return nil, fmt.Errorf("list servers: %w", err)
		}
	}
	list, err := meta.Records[Server](ctx, i.cfg.Meta, serverPrefix)
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	list = slices.DeleteFunc(list, func(s Server) bool { return pool != "" && s.Pool != pool })
	for n := range list {
		list[n].Facts = facts[list[n].ID]
	}
	return list, nil
}

func (i *Inventory) idOfPeer(ctx context.Context, peerID string) (string, error) {
	if peerID == "" {
		return "", nil
	}
	id, _, err := meta.ReadRecord[string](ctx, i.cfg.Meta, peerPrefix+peerID)
	if err != nil || id == nil {
		return "", err
	}
	return *id, nil
}

// besides is what is committed together with a server.
type besides struct {
	ops []meta.Op
	// room has the quota looked at, when the server takes a seat that is not
	// booked yet.
	room bool
}

// change is the one way in which a server that is there changes. edit makes
// the changes, in a copy, and returns what is to be committed with them; it may
// be called again when somebody else wrote in between.
func (i *Inventory) change(ctx context.Context, id string, edit func(*Server) (besides, error)) (Server, error) {
	lock := i.lock(id)
	lock.Lock()
	defer lock.Unlock()
	for range conflictTries {
		before, revision, err := i.readServer(ctx, id)
		if err != nil {
			return Server{}, err
		}
		if before == nil {
			return Server{}, fmt.Errorf("%.70q: %w", id, ErrNoServer)
		}
		after := before.clone()
		extra, err := edit(&after)
		if err != nil {
			return *before, err
		}
		if err := checkMove(before.Name, before.Phase, after.Phase); err != nil {
			return *before, err
		}
		err = i.commit(ctx, before, after, revision, extra)
		if err == nil || !errors.Is(err, meta.ErrConflict) {
			return after, err
		}
	}
	return Server{}, fmt.Errorf("change server %s: %w, %d times over; try again", id, meta.ErrConflict, conflictTries)
}

// commit writes a server, new where before is nil, with all that is kept
// beside it, and tells OnChange. The caller holds the server's lock.
func (i *Inventory) commit(ctx context.Context, before *Server, after Server, revision meta.Revision, extra besides) error {
	old := Server{}
	if before != nil {
		old = *before
	}
	if before != nil && len(extra.ops) == 0 && same(old, after) {
		return nil
	}
	if err := i.write(ctx, old, after, revision, extra); err != nil {
		return err
	}
	if old.Phase != after.Phase {
		i.cfg.Log.InfoContext(ctx, "a server changed", "server", after.Name, "id", after.ID, "pool", after.Pool, "from", old.Phase, "to", after.Phase, "reason", after.Reason)
	}
	if i.cfg.OnChange != nil {
		i.cfg.OnChange(ctx, old, after)
	}
	return nil
}

func (i *Inventory) write(ctx context.Context, old, after Server, revision meta.Revision, extra besides) error {
	record, err := meta.PutRecord(serverPrefix+after.ID, after)
	if err != nil {
		return err
	}
	compares, ops := []meta.Compare{{Key: serverPrefix + after.ID, Revision: revision}}, append(slices.Clone(extra.ops), record)
	if !proto.Equal(old.Facts, after.Facts) {
		raw, err := proto.Marshal(after.Facts)
		if err != nil {
			return fmt.Errorf("encode the facts of %s: %w", after.ID, err)
		}
		ops = append(ops, meta.Put(factsPrefix+after.ID, raw))
	}
	if moves := seatsMoved(old, after); len(moves) > 0 {
		i.seating.Lock()
		defer i.seating.Unlock()
		c, o, err := i.reseat(ctx, moves, extra.room)
		if err != nil {
			return err
		}
		compares, ops = append(compares, c...), append(ops, o...)
	}
	for _, add := range []func(context.Context, Server, Server) ([]meta.Compare, []meta.Op, error){i.rename, i.rebind} {
		c, o, err := add(ctx, old, after)
		if err != nil {
			return err
		}
		compares, ops = append(compares, c...), append(ops, o...)
	}
	_, err = i.cfg.Meta.Commit(ctx, compares, ops)
	return err
}

func same(a, b Server) bool {
	facts := proto.Equal(a.Facts, b.Facts)
	a.Facts, b.Facts = nil, nil
	return facts && reflect.DeepEqual(a, b)
}

// seatsMoved is by how much the seats of each pool change; empty for a change
// that moves none.
func seatsMoved(old, after Server) map[string]seats {
	moves := map[string]seats{}
	count := func(s Server, n int) {
		m := moves[s.Pool]
		m.add(s.Phase, n)
		moves[s.Pool] = m
	}
	if old.ID != "" {
		count(old, -1)
	}
	count(after, 1)
	maps.DeleteFunc(moves, func(_ string, m seats) bool { return m == seats{} })
	return moves
}

// reseat counts servers where they are now. The caller holds seating: else a
// crowd of hosts that joins one pool would have most of its commits refused.
func (i *Inventory) reseat(ctx context.Context, moves map[string]seats, room bool) (compares []meta.Compare, ops []meta.Op, err error) {
	for pool, by := range moves {
		has, compare, err := i.seatsOf(ctx, pool)
		if err != nil {
			return nil, nil, err
		}
		if room && by.Servers > 0 {
			quota, err := i.within(ctx, pool, has.Servers+by.Servers)
			if err != nil {
				return nil, nil, err
			}
			compares = append(compares, quota)
		}
		if room && by.Imported > 0 && has.Imported+by.Imported > maxImported {
			return nil, nil, fmt.Errorf("%w: it holds %d imported servers; adopt or retire some", ErrQuota, has.Imported)
		}
		has.Servers += by.Servers
		has.Imported += by.Imported
		write, err := meta.PutRecord(seatsPrefix+pool, has)
		if err != nil {
			return nil, nil, err
		}
		compares, ops = append(compares, compare), append(ops, write)
	}
	return compares, ops, nil
}

// within sees that a pool's quota lets it have so many servers, and makes the
// compare by which that still holds in the commit.
func (i *Inventory) within(ctx context.Context, pool string, servers int) (meta.Compare, error) {
	p, revision, err := meta.ReadRecord[Pool](ctx, i.cfg.Meta, poolPrefix+pool)
	compare := meta.Compare{Key: poolPrefix + pool, Revision: revision}
	switch {
	case err != nil:
		return compare, err
	case p == nil:
		return compare, errUnmade
	}
	if limit := int(p.Quota.Servers); limit > 0 && servers > limit {
		return compare, fmt.Errorf("%w: it would have %d servers of %d; retire some, or ask a system administrator for more", ErrQuota, servers, limit)
	}
	return compare, nil
}

// rename keeps names unique among servers that are not retired.
func (i *Inventory) rename(ctx context.Context, old, after Server) (compares []meta.Compare, ops []meta.Op, err error) {
	had, has := "", ""
	if old.ID != "" && old.Phase != Retired {
		had = old.Name
	}
	if after.Phase != Retired {
		has = after.Name
	}
	if had == has {
		return nil, nil, nil
	}
	if had != "" {
		ops = append(ops, meta.Delete(namePrefix+had))
	}
	if has != "" {
		id, revision, err := meta.ReadRecord[string](ctx, i.cfg.Meta, namePrefix+has)
		if err != nil {
			return nil, nil, err
		}
		if id != nil && *id != after.ID {
			return nil, nil, fmt.Errorf("server %s: %w", has, ErrExists)
		}
		write, err := meta.PutRecord(namePrefix+has, after.ID)
		if err != nil {
			return nil, nil, err
		}
		compares, ops = append(compares, meta.Compare{Key: namePrefix + has, Revision: revision}), append(ops, write)
	}
	return compares, ops, nil
}

// rebind keeps which server a peer is.
func (i *Inventory) rebind(ctx context.Context, old, after Server) ([]meta.Compare, []meta.Op, error) {
	if old.PeerID == after.PeerID && old.ID != "" {
		return nil, nil, nil
	}
	var ops []meta.Op
	if old.PeerID != "" && old.PeerID != after.PeerID {
		id, err := i.idOfPeer(ctx, old.PeerID)
		if err != nil {
			return nil, nil, err
		}
		if id == after.ID {
			ops = append(ops, meta.Delete(peerPrefix+old.PeerID))
		}
	}
	if after.PeerID != "" {
		write, err := meta.PutRecord(peerPrefix+after.PeerID, after.ID)
		if err != nil {
			return nil, nil, err
		}
		ops = append(ops, write)
	}
	return nil, ops, nil
}

// Move puts a server that is in one of the phases from, none meaning any, into
// another, or lets it stay, with what edit changes beside it; edit may be nil,
// and may be called more than once. For a failure, at says in which phase or
// step it was; reason goes to the server's log. The error wraps ErrPhase or
// ErrNoServer.
func (i *Inventory) Move(ctx context.Context, id string, from []Phase, to Phase, at, reason string, edit func(*Server)) (Server, error) {
	return i.change(ctx, id, func(s *Server) (besides, error) {
		if len(from) > 0 && !slices.Contains(from, s.Phase) {
			return besides{}, fmt.Errorf("server %s is %s, not %s: %w", s.Name, s.Phase, wordsOf(from), ErrPhase)
		}
		as, why := outcome{phase: to}, reason
		if to == Failed {
			as, why = outcome{Failed, at, reason}, ""
		}
		s.enter(i.cfg.Now(), as, why)
		if edit != nil {
			edit(s)
		}
		return besides{}, nil
	})
}

func wordsOf(list []Phase) string {
	words := make([]string, len(list))
	for n, p := range list {
		words[n] = string(p)
	}
	return strings.Join(words, " or ")
}
