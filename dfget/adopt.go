package dfget

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// maxListBytes bounds a list of machines; the supernode takes no more.
const maxListBytes = 1 << 20

func (a *app) serverAdoptCommand() *cobra.Command {
	var pool, address, user, hostKey string
	cmd := &cobra.Command{
		Use:   "adopt NAME… --pool POOL",
		Short: "Take in machines that stand already, by SSH (the pool's admins)",
		Long: `Take in machines that stand already. The supernode logs in by SSH with its own
key, brings the agent and has it join. It does so only where the machine shows
the host key that is given here: a line of known_hosts, or the SHA256:… that
'ssh-keygen -lf' prints on the machine. What was imported has its address from
the list; an adoption that failed is tried again by the same command.`,
		Example: `  dfget server adopt old1 --pool old --address 10.0.7.1 --user root --host-key SHA256:3q2+7w…
  dfget server adopt old1 --pool old --address 10.0.7.1 --host-key "$(ssh-keygen -F 10.0.7.1 | tail -n 1)"
  dfget server adopt old2 old3 --pool old`,
		Args: settings.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needed("pool", pool); err != nil {
				return err
			}
			if len(args) > 1 && (address != "" || hostKey != "") {
				return fmt.Errorf("%w: an address and a host key are one machine's; %d are named", settings.ErrUsage, len(args))
			}
			client, err := a.inventory()
			if err != nil {
				return err
			}
			for _, name := range args {
				answer, err := client.AdoptServer(cmd.Context(), connect.NewRequest(&shoalv1.AdoptServerRequest{
					Pool: pool, Name: name, Address: address, User: user, HostKey: hostKey,
				}))
				if err != nil {
					return fmt.Errorf("adopt the server: %w", err)
				}
				if err := a.tell(answer.Msg, "%s is %s.", name, answer.Msg.Server.Phase); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&pool, "pool", "", "the pool that it comes into")
	f.StringVar(&address, "address", "", "HOST[:PORT] of its SSH server")
	f.StringVar(&user, "user", "", "whom to log in as; empty is root")
	f.StringVar(&hostKey, "host-key", "", "a line of known_hosts, or SHA256:…")
	return cmd
}

func (a *app) serverImportCommand() *cobra.Command {
	var pool, format string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "import FILE --pool POOL",
		Short: "Write down machines that stand already, from a list (the pool's admins)",
		Long: `Write down machines that stand already. Nothing is done to them until each is
adopted. A CSV list names its columns in the first row: name and address, and if
wanted user, host_key and hardware_class. An ssh-config is read as ssh(1) does,
for the hosts that it names one by one; Include and Match are not read. A name
that is there already stays as it is. - reads standard input.`,
		Example: "  dfget server import rack7.csv --pool old --dry-run\n  dfget server import ~/.ssh/config --pool old",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needed("pool", pool); err != nil {
				return err
			}
			content, err := a.readList(args[0])
			if err != nil {
				return err
			}
			if format == "" {
				format = "ssh-config"
				if filepath.Ext(args[0]) == ".csv" {
					format = "csv"
				}
			}
			client, err := a.inventory()
			if err != nil {
				return err
			}
			answer, err := client.ImportServers(cmd.Context(), connect.NewRequest(&shoalv1.ImportServersRequest{Pool: pool, Format: format, Content: content, DryRun: dryRun}))
			if err != nil {
				return fmt.Errorf("import servers: %w", err)
			}
			if err := a.tellImport(args[0], pool, dryRun, answer.Msg); err != nil {
				return err
			}
			if n := len(answer.Msg.Problems); n > 0 {
				return fmt.Errorf("import servers: %d lines were not taken; mend them and import the list again", n)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&pool, "pool", "", "the pool that they are for")
	f.StringVar(&format, "format", "", "csv or ssh-config; empty goes by the ending .csv")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be imported")
	return cmd
}

// readList reads a file, or standard input for -.
func (a *app) readList(path string) (string, error) {
	in := a.in
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("%w: %w", settings.ErrUsage, err)
		}
		defer file.Close()
		in = file
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxListBytes+1))
	if err != nil {
		return "", fmt.Errorf("read the list %s: %w", path, err)
	}
	if len(raw) > maxListBytes {
		return "", fmt.Errorf("%w: the list %s has more than %d bytes", settings.ErrUsage, path, maxListBytes)
	}
	return string(raw), nil
}

// tellImport says what became of a list.
func (a *app) tellImport(file, pool string, dryRun bool, m *shoalv1.ImportServersResponse) error {
	if a.json {
		return a.printJSON(m)
	}
	for _, p := range m.Problems {
		a.say("%s: %s", file, p)
	}
	for _, s := range m.Servers {
		fmt.Fprintln(a.out, s.Name, s.Address)
	}
	if dryRun {
		a.say("%d servers would be imported into pool %s.", len(m.Servers), pool)
		return nil
	}
	a.say("Imported %d servers into pool %s; take them in with 'dfget server adopt'.", len(m.Servers), pool)
	return nil
}
