package dfget

import (
	"crypto/rand"
	"fmt"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Servers of the fleet: make, adopt, drain, retire",
		Long: `A server is a machine of a pool. Its phase goes from requested over provisioning
and initialising to ready; from there to draining and retired, or to failed,
with where and why. Hosts that joined with a token of their own are servers too.
A pool's admins create, adopt, drain and retire; its viewers see.`,
		Example: `  dfget server list --pool web
  dfget server create web --count 3
  dfget server import rack7.csv --pool old --dry-run
  dfget server adopt old1 --pool old --address 10.0.7.1 --user root --host-key SHA256:…
  dfget server drain web-1 && dfget server retire web-1`,
		Args: settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.serverListCommand(), a.serverShowCommand(), a.serverCreateCommand(), a.serverAdoptCommand(), a.serverImportCommand(),
		a.serverInitCommand(), a.serverDrainCommand(), a.serverRetireCommand(), a.serverTaintCommand())
	return cmd
}

func (a *app) serverListCommand() *cobra.Command {
	var pool string
	var all bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the servers of the pools that you may see",
		Example: "  dfget server list\n  dfget server list --pool web --all --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.ListFleet(cmd.Context(), connect.NewRequest(&shoalv1.ListFleetRequest{Pool: pool, All: all}))
			if err != nil {
				return fmt.Errorf("list the servers: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			return a.printServers(answer.Msg.Servers)
		},
	}
	cmd.Flags().StringVar(&pool, "pool", "", "of this pool only")
	cmd.Flags().BoolVar(&all, "all", false, "those that were retired too")
	return cmd
}

func (a *app) printServers(list []*shoalv1.FleetServer) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SERVER\tPOOL\tPHASE\tLINE\tCORES\tMEMORY\tENGINE\tTAINTS\tID")
	for _, s := range list {
		cores, memory, engine := "-", "-", "-"
		if f := s.Facts; f != nil {
			cores, memory, engine = formatDecimal(f.CpuMilli, 3), formatMemory(f.MemoryBytes), dash(f.Engine)
		}
		phase := s.Phase
		if s.FailedAt != "" {
			phase += " at " + s.FailedAt
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Pool, phase, lineState(s), cores, memory, engine, dash(strings.Join(s.Taints, " ")), s.Id)
	}
	return w.Flush()
}

func lineState(s *shoalv1.FleetServer) string {
	switch {
	case s.Connected:
		return "open"
	case s.PeerId == "":
		return "-"
	}
	return "closed"
}

func (a *app) serverShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show SERVER",
		Short:   "Show a server: what it is, how it stands to its profile, what happened",
		Example: "  dfget server show web-1\n  dfget server show 4f0c9a12d3e4b5f6 --json",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.GetFleetServer(cmd.Context(), connect.NewRequest(&shoalv1.GetFleetServerRequest{Id: args[0]}))
			if err != nil {
				return fmt.Errorf("show the server: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			return a.printServer(answer.Msg.Server)
		},
	}
}

func (a *app) printServer(s *shoalv1.FleetServer) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	lines := [][2]string{
		{"server", s.Name}, {"id", s.Id}, {"pool", s.Pool}, {"phase", s.Phase + " since " + localTime(s.PhaseSince)}, {"failed at", s.FailedAt}, {"reason", s.Reason},
		{"from", strings.TrimSpace(s.Provider + " " + s.ProviderId)}, {"address", s.Address}, {"user", s.User}, {"host key", s.HostKey}, {"class", s.HardwareClass}, {"taints", strings.Join(s.Taints, " ")},
		{"line", lineState(s)}, {"last seen", localTime(s.LastSeen)}, {"peer", s.PeerId},
	}
	if f := s.Facts; f != nil {
		lines = append(lines, [][2]string{
			{"host", f.Hostname}, {"system", strings.TrimSpace(f.Os + ", " + f.Kernel + ", " + f.Arch)}, {"cores", formatDecimal(f.CpuMilli, 3)}, {"memory", formatMemory(f.MemoryBytes)},
			{"disk", formatBytes(f.DiskFreeBytes) + " of " + formatBytes(f.DiskBytes) + " free"}, {"rack, zone", strings.Trim(f.Rack+", "+f.Zone, ", ")},
			{"engine", strings.TrimSpace(f.Engine + " " + f.EngineVersion)}, {"images", fmt.Sprint(len(f.Images))}, {"agent", f.AgentVersion},
		}...)
	}
	for _, line := range lines {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
		}
	}
	if len(s.Steps) > 0 {
		fmt.Fprintln(w, "\nSTEP\tVERSION\tSTATE\tERROR")
	}
	for _, step := range s.Steps {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", shown(step.Name), step.Version, stepState(step.State), dash(shown(step.Error)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for n, line := range s.Log {
		if n == 0 {
			fmt.Fprintln(a.out, "\nLOG")
		}
		fmt.Fprintln(a.out, line)
	}
	return nil
}

