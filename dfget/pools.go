package dfget

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) poolCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "Pools of servers, and who may do what with them",
		Long: `A pool holds servers of one sort, in one cluster. System administrators make
pools and decide about their price and quota. On each pool people have roles:
a viewer sees it, a deployer places containers on it, an admin does that and
creates, drains and retires its servers and decides who has which role.`,
		Example: "  dfget pool create web --cluster fra1 --class 32c-32g --tier core\n  dfget pool grant web ann --role deployer\n  dfget pool list",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.poolCreateCommand(), a.poolSetCommand(), a.poolListCommand("list"), a.poolShowCommand(),
		a.poolGrantCommand(), a.poolRevokeCommand(), a.poolDeleteCommand())
	return cmd
}

func (a *app) poolCreateCommand() *cobra.Command {
	var flags poolFlags
	var cluster string
	cmd := &cobra.Command{
		Use:   "create NAME --cluster CLUSTER",
		Short: "Make a pool (system administrators)",
		Long: `Make a pool. Hosts that joined with its name in their token are in it.

A fleet of mixed age: old machines go into a pool of the tier light, which takes
light services only, new ones into one of the tier core.`,
		Example: `  dfget pool create old --cluster fra1 --class 12c-16g --tier light
  dfget pool create new --cluster fra1 --class 32c-32g --tier core \
    --currency EUR --purchase 4200 --amortise-months 48 --power-monthly 31.5
  dfget pool create burst --cluster cloud --currency EUR --hourly 0.12 --quota-servers 20`,
		Args: settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, err := flags.pool(args[0], cluster)
			if err != nil {
				return err
			}
			if err := needed("cluster", cluster); err != nil {
				return err
			}
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.CreatePool(cmd.Context(), connect.NewRequest(&shoalv1.CreatePoolRequest{Pool: pool}))
			if err != nil {
				return fmt.Errorf("make the pool: %w", err)
			}
			return a.tell(answer.Msg, "Made the pool %s in %s.", args[0], cluster)
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster that it is in")
	flags.add(cmd)
	return cmd
}

func (a *app) poolSetCommand() *cobra.Command {
	var flags poolFlags
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a pool (its admins; system administrators what it costs)",
		Long: `Change a pool; what no flag names stays. Labels, taints and the profile are the
pool's admins', the rest is the system administrators'. The flags of the price
go together: the ones that are given replace the whole price. So do those of
the quota.`,
		Example: "  dfget pool set web --label rack=a1 --profile host\n  dfget pool set web --quota-servers 40 --quota-memory 1TiB\n  dfget pool set web --taint ''",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			named := false
			cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { named = named || f.Changed })
			if !named {
				return fmt.Errorf("%w: nothing to change: name it by a flag", settings.ErrUsage)
			}
			change, err := flags.change(cmd, args[0])
			if err != nil {
				return err
			}
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.SetPool(cmd.Context(), connect.NewRequest(change))
			if err != nil {
				return fmt.Errorf("change the pool: %w", err)
			}
			return a.tell(answer.Msg, "Changed the pool %s.", args[0])
		},
	}
	flags.add(cmd)
	return cmd
}

// poolListCommand is pool list, and pools.
func (a *app) poolListCommand(name string) *cobra.Command {
	return &cobra.Command{
		Use:     name,
		Short:   "List the pools that you may see",
		Example: "  dfget pool list --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.ListPools(cmd.Context(), connect.NewRequest(&shoalv1.ListPoolsRequest{}))
			if err != nil {
				return fmt.Errorf("list the pools: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "POOL\tCLUSTER\tTIER\tCLASS\tSERVERS\tREADY\tCORES\tMEMORY\tYOUR ROLE")
			for _, p := range answer.Msg.Pools {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", p.Name, dash(p.Cluster), p.Tier, dash(p.HardwareClass), p.Servers, p.Ready,
					formatDecimal(p.CpuMilli, 3), formatMemory(p.MemoryBytes), dash(p.Role))
			}
			return w.Flush()
		},
	}
}

func (a *app) poolShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a pool and who has which role on it",
		Example: "  dfget pool show web --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.GetPool(cmd.Context(), connect.NewRequest(&shoalv1.GetPoolRequest{Name: args[0]}))
			if err != nil {
				return fmt.Errorf("show the pool: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			return a.printPool(answer.Msg)
		},
	}
}

