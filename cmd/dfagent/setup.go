package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/nodeconfig"
	"github.com/shoalproject/shoal/pkg/settings"
)

// setupState is where backups of other programs' files are kept.
const setupState = "/var/lib/shoal/setup"

func setupCommand() *cobra.Command {
	opts := nodeconfig.Options{}
	var mirror, dockerMirror string
	var dryRun, undo bool
	cmd := &cobra.Command{
		Use:   "setup containerd|docker",
		Short: "Point containerd or Docker to this host's mirror",
		Long: `Point containerd or Docker to this host's mirror. The difference is shown
first, what was there is backed up, files of others are never overwritten, and
--undo puts everything back byte for byte.`,
		Example: `  dfagent setup containerd --dry-run
  dfagent setup containerd
  dfagent setup docker
  dfagent setup --undo`,
		ValidArgs: []string{string(nodeconfig.Containerd), string(nodeconfig.Docker)},
		Args: settings.Args(func(cmd *cobra.Command, args []string) error {
			if undo {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)(cmd, args)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Mirror, opts.DockerMirror = "http://"+mirror, "http://"+dockerMirror
			if undo {
				return undoSetup(cmd.OutOrStdout(), opts, dryRun)
			}
			return setup(cmd.OutOrStdout(), nodeconfig.Kind(args[0]), opts, dryRun)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "show what would change and change nothing")
	f.BoolVar(&undo, "undo", false, "put everything back as it was")
	f.StringVar(&mirror, "mirror", defaults().Mirror, "address of the mirror, as given to 'dfagent serve'")
	f.StringVar(&dockerMirror, "docker-mirror", defaults().DockerMirror, "address of the docker.io mirror, as given to 'dfagent serve'")
	f.StringVar(&opts.Root, "root", "/", "folder that stands for / (to prepare a disk image)")
	f.StringVar(&opts.State, "state", setupState, "folder for backups and the record of what was changed")
	f.IntVar(&opts.ContainerdMajor, "containerd-major", 0, "1 or 2, for a config.toml that does not exist yet")
	return cmd
}

func setup(out io.Writer, kind nodeconfig.Kind, opts nodeconfig.Options, dryRun bool) error {
	plan, err := nodeconfig.NewPlan(kind, opts)
	if err != nil {
		return err
	}
	fmt.Fprint(out, plan.Diff())
	switch {
	case len(plan.Changes) == 0:
		fmt.Fprintln(out, "Everything is in place already.")
	case dryRun:
		fmt.Fprintln(out, "Nothing was changed (--dry-run).")
	default:
		if err := plan.Apply(); err != nil {
			return err
		}
		fmt.Fprintf(out, "Done. 'dfagent setup --undo' puts it back; the originals are kept in %s.\n", opts.State)
	}
	for _, note := range plan.Notes {
		fmt.Fprintln(out, "Note:", note)
	}
	return nil
}

func undoSetup(out io.Writer, opts nodeconfig.Options, dryRun bool) error {
	run := nodeconfig.Undo
	if dryRun {
		run = nodeconfig.PlanUndo
	}
	changes, err := run(opts)
	if err != nil {
		return err
	}
	for _, c := range changes {
		fmt.Fprint(out, c.Diff())
	}
	switch {
	case len(changes) == 0:
		fmt.Fprintln(out, "There is nothing to put back.")
	case dryRun:
		fmt.Fprintln(out, "Nothing was changed (--dry-run).")
	default:
		fmt.Fprintln(out, "Everything is as it was before the setup.")
	}
	return nil
}
