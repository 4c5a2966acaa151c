package dfget

import (
	"cmp"
	"fmt"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) sessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "Logins that last: who is logged in, and ending that",
		Long: `A session is a login that lasts without a password: a browser's at the console
(kind console), or a refresh token, which 'dfget login --oidc' and docker keep
(kind token). Everybody sees and ends their own, system administrators all.`,
		Example: "  dfget session list\n  dfget session revoke 1f0c8e5a9b3d7c24\n  dfget session revoke --all --user ann",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.sessionListCommand(), a.sessionRevokeCommand())
	return cmd
}

func (a *app) sessionListCommand() *cobra.Command {
	var user string
	var everybody bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List sessions, the youngest first",
		Example: "  dfget session list\n  dfget session list --user ann --json\n  dfget session list --everybody",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user != "" && everybody {
				return fmt.Errorf("%w: --user and --everybody exclude each other", settings.ErrUsage)
			}
			client, err := a.sessions()
			if err != nil {
				return err
			}
			answer, err := client.ListSessions(cmd.Context(), connect.NewRequest(&shoalv1.ListSessionsRequest{User: user, Everybody: everybody}))
			if err != nil {
				return fmt.Errorf("list the sessions: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "SESSION\tUSER\tKIND\tBY\tBEGUN\tEXPIRES\tFROM\tCLIENT")
			for _, s := range answer.Msg.Sessions {
				id, begun := s.Id, "-"
				if s.Current {
					id += " (this one)"
				}
				if s.Begun != nil {
					begun = s.Begun.AsTime().Local().Format(time.DateTime)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", id, s.User, s.Kind, cmp.Or(s.By, "-"), begun,
					s.Expires.AsTime().Local().Format(time.DateTime), cmp.Or(s.From, "-"), cmp.Or(s.Client, "-"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "whose sessions (of others: system administrators)")
	cmd.Flags().BoolVar(&everybody, "everybody", false, "the sessions of all users (system administrators)")
	return cmd
}

func (a *app) sessionRevokeCommand() *cobra.Command {
	var user string
	var all bool
	cmd := &cobra.Command{
		Use:   "revoke SESSION | --all [--user USER]",
		Short: "End a session, or all sessions of a user, at once",
		Long: `End a session, or all sessions of a user. Tokens that were made from it open
nothing at the supernode from then on. Agents that are connected hear of it at
once; one that is cut off may let such a token in for the rest of its five
minutes.`,
		Example: "  dfget session revoke 1f0c8e5a9b3d7c24\n  dfget session revoke --all\n  dfget session revoke --all --user ann",
		Args:    settings.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) || user != "" && !all {
				return fmt.Errorf("%w: name one session, or --all with or without --user", settings.ErrUsage)
			}
			request := &shoalv1.RevokeSessionRequest{All: all, User: user}
			if !all {
				request.Id = args[0]
			}
			client, err := a.sessions()
			if err != nil {
				return err
			}
			answer, err := client.RevokeSession(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return fmt.Errorf("end the session: %w", err)
			}
			if all {
				return a.tell(answer.Msg, "Ended all sessions of %s.", cmp.Or(user, "this user"))
			}
			return a.tell(answer.Msg, "Ended the session %s.", args[0])
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "end all of them")
	cmd.Flags().StringVar(&user, "user", "", "whose sessions (of others: system administrators)")
	return cmd
}
