package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
)

// Socket is a client of the program that serves on a Unix socket of this
// host; the host in a request's URL is all the same.
func Socket(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

// ListenSocket opens the socket of a data folder, for its owner alone. One
// that an earlier run left is removed: the caller holds the folder's lock.
func ListenSocket(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket %s: %w (a path of more than about 100 bytes is too long for one; choose another --data)", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the socket to others: %w", err), l.Close())
	}
	return l, nil
}
