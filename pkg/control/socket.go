package control

import (
	"context"
	"net"
	"net/http"
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
