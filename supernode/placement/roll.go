package placement

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// restartsTooMany is after how many ends of its own a new container counts as
// one that does not become healthy, without waiting any longer.
const restartsTooMany = 3

// The outcomes of fare.
const (
	farePending = iota
	fareHealthy
	fareBad
)

// fare judges a container that was ordered: by what its host said last, and by
// how long that was ago.
func fare(status *shoalv1.ContainerStatus, ordered, now time.Time, within time.Duration) (outcome int, why string) {
	late := now.Sub(ordered) >= within
	switch {
	case status == nil && late:
		return fareBad, "its host has said nothing of it"
	case status == nil:
		return farePending, ""
	case status.State == shoalv1.ContainerStatus_RUNNING:
		return fareHealthy, ""
	case status.State == shoalv1.ContainerStatus_FAILED && now.Sub(ordered) >= within/8: // a host tries again
		return fareBad, "it could not be started: " + status.Error
	case status.Restarts >= restartsTooMany:
		return fareBad, fmt.Sprintf("it ended %d times, the last time with exit status %d", status.Restarts, status.ExitCode)
	case late && status.State == shoalv1.ContainerStatus_EXITED:
		return fareBad, fmt.Sprintf("it ended with exit status %d", status.ExitCode)
	case late:
		return fareBad, fmt.Sprintf("it was not healthy within %v", within)
	}
	return farePending, ""
}

// latest is the container that a move ordered last.
func (m Move) latest() string {
	if m.State == moveBack {
		return m.Back
	}
	return m.ID
}

// ordered reports whether a move waits for a container to become healthy.
func (m Move) ordered() bool {
	return m.State == moveBoth || m.State == moveSwapped || m.State == moveBack
}

// makesRoom reports whether a move waits for a container to be gone.
func (m Move) makesRoom() bool { return m.State == moveStopping || m.State == moveReturning }

// roomMade moves on when the container that was told to go is gone, as its
// host said; late, when it did not say so in time.
func (r *Runner) roomMade(ctx context.Context, record *Record, m *Move) (done, late bool, err error) {
	leaves, next := m.Old, moveSwapped
	if m.State == moveReturning {
		leaves, next = m.ID, moveBack
	}
	v, err := read[HostRecord](ctx, r.cfg.Meta, hostPrefix+m.Server)
	if err != nil {
		return false, false, err
	}
	if slices.ContainsFunc(v.value.Claims, func(c Claim) bool { return c.ID == leaves }) {
		return false, r.cfg.Now().Sub(m.Since) >= r.cfg.HealthyWithin, nil
	}
	m.State, m.Since = next, r.cfg.Now()
	return true, false, nil
}

// instead is the state of a move for which there is no room beside the old
// container.
func (r *Record) instead(m Move) State {
	if old, ok := r.container(m.Old); ok && old.Server == m.Server {
		return moveStopping
	}
	return moveSwapped
}

// judge is fare for a move of a placement.
func (r *Runner) judge(record *Record, m Move) (outcome int, why string) {
	if record.Stopped {
		return fareHealthy, "" // it is not to run
	}
	server := m.Server
	if m.State == moveBack {
		old, _ := record.container(m.Old)
		server = old.Server
	}
	outcome, why = fare(r.status(server, m.latest()), m.Since, r.cfg.Now(), r.cfg.HealthyWithin)
	if why != "" {
		why = fmt.Sprintf("%s on %s: %s", m.latest(), m.Host, why)
	}
	return outcome, why
}

// status is what a host said last of a container; nil is nothing.
func (r *Runner) status(server, id string) *shoalv1.ContainerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports[server].containers[id]
}

