package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/shoalproject/shoal/pkg/durable"
	"github.com/shoalproject/shoal/supernode/auth"
)

// firstLogin leaves the one-time password where only the operator reads it.
func (h *house) firstLogin(user, password string) error {
	path := h.config.path("first-login")
	text := fmt.Sprintf("user: %s\npassword: %s\n", user, password)
	if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	h.log.Info("a one-time password was made; log in and change it", "user", user, "file", path)
	return nil
}

// passwordChanged removes the one-time password when it opens nothing more.
func (h *house) passwordChanged(user string) {
	if user != auth.FirstUser {
		return
	}
	if err := h.dropFirstLogin(); err != nil {
		h.log.Warn("the used one-time password was not removed; remove it by hand", "error", err)
	}
}

// dropUsedLogin does what a crash kept passwordChanged from.
func (h *house) dropUsedLogin(ctx context.Context) error {
	users, err := h.auth.Users(ctx)
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.Name == auth.FirstUser && u.MustChange {
			return nil
		}
	}
	return h.dropFirstLogin()
}

func (h *house) dropFirstLogin() error {
	if err := os.Remove(h.config.path("first-login")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove the used one-time password: %w", err)
	}
	return durable.SyncDir(h.config.Data)
}
