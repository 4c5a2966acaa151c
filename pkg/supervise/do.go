package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shoalproject/shoal/pkg/engine"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// do carries an action out and takes note of how it went.
func (s *Supervisor) do(ctx context.Context, what action, id string, want *shoalv1.Container) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return
	}
	var err error
	switch what {
	case begin:
		err = s.begin(ctx, id, want)
	case restart:
		err = s.restart(ctx, id, want)
	case stop:
		s.note(id, func(r *record) { r.Stopped = true })
		err = s.cfg.Engine.Stop(ctx, id, grace)
	case remove:
		s.note(id, func(r *record) { r.Stopped = true })
		if err = s.cfg.Engine.Stop(ctx, id, grace); err == nil {
			err = s.cfg.Engine.Remove(ctx, id)
		}
	}
	if ctx.Err() != nil {
		return // it is seen at the next start how far it came
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
	s.turn++
	r := s.records[id]
	switch {
	case err != nil:
		s.cfg.Log.Warn("a container is not as it is wanted", "container", id, "error", err)
		s.records[id] = r.failed(err, now)
	case r.Error != "":
		r.Error, r.Next = "", time.Time{}
		s.records[id] = r
	}
	s.keep()
	word(s.poke)
}

// note changes a record, on disk as well: what is noted before a step is known
// after a crash in it.
func (s *Supervisor) note(id string, change func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[id]
	change(&r)
	s.records[id] = r
	s.keep()
}

// begin makes a container that is not there, and starts it when it is to run.
func (s *Supervisor) begin(ctx context.Context, id string, want *shoalv1.Container) error {
	s.mu.Lock()
	have, r := s.have[id], s.records[id]
	s.mu.Unlock()
	if have == nil {
		if err := s.create(ctx, want); err != nil {
			return err
		}
	}
	if !want.Run {
		return nil
	}
	s.note(id, func(r *record) { r.Stopped, r.RestartsDone = false, want.RestartsWanted })
	if err := s.cfg.Engine.Start(ctx, id); err != nil {
		return err
	}
	if have != nil && !have.Started.IsZero() && !r.Stopped {
		s.note(id, func(r *record) { r.Restarts++ })
	}
	return nil
}

func (s *Supervisor) create(ctx context.Context, want *shoalv1.Container) error {
	spec := specOf(want)
	err := s.cfg.Engine.Create(ctx, spec)
	if !errors.Is(err, engine.ErrNoImage) || s.cfg.Bring == nil {
		return err
	}
	s.cfg.Log.Info("the image of a container is gone from this host and is fetched again", "container", want.Id, "image", spec.Image)
	if err := s.cfg.Bring(ctx, want); err != nil {
		return fmt.Errorf("fetch the image of container %s again: %w", want.Id, err)
	}
	return s.cfg.Engine.Create(ctx, spec)
}

// restart ends a container that runs and starts it again. Where the agent dies
// between, that follows from its not running.
func (s *Supervisor) restart(ctx context.Context, id string, want *shoalv1.Container) error {
	s.note(id, func(r *record) { r.Stopped = true })
	if err := s.cfg.Engine.Stop(ctx, id, grace); err != nil {
		return err
	}
	s.note(id, func(r *record) { r.Stopped, r.RestartsDone = false, want.RestartsWanted })
	return s.cfg.Engine.Start(ctx, id)
}
