package dfget

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// placements is the API of placements.
func (a *app) placements() (shoalv1connect.PlacementServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewPlacementServiceClient(client, base), nil
}

// serviceFlags are what a service runs with.
type serviceFlags struct {
	service shoalv1.Service
	memory  settings.Size
}

func (s *serviceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(milli(&s.service.CpuMilli), "cpu", "cores that each container may use at most and holds, such as 0.5; without it there is no limit and nothing is held")
	f.TextVar(&s.memory, "memory", settings.Size(0), "memory `size` that each may use at most and holds, such as 256MiB; without it there is no limit and nothing is held")
	f.StringArrayVar(&s.service.Env, "env", nil, "NAME=value over the image's own (repeatable)")
	f.Int32SliceVar(&s.service.Ports, "port", nil, "TCP `port` on the host that it listens on; it is healthy when it answers (repeatable)")
	f.Lookup("port").DefValue = "" // else the help says that it is []
}

// read completes the service by what stands behind "--".
func (s *serviceFlags) read(cmd *cobra.Command, args []string) (image string, err error) {
	s.service.MemoryBytes = int64(s.memory)
	at := cmd.ArgsLenAtDash()
	if at < 0 {
		at = len(args)
	}
	s.service.Args = args[at:]
	if at != 1 {
		return "", fmt.Errorf("%w: one name before '--', got %d", settings.ErrUsage, at)
	}
	return args[0], nil
}

func (a *app) placeCommand() *cobra.Command {
	var flags serviceFlags
	request := shoalv1.PlaceRequest{Service: &flags.service}
	var deadline time.Duration
	var explain bool
	cmd := &cobra.Command{
		Use:   "place IMAGE --pool POOL [flags] [-- CMD…]",
		Short: "Place containers on a pool's hosts, when the image is there",
		Long: `Place an image as a service on the hosts of a pool. The image is brought to
the hosts that were chosen, and to a few spare ones; only when all of the chosen
have it, verified and unpacked, is anything started. When too few get it,
nothing is changed, and it is said why, host by host.

Hosts are chosen by role, quota, tier, class, taints and what is free on them;
then by how much of the image they lack, and by whether their neighbours have
that. A container shares its host's network.

The command waits until the containers are healthy. When it is broken off, the
supernode goes on: see 'dfget place show'. The exit status is 0 only when all of
them are.`,
		Example: `  dfget place demo/app:v1 --pool web --replicas 3 --cpu 0.5 --memory 256MiB --port 8080
  dfget place demo/app:v1 --pool web --replicas 6 --spread rack --env MODE=live -- serve --verbose
  dfget place demo/app:v1 --pool web --replicas 3 --dry-run
  dfget place update app --image demo/app:v2
  dfget place logs app --follow`,
		Args: settings.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if flags.service.Image, err = flags.read(cmd, args); err != nil {
				return err
			}
			if _, err := parseImage(flags.service.Image); err != nil {
				return err
			}
			if request.Pool == "" {
				return fmt.Errorf("%w: --pool is needed: whose hosts are to run it", settings.ErrUsage)
			}
			if request.DeadlineSeconds, err = wholeSeconds(deadline); err != nil {
				return err
			}
			client, err := a.placements()
			if err != nil {
				return err
			}
			stream, err := client.Place(cmd.Context(), connect.NewRequest(&request))
			return a.followPlacement("place", stream, err, explain || request.DryRun)
		},
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.StringVar(&request.Name, "name", "", "its name; the last part of the image's when empty")
	f.StringVar(&request.Pool, "pool", "", "the pool whose hosts run it")
	f.Int32Var(&request.Replicas, "replicas", 1, "how many containers")
	f.StringVar(&request.Spread, "spread", "", "keep them apart by rack, zone or host; packed on few hosts when empty")
	f.StringVar(&request.Tier, "tier", "", "core or light: core services run on core pools only; the pool's when empty")
	f.StringVar(&request.HardwareClass, "class", "", "only on servers of this hardware class")
	f.StringArrayVar(&request.Tolerate, "tolerate", nil, "taint that does not matter (repeatable)")
	f.Int32Var(&request.Spares, "spares", -1, "how many more hosts get the image, in case one dies; -1 is one and a tenth of the replicas")
	f.DurationVar(&deadline, "deadline", 0, "for how long the hosts may take to get the image; 15m when 0")
	f.BoolVar(&request.DryRun, "dry-run", false, "say what would be chosen and change nothing")
	f.BoolVar(&explain, "explain", false, "say of each host why it was taken or not")
	cmd.AddCommand(a.placeListCommand(), a.placeShowCommand(), a.placeLogsCommand(), a.placeScaleCommand(), a.placeUpdateCommand(),
		a.placeRollbackCommand(), a.placeStopCommand(), a.placeStartCommand(), a.placeRestartCommand(), a.placeRemoveCommand())
	return cmd
}

// wholeSeconds is a deadline as it is sent. A part of a second would be lost,
// and none of it means the supernode's own deadline.
func wholeSeconds(d time.Duration) (int64, error) {
	if d%time.Second != 0 {
		return 0, fmt.Errorf("%w: --deadline %v: give whole seconds", settings.ErrUsage, d)
	}
	return int64(d / time.Second), nil
}

