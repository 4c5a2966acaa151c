package dfget

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) projectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "project",
		Short: "Projects: who may pull and push what",
		Long: `A project is the first path element of a repository: demo/app lies in the
project demo. System administrators make projects and appoint project admins;
a project's admins decide about its members, settings and robots.`,
		Example: "  dfget project create demo\n  dfget project member add demo ann --role developer\n  dfget project list",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.projectCreateCommand(), a.projectListCommand(), a.projectShowCommand(), a.projectDeleteCommand(),
		a.projectSettingsCommand(), a.memberCommand(), a.grantPoolCommand(), a.retentionCommand())
	return cmd
}

// tell answers a command that changed something: with the message for
// scripts, with a line for people.
func (a *app) tell(m proto.Message, format string, args ...any) error {
	if a.json {
		return a.printJSON(m)
	}
	a.say(format, args...)
	return nil
}

// projectFlags are the settings of a project as flags.
type projectFlags struct {
	public, developersDelete bool
	immutable                []string
	quota                    settings.Size
}

func (p *projectFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&p.public, "public", false, "everybody who is logged in may pull")
	f.BoolVar(&p.developersDelete, "developers-delete", false, "developers may delete as well")
	f.StringArrayVar(&p.immutable, "immutable-tag", nil, "pattern of tags that stay as they are, such as 'v*' (repeatable; '' for none)")
	f.TextVar(&p.quota, "quota", settings.Size(0), "`size` of what the project may hold, such as 50GB; 0 is no limit (system administrators)")
}

// patterns leaves out what only says that there are none.
func (p *projectFlags) patterns() []string {
	var out []string
	for _, pattern := range p.immutable {
		if pattern != "" {
			out = append(out, pattern)
		}
	}
	return out
}

func (a *app) projectCreateCommand() *cobra.Command {
	var flags projectFlags
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a project (system administrators)",
		Example: "  dfget project create demo\n  dfget project create demo --quota 50GB --immutable-tag 'v*'",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.CreateProject(cmd.Context(), connect.NewRequest(&shoalv1.CreateProjectRequest{
				Name: args[0], Settings: &shoalv1.ProjectSettings{
					Public: flags.public, DevelopersDelete: flags.developersDelete, ImmutableTags: flags.patterns(), QuotaBytes: int64(flags.quota),
				},
			}))
			if err != nil {
				return fmt.Errorf("make the project %s: %w", args[0], err)
			}
			return a.tell(answer.Msg, "Made the project %s.", args[0])
		},
	}
	flags.add(cmd)
	return cmd
}

func (a *app) projectListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the projects that you may pull from",
		Example: "  dfget project list --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.ListProjects(cmd.Context(), connect.NewRequest(&shoalv1.ListProjectsRequest{}))
			if err != nil {
				return fmt.Errorf("list the projects: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "PROJECT\tYOUR ROLE\tPUBLIC\tUSED\tQUOTA")
			for _, p := range answer.Msg.Projects {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", p.Name, orDash(p.Role), yesNo(p.Settings.GetPublic()), formatBytes(p.UsedBytes), quotaText(p))
			}
			return w.Flush()
		},
	}
}

func (a *app) projectShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a project, its settings and what it holds",
		Example: "  dfget project show demo",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.showProject(cmd, args[0]) },
	}
}

func (a *app) showProject(cmd *cobra.Command, name string) error {
	client, err := a.projects()
	if err != nil {
		return err
	}
	answer, err := client.GetProject(cmd.Context(), connect.NewRequest(&shoalv1.GetProjectRequest{Name: name}))
	if err != nil {
		return fmt.Errorf("show the project: %w", err)
	}
	if a.json {
		return a.printJSON(answer.Msg)
	}
	p := answer.Msg.Project
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "project\t%s\n", p.Name)
	fmt.Fprintf(w, "made\t%s by %s\n", p.Created.AsTime().Local().Format(time.DateTime), p.Creator)
	fmt.Fprintf(w, "your role\t%s\n", orDash(p.Role))
	fmt.Fprintf(w, "public\t%s\n", yesNo(p.Settings.GetPublic()))
	fmt.Fprintf(w, "developers delete\t%s\n", yesNo(p.Settings.GetDevelopersDelete()))
	fmt.Fprintf(w, "immutable tags\t%s\n", orDash(strings.Join(p.Settings.GetImmutableTags(), " ")))
	fmt.Fprintf(w, "holds\t%s\n", formatBytes(p.UsedBytes))
	fmt.Fprintf(w, "quota\t%s\n", quotaText(p))
	return w.Flush()
}

func (a *app) projectDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a project that holds no images (system administrators)",
		Example: "  dfget project delete demo",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.DeleteProject(cmd.Context(), connect.NewRequest(&shoalv1.DeleteProjectRequest{Name: args[0]}))
			if err != nil {
				return fmt.Errorf("delete the project: %w", err)
			}
			return a.tell(answer.Msg, "Deleted the project %s.", args[0])
		},
	}
}

func (a *app) projectSettingsCommand() *cobra.Command {
	var flags projectFlags
	cmd := &cobra.Command{
		Use:   "settings NAME",
		Short: "Change what is named by flags, or show the settings",
		Example: `  dfget project settings demo
  dfget project settings demo --public=false --developers-delete
  dfget project settings demo --immutable-tag 'v*' --immutable-tag 'release-*'
  dfget project settings demo --quota 100GB`,
		Args: settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			request := &shoalv1.SetSettingsRequest{Project: args[0]}
			if changed("public") {
				request.Public = &flags.public
			}
			if changed("developers-delete") {
				request.DevelopersDelete = &flags.developersDelete
			}
			if changed("immutable-tag") {
				request.SetImmutableTags, request.ImmutableTags = true, flags.patterns()
			}
			if changed("quota") {
				request.QuotaBytes = proto.Int64(int64(flags.quota))
			}
			if proto.Equal(request, &shoalv1.SetSettingsRequest{Project: args[0]}) {
				return a.showProject(cmd, args[0])
			}
			client, err := a.projects()
			if err != nil {
				return err
			}
			answer, err := client.SetSettings(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return fmt.Errorf("change the settings: %w", err)
			}
			return a.tell(answer.Msg, "Changed the settings of %s.", args[0])
		},
	}
	flags.add(cmd)
	return cmd
}

func quotaText(p *shoalv1.Project) string {
	if q := p.Settings.GetQuotaBytes(); q > 0 {
		return formatBytes(q)
	}
	return "none"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
