// Command supernode is the registry, seed, tracker and gate of a data centre.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/shoalproject/shoal/pkg/settings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "supernode: %v\n", err)
		if errors.Is(err, settings.ErrUsage) {
			os.Exit(settings.ExitUsage)
		}
		os.Exit(1)
	}
}
