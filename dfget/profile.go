package dfget

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Profiles: what makes a server ready",
		Long: `A profile is an ordered list of steps, each of which a host can look at and put
in place: container runtime, mirror configuration, trusted authority, clock,
limits and so on. A pool has one ('dfget pool set POOL --profile NAME'), with
settings of its own ('--profile-setting STEP.KEY=VALUE'; STEP.skip=yes leaves a
step out). A server is ready when all steps hold.`,
		Example: "  dfget profile list\n  dfget profile show host\n  dfget pool set web --profile host --profile-setting limits.nofile=65536",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.profileListCommand(), a.profileShowCommand())
	return cmd
}

func (a *app) profileListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the profiles that a pool may have",
		Example: "  dfget profile list\n  dfget profile list --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := a.profiles(cmd)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(answer)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "PROFILE\tSTEPS\tDESCRIPTION")
			for _, p := range answer.Profiles {
				fmt.Fprintf(w, "%s\t%d\t%s\n", p.Name, len(p.Steps), p.Description)
			}
			return w.Flush()
		},
	}
}

func (a *app) profileShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show the steps of a profile, in their order, with their settings",
		Example: "  dfget profile show host\n  dfget profile show light --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := a.profiles(cmd)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(answer.Profiles, func(p *shoalv1.Profile) bool { return p.Name == args[0] })
			if i < 0 {
				return fmt.Errorf("%w: there is no profile %q; see 'dfget profile list'", errNotFound, args[0])
			}
			p := answer.Profiles[i]
			if a.json {
				return a.printJSON(p)
			}
			a.say("%s", p.Description)
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "STEP\tKIND\tVERSION\tSETTINGS")
			for _, s := range p.Steps {
				var set []string
				for _, key := range slices.Sorted(maps.Keys(s.Settings)) {
					set = append(set, key+"="+s.Settings[key])
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", s.Name, s.Kind, s.Version, dash(strings.Join(set, ", ")))
			}
			return w.Flush()
		},
	}
}

func (a *app) profiles(cmd *cobra.Command) (*shoalv1.ListProfilesResponse, error) {
	client, err := a.inventory()
	if err != nil {
		return nil, err
	}
	answer, err := client.ListProfiles(cmd.Context(), connect.NewRequest(&shoalv1.ListProfilesRequest{}))
	if err != nil {
		return nil, fmt.Errorf("list the profiles: %w", err)
	}
	return answer.Msg, nil
}
