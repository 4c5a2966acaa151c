package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// version is set by the linker.
var version = "dev"

// adminSocket is the name of the socket in the data folder by which the other
// commands speak to the one that serves.
const adminSocket = "admin.sock"

func command(out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "supernode",
		Short: "Registry, seed, tracker and gate of a data centre",
	}
	root.SetOut(out)
	root.SetErr(errOut)
	settings.Root(root)
	root.AddCommand(serveCommand(), configCommand(), joinTokenCommand(), gcCommand(), verifyCommand(), backupCommand(), rotateKeysCommand(), sshKeyCommand(), versionCommand())
	return root
}

func serveCommand() *cobra.Command {
	c := defaults()
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the supernode",
		Example: `  supernode serve
  supernode serve --data /var/lib/shoal --public-name registry.example.com:8001
  supernode serve --config /etc/shoal/supernode.yaml`,
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
	return settings.Command("supernode", "supernode.yaml", &c)
}

// socket finds the supernode that serves from this data folder.
func socket(data string) (*http.Client, error) {
	path := filepath.Join(data, adminSocket)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("no supernode serves from %s (%s is not there); start 'supernode serve', or name its folder with --data", data, path)
	}
	return control.Socket(path), nil
}

// socketBase is where the services of the socket are.
const socketBase = "http://supernode/api"

// admin speaks to the supernode that serves from this data folder.
func admin(data string) (shoalv1connect.AdminServiceClient, error) {
	client, err := socket(data)
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewAdminServiceClient(client, socketBase), nil
}

func dataFlag(cmd *cobra.Command, data *string) {
	cmd.Flags().StringVar(data, "data", defaults().Data, "data folder of the supernode that serves")
}

func joinTokenCommand() *cobra.Command {
	var data, pool string
	var ttl time.Duration
	var uses int32
	cmd := &cobra.Command{
		Use:     "join-token",
		Short:   "Print a token by which an agent joins",
		Example: "  supernode join-token\n  supernode join-token --pool web --ttl 24h --uses 50",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := admin(data)
			if err != nil {
				return err
			}
			answer, err := client.CreateJoinToken(cmd.Context(), connect.NewRequest(&shoalv1.CreateJoinTokenRequest{
				TtlSeconds: int64(ttl.Seconds()), Pool: pool, Uses: uses,
			}))
			if err != nil {
				return fmt.Errorf("make a join token: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), answer.Msg.Token)
			if answer.Msg.NoPool && cmd.Flags().Changed("pool") {
				fmt.Fprintf(cmd.ErrOrStderr(), "Nobody made pool %s yet ('dfget pool create'). Hosts may join it all the same; they are the system administrators' until somebody does.\n", pool)
			}
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token can be used")
	cmd.Flags().StringVar(&pool, "pool", "default", "pool that the hosts belong to")
	cmd.Flags().Int32Var(&uses, "uses", 1, "how many hosts may use it")
	return cmd
}

func gcCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "gc",
		Short:   "Remove what nothing refers to any more; pulls and pushes go on",
		Example: "  supernode gc --data /var/lib/shoal",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := admin(data)
			if err != nil {
				return err
			}
			answer, err := client.CollectGarbage(cmd.Context(), connect.NewRequest(&shoalv1.CollectGarbageRequest{}))
			if err != nil {
				return fmt.Errorf("collect garbage: %w", err)
			}
			m := answer.Msg
			fmt.Fprintf(cmd.OutOrStdout(), "removed %d blobs (%d bytes), %d unused links and %d stale uploads\n",
				m.BlobsRemoved, m.BytesRemoved, m.LinksRemoved, m.UploadsRemoved)
			return nil
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func verifyCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Hash every blob again, check the metadata and the audit's chain",
		Long:    "Hash every blob again, check the metadata and the audit's chain. The exit status\nis 1 when anything is wrong.",
		Example: "  supernode verify --data /var/lib/shoal",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := admin(data)
			if err != nil {
				return err
			}
			stream, err := client.Verify(cmd.Context(), connect.NewRequest(&shoalv1.VerifyRequest{}))
			if err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			defer stream.Close()
			problems := 0
			var last *shoalv1.VerifyUpdate
			for stream.Receive() {
				last = stream.Msg()
				for _, p := range last.Problems {
					problems++
					fmt.Fprintln(cmd.OutOrStdout(), "PROBLEM", p)
				}
			}
			if err := stream.Err(); err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d blobs checked, %d problems\n", last.GetBlobsChecked(), problems)
			if problems > 0 {
				return errors.New("the store has problems; push the named blobs again, and ask who could write to the audit if that is named")
			}
			return nil
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func backupCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the metadata, as it stands at one moment, into a file",
		Long: `Write the metadata, as it stands at one moment, into a file. The bytes of
the blobs are plain files under DATA/objects; copy them after this.`,
		Example: "  supernode backup meta-2026-01-01.db",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := admin(data)
			if err != nil {
				return err
			}
			n, err := backupTo(cmd.Context(), client, args[0])
			if err != nil {
				return fmt.Errorf("back up to %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes\n", args[0], n)
			return nil
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

// backupTo streams the backup into FILE.part and renames it when it is whole;
// a file that is there already is not touched.
func backupTo(ctx context.Context, client shoalv1connect.AdminServiceClient, path string) (n int, err error) {
	if _, err := os.Stat(path); err == nil {
		return 0, errors.New("the file is there already; name another one")
	}
	stream, err := client.Backup(ctx, connect.NewRequest(&shoalv1.BackupRequest{}))
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	f, err := os.OpenFile(path+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for stream.Receive() {
		m, err := f.Write(stream.Msg().Data)
		n += m
		if err != nil {
			return n, err
		}
	}
	if err := errors.Join(stream.Err(), f.Sync(), f.Close()); err != nil {
		return n, err
	}
	return n, os.Rename(path+".part", path)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "supernode %s %s/%s %s\n", version, runtime.GOOS, runtime.GOARCH, runtime.Version())
			return nil
		},
	}
}
