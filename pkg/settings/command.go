package settings

import "github.com/spf13/cobra"

// Command is `config print` of a program: its configuration as a file, which
// is the manual of every setting. config points at the defaults.
func Command(program, file string, config any) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the configuration"}
	cmd.AddCommand(&cobra.Command{
		Use:     "print",
		Short:   "Print every key with its default and what it does, as a file for --config",
		Example: "  " + program + " config print > " + file,
		Args:    Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return Print(cmd.OutOrStdout(), config) },
	})
	return cmd
}
