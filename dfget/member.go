package dfget

import (
	"fmt"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) memberCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "member",
		Short: "Members of a project and their roles",
		Long: `A guest pulls. A developer pulls and pushes, and deletes where the project's
settings say so. An admin does all that and decides about members, settings
and robots.`,
		Example: "  dfget project member add demo ann --role developer\n  dfget project member list demo",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.memberAddCommand(), a.memberRemoveCommand(), a.memberListCommand())
	return cmd
}

func (a *app) memberAddCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:     "add PROJECT USER",
		Short:   "Give a user a role, in place of any other in the project",
		Example: "  dfget project member add demo ann\n  dfget project member add demo ann --role admin",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.SetMember(cmd.Context(), connect.NewRequest(&shoalv1.SetMemberRequest{Project: args[0], User: args[1], Role: role}))
			if err != nil {
				return fmt.Errorf("add the member: %w", err)
			}
			return a.tell(answer.Msg, "%s is now %s of %s.", args[1], role, args[0])
		},
	}
	cmd.Flags().StringVar(&role, "role", "guest", "admin, developer or guest")
	return cmd
}

func (a *app) memberRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove PROJECT USER",
		Short:   "Take a user's role in a project away, at once",
		Example: "  dfget project member remove demo ann",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.RemoveMember(cmd.Context(), connect.NewRequest(&shoalv1.RemoveMemberRequest{Project: args[0], User: args[1]}))
			if err != nil {
				return fmt.Errorf("remove the member: %w", err)
			}
			return a.tell(answer.Msg, "%s is no longer a member of %s.", args[1], args[0])
		},
	}
}

func (a *app) memberListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list PROJECT",
		Short:   "List the members of a project",
		Example: "  dfget project member list demo --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.ListMembers(cmd.Context(), connect.NewRequest(&shoalv1.ListMembersRequest{Project: args[0]}))
			if err != nil {
				return fmt.Errorf("list the members: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "USER\tROLE\tSINCE\tBY")
			for _, m := range answer.Msg.Members {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.User, m.Role, m.Since.AsTime().Local().Format(time.DateTime), m.By)
			}
			return w.Flush()
		},
	}
}
