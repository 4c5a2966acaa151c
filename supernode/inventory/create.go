package inventory

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// maxCount bounds the servers of one request.
	maxCount = 1000
	// perCommit is how many servers are written at once: each takes a record
	// and a name.
	perCommit   = 40
	maxKey      = 128 // bytes
	maxHostKey  = 4 << 10
	maxAddress  = 300
	maxUserName = 64
)

// request is a call that asked for servers, by its pool and key. It is written
// in the commit that takes the quota, before the first of the servers, so that
// what a killed supernode began is finished and never done twice.
type request struct {
	Pool     string    `json:"pool"`
	Key      string    `json:"key"`
	Count    int       `json:"count"`
	Made     int       `json:"made"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Provider string    `json:"provider"`
	// HardwareClass is the pool's at that time.
	HardwareClass string `json:"hardware_class,omitempty"`
}

func (r request) key() string { return requestPrefix + derived("request", r.Pool, r.Key) }

func (r request) id(index int) string {
	return derived("requested", r.Pool, r.Key, strconv.Itoa(index))
}

// CreateServers asks for count machines in a pool, whose admins may. The
// servers are in phase requested; who makes machines takes it from there. The
// same key gives the same servers again, and never more.
func (i *Inventory) CreateServers(ctx context.Context, by Caller, pool string, count int, key string) ([]Server, error) {
	what := fmt.Sprintf("ask for %d servers in pool %.70q", count, pool)
	p, err := i.May(ctx, by, pool, Manage)
	if err != nil {
		return nil, err
	}
	if count < 1 || count > maxCount {
		return nil, fmt.Errorf("%s: that many are %w: 1 to %d at once", what, ErrInvalid, maxCount)
	}
	if key == "" || len(key) > maxKey || !utf8.ValidString(key) {
		return nil, fmt.Errorf("%s: the key is %w: give 1 to %d bytes, the same ones to get the same servers", what, ErrInvalid, maxKey)
	}
	r := request{Pool: pool, Key: key, Count: count, By: by.Name, At: i.cfg.Now().UTC(), HardwareClass: p.HardwareClass}
	if r.Provider, err = i.providerOf(ctx, p); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if r, err = i.take(ctx, r); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := i.fulfil(ctx, r); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	out := make([]Server, 0, count)
	for n := range count {
		s, _, err := i.readServer(ctx, r.id(n))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if s != nil { // long retired ones are forgotten
			out = append(out, *s)
		}
	}
	return out, nil
}

func (i *Inventory) providerOf(ctx context.Context, p Pool) (string, error) {
	c, _, err := meta.ReadRecord[Cluster](ctx, i.cfg.Meta, clusterPrefix+p.Cluster)
	if err != nil {
		return "", err
	}
	kind := KindMetal
	if c != nil {
		kind = c.Kind
	}
	if i.cfg.ProviderFor != nil {
		return i.cfg.ProviderFor(kind)
	}
	return "", fmt.Errorf("%w here: nobody makes machines in clusters of kind %s; take in what stands with 'dfget server adopt'", ErrInvalid, kind)
}

// take books the seats of a request, or finds the one that was made before.
func (i *Inventory) take(ctx context.Context, r request) (request, error) {
	i.seating.Lock()
	defer i.seating.Unlock()
	taken := r
	err := update(ctx, i.cfg.Meta, r.key(), func(old *request) (*request, []meta.Compare, []meta.Op, error) {
		if old != nil {
			if taken = *old; old.Count != r.Count {
				return nil, nil, nil, fmt.Errorf("the key is %w for that: it asked for %d servers before; take another key for more", ErrInvalid, old.Count)
			}
			return nil, nil, nil, errUnchanged
		}
		taken = r
		compares, ops, err := i.reseat(ctx, map[string]seats{r.Pool: {Servers: r.Count}}, true)
		return &r, compares, ops, err
	})
	return taken, err
}

// fulfil writes the servers of a request down, in batches that may be repeated.
// Their seats are booked already.
func (i *Inventory) fulfil(ctx context.Context, r request) error {
	for r.Made < r.Count {
		end := min(r.Made+perCommit, r.Count)
		var fresh []Server
		err := update(ctx, i.cfg.Meta, r.key(), func(old *request) (*request, []meta.Compare, []meta.Op, error) {
			fresh = nil
			if old == nil || old.Made >= end {
				return nil, nil, nil, errUnchanged // somebody else was faster
			}
			next := *old
			next.Made = end
			var compares []meta.Compare
			var ops []meta.Op
			for n := old.Made; n < end; n++ {
				s := i.requested(r, n)
				fresh = append(fresh, s)
				record, err := meta.PutRecord(serverPrefix+s.ID, s)
				if err != nil {
					return nil, nil, nil, err
				}
				name, err := meta.PutRecord(namePrefix+s.Name, s.ID)
				if err != nil {
					return nil, nil, nil, err
				}
				compares, ops = append(compares, meta.Compare{Key: record.Key}), append(ops, record, name)
			}
			return &next, compares, ops, nil
		})
		if err != nil {
			return err
		}
		for _, s := range fresh {
			i.tellNew(ctx, s)
		}
		r.Made = end
	}
	return nil
}

func (i *Inventory) tellNew(ctx context.Context, s Server) {
	if i.cfg.OnChange == nil {
		return
	}
	lock := i.lock(s.ID)
	lock.Lock()
	defer lock.Unlock()
	i.cfg.OnChange(ctx, Server{}, s)
}

func (i *Inventory) requested(r request, index int) Server {
	now := i.cfg.Now().UTC()
	id := r.id(index)
	s := Server{
		ID: id, Name: r.Pool + "-" + id, Pool: r.Pool, Phase: Requested, Provider: r.Provider, Key: r.Key,
		HardwareClass: r.HardwareClass, Created: now, PhaseSince: now,
	}
	s.note(now, "requested: by "+r.By)
	return s
}

// Resume finishes the requests that a supernode that was killed had begun to
// write down. Call it once when it starts.
func (i *Inventory) Resume(ctx context.Context) error {
	open, err := meta.Records[request](ctx, i.cfg.Meta, requestPrefix)
	if err != nil {
		return fmt.Errorf("read which servers were asked for: %w", err)
	}
	for _, r := range open {
		if err := i.fulfil(ctx, r); err != nil {
			return fmt.Errorf("finish writing down %d servers of pool %s: %w", r.Count, r.Pool, err)
		}
	}
	return nil
}

// Adoption is a machine that stands already.
type Adoption struct {
	Pool    string
	Name    string // of one that was imported, or a new one
	Address string // host[:port]; "": the imported one's
	User    string
	HostKey string // a line of known_hosts, or SHA256:…
}

// AdoptServer takes in a machine by SSH, for an admin of the pool. The same
// name and address again give the same server.
func (i *Inventory) AdoptServer(ctx context.Context, by Caller, a Adoption) (Server, error) {
	if _, err := i.May(ctx, by, a.Pool, Manage); err != nil {
		return Server{}, err
	}
	s, err := i.adopt(ctx, by, a)
	if err != nil {
		return Server{}, fmt.Errorf("adopt server %.70q: %w", a.Name, err)
	}
	return s, nil
}

func (i *Inventory) adopt(ctx context.Context, by Caller, a Adoption) (Server, error) {
	if !hostName(a.Name) {
		return Server{}, fmt.Errorf("the name is %w: 1 to %d of letters, digits, . _ and -", ErrInvalid, maxHostname)
	}
	for range conflictTries {
		id, err := i.idOf(ctx, a.Name)
		if err != nil {
			return Server{}, err
		}
		if id != "" {
			return i.adoptKnown(ctx, by, id, a)
		}
		s, err := i.adoptNew(ctx, by, a)
		if !errors.Is(err, ErrExists) { // somebody took the name meanwhile
			return s, err
		}
	}
	return Server{}, fmt.Errorf("%w; try again", ErrExists)
}

func (i *Inventory) adoptNew(ctx context.Context, by Caller, a Adoption) (Server, error) {
	s := Server{Name: a.Name, Pool: a.Pool, Provider: ProviderSSH, Address: a.Address, User: a.User, HostKey: a.HostKey}
	if err := s.adoptable(); err != nil {
		return Server{}, err
	}
	// Drawn from the pool, the name and the moment: a name is free again when
	// its server is retired.
	now := i.cfg.Now().UTC()
	s.ID, s.Created, s.PhaseSince, s.Phase = derived("adopted", a.Pool, a.Name, strconv.FormatInt(now.UnixNano(), 10)), now, now, Requested
	s.note(now, "requested: adopted by "+by.Name)
	return s, i.insert(ctx, s)
}

// insert writes a new server down and books its seat.
func (i *Inventory) insert(ctx context.Context, s Server) error {
	lock := i.lock(s.ID)
	lock.Lock()
	defer lock.Unlock()
	for range conflictTries {
		err := i.commit(ctx, nil, s, 0, besides{room: true})
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
		if has, _, err := i.readServer(ctx, s.ID); err != nil || has != nil {
			return errors.Join(err, fmt.Errorf("server %s: %w", s.Name, ErrExists))
		}
	}
	return fmt.Errorf("write server %s: %w, %d times over; try again", s.Name, meta.ErrConflict, conflictTries)
}

func (i *Inventory) adoptKnown(ctx context.Context, by Caller, id string, a Adoption) (Server, error) {
	return i.change(ctx, id, func(s *Server) (besides, error) {
		again := s.Phase == Failed && !s.failedInStep()
		switch {
		case s.Pool != a.Pool:
			return besides{}, fmt.Errorf("%w in another pool", ErrExists)
		case s.Provider != ProviderSSH:
			return besides{}, fmt.Errorf("%w, and was not imported; take another name", ErrExists)
		case s.Phase != Imported && !again:
			if a.Address == "" || a.Address == s.Address {
				return besides{}, nil // it was adopted before
			}
			return besides{}, fmt.Errorf("%w at %s; retire that one first, or take another name", ErrExists, s.Address)
		}
		for _, to := range []struct{ field, given *string }{{&s.Address, &a.Address}, {&s.User, &a.User}, {&s.HostKey, &a.HostKey}} {
			if *to.given != "" {
				*to.field = *to.given
			}
		}
		if err := s.adoptable(); err != nil {
			return besides{}, err
		}
		s.Released = false
		s.enter(i.cfg.Now(), outcome{phase: Requested}, "adopted by "+by.Name)
		return besides{room: true}, nil
	})
}

// adoptable says what is missing to reach a machine by SSH.
func (s *Server) adoptable() error {
	if err := checkReach(s.Address, s.User, s.HostKey); err != nil {
		return err
	}
	switch {
	case s.Address == "":
		return fmt.Errorf("an adoption without an address is %w: give host[:port]", ErrInvalid)
	case s.HostKey == "":
		return fmt.Errorf("an adoption without a host key is %w: give the line of known_hosts, or the SHA256:… that 'ssh-keygen -lf' prints on the machine", ErrInvalid)
	}
	return nil
}

// checkReach bounds what is kept of how to reach a machine.
func checkReach(address, user, hostKey string) error {
	odd := func(s string) bool {
		return strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f }) || !utf8.ValidString(s) || strings.HasPrefix(s, "-")
	}
	switch {
	case len(address) > maxAddress, odd(address):
		return fmt.Errorf("the address %.70q is %w: give host[:port]", address, ErrInvalid)
	case len(user) > maxUserName, odd(user):
		return fmt.Errorf("the user %.70q is %w: at most %d bytes without spaces", user, ErrInvalid, maxUserName)
	case len(hostKey) > maxHostKey, strings.ContainsAny(hostKey, "\n\r\x00"):
		return fmt.Errorf("the host key is %w: give one line", ErrInvalid)
	}
	return nil
}
