// Command program is what runs in the containers of the engine suite.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/shoalproject/shoal/pkg/engine/enginetest/play"
)

func main() {
	// With this a signal does no more than end ctx, which what plays "stubborn"
	// does not look at.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // this is a main
	code := play.Main(ctx, os.Args[1:], os.Environ(), os.Stdout)
	stop()
	os.Exit(code)
}
