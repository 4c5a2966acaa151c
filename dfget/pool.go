package dfget

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) grantPoolCommand() *cobra.Command {
	var revoke bool
	cmd := &cobra.Command{
		Use:   "grant-pool PROJECT [POOL]",
		Short: "Let every host of a pool pull a project's images without a login",
		Long: `Without a login means: whatever runs on such a host can pull these images, since
a container runtime's first request never carries a login. A host's pool is
that of the join token it came with (supernode join-token --pool). The hosts
know within half a minute.

Without POOL, the pools that have the right are listed.`,
		Example: "  dfget project grant-pool demo web\n  dfget project grant-pool demo web --revoke\n  dfget project grant-pool demo --json",
		Args:    settings.Args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && revoke:
				return fmt.Errorf("%w: name the pool that the right is taken from", settings.ErrUsage)
			case len(args) == 1:
				return a.listPools(cmd.Context(), args[0])
			case revoke:
				return a.revokePool(cmd.Context(), args[0], args[1])
			}
			return a.grantPool(cmd.Context(), args[0], args[1])
		},
	}
	cmd.Flags().BoolVar(&revoke, "revoke", false, "take the right away again")
	return cmd
}

func (a *app) grantPool(ctx context.Context, project, pool string) error {
	client, err := a.projects()
	if err != nil {
		return err
	}
	answer, err := client.GrantPool(ctx, connect.NewRequest(&shoalv1.GrantPoolRequest{Project: project, Pool: pool}))
	if err != nil {
		return fmt.Errorf("grant the pool: %w", err)
	}
	return a.tell(answer.Msg, "Every host of pool %s may pull from %s.", pool, project)
}

func (a *app) revokePool(ctx context.Context, project, pool string) error {
	client, err := a.projects()
	if err != nil {
		return err
	}
	answer, err := client.RevokePool(ctx, connect.NewRequest(&shoalv1.RevokePoolRequest{Project: project, Pool: pool}))
	if err != nil {
		return fmt.Errorf("revoke the pool's right: %w", err)
	}
	return a.tell(answer.Msg, "The hosts of pool %s have no right of their own to %s.", pool, project)
}

func (a *app) listPools(ctx context.Context, project string) error {
	client, err := a.projects()
	if err != nil {
		return err
	}
	answer, err := client.ListPoolGrants(ctx, connect.NewRequest(&shoalv1.ListPoolGrantsRequest{Project: project}))
	if err != nil {
		return fmt.Errorf("list the pools: %w", err)
	}
	if a.json {
		return a.printJSON(answer.Msg)
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "POOL\tSINCE\tBY")
	for _, g := range answer.Msg.Grants {
		fmt.Fprintf(w, "%s\t%s\t%s\n", g.Pool, g.Since.AsTime().Local().Format(time.DateTime), g.By)
	}
	return w.Flush()
}