func (a *app) placeListCommand() *cobra.Command {
	var pool string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the placements on the pools that you may see",
		Example: "  dfget place list\n  dfget place list --pool web --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.placements()
			if err != nil {
				return err
			}
			answer, err := client.ListPlacements(cmd.Context(), connect.NewRequest(&shoalv1.ListPlacementsRequest{Pool: pool}))
			if err != nil {
				return fmt.Errorf("list the placements: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tPOOL\tPHASE\tHEALTHY\tIMAGE\tREVISION\tBY\tCREATED")
			for _, p := range answer.Msg.Placements {
				newest := newestRevision(p)
				fmt.Fprintf(w, "%s\t%s\t%s\t%d/%d\t%s\t%d\t%s\t%s\n", p.Name, p.Pool, p.Phase, p.Healthy, p.Replicas, newest.GetService().GetImage(), newest.GetNumber(), p.By, localTime(p.Created))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&pool, "pool", "", "of this pool only")
	return cmd
}

func newestRevision(p *shoalv1.Placement) *shoalv1.PlacementRevision {
	if len(p.Revisions) == 0 {
		return nil
	}
	return p.Revisions[len(p.Revisions)-1]
}

func (a *app) placeShowCommand() *cobra.Command {
	var explain bool
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a placement: its containers, versions and last prepulls",
		Example: "  dfget place show app\n  dfget place show app --explain\n  dfget place show app --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.placements()
			if err != nil {
				return err
			}
			answer, err := client.GetPlacement(cmd.Context(), connect.NewRequest(&shoalv1.GetPlacementRequest{Name: args[0]}))
			if err != nil {
				return fmt.Errorf("show the placement: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			if err := a.printPlacement(answer.Msg.Placement); err != nil || !explain {
				return err
			}
			fmt.Fprintln(a.out)
			return a.printVerdicts(answer.Msg.Placement.Verdicts)
		},
	}
	cmd.Flags().BoolVar(&explain, "explain", false, "say of each host why it was taken or not by the last change")
	return cmd
}

func (a *app) printPlacement(p *shoalv1.Placement) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, line := range [][2]string{
		{"placement", p.Name}, {"pool", p.Pool}, {"project", p.Project}, {"phase", p.Phase}, {"reason", shown(p.Reason)},
		{"healthy", fmt.Sprintf("%d of %d", p.Healthy, p.Replicas)}, {"spread", p.Spread}, {"tier", p.Tier}, {"class", p.HardwareClass},
		{"tolerates", strings.Join(p.Tolerate, " ")}, {"by", p.By}, {"created", localTime(p.Created)},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	}
	fmt.Fprintln(w, "\nREVISION\tIMAGE\tDIGEST\tCPU\tMEMORY\tBY\tSINCE")
	for _, r := range p.Revisions {
		s := r.Service
		fmt.Fprintf(w, "%d\t%s\t%.19s\t%s\t%s\t%s\t%s\n", r.Number, s.GetImage(), r.Digest, limit(s.GetCpuMilli(), formatDecimal(s.GetCpuMilli(), 3)), limit(s.GetMemoryBytes(), formatMemory(s.GetMemoryBytes())), r.By, localTime(r.At))
	}
	var errs []string // below the tables, which they would tear apart
	if len(p.Containers) > 0 {
		fmt.Fprintln(w, "\nCONTAINER\tSERVER\tREVISION\tSTATE\tRESTARTS\tORDERED\tSTARTED")
	}
	for _, c := range p.Containers {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%s\t%s\n", c.Id, c.Server, c.Revision, containerState(c.Status), c.Status.GetRestarts(), moment(c.Ordered.AsTime(), c.Ordered == nil), moment(c.Status.GetStarted().AsTime(), c.Status.GetStarted() == nil))
		errs = appendError(errs, c.Id, c.Status.GetError())
	}
	if len(p.Prepulls) > 0 {
		fmt.Fprintln(w, "\nPREPULL\tSTATE\tBYTES\tASKED\tREADY")
	}
	for _, h := range p.Prepulls {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", h.Server, h.State, formatBytes(h.BytesTotal), moment(h.Asked.AsTime(), h.Asked == nil), moment(h.Ready.AsTime(), h.Ready == nil))
		errs = appendError(errs, h.Server, h.Error)
	}
	if err := w.Flush(); err != nil || len(errs) == 0 {
		return err
	}
	_, err := fmt.Fprintf(a.out, "\nERRORS\n%s\n", strings.Join(errs, "\n"))
	return err
}

func appendError(list []string, of, err string) []string {
	if err == "" {
		return list
	}
	return append(list, of+": "+shown(err))
}

func limit(n int64, text string) string {
	if n == 0 {
		return "-"
	}
	return text
}

// moment is a time with milliseconds: what was first is what one looks for.
func moment(t time.Time, unknown bool) string {
	if unknown {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05.000")
}

func containerState(s *shoalv1.ContainerStatus) string {
	switch {
	case s == nil:
		return "unknown"
	case s.State == shoalv1.ContainerStatus_EXITED && s.Error == "":
		return fmt.Sprintf("exited with %d", s.ExitCode)
	}
	return strings.ToLower(s.State.String())
}

func withError(state, err string) string {
	if err == "" {
		return state
	}
	return state + ": " + shown(err)
}

func (a *app) printVerdicts(list []*shoalv1.Verdict) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SERVER\tOUTCOME\tLACKS\tWHY")
	for _, v := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Server, v.Outcome, formatBytes(v.MissingBytes), cmp.Or(shown(v.Reason), "-"))
	}
	return w.Flush()
}
