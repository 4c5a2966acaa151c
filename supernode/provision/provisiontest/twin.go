package provisiontest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/shoalproject/shoal/supernode/provision"
)

// Call names a method of the provider.
type Call string

// The calls that can be made to fail.
const (
	Create Call = "create"
	Get    Call = "get"
	List   Call = "list"
	Delete Call = "delete"
)

// Effect says what a failing call did all the same.
type Effect int

// The effects of a Fault.
const (
	Nothing Effect = iota // the call was lost on its way there
	Done                  // its answer was lost on the way back
	Later                 // it was still on its way when its caller gave up
)

// Fault is how a call goes wrong; without Err and Hang it does not.
type Fault struct {
	Err    error
	Hang   bool // no answer until the caller gives up
	Effect Effect
}

// Cloud is how a Twin behaves.
type Cloud struct {
	// Forgetful clouds know no idempotency keys: the same key asked for twice
	// makes two machines.
	Forgetful bool
	Latency   time.Duration // of each call
	Boot      time.Duration // from Create until the machine runs
	End       time.Duration // from Delete until the machine does not show
	Lag       time.Duration // from Create until List shows the machine
	// Fault is asked for each call; nil is a cloud without faults.
	Fault func(Call) Fault
	// Up is told when a machine runs.
	Up func(provision.Machine, provision.Spec)
}

// lateBy is when a call with the effect Later arrives.
const lateBy = 40 * time.Second

// Twin is a provider in memory that can misbehave in every way a cloud does.
// It keeps book of what must never be.
type Twin struct {
	cloud Cloud

	mu       sync.Mutex
	machines map[string]*machine // guarded by mu, by ID
	serial   int                 // guarded by mu
	calls    map[Call]int        // guarded by mu
	now      int                 // guarded by mu: calls in progress
	most     int                 // guarded by mu: the most there were of them
	doubles  []string            // guarded by mu: keys that had two machines at once
}

type machine struct {
	provision.Machine
	spec    provision.Spec
	deleted time.Time
}

// NewTwin makes an empty cloud.
func NewTwin(cloud Cloud) *Twin {
	return &Twin{cloud: cloud, machines: map[string]*machine{}, calls: map[Call]int{}}
}

// Create implements provision.Provider.
func (t *Twin) Create(ctx context.Context, key string, spec provision.Spec) (provision.Machine, error) {
	if err := errors.Join(provision.CheckKey(key), provision.CheckKey(spec.Tag)); err != nil {
		return provision.Machine{}, err
	}
	return call(ctx, t, Create, func() provision.Machine { return t.create(key, spec) })
}

func (t *Twin) create(key string, spec provision.Spec) provision.Machine {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.machines {
		if m.Key != key || !m.deleted.IsZero() {
			continue
		}
		if !t.cloud.Forgetful {
			return t.seen(m)
		}
		t.doubles = append(t.doubles, key)
	}
	t.serial++
	m := &machine{spec: spec, Machine: provision.Machine{
		ID: "m-" + strconv.Itoa(t.serial), Key: key, State: provision.Building, Created: time.Now(),
	}}
	t.machines[m.ID] = m
	if t.cloud.Up != nil {
		time.AfterFunc(t.cloud.Boot, func() { t.up(m) })
	}
	return t.seen(m)
}

func (t *Twin) up(m *machine) {
	t.mu.Lock()
	alive := t.machines[m.ID] == m && m.deleted.IsZero() && m.State == provision.Building
	seen := t.seen(m)
	t.mu.Unlock()
	if alive {
		t.cloud.Up(seen, m.spec)
	}
}

// seen is the machine as it shows now. The caller holds mu.
func (t *Twin) seen(m *machine) provision.Machine {
	out := m.Machine
	switch {
	case !m.deleted.IsZero():
		out.State = provision.Ending
	case out.State == provision.Building && time.Since(out.Created) >= t.cloud.Boot:
		out.State = provision.Running
	}
	return out
}

// Get implements provision.Provider.
func (t *Twin) Get(ctx context.Context, id string) (provision.Machine, error) {
	m, err := call(ctx, t, Get, func() provision.Machine {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.bury()
		if have := t.machines[id]; have != nil {
			return t.seen(have)
		}
		return provision.Machine{}
	})
	if err == nil && m.ID == "" {
		err = fmt.Errorf("machine %.80q: %w", id, provision.ErrNoMachine)
	}
	return m, err
}

// List implements provision.Provider.
func (t *Twin) List(ctx context.Context, tag string) ([]provision.Machine, error) {
	return call(ctx, t, List, func() []provision.Machine { return t.shown(tag) })
}

func (t *Twin) shown(tag string) (out []provision.Machine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bury()
	for _, m := range t.machines {
		if m.spec.Tag == tag && time.Since(m.Created) >= t.cloud.Lag {
			out = append(out, t.seen(m))
		}
	}
	return out
}

// Delete implements provision.Provider.
func (t *Twin) Delete(ctx context.Context, id string) error {
	_, err := call(ctx, t, Delete, func() struct{} {
		t.mu.Lock()
		defer t.mu.Unlock()
		if m := t.machines[id]; m != nil && m.deleted.IsZero() {
			m.deleted = time.Now()
		}
		return struct{}{}
	})
	return err
}

// bury drops what has ended. The caller holds mu.
func (t *Twin) bury() {
	for id, m := range t.machines {
		if !m.deleted.IsZero() && time.Since(m.deleted) >= t.cloud.End {
			delete(t.machines, id)
		}
	}
}

// call is a call's way there and back, with its fault.
func call[T any](ctx context.Context, t *Twin, which Call, effect func() T) (answer T, err error) {
	var none T
	var fault Fault
	t.mu.Lock()
	t.calls[which]++
	t.now++
	t.most = max(t.most, t.now)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.now--
	}()
	if t.cloud.Fault != nil {
		fault = t.cloud.Fault(which)
	}
	if err := wait(ctx, t.cloud.Latency); err != nil {
		return none, fmt.Errorf("%s: %w", which, err)
	}
	failed := fault.Err != nil || fault.Hang
	switch {
	case !failed || fault.Effect == Done:
		answer = effect()
	case fault.Effect == Later:
		time.AfterFunc(lateBy, func() { effect() })
	}
	switch {
	case fault.Hang:
		<-ctx.Done()
		return none, fmt.Errorf("%s: %w", which, ctx.Err())
	case failed:
		return none, fault.Err
	}
	return answer, nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill makes a machine disappear, as if its owner had deleted it elsewhere.
func (t *Twin) Kill(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.machines, id)
}

// Break makes a machine one that will never run.
func (t *Twin) Break(id, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.machines[id]; m != nil {
		m.State, m.Reason = provision.Broken, reason
	}
}

// Alive lists what runs, or will, whatever List shows, by key.
func (t *Twin) Alive() map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string][]string{}
	for _, m := range t.machines {
		if m.deleted.IsZero() {
			out[m.Key] = append(out[m.Key], m.ID)
		}
	}
	return out
}

// Doubles are the keys that had two machines at any time.
func (t *Twin) Doubles() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.doubles)
}

// MostAtOnce is the most calls that were in progress at one time.
func (t *Twin) MostAtOnce() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.most
}

// Calls is how often a method was called.
func (t *Twin) Calls(which Call) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls[which]
}
