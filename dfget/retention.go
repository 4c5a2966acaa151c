package dfget

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

func (a *app) retentionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Rules by which a project lets old tags go (its admins)",
		Long: `Rules say what stays. A tag goes when rules are about its repository and none of
them keeps it; without rules everything stays, immutable tags always do. The
supernode applies the rules whenever it collects garbage, 'run' does so now.
Manifests that only such tags led to go with them, and signatures go with what
they sign. A pull counts when the supernode was asked about the tag or digest.`,
		Example: `  dfget project retention set --dry-run demo --keep-last 10 --keep-days 30 --keep 'v*'
  dfget project retention set demo --keep-last 10 --keep-days 30 --keep 'v*'
  dfget project retention run --dry-run demo`,
		Args: settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.retentionShowCommand(), a.retentionSetCommand(), a.retentionClearCommand(), a.retentionRunCommand())
	return cmd
}

func (a *app) retentions() (shoalv1connect.RetentionServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewRetentionServiceClient(client, base), nil
}

func (a *app) retentionShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show PROJECT",
		Short:   "Show a project's rules",
		Example: "  dfget project retention show demo --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.retentions()
			if err != nil {
				return err
			}
			answer, err := client.GetRetention(cmd.Context(), connect.NewRequest(&shoalv1.GetRetentionRequest{Project: args[0]}))
			if err != nil {
				return fmt.Errorf("show the retention rules: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			if len(answer.Msg.Rules) == 0 {
				a.say("%s has no retention rules: every tag stays.", args[0])
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "REPOSITORIES\tKEEP LAST\tKEEP DAYS\tKEEP")
			for _, r := range answer.Msg.Rules {
				where := r.Repositories
				if where == "" {
					where = "all"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", where, countText(r.KeepLast), countText(r.KeepDays), orDash(strings.Join(r.Keep, " ")))
			}
			return w.Flush()
		},
	}
}

func countText(n int32) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func (a *app) retentionSetCommand() *cobra.Command {
	var rule shoalv1.RetentionRule
	var dry, all bool
	cmd := &cobra.Command{
		Use:   "set PROJECT",
		Short: "Set the rule about some repositories, or about all",
		Long: `Set the rule about some repositories, or about all, in the place of the one
that is about the same pattern. Look at --dry-run first: the rule works from the
supernode's next collection of garbage on.`,
		Example: `  dfget project retention set --dry-run demo --keep-last 10
  dfget project retention set demo --keep-last 10 --keep-days 30 --keep 'v*' --keep stable
  dfget project retention set demo --repository 'ci/*' --keep-days 7`,
		Args: settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.retentions()
			if err != nil {
				return err
			}
			if rule.KeepLast < 0 || rule.KeepDays < 0 || rule.KeepLast == 0 && rule.KeepDays == 0 {
				return fmt.Errorf("%w: say how much stays, by --keep-last N or --keep-days D", settings.ErrUsage)
			}
			if dry {
				return a.runRetention(cmd.Context(), client, &shoalv1.RunRetentionRequest{Project: args[0], DryRun: true, Try: &rule}, all)
			}
			answer, err := client.SetRetention(cmd.Context(), connect.NewRequest(&shoalv1.SetRetentionRequest{Project: args[0], Rule: &rule}))
			if err != nil {
				return fmt.Errorf("set the retention rule: %w", err)
			}
			return a.tell(answer.Msg, "Set. 'dfget project retention run --dry-run %s' shows what goes with the next collection.", args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&rule.Repositories, "repository", "", "pattern of repositories below the project, such as 'ci/*'; all when empty")
	f.Int32Var(&rule.KeepLast, "keep-last", 0, "keep so many tags of each repository, those that were pushed last")
	f.Int32Var(&rule.KeepDays, "keep-days", 0, "keep what was pushed or pulled within so many days")
	f.StringArrayVar(&rule.Keep, "keep", nil, "pattern of tags that always stay, such as 'v*' (repeatable)")
	f.BoolVar(&dry, "dry-run", false, "only show what would go; nothing is set or removed")
	f.BoolVar(&all, "all", false, "with --dry-run: show what stays as well")
	return cmd
}

func (a *app) retentionClearCommand() *cobra.Command {
	var repositories string
	cmd := &cobra.Command{
		Use:     "clear PROJECT",
		Short:   "Remove all rules of a project, or one",
		Example: "  dfget project retention clear demo\n  dfget project retention clear demo --repository 'ci/*'",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.retentions()
			if err != nil {
				return err
			}
			answer, err := client.ClearRetention(cmd.Context(), connect.NewRequest(&shoalv1.ClearRetentionRequest{
				Project: args[0], Repositories: repositories, All: !cmd.Flags().Changed("repository"),
			}))
			if err != nil {
				return fmt.Errorf("clear the retention rules: %w", err)
			}
			return a.tell(answer.Msg, "Cleared; %s has %d rules left.", args[0], len(answer.Msg.Rules))
		},
	}
	cmd.Flags().StringVar(&repositories, "repository", "", "only the rule about this pattern; '' is the one about all repositories")
	return cmd
}

func (a *app) retentionRunCommand() *cobra.Command {
	var dry, all bool
	cmd := &cobra.Command{
		Use:   "run PROJECT",
		Short: "Apply the rules now, or show what they would remove",
		Long: `Apply the rules now, or show what they would remove. What the removed images
took is free after the supernode's next collection of garbage.`,
		Example: "  dfget project retention run --dry-run demo\n  dfget project retention run demo --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.retentions()
			if err != nil {
				return err
			}
			return a.runRetention(cmd.Context(), client, &shoalv1.RunRetentionRequest{Project: args[0], DryRun: dry}, all)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would go")
	cmd.Flags().BoolVar(&all, "all", false, "show what stays as well")
	return cmd
}

// runRetention prints a row for each tag that goes, with all for every tag: for
// scripts as one JSON object a line.
func (a *app) runRetention(ctx context.Context, client shoalv1connect.RetentionServiceClient, request *shoalv1.RunRetentionRequest, all bool) error {
	stream, err := client.RunRetention(ctx, connect.NewRequest(request))
	if err != nil {
		return fmt.Errorf("apply the retention rules: %w", err)
	}
	defer stream.Close()
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	var rows, going, staying, removed int
	for stream.Receive() {
		v := stream.Msg()
		if v.Goes {
			going++
		} else {
			staying++
		}
		if v.Removed {
			removed++
		}
		switch {
		case !v.Goes && !all:
		case a.json:
			raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(v)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, string(raw))
		default:
			if rows++; rows == 1 {
				fmt.Fprintln(w, "TAG\tPUSHED\tPULLED\t\tWHY")
			}
			fmt.Fprintf(w, "%s:%s\t%s\t%s\t%s\t%s\n", v.Repository, v.Tag, v.Pushed.AsTime().Local().Format(time.DateTime), pulledText(v), fateOf(v, request.DryRun), v.Why)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("apply the retention rules: %w", err)
	}
	if a.json {
		return nil
	}
	if request.DryRun {
		a.say("%d tags would go, %d stay. Nothing was removed.", going, staying)
		return nil
	}
	a.say("%d tags are gone, %d stay.", removed, staying+going-removed)
	return nil
}

func pulledText(v *shoalv1.RetentionVerdict) string {
	if v.Pulled == nil {
		return "-"
	}
	return v.Pulled.AsTime().Local().Format(time.DateTime)
}

func fateOf(v *shoalv1.RetentionVerdict, dry bool) string {
	switch {
	case !v.Goes:
		return "stays"
	case dry:
		return "would go"
	case v.Removed:
		return "gone"
	}
	return "stays (pushed again)"
}
