// Package dfget is the command line for people and pipelines: fetch an image
// or a file through the local agent, bring images onto hosts before they are
// needed, and look at where bytes came from. One file holds one command.
package dfget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/settings"
)

// Exit statuses, as scripts may rely on them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = settings.ExitUsage
	exitDenied   = 3
	exitNotFound = 4
)

var (
	errDenied   = errors.New("not allowed")
	errNotFound = errors.New("not found")
)

// app is what every command shares: where output goes and the flags that
// stand before all of them.
type app struct {
	out, errOut io.Writer
	in          io.Reader
	agent       string // socket of the local agent
	supernode   string // URL
	caFile      string
	json        bool
	quiet       bool
}

// Run carries out one command line and returns the exit status.
func Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, errOut: errOut}
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(errOut, "dfget: %v\n", err)
	}
	return exitStatus(err)
}

func exitStatus(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, settings.ErrUsage), errors.Is(err, blob.ErrInvalidName), connect.CodeOf(err) == connect.CodeInvalidArgument:
		return exitUsage
	case errors.Is(err, errDenied), connect.CodeOf(err) == connect.CodePermissionDenied, connect.CodeOf(err) == connect.CodeUnauthenticated:
		return exitDenied
	case errors.Is(err, errNotFound), errors.Is(err, blob.ErrNoPlatform), connect.CodeOf(err) == connect.CodeNotFound:
		return exitNotFound
	}
	return exitFailed
}

func (a *app) command() *cobra.Command {
	var fetch fetchOptions
	root := &cobra.Command{
		Use:   "dfget IMAGE|URL|REPOSITORY@DIGEST -O OUT",
		Short: "Fetch images and files through the swarm, and prewarm hosts",
		Long: `dfget fetches an image, a blob or a file through the agent on this host.

An image becomes an OCI layout folder, or a tar of one when OUT ends in .tar.
A name without a registry means the supernode's own registry.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not allowed, 4 not found.`,
		Example: `  dfget demo/app:v1 -O app/
  dfget docker.io/library/alpine:3.20 -O alpine.tar --platform linux/arm64
  dfget demo/app@sha256:4bcf… -O layer.tar.gz
  dfget https://example.com/model.bin -O model.bin --digest sha256:9f86…
  dfget prewarm demo/app:v1 --count 50% --wait`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%w: one image, URL or digest at a time, got %d arguments", settings.ErrUsage, len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return a.fetch(cmd.Context(), args[0], fetch)
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	settings.Root(root)
	p := root.PersistentFlags()
	p.StringVar(&a.agent, "agent", os.Getenv("SHOAL_AGENT"), "socket of the local agent (or $SHOAL_AGENT; else the usual places)")
	p.StringVar(&a.supernode, "supernode", os.Getenv("SHOAL_SUPERNODE"), "URL of the supernode (or $SHOAL_SUPERNODE; else the one last logged in to)")
	p.StringVar(&a.caFile, "ca", os.Getenv("SHOAL_CA"), "PEM file of the supernode's certificate authority (or $SHOAL_CA)")
	p.BoolVar(&a.json, "json", false, "print JSON for scripts")
	p.BoolVarP(&a.quiet, "quiet", "q", false, "print errors only")
	fetch.flags(root.Flags())
	root.AddCommand(a.loginCommand(), a.logoutCommand(), a.prewarmCommand(), a.pullReportCommand(),
		a.swarmCommand(), a.serversCommand(), a.clusterCommand(), a.poolCommand(), a.poolListCommand("pools"), a.serverCommand(), a.placeCommand(), a.profileCommand(), a.projectCommand(), a.userCommand(), a.robotCommand(), a.auditCommand(), a.sessionCommand(), a.costCommand(), a.budgetCommand(), a.versionCommand())
	return root
}

// onTerminal reports whether progress may be drawn in place.
func (a *app) onTerminal() bool {
	f, ok := a.errOut.(*os.File)
	return ok && !a.quiet && !a.json && term.IsTerminal(int(f.Fd()))
}

// width is how many columns the terminal has; 0 where that is not known.
func (a *app) width() int {
	f, ok := a.errOut.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// say prints a line for people; scripts and -q do not see it.
func (a *app) say(format string, args ...any) {
	if !a.quiet && !a.json {
		fmt.Fprintf(a.errOut, format+"\n", args...)
	}
}

// statusError turns an HTTP answer that is not a success into an error whose
// exit status fits.
func statusError(what string, response *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(response.Body, 2048))
	err := fmt.Errorf("%s: the answer was %s: %s", what, response.Status, ociMessage(body))
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %w; log in with 'dfget login'", errDenied, err)
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", errNotFound, err)
	}
	return err
}
