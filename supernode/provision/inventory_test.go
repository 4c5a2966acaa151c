package provision_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/provision"
)

// book is the inventory's twin: what survives a supernode.
type book struct {
	mu      sync.Mutex
	servers map[string]*provision.Server // guarded by mu
	reasons map[string]string            // guarded by mu: why a server failed
	notes   map[string][]string          // guarded by mu
	done    map[string]bool              // guarded by mu: retired, and without a machine
	tokens  int                          // guarded by mu
}

func newBook(n int) *book {
	b := &book{servers: map[string]*provision.Server{}, reasons: map[string]string{}, notes: map[string][]string{}, done: map[string]bool{}}
	for i := range n {
		id := fmt.Sprintf("s%03d", i)
		b.servers[id] = &provision.Server{ID: id, Phase: provision.Requested, PhaseSince: time.Now()}
	}
	return b
}

func (b *book) Managed(context.Context) (out []provision.Server, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.servers {
		if !b.done[s.ID] {
			out = append(out, *s)
		}
	}
	return out, nil
}

// move is the compare-and-set that the real inventory does.
func (b *book) move(id string, to provision.Phase, from ...provision.Phase) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.servers[id]
	switch {
	case s == nil:
		return errors.New("no such server")
	case s.Phase == to:
		return nil
	case !slices.Contains(from, s.Phase):
		return fmt.Errorf("it is %s: %w", s.Phase, provision.ErrChanged)
	}
	s.Phase, s.PhaseSince = to, time.Now()
	return nil
}

func (b *book) Intend(_ context.Context, id string) error {
	return b.move(id, provision.Provisioning, provision.Requested)
}

func (b *book) Made(_ context.Context, id string, m provision.Machine) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers[id].MachineID = m.ID
	return nil
}

func (b *book) Gone(_ context.Context, id, machineID string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.servers[id].MachineID == machineID {
		b.servers[id].MachineID = ""
		b.done[id] = b.servers[id].Phase == provision.Retired
	}
	return nil
}

func (b *book) Fail(_ context.Context, id, at, reason string) error {
	err := b.move(id, provision.Failed, provision.Requested, provision.Provisioning, provision.Initialising, provision.Ready, provision.Draining)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.reasons[id] = at + ": " + reason
	}
	return err
}

func (b *book) Note(_ context.Context, id, line string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes[id] = append(b.notes[id], line)
	return nil
}

func (b *book) Join(_ context.Context, id string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens++
	return "token for " + id, nil
}

// arrive is what happens when an agent joins: it is the server's first sign.
func (b *book) arrive(id string) {
	_ = b.move(id, provision.Ready, provision.Requested, provision.Provisioning, provision.Failed) // retired meanwhile
}

// retire is what an administrator does.
func (b *book) retire(ids ...string) {
	for _, id := range ids {
		_ = b.move(id, provision.Retired, provision.Requested, provision.Provisioning, provision.Ready, provision.Failed)
	}
}

func (b *book) all(good func(provision.Server) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.servers {
		if !good(*s) {
			return false
		}
	}
	return true
}

func (b *book) get(id string) provision.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.servers[id]
}

func (b *book) reason(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reasons[id]
}

func (b *book) noted(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.notes[id], "\n")
}

var errDead = errors.New("this supernode is dead")

// life is one run of a supernode, between its start and a kill -9. Every call
// that leaves it passes through it twice, before and after its effect; at the
// step numbered dies it ends, and nothing that it does from then on has an
// effect any more.
type life struct {
	book  *book
	cloud provision.Provider
	end   context.CancelFunc

	mu    sync.Mutex
	steps int  // guarded by mu
	dies  int  // never changes; negative for a life that is not cut short
	dead  bool // guarded by mu
}

func (l *life) step() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dead && l.steps == l.dies {
		l.dead = true
		l.end()
	}
	l.steps++
	if l.dead {
		return errDead
	}
	return nil
}

func (l *life) killed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// through is a call of this life, with the effect that it has outside.
func through[T any](l *life, effect func() (T, error)) (none T, err error) {
	if err := l.step(); err != nil {
		return none, err
	}
	out, err := effect()
	if dead := l.step(); dead != nil {
		return none, dead
	}
	return out, err
}

func bare(l *life, effect func() error) error {
	_, err := through(l, func() (struct{}, error) { return struct{}{}, effect() })
	return err
}

// provider and inventory are what the reconciler of a life is given.
type provider struct{ *life }

func (p provider) Create(ctx context.Context, key string, spec provision.Spec) (provision.Machine, error) {
	return through(p.life, func() (provision.Machine, error) { return p.cloud.Create(ctx, key, spec) })
}

func (p provider) Get(ctx context.Context, id string) (provision.Machine, error) {
	return through(p.life, func() (provision.Machine, error) { return p.cloud.Get(ctx, id) })
}

func (p provider) List(ctx context.Context, tag string) ([]provision.Machine, error) {
	return through(p.life, func() ([]provision.Machine, error) { return p.cloud.List(ctx, tag) })
}

func (p provider) Delete(ctx context.Context, id string) error {
	return bare(p.life, func() error { return p.cloud.Delete(ctx, id) })
}

type inventory struct{ *life }

func (i inventory) Managed(ctx context.Context) ([]provision.Server, error) {
	return through(i.life, func() ([]provision.Server, error) { return i.book.Managed(ctx) })
}

func (i inventory) Intend(ctx context.Context, id string) error {
	return bare(i.life, func() error { return i.book.Intend(ctx, id) })
}

func (i inventory) Made(ctx context.Context, id string, m provision.Machine) error {
	return bare(i.life, func() error { return i.book.Made(ctx, id, m) })
}

func (i inventory) Gone(ctx context.Context, id, machineID string) error {
	return bare(i.life, func() error { return i.book.Gone(ctx, id, machineID) })
}

func (i inventory) Fail(ctx context.Context, id, at, reason string) error {
	return bare(i.life, func() error { return i.book.Fail(ctx, id, at, reason) })
}

func (i inventory) Note(ctx context.Context, id, line string) error {
	return bare(i.life, func() error { return i.book.Note(ctx, id, line) })
}

func (i inventory) Join(ctx context.Context, id string) (string, error) {
	return through(i.life, func() (string, error) { return i.book.Join(ctx, id) })
}
