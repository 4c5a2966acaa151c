// Package fleet knows which hosts are connected right now and gives them
// orders. Its state is soft: a host that reconnects after a restart of the
// supernode is known again.
package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// pendingOrders is how many orders may wait for a host that reads slowly.
	pendingOrders = 64
	// silence is when a host that has a line counts as gone. It asks something at
	// least every 30 s (see tracker.Client), and a line to a host without power
	// stays open for as long as the kernel hopes.
	silence = 45 * time.Second
)

// ErrNoHosts is returned when a selection leaves no host.
var ErrNoHosts = errors.New("no connected host fits")

// Host is what a host says of itself, and what its membership says of it.
type Host struct {
	PeerID    string
	Instance  string // of the process; drawn when it started
	Hostname  string
	Pool      string
	Version   string
	SwarmAddr string
	P2PAddrs  []string
}

// Selection chooses hosts. Empty fields choose all.
type Selection struct {
	Pool    string
	Servers []string // host names or peer IDs
	Count   int      // 0: all that fit
	Percent bool     // Count is a share of those that fit, rounded up
}

// Pick applies a selection to the connected hosts. A named server that is not
// connected is an error: the caller asked for it.
func (s Selection) Pick(hosts []Host) ([]Host, error) {
	var out []Host
	found := map[string]bool{}
	for _, h := range hosts {
		if s.Pool != "" && h.Pool != s.Pool {
			continue
		}
		if len(s.Servers) > 0 && !slices.Contains(s.Servers, h.Hostname) && !slices.Contains(s.Servers, h.PeerID) {
			continue
		}
		found[h.Hostname], found[h.PeerID] = true, true
		out = append(out, h)
	}
	for _, name := range s.Servers {
		if !found[name] {
			return nil, fmt.Errorf("%w: %q is not connected", ErrNoHosts, name)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: pool %q has %d of %d connected hosts", ErrNoHosts, s.Pool, 0, len(hosts))
	}
	slices.SortFunc(out, func(a, b Host) int {
		return strings.Compare(a.Hostname+a.PeerID, b.Hostname+b.PeerID)
	})
	n := s.Count
	if s.Percent {
		n = (len(out)*s.Count + 99) / 100
	}
	if n > len(out) {
		return nil, fmt.Errorf("%w: %d hosts were asked for, %d are connected", ErrNoHosts, n, len(out))
	}
	if n > 0 {
		out = out[:n]
	}
	return out, nil
}

// Update is how far one host is with one order.
type Update struct {
	Host        Host
	Done        bool
	Error       string
	Bytes, Size int64
}

// Fleet holds the lines to the hosts.
type Fleet struct {
	mu        sync.Mutex
	lines     map[string]*Line         // guarded by mu, by peer ID
	orders    map[string]chan<- Update // guarded by mu, by order ID + peer ID
	questions map[string]*question     // guarded by mu, by order ID + peer ID
	lives     map[string]*lives        // guarded by mu, by peer ID
}

// New makes an empty fleet.
func New() *Fleet {
	return &Fleet{lines: map[string]*Line{}, orders: map[string]chan<- Update{}, questions: map[string]*question{}, lives: map[string]*lives{}}
}

// Line is the open line to one host.
type Line struct {
	host   Host
	heard  time.Time // of the host, on whatever way; guarded by Fleet.mu
	orders chan *shoalv1.Order
	gone   chan struct{}
	close  func()
}

// Orders are to be sent to the host, in order.
func (l *Line) Orders() <-chan *shoalv1.Order { return l.orders }

// Gone is closed when the line was closed or a newer one took its place.
func (l *Line) Gone() <-chan struct{} { return l.gone }

// Close ends the line. Orders that the host had not answered fail.
func (l *Line) Close() { l.close() }

// Connect opens the line to a host. A host that connects again replaces its
// older line. The error wraps ErrCloned; clone names the process that was
// found to be one, "" for none.
func (f *Fleet) Connect(host Host) (l *Line, clone string, err error) {
	l = &Line{host: host, orders: make(chan *shoalv1.Order, pendingOrders), gone: make(chan struct{})}
	var once sync.Once
	l.close = func() {
		once.Do(func() {
			close(l.gone)
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.lines[host.PeerID] == l {
				delete(f.lines, host.PeerID)
			}
		})
	}
	f.mu.Lock()
	old, known := f.lines[host.PeerID], f.lives[host.PeerID]
	if known == nil {
		known = &lives{}
		f.lives[host.PeerID] = known
	}
	current := ""
	if old != nil {
		current = old.host.Instance
	}
	may, isClone := known.arrive(host.Instance, current)
	if may {
		f.lines[host.PeerID] = l
	}
	f.mu.Unlock()
	if !may {
		return nil, "", ErrCloned
	}
	if old != nil {
		old.Close()
	}
	if isClone {
		clone = current
	}
	return l, clone, nil
}

// Heard notes that a host asked or told something.
func (f *Fleet) Heard(now time.Time, peerID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.lines[peerID]; l != nil {
		l.heard = now
	}
}

// Sweep closes the lines of hosts that have been silent for too long, and names
// those hosts. Call it now and then.
func (f *Fleet) Sweep(now time.Time) []Host {
	f.mu.Lock()
	var silent []*Line
	for _, l := range f.lines {
		switch {
		case l.heard.IsZero():
			l.heard = now
		case now.Sub(l.heard) >= silence:
			silent = append(silent, l)
		}
	}
	f.mu.Unlock()
	var out []Host
	for _, l := range silent {
		l.Close()
		out = append(out, l.host)
	}
	return out
}

// Cloned lists the peers whose key a second host came with since the start.
func (f *Fleet) Cloned() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]bool{}
	for peerID, l := range f.lives {
		if len(l.refused) > 0 {
			out[peerID] = true
		}
	}
	return out
}