// pause waits for news of a placement, or until the next of its moves is late.
func (r *Runner) pause(ctx context.Context, record *Record, news <-chan struct{}) error {
	wait := r.cfg.HealthyWithin
	for _, m := range record.Change.Moves {
		if m.ordered() || m.makesRoom() {
			wait = min(wait, m.Since.Add(r.cfg.HealthyWithin).Sub(r.cfg.Now()))
		}
	}
	timer := time.NewTimer(max(wait, time.Millisecond))
	defer timer.Stop()
	select {
	case <-news:
		gather(ctx)
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// stale reports whether a placement was changed by somebody else.
func (r *Runner) stale(ctx context.Context, v versioned[Record]) bool {
	latest, err := r.load(ctx, v.value.Name)
	return err != nil || latest.revision != v.revision
}

// await sees all containers of a change that starts them at once become
// healthy, or not in time.
func (r *Runner) await(ctx context.Context, v versioned[Record]) error {
	record := &v.value
	for {
		news := r.news(record.Name)
		if r.stale(ctx, v) {
			return nil // it is looked at anew
		}
		pending, better := 0, false
		var sick []string
		for i := range record.Change.Moves {
			m := &record.Change.Moves[i]
			if !m.ordered() {
				continue
			}
			switch outcome, why := r.judge(record, *m); outcome {
			case fareHealthy:
				better = better || m.State == moveBoth
				m.State = moveDone
			case fareBad:
				sick = append(sick, why)
			default:
				pending++
			}
		}
		switch {
		case pending > 0 && better: // an old one need not wait for the others
			_, err := r.save(ctx, v)
			return err
		case pending == 0:
			for i := range record.Change.Moves {
				if m := &record.Change.Moves[i]; m.State == moveBoth {
					m.State = moveDropped
					r.restRepair(record.Name)
				}
			}
			return r.finish(ctx, v, listed(sick, len(record.Change.Moves)))
		}
		if err := r.pause(ctx, record, news); err != nil {
			return err
		}
	}
}

// listed says which containers are not as they should be; "" when all are.
func listed(sick []string, of int) string {
	if len(sick) == 0 {
		return ""
	}
	const most = 10
	text := fmt.Sprintf("%d of %d are not healthy: ", len(sick), of)
	if len(sick) > most {
		sick = append(slices.Clone(sick[:most]), "and others")
	}
	return text + strings.Join(sick, "; ")
}

// roll replaces the containers of a placement, a tenth of them at a time. The
// first that does not become healthy in time turns all of them back.
func (r *Runner) roll(ctx context.Context, v versioned[Record]) error {
	record := &v.value
	c := record.Change
	for {
		news := r.news(record.Name)
		if r.stale(ctx, v) {
			return nil
		}
		changed, inFlight, left := false, 0, 0
		for i := range c.Moves {
			m := &c.Moves[i]
			if m.State == moveClaimed {
				left++
			}
			if m.makesRoom() {
				done, late, err := r.roomMade(ctx, record, m)
				if err != nil {
					return err
				}
				if late {
					return r.revert(ctx, v, fmt.Sprintf("%s on %s did not end within %v", m.Old, m.Host, r.cfg.HealthyWithin))
				}
				changed, inFlight = changed || done, inFlight+1
				continue
			}
			if !m.ordered() {
				continue
			}
			switch outcome, why := r.judge(record, *m); outcome {
			case fareHealthy:
				m.State, changed = moveDone, true
			case fareBad:
				return r.revert(ctx, v, why)
			default:
				inFlight++
			}
		}
		for i := range c.Moves {
			if m := &c.Moves[i]; m.State == moveClaimed && inFlight < max(1, len(c.Moves)/10) {
				if err := r.order(ctx, record, m); err != nil {
					return err
				}
				changed, inFlight = true, inFlight+1
				left--
			}
		}
		switch {
		case inFlight == 0 && left == 0:
			return r.finish(ctx, v, "")
		case changed:
			_, err := r.save(ctx, v)
			return err
		}
		if err := r.pause(ctx, record, news); err != nil {
			return err
		}
	}
}

// order starts the new container of a move: beside the old one where there is
// room for both and no port is shared, else in its place.
func (r *Runner) order(ctx context.Context, record *Record, m *Move) error {
	m.State, m.Since = moveBoth, r.cfg.Now()
	old, _ := record.container(m.Old)
	if old.Server != m.Server {
		h, err := r.hostByID(ctx, old.Server)
		if err != nil {
			return err
		}
		if h == nil || !h.Connected {
			m.State = moveSwapped
			return nil
		}
	}
	h, err := r.hostByID(ctx, m.Server)
	if err != nil {
		return err
	}
	v, err := read[HostRecord](ctx, r.cfg.Meta, hostPrefix+m.Server)
	if err != nil {
		return err
	}
	var want []Claim
	for _, s := range wanted(record) {
		if s.server == m.Server {
			want = append(want, s.Claim)
		}
	}
	if _, _, _, err := adjust(v.value, record.Name, want, h); err != nil {
		m.State = record.instead(*m)
	}
	return nil
}

// revert turns an update back: what still runs the old version stays, the rest
// gets it again where it was.
func (r *Runner) revert(ctx context.Context, v versioned[Record], why string) error {
	record := &v.value
	c := record.Change
	c.Step, c.Since, c.Reason = stepRevert, r.cfg.Now(), why
	for i := range c.Moves {
		switch m := &c.Moves[i]; m.State {
		case moveClaimed, moveBoth, moveStopping:
			m.State = moveDropped
		case moveSwapped, moveDone:
			m.State, m.Back, m.Since = moveBack, newID(record.Name), r.cfg.Now()
			if record.instead(*m) == moveStopping {
				m.State = moveReturning
			}
		}
	}
	r.cfg.Log.Warn("an update is taken back", "placement", record.Name, "reason", why)
	_, err := r.save(ctx, v)
	return err
}

// awaitRevert sees the old version become healthy again.
func (r *Runner) awaitRevert(ctx context.Context, v versioned[Record]) error {
	record := &v.value
	for {
		news := r.news(record.Name)
		if r.stale(ctx, v) {
			return nil
		}
		pending, changed := 0, false
		var sick []string
		for i := range record.Change.Moves {
			m := &record.Change.Moves[i]
			if m.makesRoom() {
				done, late, err := r.roomMade(ctx, record, m)
				if err != nil {
					return err
				}
				if late { // the old version comes first
					m.State, m.Since, done = moveBack, r.cfg.Now(), true
				}
				changed = changed || done
				pending++
				continue
			}
			if !m.ordered() {
				continue
			}
			switch outcome, why := r.judge(record, *m); outcome {
			case fareBad:
				sick = append(sick, why)
			case farePending:
				pending++
			}
		}
		if changed {
			_, err := r.save(ctx, v)
			return err
		}
		if pending == 0 {
			why := fmt.Sprintf("rolled back to revision %d: %s", record.Change.Before, record.Change.Reason)
			if s := listed(sick, len(record.Change.Moves)); s != "" {
				why += "; and " + s
			}
			return r.finish(ctx, v, why)
		}
		if err := r.pause(ctx, record, news); err != nil {
			return err
		}
	}
}
