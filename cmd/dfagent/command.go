package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// version is set by the linker.
var version = "dev"

// agentSocket is the name of the socket in the data folder by which dfget and
// `dfagent status` speak to the agent.
const agentSocket = "agent.sock"

func command(in io.Reader, out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "dfagent",
		Short: "Registry mirror and seed on every host",
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	settings.Root(root)
	root.AddCommand(serveCommand(), setupCommand(), statusCommand(), configCommand(), versionCommand())
	return root
}

func serveCommand() *cobra.Command {
	c := defaults()
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the agent",
		Example: `  dfagent serve --supernode https://registry.example.com:8001 --join TOKEN
  dfagent serve --data /var/lib/shoal/agent --containerd /run/containerd/containerd.sock
  dfagent serve --data /var/lib/shoal/agent --docker /var/run/docker.sock
  dfagent serve --config /etc/shoal/agent.yaml`,
		Args: settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := settings.Load(&c, file, cmd.Flags()); err != nil {
				return err
			}
			if err := c.check(); err != nil {
				return fmt.Errorf("%w: %w", settings.ErrUsage, err)
			}
			return serve(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	settings.Flags(cmd.Flags(), &c)
	cmd.Flags().StringVar(&file, "config", "", "YAML file with the same names as the flags")
	return cmd
}

func configCommand() *cobra.Command {
	c := defaults()
	return settings.Command("dfagent", "agent.yaml", &c)
}

func statusCommand() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show what the agent on this host holds and does",
		Long:    "Show what the agent on this host holds and does. The exit status is 1 when something is wrong.",
		Example: "  dfagent status --data /var/lib/shoal/agent",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			status, err := askStatus(cmd.Context(), data)
			if err != nil {
				return err
			}
			if asJSON {
				raw, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(status)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), string(raw))
			} else {
				printStatus(cmd.OutOrStdout(), status)
			}
			if n := len(status.Problems); n > 0 {
				return fmt.Errorf("%d problems", n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", defaults().Data, "data folder of the agent that serves")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON for scripts")
	return cmd
}

func askStatus(ctx context.Context, data string) (*shoalv1.StatusResponse, error) {
	path := filepath.Join(data, agentSocket)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no agent serves from %s (%s is not there); start 'dfagent serve', or name its folder with --data", data, path)
	}
	client := shoalv1connect.NewAgentServiceClient(control.Socket(path), "http://agent")
	answer, err := client.Status(ctx, connect.NewRequest(&shoalv1.StatusRequest{}))
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	return answer.Msg, nil
}

func printStatus(out io.Writer, s *shoalv1.StatusResponse) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	supernode := "reached"
	if !s.SupernodeReachable {
		supernode = "not reached"
	}
	fmt.Fprintf(w, "peer\t%s\n", s.PeerId)
	fmt.Fprintf(w, "data centre\t%s, pool %s\n", s.Idc, s.Pool)
	fmt.Fprintf(w, "member until\t%s\n", s.MembershipUntil.AsTime().Local().Format(time.DateTime))
	fmt.Fprintf(w, "supernode\t%s\n", supernode)
	fmt.Fprintf(w, "mirror\t%s\n", s.MirrorAddr)
	fmt.Fprintf(w, "pieces\t%s\n", s.SwarmAddr)
	fmt.Fprintf(w, "store\t%d blobs, %d of %d bytes\n", s.Blobs, s.StoreBytes, s.StoreLimit)
	for _, f := range s.Flights {
		fmt.Fprintf(w, "flight\t%s\t%d of %d pieces, %d neighbours\n", f.Digest, f.PiecesHeld, f.Pieces, f.Neighbours)
	}
	fmt.Fprintf(w, "containers\t%d, run by %s\n", len(s.Containers), s.Engine)
	for _, c := range s.Containers {
		fmt.Fprintf(w, "container\t%s\t%s, %d restarts\n", c.Id, strings.ToLower(c.State.String()), c.Restarts)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "PROBLEM\t%s\n", p)
	}
	w.Flush()
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "dfagent %s %s/%s %s\n", version, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return nil
		},
	}
}
