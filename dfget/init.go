package dfget

import (
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) serverInitCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "init SERVER",
		Short: "Have a server carry out its pool's profile, or say what that would change (pool admins)",
		Long: `Have a server carry out its pool's profile. Each step is looked at, and put in
place where it does not hold; the first that fails ends it. A server that failed
is initialising from then on, one in service stays in service. With --dry-run all
steps are looked at and nothing is changed.

Servers that arrive are initialised without this. Ending this command does not
end what goes on at the server.

Exit status 1 when a step failed; in a dry run also 0 when something would change.`,
		Example: "  dfget server init web-1 --dry-run\n  dfget server init web-1\n  dfget server init web-1 --dry-run --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			stream, err := client.InitialiseServer(cmd.Context(), connect.NewRequest(&shoalv1.InitialiseServerRequest{Id: args[0], DryRun: dryRun}))
			if err != nil {
				return fmt.Errorf("initialise the server: %w", err)
			}
			defer stream.Close()
			run := stepRun{app: a, server: args[0], dryRun: dryRun}
			for stream.Receive() {
				run.update(stream.Msg())
			}
			if err := stream.Err(); err != nil {
				return fmt.Errorf("initialise the server: %w", err)
			}
			return run.finish()
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "look at every step and change nothing")
	return cmd
}

// stepRun prints each step once it has been looked at.
type stepRun struct {
	app    *app
	server string
	dryRun bool
	said   int // steps that were printed
	last   *shoalv1.InitialiseServerUpdate
}

func (r *stepRun) update(u *shoalv1.InitialiseServerUpdate) {
	r.last = u
	if r.app.json {
		raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(u)
		if err == nil {
			fmt.Fprintln(r.app.out, string(raw))
		}
		return
	}
	for ; r.said < len(u.Steps) && (u.Done || u.Steps[r.said].State != shoalv1.StepStatus_WAITING); r.said++ {
		r.app.printStep(u.Steps[r.said])
	}
}

func (a *app) printStep(s *shoalv1.StepStatus) {
	fmt.Fprintf(a.out, "%-12s %s\n", stepState(s.State), shown(s.Name))
	for _, text := range []string{s.Output, s.Error} {
		for line := range strings.Lines(text) {
			fmt.Fprintf(a.out, "             %s\n", shown(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")))
		}
	}
}

func stepState(s shoalv1.StepStatus_State) string {
	return strings.ReplaceAll(strings.ToLower(s.String()), "_", " ")
}

func (r *stepRun) finish() error {
	if r.last == nil || !r.last.Done {
		return fmt.Errorf("%s did not say how it ended; 'dfget server show %s' tells", r.server, r.server)
	}
	if r.last.Error != "" {
		return fmt.Errorf("%s: %s", r.server, shown(r.last.Error))
	}
	count := map[shoalv1.StepStatus_State]int{}
	for _, s := range r.last.Steps {
		count[s.State]++
	}
	switch {
	case r.dryRun && count[shoalv1.StepStatus_WOULD_CHANGE] > 0:
		r.app.say("%d of %d steps would change something. Nothing was changed.", count[shoalv1.StepStatus_WOULD_CHANGE], len(r.last.Steps))
	case count[shoalv1.StepStatus_CHANGED] > 0:
		r.app.say("All %d steps hold, %d of them now.", len(r.last.Steps), count[shoalv1.StepStatus_CHANGED])
	default:
		r.app.say("All %d steps hold already.", len(r.last.Steps))
	}
	return nil
}
