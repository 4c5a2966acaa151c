package dfget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// moneyDigits is how many digits of an amount there are behind the point.
const moneyDigits = 6

// costs is the API of costs and budgets.
func (a *app) costs() (shoalv1connect.CostServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewCostServiceClient(client, base), nil
}

// costFlags say what is asked.
type costFlags struct {
	by, from, to, pool, project, format, out string
}

func (a *app) costCommand() *cobra.Command {
	var flags costFlags
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "What the fleet cost, who used it, and what nothing used",
		Long: `What the servers of each pool cost is spread over the containers that ran on
them and "(idle)", what nothing used; together these are the servers' price,
to the last millionth. Who may view a pool sees all about it; a project's
members see what the project used anywhere.

A time is how long ago (24h), a day such as 2026-01-31, or 2026-01-31T12:00:00Z;
days and months are those of UTC. --to is not included: the whole of January is
--from 2026-01-01 --to 2026-02-01. Without times it is this month until now.

--format csv and json write the usage with the column names of FOCUS 1.0, a
row for each container or server and day, whatever --by says. --json writes the
report that is otherwise shown as a table.`,
		Example: `  dfget cost --by project
  dfget cost --by service --pool web --from 2026-01-01 --to 2026-02-01
  dfget cost --from 168h --json
  dfget cost --from 2026-01-01 --to 2026-02-01 --format csv -O january.csv`,
		Args: settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, to, err := flags.times(time.Now().UTC())
			if err != nil {
				return err
			}
			client, err := a.costs()
			if err != nil {
				return err
			}
			switch {
			case flags.format == "table" && flags.out != "":
				return fmt.Errorf("%w: -O is for --format csv or json", settings.ErrUsage)
			case flags.format == "table":
				return a.showCost(cmd.Context(), client, &shoalv1.GetCostRequest{By: flags.by, From: from, To: to, Pool: flags.pool, Project: flags.project})
			}
			return a.exportCost(cmd.Context(), client, flags.out, &shoalv1.ExportCostRequest{
				From: from, To: to, Pool: flags.pool, Project: flags.project, Format: flags.format,
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.by, "by", "project", "project, pool or service")
	f.StringVar(&flags.from, "from", "", "from this time on; else the beginning of the month")
	f.StringVar(&flags.to, "to", "", "up to this time; else now")
	f.StringVar(&flags.pool, "pool", "", "only this pool")
	f.StringVar(&flags.project, "project", "", "only what this project used")
	f.StringVar(&flags.format, "format", "table", "table, or csv or json for rows in the form of FOCUS 1.0")
	f.StringVarP(&flags.out, "output", "O", "", "file for the rows, a new one; else the standard output")
	return cmd
}

// times reads --from and --to.
func (f costFlags) times(now time.Time) (from, to *timestamppb.Timestamp, err error) {
	for _, one := range []struct {
		flag, text string
		to         **timestamppb.Timestamp
	}{{"from", f.from, &from}, {"to", f.to, &to}} {
		if one.text == "" {
			continue
		}
		at, err := parseTime(one.text, now)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: --%s %q: %w", settings.ErrUsage, one.flag, one.text, err)
		}
		*one.to = timestamppb.New(at)
	}
	return from, to, nil
}

func (a *app) showCost(ctx context.Context, client shoalv1connect.CostServiceClient, request *shoalv1.GetCostRequest) error {
	answer, err := client.GetCost(ctx, connect.NewRequest(request))
	if err != nil {
		return fmt.Errorf("ask for the costs: %w", err)
	}
	m := answer.Msg
	if a.json {
		return a.printJSON(m)
	}
	if len(m.Rows) == 0 && request.Pool+request.Project != "" {
		a.say("Nothing is known of that pool or project in that time.")
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "From %s to %s (UTC)\n\n", m.From.AsTime().Format(time.DateTime), m.To.AsTime().Format(time.DateTime))
	fmt.Fprintln(w, "NAME\tPOOL\tAMOUNT\tCURRENCY\tCORE-HOURS\tGIB-HOURS")
	for _, r := range m.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f\t%.1f\n", shown(r.Name), orDash(r.Pool), formatDecimal(r.AmountMicro, moneyDigits), orDash(r.Currency),
			float64(r.CpuMilliSeconds)/1000/3600, float64(r.MemoryMibSeconds)/1024/3600)
	}
	if len(m.Pools) > 0 {
		fmt.Fprintln(w, "\nPOOL\tCOST\tALLOCATED\tIDLE\tCURRENCY\tFROM PEERS\tFROM SUPERNODE\tFROM OUTSIDE\tSAVED")
	}
	for _, p := range m.Pools {
		money := func(micro int64) string { return formatDecimal(micro, moneyDigits) }
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", orDash(p.Pool), money(p.ServersMicro), money(p.AllocatedMicro), money(p.IdleMicro), orDash(p.Currency),
			formatBytes(p.PeerBytes), formatBytes(p.SupernodeBytes), formatBytes(p.UpstreamBytes), money(p.SavedMicro))
	}
	return w.Flush()
}

// exportCost writes the rows as they come. A file that is not whole is removed
// again.
func (a *app) exportCost(ctx context.Context, client shoalv1connect.CostServiceClient, out string, request *shoalv1.ExportCostRequest) (err error) {
	stream, err := client.ExportCost(ctx, connect.NewRequest(request))
	if err != nil {
		return fmt.Errorf("export the costs: %w", err)
	}
	defer stream.Close()
	to := io.Writer(a.out)
	if out != "" {
		f, openErr := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if openErr != nil {
			return fmt.Errorf("export the costs: %w; name another file with -O", openErr)
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				err = errors.Join(err, os.Remove(out))
			}
		}()
		to = f
	}
	for stream.Receive() {
		if _, err := to.Write(stream.Msg().Data); err != nil {
			return fmt.Errorf("export the costs: %w", err)
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("export the costs: %w", err)
	}
	return nil
}
