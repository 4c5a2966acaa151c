package settings

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// ErrUsage is wrapped when a command line was wrong: the program is to end
// with ExitUsage and change nothing.
var ErrUsage = errors.New("wrong usage")

// ExitUsage is the exit status for wrong usage.
const ExitUsage = 2

// Args makes a wrong count of arguments an ErrUsage.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return wrongUsage(cmd, err)
		}
		return nil
	}
}

// Root prepares a program's first command: what is wrong is told by errors
// alone, which the caller prints, and wrong flags are an ErrUsage.
func Root(root *cobra.Command) {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(wrongUsage)
	if root.RunE == nil {
		root.Args = Args(cobra.NoArgs)
		root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
}

func wrongUsage(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w: %w; see '%s --help'", ErrUsage, err, cmd.CommandPath())
}
