package dfget

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
)

// Version is what the command prints; the program sets it before Run.
var Version = "dev"

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  settings.Args(cobra.ExactArgs(0)),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(a.out, "dfget %s %s/%s %s\n", Version, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return nil
		},
	}
}