func (a *app) printPool(m *shoalv1.GetPoolResponse) error {
	p := m.Pool
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, line := range [][2]string{
		{"pool", p.Name}, {"cluster", dash(p.Cluster)}, {"tier", p.Tier}, {"class", dash(p.HardwareClass)}, {"profile", dash(p.Profile)},
		{"profile settings", dash(formatPairs(p.ProfileSettings))}, {"labels", dash(formatPairs(p.Labels))}, {"taints", dash(strings.Join(p.Taints, " "))},
		{"servers", fmt.Sprintf("%d, %d of them ready", p.Servers, p.Ready)}, {"ready", fmt.Sprintf("%s cores, %s", formatDecimal(p.CpuMilli, 3), formatMemory(p.MemoryBytes))},
		{"price", formatPrice(p.Price)}, {"quota", formatQuota(p.Quota)}, {"your role", dash(p.Role)}, {"since", localTime(p.Created)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	if len(m.Roles) > 0 {
		fmt.Fprintln(w, "\nUSER\tROLE\tSINCE\tBY")
	}
	for _, r := range m.Roles {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.User, r.Role, localTime(r.Since), r.By)
	}
	return w.Flush()
}

func formatPairs(m map[string]string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, key+"="+m[key])
	}
	return strings.Join(out, " ")
}

func formatPrice(p *shoalv1.Price) string {
	if p.GetCurrency() == "" {
		return "-"
	}
	amount := func(n int64) string { return formatDecimal(n, 6) + " " + p.Currency }
	out := amount(p.HourlyMicro) + " an hour"
	if p.HourlyMicro == 0 {
		out = fmt.Sprintf("%s over %d months, %s power and %s rack a month", amount(p.PurchaseMicro), p.AmortisationMonths, amount(p.PowerMonthlyMicro), amount(p.RackMonthlyMicro))
	}
	if p.EgressGbMicro != 0 {
		out += ", " + amount(p.EgressGbMicro) + " a GB from outside"
	}
	return out
}

func formatQuota(q *shoalv1.PoolQuota) string {
	var out []string
	if q.GetServers() > 0 {
		out = append(out, fmt.Sprintf("%d servers", q.Servers))
	}
	if q.GetCpuMilli() > 0 {
		out = append(out, formatDecimal(q.CpuMilli, 3)+" cores")
	}
	if q.GetMemoryBytes() > 0 {
		out = append(out, formatMemory(q.MemoryBytes))
	}
	return dash(strings.Join(out, ", "))
}

func (a *app) poolGrantCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:     "grant POOL USER",
		Short:   "Give a user a role on a pool, in place of any other there",
		Example: "  dfget pool grant web ann --role viewer\n  dfget pool grant web bob --role admin",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if role == "" { // one that is taken for granted could be less than they have
				return fmt.Errorf("%w: say which role, with --role viewer, deployer or admin", settings.ErrUsage)
			}
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.SetPoolRole(cmd.Context(), connect.NewRequest(&shoalv1.SetPoolRoleRequest{Pool: args[0], User: args[1], Role: role}))
			if err != nil {
				return fmt.Errorf("give the role: %w", err)
			}
			return a.tell(answer.Msg, "%s is now %s of pool %s.", args[1], role, args[0])
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "viewer, deployer or admin (needed)")
	return cmd
}

func (a *app) poolRevokeCommand() *cobra.Command {
	return a.poolChange("revoke POOL USER", "Take a user's role on a pool away", "  dfget pool revoke web ann", 2, func(ctx context.Context, args []string) error {
		client, err := a.inventory()
		if err != nil {
			return err
		}
		answer, err := client.RemovePoolRole(ctx, connect.NewRequest(&shoalv1.RemovePoolRoleRequest{Pool: args[0], User: args[1]}))
		if err != nil {
			return fmt.Errorf("take the role away: %w", err)
		}
		return a.tell(answer.Msg, "%s has no role on pool %s any more.", args[1], args[0])
	})
}

func (a *app) poolDeleteCommand() *cobra.Command {
	return a.poolChange("delete NAME", "Delete a pool without servers (system administrators)", "  dfget pool delete web", 1, func(ctx context.Context, args []string) error {
		client, err := a.inventory()
		if err != nil {
			return err
		}
		answer, err := client.DeletePool(ctx, connect.NewRequest(&shoalv1.DeletePoolRequest{Name: args[0]}))
		if err != nil {
			return fmt.Errorf("delete the pool: %w", err)
		}
		return a.tell(answer.Msg, "Deleted the pool %s.", args[0])
	})
}

// poolChange is a command without flags.
func (a *app) poolChange(use, short, example string, args int, run func(context.Context, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: example, Args: settings.Args(cobra.ExactArgs(args)),
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) },
	}
}
