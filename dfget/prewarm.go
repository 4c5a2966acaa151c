package dfget

import (
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) prewarmCommand() *cobra.Command {
	var request shoalv1.PrewarmRequest
	var count string
	cmd := &cobra.Command{
		Use:   "prewarm IMAGE…",
		Short: "Bring images onto hosts before they are needed",
		Long: `Bring images onto hosts before they are needed. The exit status is 0 only if
every host that was asked has all of it.`,
		Example: `  dfget prewarm demo/app:v1 --wait
  dfget prewarm demo/app:v1 --pool web --count 50% --unpack
  dfget prewarm docker.io/library/alpine:3.20 --server host-1 --server host-2`,
		Args: settings.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Images = args
			if err := parseCount(count, &request); err != nil {
				return err
			}
			for _, image := range args {
				if _, err := parseImage(image); err != nil {
					return err
				}
			}
			client, err := a.admin()
			if err != nil {
				return err
			}
			stream, err := client.Prewarm(cmd.Context(), connect.NewRequest(&request))
			if err != nil {
				return fmt.Errorf("prewarm: %w", err)
			}
			defer stream.Close()
			table := hostTable{app: a}
			for stream.Receive() {
				table.update(stream.Msg())
			}
			if err := stream.Err(); err != nil {
				return fmt.Errorf("prewarm: %w", err)
			}
			return table.finish()
		},
	}
	f := cmd.Flags()
	f.StringVar(&request.Pool, "pool", "", "only hosts of this pool")
	f.StringArrayVar(&request.Servers, "server", nil, "only this host, by name or peer ID (repeatable)")
	f.StringVar(&count, "count", "", "how many hosts, N or P%; all when empty")
	f.StringVar(&request.Platform, "platform", "", "os/arch[/variant]; the hosts' own when empty")
	f.BoolVar(&request.Unpack, "unpack", false, "bring it into the container runtime as well")
	f.Bool("wait", true, "wait until every host has it or has failed; prewarm always does")
	return cmd
}

func parseCount(s string, request *shoalv1.PrewarmRequest) error {
	if s == "" {
		return nil
	}
	number, percent := strings.CutSuffix(s, "%")
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 1 || percent && n > 100 {
		return fmt.Errorf("%w: --count %q is neither a number of hosts nor a share such as 50%%", settings.ErrUsage, s)
	}
	request.Count, request.Percent = int32(n), percent
	return nil
}

// hostTable keeps the last word of each host and draws it in place.
type hostTable struct {
	app   *app
	rows  map[string]*shoalv1.PrewarmUpdate
	drawn int
}

func (t *hostTable) update(u *shoalv1.PrewarmUpdate) {
	if t.rows == nil {
		t.rows = map[string]*shoalv1.PrewarmUpdate{}
	}
	t.rows[u.Image+"\x00"+u.PeerId] = u
	switch {
	case t.app.json:
		raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(u)
		if err == nil {
			fmt.Fprintln(t.app.out, string(raw))
		}
	case t.app.onTerminal():
		t.draw(t.app.errOut)
	case u.Done && !t.app.quiet:
		fmt.Fprintln(t.app.errOut, row(u))
	}
}

func (t *hostTable) draw(w io.Writer) {
	if t.drawn > 0 {
		fmt.Fprintf(w, "\x1b[%dA", t.drawn)
	}
	keys := make([]string, 0, len(t.rows))
	for k := range t.rows {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	width := t.app.width()
	for _, k := range keys {
		fmt.Fprintf(w, "\x1b[2K%s\n", cut(row(t.rows[k]), width))
	}
	t.drawn = len(keys)
}

// cut shortens a line to a terminal's width: a line that wraps is two, and the
// next drawing would begin in the wrong place.
func cut(line string, width int) string {
	r := []rune(line)
	if width < 2 || len(r) <= width {
		return line
	}
	return string(r[:width-1]) + "…"
}

func row(u *shoalv1.PrewarmUpdate) string {
	state := "fetching"
	switch {
	case u.Error != "":
		state = "failed: " + u.Error
	case u.Done:
		state = "has it"
	}
	return fmt.Sprintf("%-20s %-28s %10s of %-10s %s", u.Hostname, u.Image, formatBytes(u.BytesDone), formatBytes(u.BytesTotal), state)
}

// finish says how it went; anything less than all is a failure.
func (t *hostTable) finish() error {
	hosts, lacking := map[string]bool{}, map[string]bool{}
	for _, u := range t.rows {
		hosts[u.PeerId] = true
		if !u.Done || u.Error != "" {
			lacking[u.PeerId] = true
		}
	}
	switch {
	case len(hosts) == 0:
		return fmt.Errorf("%w: no host was asked; 'dfget servers' lists those that are connected", errNotFound)
	case len(lacking) > 0:
		return fmt.Errorf("%d of %d hosts do not have it", len(lacking), len(hosts))
	}
	t.app.say("All %d hosts have it.", len(hosts))
	return nil
}
