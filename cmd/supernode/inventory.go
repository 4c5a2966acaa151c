package main

import (
	"context"
	"time"

	"github.com/shoalproject/shoal/pkg/profile"
	"github.com/shoalproject/shoal/supernode/inventory"
)

// openBook opens the book of the fleet.
func (h *house) openBook() (err error) {
	h.book, err = inventory.New(inventory.Config{
		Meta: h.meta, UserID: h.auth.UserID, OnChange: h.serverChanged, Profile: checkProfile, Now: time.Now, Log: h.log,
	})
	return err
}

// serverChanged tells the rooms that go by the book.
func (h *house) serverChanged(ctx context.Context, before, after inventory.Server) {
	h.noteServer(ctx, after)
	h.lookAtMachines(before, after)
	if h.api.Initialiser != nil { // at the start, nothing is connected yet
		h.api.Initialiser.Changed()
	}
}

// checkProfile reports what is wrong with a pool's profile and its settings.
func checkProfile(name string, settings map[string]string) error {
	p, err := profile.Find(name)
	if err == nil {
		_, err = profile.With(p, settings)
	}
	return err
}

// resumeBook finishes what a supernode that was killed had begun.
func (h *house) resumeBook(ctx context.Context) error {
	if err := h.book.Resume(ctx); err != nil {
		return err
	}
	return h.api.RetireRevoked(ctx)
}
