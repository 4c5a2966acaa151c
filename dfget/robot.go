package dfget

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) robotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "robot",
		Short: "Accounts for programs, of one project each",
		Long: `A robot logs in at the registry, as robot$PROJECT+NAME with its secret, and
may do in its project what it was made for, until it expires. Its secret is
shown once.`,
		Example: "  dfget robot create demo ci --allow pull,push --expires 720h\n  dfget robot list demo",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.robotCreateCommand(), a.robotListCommand(),
		a.robotEndCommand("remove", "Remove a robot, at once", "Removed"),
		a.robotEndCommand("disable", "Shut a robot out, at once, until it is enabled", "Disabled"),
		a.robotEndCommand("enable", "Let a disabled robot in again", "Enabled"))
	return cmd
}

func (a *app) robotCreateCommand() *cobra.Command {
	var allow []string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:     "create PROJECT NAME",
		Short:   "Make a robot and print its secret, once",
		Example: "  dfget robot create demo ci --allow pull,push\n  dfget robot create demo deploy --expires 8760h --json",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.CreateRobot(cmd.Context(), connect.NewRequest(&shoalv1.CreateRobotRequest{
				Project: args[0], Name: args[1], Permissions: allow, TtlSeconds: int64(expires.Seconds()),
			}))
			if err != nil {
				return fmt.Errorf("make the robot: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			a.say("Made %s, good until %s. Keep its secret; it cannot be shown again:",
				answer.Msg.Robot.Login, answer.Msg.Robot.Expires.AsTime().Local().Format(time.DateTime))
			fmt.Fprintln(a.out, answer.Msg.Secret)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&allow, "allow", []string{"pull"}, "what it may do: some of pull, push and delete")
	cmd.Flags().DurationVar(&expires, "expires", 30*24*time.Hour, "after how long it ends")
	return cmd
}

func (a *app) robotListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list PROJECT",
		Short:   "List the robots of a project",
		Example: "  dfget robot list demo --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.ListRobots(cmd.Context(), connect.NewRequest(&shoalv1.ListRobotsRequest{Project: args[0]}))
			if err != nil {
				return fmt.Errorf("list the robots: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "LOGIN\tMAY\tSTATE\tEXPIRES\tBY")
			for _, r := range answer.Msg.Robots {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Login, strings.Join(r.Permissions, ","), robotState(r, time.Now()),
					r.Expires.AsTime().Local().Format(time.DateTime), r.Creator)
			}
			return w.Flush()
		},
	}
}

func robotState(r *shoalv1.Robot, now time.Time) string {
	switch {
	case !now.Before(r.Expires.AsTime()):
		return "expired"
	case r.Disabled:
		return "disabled"
	}
	return "good"
}

// robotEndCommand removes, disables or enables.
func (a *app) robotEndCommand(verb, short, done string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " PROJECT NAME",
		Short:   short,
		Example: "  dfget robot " + verb + " demo ci",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			if verb == "remove" {
				answer, err := client.RemoveRobot(cmd.Context(), connect.NewRequest(&shoalv1.RemoveRobotRequest{Project: args[0], Name: args[1]}))
				if err != nil {
					return fmt.Errorf("%s the robot: %w", verb, err)
				}
				return a.tell(answer.Msg, "%s %s of %s.", done, args[1], args[0])
			}
			answer, err := client.SetRobotDisabled(cmd.Context(), connect.NewRequest(&shoalv1.SetRobotDisabledRequest{
				Project: args[0], Name: args[1], Disabled: verb == "disable",
			}))
			if err != nil {
				return fmt.Errorf("%s the robot: %w", verb, err)
			}
			return a.tell(answer.Msg, "%s %s of %s.", done, args[1], args[0])
		},
	}
}
