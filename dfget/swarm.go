package dfget

import (
	"fmt"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) swarmCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "swarm [DIGEST]",
		Short:   "Show which hosts hold or want which blobs",
		Example: "  dfget swarm\n  dfget swarm sha256:4bcf… --json",
		Args:    settings.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &shoalv1.ListSwarmsRequest{}
			if len(args) == 1 {
				d, err := blob.ParseDigest(args[0])
				if err != nil {
					return fmt.Errorf("%w: %w", settings.ErrUsage, err)
				}
				request.Digest = string(d)
			}
			client, err := a.admin()
			if err != nil {
				return err
			}
			answer, err := client.ListSwarms(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return fmt.Errorf("list the swarms: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "DIGEST\tSIZE\tHOST\tHOLDS")
			for _, s := range answer.Msg.Swarms {
				for _, p := range s.Peers {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", clipDigest(s.Digest), formatBytes(s.Size), hostName(p), holds(s, p))
				}
			}
			return w.Flush()
		},
	}
}

func hostName(p *shoalv1.SwarmPeer) string {
	if p.Hostname != "" {
		return p.Hostname
	}
	return clipPeer(p.PeerId)
}

func holds(s *shoalv1.Swarm, p *shoalv1.SwarmPeer) string {
	switch {
	case p.Seed:
		return "all (seed)"
	case p.Complete:
		return "all"
	}
	return fmt.Sprintf("%d of %d pieces", p.PiecesHeld, blob.PieceCount(s.Size))
}

func (a *app) serversCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "servers",
		Short:   "List the hosts that joined",
		Example: "  dfget servers --json",
		Args:    settings.Args(cobra.ExactArgs(0)),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.admin()
			if err != nil {
				return err
			}
			answer, err := client.ListServers(cmd.Context(), connect.NewRequest(&shoalv1.ListServersRequest{}))
			if err != nil {
				return fmt.Errorf("list the servers: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "HOST\tPOOL\tSTATE\tVERSION\tLAST SEEN\tPEER")
			for _, s := range answer.Msg.Servers {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Hostname, s.Pool, serverState(s), s.Version,
					s.LastSeen.AsTime().Local().Format(time.DateTime), s.PeerId)
			}
			return w.Flush()
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "revoke PEER",
		Short:   "Cut a host off: its membership ends at once",
		Example: "  dfget servers revoke 12D3KooW…",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.admin()
			if err != nil {
				return err
			}
			_, err = client.RevokeServer(cmd.Context(), connect.NewRequest(&shoalv1.RevokeServerRequest{PeerId: args[0]}))
			if err != nil {
				return fmt.Errorf("revoke %s: %w", args[0], err)
			}
			a.say("Revoked %s.", args[0])
			return nil
		},
	})
	return cmd
}

func serverState(s *shoalv1.Server) string {
	switch {
	case s.Revoked:
		return "revoked"
	case s.Cloned && s.Connected:
		return "connected, key used twice"
	case s.Cloned:
		return "away, key used twice"
	case s.Connected:
		return "connected"
	}
	return "away"
}
