package dfget

import (
	"fmt"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// inventory is the API of clusters, pools and servers.
func (a *app) inventory() (shoalv1connect.InventoryServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewInventoryServiceClient(client, base), nil
}

// localTime writes a time for people, - where there is none.
func localTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

// dash stands for a text that is not there.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Clusters: where pools of servers are",
		Long: `A cluster is a place where machines are had in one way: metal that stands
already, or machines that openstack, ec2 or kubernetes make. It holds pools.`,
		Example: "  dfget cluster add fra1 --kind metal\n  dfget cluster list",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.clusterAddCommand(), a.clusterListCommand(), a.clusterRemoveCommand())
	return cmd
}

func (a *app) clusterAddCommand() *cobra.Command {
	var kind, description string
	cmd := &cobra.Command{
		Use:     "add NAME",
		Short:   "Add a cluster (system administrators)",
		Example: "  dfget cluster add fra1 --kind metal --description 'Frankfurt, hall 2'",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.AddCluster(cmd.Context(), connect.NewRequest(&shoalv1.AddClusterRequest{Name: args[0], Kind: kind, Description: description}))
			if err != nil {
				return fmt.Errorf("add the cluster: %w", err)
			}
			return a.tell(answer.Msg, "Added the cluster %s.", args[0])
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "metal", "metal, openstack, ec2 or kubernetes")
	cmd.Flags().StringVar(&description, "description", "", "what people should know about it")
	return cmd
}

func (a *app) clusterListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the clusters",
		Example: "  dfget cluster list --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.ListClusters(cmd.Context(), connect.NewRequest(&shoalv1.ListClustersRequest{}))
			if err != nil {
				return fmt.Errorf("list the clusters: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "CLUSTER\tKIND\tSINCE\tDESCRIPTION")
			for _, c := range answer.Msg.Clusters {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, c.Kind, localTime(c.Created), c.Description)
			}
			return w.Flush()
		},
	}
}

func (a *app) clusterRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a cluster without pools (system administrators)",
		Example: "  dfget cluster remove fra1",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.RemoveCluster(cmd.Context(), connect.NewRequest(&shoalv1.RemoveClusterRequest{Name: args[0]}))
			if err != nil {
				return fmt.Errorf("remove the cluster: %w", err)
			}
			return a.tell(answer.Msg, "Removed the cluster %s.", args[0])
		},
	}
}
