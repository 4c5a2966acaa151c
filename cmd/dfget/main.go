// Command dfget fetches images and files through the swarm and prewarms hosts.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/shoalproject/shoal/dfget"
)

// version is set by the linker.
var version = "dev"

func main() {
	dfget.Version = version
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := dfget.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}
