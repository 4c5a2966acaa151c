// Command dfagent is the agent on every host: a registry mirror on loopback
// that fetches blobs from neighbours and gives them on.
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
	err := command(os.Stdin, os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "dfagent: %v\n", err)
		if errors.Is(err, settings.ErrUsage) {
			os.Exit(settings.ExitUsage)
		}
		os.Exit(1)
	}
}