// Hosts lists the connected hosts.
func (f *Fleet) Hosts() []Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Host, 0, len(f.lines))
	for _, l := range f.lines {
		out = append(out, l.host)
	}
	return out
}

// Connected reports whether a host has its line open.
func (f *Fleet) Connected(peerID string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lines[peerID] != nil
}

// Tell sends an order that needs no answer to every connected host. The line
// of a host that has too many orders waiting is closed: when it comes back it
// is told how things stand.
func (f *Fleet) Tell(order *shoalv1.Order) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lines {
		select {
		case l.orders <- order:
		default:
			go l.Close() // which takes the lock
		}
	}
}

// Do gives each host the order that is written for it and sends what they
// answer to updates until all of them are done, failed or gone, or ctx ends.
// It closes nothing.
func (f *Fleet) Do(ctx context.Context, hosts []Host, write func(Host) (*shoalv1.Order, error), updates chan<- Update) {
	var wait sync.WaitGroup
	for _, h := range hosts {
		order, err := write(h)
		if err != nil {
			wait.Go(func() {
				select {
				case updates <- Update{Host: h, Done: true, Error: err.Error()}:
				case <-ctx.Done():
				}
			})
			continue
		}
		order.Id = rand.Text()
		wait.Go(func() { f.doOne(ctx, h, order, updates) })
	}
	wait.Wait()
}

func (f *Fleet) doOne(ctx context.Context, h Host, order *shoalv1.Order, updates chan<- Update) {
	answers := make(chan Update, 16)
	key := order.Id + h.PeerID
	f.mu.Lock()
	line := f.lines[h.PeerID]
	f.orders[key] = answers
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.orders, key)
	}()
	send := func(u Update) bool {
		u.Host = h
		select {
		case updates <- u:
			return !u.Done
		case <-ctx.Done():
			return false
		}
	}
	if line == nil {
		send(Update{Done: true, Error: "the host is not connected any more"})
		return
	}
	select {
	case line.orders <- order:
	default:
		send(Update{Done: true, Error: "the host has too many orders waiting"})
		return
	}
	for {
		select {
		case u := <-answers:
			if !send(u) {
				return
			}
		case <-line.gone:
			send(Update{Done: true, Error: "the host went away before it was done"})
			return
		case <-ctx.Done():
			return
		}
	}
}

// Progress takes a host's answer to an order. An answer to an order that
// nobody waits for any more is dropped.
func (f *Fleet) Progress(ctx context.Context, peerID, orderID string, u Update) {
	f.mu.Lock()
	answers := f.orders[orderID+peerID]
	f.mu.Unlock()
	if answers == nil {
		return
	}
	if !u.Done {
		select {
		case answers <- u:
		default: // a newer figure follows
		}
		return
	}
	select {
	case answers <- u:
	case <-ctx.Done():
	}
}
