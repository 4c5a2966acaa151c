package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/profile"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
)

const (
	// initialiseEvery is how often it is looked whether there is news of hosts.
	initialiseEvery = time.Second
	// initialiseAgain is the pause before a host is told the same again, and
	// before all servers are looked at without news.
	initialiseAgain = 30 * time.Second
	// initialiseAtOnce bounds the hosts that carry out a profile side by side
	// because nobody asked for it.
	initialiseAtOnce = 256
	// claimWithin is how long a caller waits while a host is told something.
	claimWithin = 10 * time.Second
	// anything stands for a profile that a host told of and nobody ordered.
	anything = "?"
)

var (
	// errNoProfile: there is nothing that a server could be initialised by.
	errNoProfile = errors.New("its pool has no profile; set one with 'dfget pool set POOL --profile NAME'")
	// errUnderWay: one run of a profile at a time.
	errUnderWay = errors.New("its profile is being carried out right now; 'dfget server show' tells how far it is")
	// errRefusedThere is wrapped by a host's own reason.
	errRefusedThere = errors.New("the host did not take the order")
)

// Initialiser has hosts carry out the profiles of their pools: who is
// initialising applies it, everybody else hears what to look after. All that it
// remembers is who was told what; after a restart they are told again.
type Initialiser struct {
	book  *inventory.Inventory
	fleet *fleet.Fleet
	now   func() time.Time
	log   *slog.Logger

	news atomic.Bool // something about a server changed

	// Run's alone: of pools whose profile cannot be used, what was logged, and
	// when and for which lines all servers were looked at last.
	complaints map[string]string
	looked     time.Time
	lookedFor  uint64

	mu    sync.Mutex
	hosts map[string]*toldHost // guarded by mu, by peer ID
}

// toldHost is what a host was told.
type toldHost struct {
	busy  chan struct{} // holds a word while an order is under way
	told  string        // of which process, and which profile; "" for none
	later time.Time     // not before that again
}

// NewInitialiser makes one; nothing happens before Run.
func NewInitialiser(book *inventory.Inventory, hosts *fleet.Fleet, now func() time.Time, log *slog.Logger) *Initialiser {
	return &Initialiser{book: book, fleet: hosts, now: now, log: log, complaints: map[string]string{}, hosts: map[string]*toldHost{}}
}