func (a *app) serverCreateCommand() *cobra.Command {
	var count int32
	var key string
	cmd := &cobra.Command{
		Use:   "create POOL",
		Short: "Ask a pool's provider for machines (the pool's admins)",
		Long: `Ask a pool's provider for machines. The same --key gives the same servers again
and never more, so a script that is not sure whether its call arrived repeats
it with the key. Without one a key is drawn and printed.`,
		Example: "  dfget server create web --count 3\n  dfget server create web --count 3 --key release-42",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			if key == "" {
				key = rand.Text()
				a.say("The key is %s: with it this call can be repeated.", key)
			}
			answer, err := client.CreateServers(cmd.Context(), connect.NewRequest(&shoalv1.CreateServersRequest{Pool: args[0], Count: count, Key: key}))
			if err != nil {
				return fmt.Errorf("create servers: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			return a.printServers(answer.Msg.Servers)
		},
	}
	cmd.Flags().Int32Var(&count, "count", 1, "how many")
	cmd.Flags().StringVar(&key, "key", "", "what makes a repeated call the same one")
	return cmd
}

func (a *app) serverDrainCommand() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:     "drain SERVER",
		Short:   "Let nothing new onto a server, and move what runs there (the pool's admins)",
		Example: "  dfget server drain web-1\n  dfget server drain web-1 --undo",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.DrainServer(cmd.Context(), connect.NewRequest(&shoalv1.DrainServerRequest{Id: args[0], Undo: undo}))
			if err != nil {
				return fmt.Errorf("drain the server: %w", err)
			}
			return a.tell(answer.Msg, "%s is %s.", answer.Msg.Server.Name, answer.Msg.Server.Phase)
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "take it back into service")
	return cmd
}

func (a *app) serverRetireCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "retire SERVER",
		Short: "End a server, for good (the pool's admins)",
		Long: `End a server. Its host is no member any more from this moment on; what a provider
made it takes back. Nothing follows: the machine comes back as another server,
with a key of its own.`,
		Example: "  dfget server retire web-1\n  dfget server retire web-1 --force",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.RetireServer(cmd.Context(), connect.NewRequest(&shoalv1.RetireServerRequest{Id: args[0], Force: force}))
			if err != nil {
				return fmt.Errorf("retire the server: %w", err)
			}
			return a.tell(answer.Msg, "Retired %s.", answer.Msg.Server.Name)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "although containers run on it")
	return cmd
}

func (a *app) serverTaintCommand() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:     "taint SERVER TAINT",
		Short:   "Keep off a server what does not tolerate a word (the pool's admins)",
		Example: "  dfget server taint web-1 flaky-disk\n  dfget server taint web-1 flaky-disk --remove",
		Args:    settings.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.SetTaint(cmd.Context(), connect.NewRequest(&shoalv1.SetTaintRequest{Id: args[0], Taint: args[1], Remove: remove}))
			if err != nil {
				return fmt.Errorf("taint the server: %w", err)
			}
			return a.tell(answer.Msg, "Taints of %s: %s.", answer.Msg.Server.Name, dash(strings.Join(answer.Msg.Server.Taints, " ")))
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the taint away")
	return cmd
}
