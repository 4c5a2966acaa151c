package dfget

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

func (a *app) placeScaleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "scale NAME REPLICAS",
		Short: "Have more or fewer containers",
		Long: `Have more or fewer containers. More are placed as with 'dfget place': the image
is there before the first of them starts. Of fewer, those go that are not
healthy or whose host is gone, then where most stand together.`,
		Example: "  dfget place scale app 6",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[1], 10, 32)
			if err != nil || n < 1 {
				return fmt.Errorf("%w: %q is no number of containers; to have none, stop or remove it", settings.ErrUsage, args[1])
			}
			client, err := a.placements()
			if err != nil {
				return err
			}
			stream, err := client.ScalePlacement(cmd.Context(), connect.NewRequest(&shoalv1.ScalePlacementRequest{Name: args[0], Replicas: int32(n)}))
			return a.followPlacement("scale", stream, err, false)
		},
	}
}

func (a *app) placeUpdateCommand() *cobra.Command {
	var flags serviceFlags
	var image string
	var deadline time.Duration
	cmd := &cobra.Command{
		Use:   "update NAME [flags] [-- CMD…]",
		Short: "Bring in a new version, container by container",
		Long: `Bring in a new version of the image or of how it runs. It is brought to every
host that will run it before the first old container stops; then a tenth of the
containers at a time are replaced: the new one beside the old one where there is
room and no port is shared, else in its place. When one does not become healthy,
all of them go back to the version before. What is not named stays as it is.`,
		Example: `  dfget place update app --image demo/app:v2
  dfget place update app --memory 512MiB --env MODE=live
  dfget place update app -- serve --quiet`,
		Args: settings.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := flags.read(cmd, args)
			if err != nil {
				return err
			}
			if image != "" {
				if _, err := parseImage(image); err != nil {
					return err
				}
			}
			flags.service.Image = image
			lasts, err := wholeSeconds(deadline)
			if err != nil {
				return err
			}
			request := &shoalv1.UpdatePlacementRequest{
				Name: name, Service: &flags.service, SetArgs: cmd.ArgsLenAtDash() >= 0, SetEnv: cmd.Flags().Changed("env"),
				SetPorts: cmd.Flags().Changed("port"), DeadlineSeconds: lasts,
			}
			client, err := a.placements()
			if err != nil {
				return err
			}
			stream, err := client.UpdatePlacement(cmd.Context(), connect.NewRequest(request))
			return a.followPlacement("update", stream, err, false)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&image, "image", "", "the new image; the same as before when empty")
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "for how long the hosts may take to get the image; 15m when 0")
	return cmd
}

func (a *app) placeRollbackCommand() *cobra.Command {
	var revision int64
	cmd := &cobra.Command{
		Use:     "rollback NAME",
		Short:   "Go back to an earlier version, as with update",
		Example: "  dfget place rollback app\n  dfget place rollback app --revision 3",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.placements()
			if err != nil {
				return err
			}
			stream, err := client.RevertPlacement(cmd.Context(), connect.NewRequest(&shoalv1.RevertPlacementRequest{Name: args[0], Revision: revision}))
			return a.followPlacement("roll back", stream, err, false)
		},
	}
	cmd.Flags().Int64Var(&revision, "revision", 0, "to this one, as 'dfget place show' numbers them; 0 is the one before")
	return cmd
}

// placeTurn is a command on one placement that is done when it is answered.
func (a *app) placeTurn(use, short, said string, call func(context.Context, shoalv1connect.PlacementServiceClient, string) (proto.Message, error)) *cobra.Command {
	return &cobra.Command{
		Use:     use + " NAME",
		Short:   short,
		Example: "  dfget place " + use + " app",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.placements()
			if err != nil {
				return err
			}
			answer, err := call(cmd.Context(), client, args[0])
			if err != nil {
				return fmt.Errorf("%s the placement: %w", use, err)
			}
			return a.tell(answer, said, args[0])
		},
	}
}

func (a *app) placeStopCommand() *cobra.Command {
	return a.placeTurn("stop", "End the containers and keep their places", "Told the hosts to stop %s.",
		func(ctx context.Context, c shoalv1connect.PlacementServiceClient, name string) (proto.Message, error) {
			answer, err := c.StopPlacement(ctx, connect.NewRequest(&shoalv1.StopPlacementRequest{Name: name}))
			if err != nil {
				return nil, err
			}
			return answer.Msg, nil
		})
}

func (a *app) placeStartCommand() *cobra.Command {
	return a.placeTurn("start", "Start the containers that were stopped", "Told the hosts to start %s.",
		func(ctx context.Context, c shoalv1connect.PlacementServiceClient, name string) (proto.Message, error) {
			answer, err := c.StartPlacement(ctx, connect.NewRequest(&shoalv1.StartPlacementRequest{Name: name}))
			if err != nil {
				return nil, err
			}
			return answer.Msg, nil
		})
}

func (a *app) placeRestartCommand() *cobra.Command {
	return a.placeTurn("restart", "End each container and start it again, all at once", "Told the hosts to restart %s.",
		func(ctx context.Context, c shoalv1connect.PlacementServiceClient, name string) (proto.Message, error) {
			answer, err := c.RestartPlacement(ctx, connect.NewRequest(&shoalv1.RestartPlacementRequest{Name: name}))
			if err != nil {
				return nil, err
			}
			return answer.Msg, nil
		})
}

func (a *app) placeRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "End the containers and forget the placement, in the middle of a change too",
		Example: "  dfget place remove app",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.placements()
			if err != nil {
				return err
			}
			answer, err := client.RemovePlacement(cmd.Context(), connect.NewRequest(&shoalv1.RemovePlacementRequest{Name: args[0]}))
			if err != nil {
				return fmt.Errorf("remove the placement: %w", err)
			}
			if answer.Msg.Waits {
				return a.tell(answer.Msg, "%s is being removed; it goes when its hosts have ended what runs there: see 'dfget place show %s'.", args[0], args[0])
			}
			return a.tell(answer.Msg, "Removed %s.", args[0])
		},
	}
}