// Run tells hosts until ctx ends.
func (i *Initialiser) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	tick := time.NewTicker(initialiseEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !i.due() {
				continue
			}
			if err := i.round(ctx, &wait); err != nil && ctx.Err() == nil {
				i.log.Error("hosts were not told their profiles; it is tried again", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Changed says that something about a server is another than before.
func (i *Initialiser) Changed() { i.news.Store(true) }

// due reports whether all servers are to be looked at: to read them every
// second would cost too much where there are thousands.
func (i *Initialiser) due() bool {
	var lines uint64 // their order does not matter
	for _, h := range i.fleet.Hosts() {
		sum := fnv.New64a()
		sum.Write([]byte(h.PeerID + "\x00" + h.Instance))
		lines += sum.Sum64()
	}
	news := i.news.Swap(false)
	if !news && lines == i.lookedFor && i.now().Sub(i.looked) < initialiseAgain {
		return false
	}
	i.looked, i.lookedFor = i.now(), lines
	return true
}

// errand is what a host is to be told without anybody's asking.
type errand int

const (
	nothing errand = iota
	look           // look after this profile
	apply          // carry it out
)

// errandFor decides. wanted and told name a profile, "" none.
func errandFor(phase inventory.Phase, wanted, told string) errand {
	switch phase {
	case inventory.Initialising:
		if wanted != "" {
			return apply
		}
	case inventory.Ready, inventory.Draining, inventory.Failed:
	default:
		return nothing
	}
	if wanted != told {
		return look
	}
	return nothing
}

func (i *Initialiser) round(ctx context.Context, wait *sync.WaitGroup) error {
	connected := map[string]fleet.Host{}
	for _, h := range i.fleet.Hosts() {
		connected[h.PeerID] = h
	}
	active, told := i.forgetGone(connected)
	pools, err := i.book.Pools(ctx, inventory.Caller{Admin: true})
	if err != nil {
		return err
	}
	profiles, some := i.profilesOf(pools)
	if !some && !told {
		return nil
	}
	servers, err := i.book.Servers(ctx, "")
	if err != nil {
		return err
	}
	for _, s := range servers {
		host, up := connected[s.PeerID]
		p, usable := profiles[s.Pool]
		if up && usable && i.send(ctx, s, host, p, active < initialiseAtOnce, wait) {
			active++
		}
	}
	return nil
}

// profilesOf are the profiles of pools, nil for a pool without one; one that
// cannot be used is left out. It reports whether there is any at all.
func (i *Initialiser) profilesOf(pools []inventory.Pool) (out map[string]*shoalv1.Profile, some bool) {
	out = map[string]*shoalv1.Profile{}
	for _, p := range pools {
		one, err := profileOf(p)
		if err != nil && !errors.Is(err, errNoProfile) {
			if said := err.Error(); i.complaints[p.Name] != said {
				i.complaints[p.Name] = said
				i.log.Error("a pool's profile cannot be used: set it anew", "pool", p.Name, "error", err)
			}
			continue
		}
		delete(i.complaints, p.Name)
		out[p.Name], some = one, some || one != nil
	}
	return out, some
}

// send tells a host what it is to be told now, if anything, and reports
// whether it did.
func (i *Initialiser) send(ctx context.Context, s inventory.Server, host fleet.Host, p *shoalv1.Profile, may bool, wait *sync.WaitGroup) bool {
	name := nameOf(host, p)
	i.mu.Lock()
	h := i.host(s.PeerID)
	what := errandFor(s.Phase, name, h.told)
	due := may && what != nothing && !i.now().Before(h.later)
	i.mu.Unlock()
	if !due {
		return false
	}
	select {
	case h.busy <- struct{}{}:
	default:
		return false
	}
	wait.Go(func() {
		defer func() { <-h.busy }()
		err := i.order(ctx, s, host, p, what == look, func(*shoalv1.ReportStepsRequest) error { return nil })
		if err != nil && ctx.Err() == nil {
			i.log.Warn("a host did not carry out its profile", "server", s.Name, "pool", s.Pool, "error", err)
		}
	})
	return true
}

// order has a host carry out a profile, or only look at its steps, and hands on
// each of its reports. The caller holds the host's busy.
func (i *Initialiser) order(ctx context.Context, s inventory.Server, host fleet.Host, p *shoalv1.Profile, dryRun bool, each func(*shoalv1.ReportStepsRequest) error) (err error) {
	defer func() {
		if !errors.Is(err, fleet.ErrNotConnected) { // one that comes back is told at once
			i.note(s.PeerID, func(h *toldHost) { h.later = i.now().Add(initialiseAgain) })
		}
	}()
	if p == nil {
		p = &shoalv1.Profile{}
	}
	order := &shoalv1.Order{What: &shoalv1.Order_ApplyProfile{ApplyProfile: &shoalv1.ApplyProfile{Profile: p, DryRun: dryRun}}}
	var refusal error
	for m, err := range i.fleet.Ask(ctx, s.PeerID, order) {
		if err != nil {
			return err
		}
		r, ok := m.(*shoalv1.ReportStepsRequest)
		if !ok {
			return fmt.Errorf("%w: it answered by a %T", errRefusedThere, m)
		}
		if r.Error != "" {
			refusal = i.refused(ctx, s, p, dryRun, r)
			continue // to the end of the answer, else the order would be cancelled
		}
		i.note(s.PeerID, func(h *toldHost) { h.told = nameOf(host, p) })
		if err := each(r); err != nil {
			return err
		}
	}
	return refusal
}

// refused notes that a host did not take its profile. One that can never do so
// has failed, until a look finds that all is well there.
func (i *Initialiser) refused(ctx context.Context, s inventory.Server, p *shoalv1.Profile, dryRun bool, r *shoalv1.ReportStepsRequest) error {
	why := fmt.Errorf("%w: %s", errRefusedThere, r.Error)
	if r.Busy || dryRun || len(p.Steps) == 0 {
		return why
	}
	_, err := i.book.Move(ctx, s.ID, []inventory.Phase{inventory.Initialising}, inventory.Failed, "step "+p.Steps[0].Name, r.Error, nil)
	if errors.Is(err, inventory.ErrPhase) {
		err = nil // a server in service stays there
	}
	return errors.Join(why, err)
}

// host is what is remembered of a host. The caller holds mu.
func (i *Initialiser) host(peerID string) *toldHost {
	h := i.hosts[peerID]
	if h == nil {
		h = &toldHost{busy: make(chan struct{}, 1)}
		i.hosts[peerID] = h
	}
	return h
}

func (i *Initialiser) note(peerID string, change func(*toldHost)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i.host(peerID))
}

// heard compares what a host looks after with what it is to look after.
func (i *Initialiser) heard(peerID, of, wanted string) {
	if of != wanted {
		i.note(peerID, func(h *toldHost) { h.told = anything })
		i.Changed()
	}
}

// forgetGone forgets what hosts were told that are not connected any more,
// counts those that are told something right now, and reports whether any looks
// after a profile.
func (i *Initialiser) forgetGone(connected map[string]fleet.Host) (active int, told bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for peerID, h := range i.hosts {
		_, up := connected[peerID]
		switch {
		case len(h.busy) > 0:
			active++
		case !up:
			delete(i.hosts, peerID)
			continue
		}
		told = told || h.told != ""
	}
	return active, told
}

// claim waits until nobody tells the host anything, and then has it for the
// caller until release.
func (i *Initialiser) claim(ctx context.Context, peerID string) (release func(), err error) {
	i.mu.Lock()
	h := i.host(peerID)
	i.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, claimWithin, errUnderWay)
	defer cancel()
	select {
	case h.busy <- struct{}{}:
		return func() { <-h.busy }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// profileOf is the profile of a pool's servers with the pool's own settings.
// The error wraps errNoProfile.
func profileOf(p inventory.Pool) (*shoalv1.Profile, error) {
	if p.Profile == "" {
		return nil, fmt.Errorf("pool %s: %w", p.Name, errNoProfile)
	}
	found, err := profile.Find(p.Profile)
	if err == nil {
		found, err = profile.With(found, p.ProfileSettings)
	}
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", p.Name, err)
	}
	return found, nil
}

// nameOf names what one process of a host is told: another one, and another
// profile, have other names. "" is no profile.
func nameOf(host fleet.Host, p *shoalv1.Profile) string {
	if p.GetName() == "" {
		return ""
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		return anything // never: it was made here
	}
	return cmp.Or(host.Instance, host.PeerID) + fmt.Sprintf(" %x", sha256.Sum256(raw))
}
