package provision

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	firstRetry   = 2 * time.Second
	longestRetry = 5 * time.Minute
)

// backoff is how long to wait after so many failures in a row: it doubles,
// and is spread by up to a half, so that 300 servers do not come back as one.
func backoff(times int) time.Duration {
	wait := longestRetry
	if times < 8 {
		wait = min(longestRetry, firstRetry<<max(0, times-1))
	}
	return wait/2 + rand.N(wait/2+1)
}

// act does one step. A nil error says that the provider and the inventory are
// as the step wanted them, or that the next round has to look.
func (r *Reconciler) act(ctx context.Context, s step) error {
	switch s.verb {
	case verbCreate:
		return r.create(ctx, s.server)
	case verbRecord:
		return r.record(ctx, s.server, s.machine)
	case verbAsk:
		return r.ask(ctx, s.server)
	case verbFail:
		return r.fail(ctx, s.server, s.reason+r.lastFault(s.key()))
	}
	return r.delete(ctx, s)
}

// create asks for the machine of a server. The intent is written down before:
// a supernode that dies from here on leaves a machine with the key of a
// server that the next one knows.
func (r *Reconciler) create(ctx context.Context, s Server) error {
	if err := r.cfg.Inventory.Intend(ctx, s.ID); err != nil {
		return fmt.Errorf("write down that a machine is to be made: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, r.cfg.Create)
	defer cancel()
	m, err := r.cfg.Provider.Create(call, s.ID, Spec{
		Tag: r.cfg.Tag, Name: s.Name, Pool: s.Pool, HardwareClass: s.HardwareClass,
		Address: s.Address, User: s.User, HostKey: s.HostKey,
		Join: func(ctx context.Context) (string, error) { return r.cfg.Inventory.Join(ctx, s.ID) },
	})
	switch {
	case errors.Is(err, ErrRefused):
		return r.fail(ctx, s, err.Error())
	case err != nil:
		return fmt.Errorf("create the machine: %w", err)
	}
	return r.made(ctx, s, m)
}

// record takes up a machine that was made before and not written down.
func (r *Reconciler) record(ctx context.Context, s Server, m Machine) error {
	if s.Phase == Requested {
		if err := r.cfg.Inventory.Intend(ctx, s.ID); err != nil {
			return fmt.Errorf("write down that a machine was made: %w", err)
		}
	}
	return r.made(ctx, s, m)
}

// made writes a machine down, also when the supernode is told to stop just
// now: the next one would find it, but why let it search.
func (r *Reconciler) made(ctx context.Context, s Server, m Machine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWithin)
	defer cancel()
	if err := r.cfg.Inventory.Made(ctx, s.ID, m); err != nil {
		return fmt.Errorf("write down machine %s: %w", m.ID, err)
	}
	r.cfg.Log.Info("a server has its machine", "server", s.ID, "name", s.Name, "machine", m.ID, "state", m.State.String())
	return nil
}

// ask looks at a machine that is written down and not listed.
func (r *Reconciler) ask(ctx context.Context, s Server) error {
	if s.MachineID == "" { // retired before one was had; a late one is an orphan
		return r.gone(ctx, s)
	}
	call, cancel := context.WithTimeout(ctx, r.cfg.Call)
	defer cancel()
	m, err := r.cfg.Provider.Get(call, s.MachineID)
	switch {
	case err == nil && s.Phase == Retired && m.State != Ending:
		return r.delete(ctx, step{verb: verbDelete, server: s, machine: m})
	case err == nil:
		return nil // the list lags behind, or the machine is about to be gone
	case !errors.Is(err, ErrNoMachine):
		return fmt.Errorf("ask for machine %s: %w", s.MachineID, err)
	case s.Phase != Retired && s.Phase != Requested:
		return r.fail(ctx, s, fmt.Sprintf("machine %s is gone, and nobody here deleted it", s.MachineID))
	}
	return r.gone(ctx, s)
}

func (r *Reconciler) gone(ctx context.Context, s Server) error {
	if err := r.cfg.Inventory.Gone(ctx, s.ID, s.MachineID); err != nil {
		return fmt.Errorf("write down that machine %q is gone: %w", s.MachineID, err)
	}
	r.cfg.Log.Info("a server has no machine any more", "server", s.ID, "name", s.Name, "machine", s.MachineID)
	return nil
}

func (r *Reconciler) fail(ctx context.Context, s Server, reason string) error {
	if err := r.cfg.Inventory.Fail(ctx, s.ID, "machine", reason); err != nil {
		return fmt.Errorf("write down that the server failed (%s): %w", reason, err)
	}
	r.cfg.Log.Warn("a server failed", "server", s.ID, "name", s.Name, "reason", reason)
	return nil
}

func (r *Reconciler) delete(ctx context.Context, s step) error {
	call, cancel := context.WithTimeout(ctx, r.cfg.Call)
	defer cancel()
	if err := r.cfg.Provider.Delete(call, s.machine.ID); err != nil {
		return fmt.Errorf("delete machine %s: %w", s.machine.ID, err)
	}
	r.cfg.Log.Info("a machine was deleted", "machine", s.machine.ID, "key", s.machine.Key, "server", s.server.ID)
	return nil
}
