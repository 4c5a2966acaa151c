package dfget

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) budgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "budget",
		Short: "Budgets of pools and projects, and their alarms",
		Long: `A budget is what a pool or a project should cost at most in a calendar month
(UTC). When so many percent of it are spent an alarm is raised, once a month: in
the supernode's log, as budget.alarm in the audit, and in the metrics. Nothing is
stopped. A pool's budget is its admins', a project's budget its admins'.`,
		Example: "  dfget budget set pool:web 1500 EUR\n  dfget budget set project:demo 200.50 EUR --alarm 50,90\n  dfget budget list",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.budgetSetCommand(), a.budgetListCommand(), a.budgetRemoveCommand())
	return cmd
}

func (a *app) budgetSetCommand() *cobra.Command {
	var alarms []int32
	cmd := &cobra.Command{
		Use:     "set pool:NAME|project:NAME AMOUNT CURRENCY",
		Short:   "Set what a pool or project should cost in a month, in place of what was set",
		Example: "  dfget budget set pool:web 1500 EUR\n  dfget budget set project:demo 200.50 EUR --alarm 50,90",
		Args:    settings.Args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, args []string) error {
			monthly, err := parseDecimal(args[1], moneyDigits)
			if err != nil {
				return fmt.Errorf("%w: the amount: %w", settings.ErrUsage, err)
			}
			client, err := a.costs()
			if err != nil {
				return err
			}
			answer, err := client.SetBudget(cmd.Context(), connect.NewRequest(&shoalv1.SetBudgetRequest{
				Budget: &shoalv1.Budget{Scope: args[0], MonthlyMicro: monthly, Currency: args[2], Alarms: alarms},
			}))
			if err != nil {
				return fmt.Errorf("set the budget: %w", err)
			}
			return a.tell(answer.Msg, "%s should cost at most %s %s a month.", args[0], formatDecimal(monthly, moneyDigits), args[2])
		},
	}
	cmd.Flags().Int32SliceVar(&alarms, "alarm", []int32{80, 100}, "percents of it at which there is an alarm")
	return cmd
}

func (a *app) budgetListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the budgets that concern you, with what has been spent this month",
		Example: "  dfget budget list\n  dfget budget list --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.costs()
			if err != nil {
				return err
			}
			answer, err := client.ListBudgets(cmd.Context(), connect.NewRequest(&shoalv1.ListBudgetsRequest{}))
			if err != nil {
				return fmt.Errorf("list the budgets: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "BUDGET\tA MONTH\tSPENT\tCURRENCY\tALARMS\tRAISED")
			for _, b := range answer.Msg.Budgets {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", b.Scope, formatDecimal(b.MonthlyMicro, moneyDigits), formatDecimal(b.SpentMicro, moneyDigits),
					b.Currency, percents(b.Alarms...), raisedText(b))
			}
			return w.Flush()
		},
	}
}

func raisedText(b *shoalv1.Budget) string {
	if b.Raised == 0 {
		return "-"
	}
	return percents(b.Raised)
}

func percents(list ...int32) string {
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%d%%", p))
	}
	return strings.Join(out, " ")
}

func (a *app) budgetRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove pool:NAME|project:NAME [CURRENCY]",
		Short:   "Remove a budget; without a currency, all of that pool or project",
		Example: "  dfget budget remove pool:web EUR",
		Args:    settings.Args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.costs()
			if err != nil {
				return err
			}
			request := &shoalv1.RemoveBudgetRequest{Scope: args[0]}
			if len(args) == 2 {
				request.Currency = args[1]
			}
			answer, err := client.RemoveBudget(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return fmt.Errorf("remove the budget: %w", err)
			}
			return a.tell(answer.Msg, "%s has no such budget any more.", args[0])
		},
	}
}
