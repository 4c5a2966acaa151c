package dfget

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func (a *app) pullReportCommand() *cobra.Command {
	var last bool
	cmd := &cobra.Command{
		Use:   "pull-report [PULL|IMAGE|DIGEST]",
		Short: "Say where each byte of a pull came from",
		Example: `  dfget pull-report --last
  dfget pull-report demo/app:v1 --json`,
		Args: settings.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &shoalv1.PullReportRequest{}
			if len(args) == 1 {
				if last {
					return fmt.Errorf("%w: name a pull or use --last, not both", settings.ErrUsage)
				}
				request.Pull = args[0]
			}
			client, err := a.agentClient()
			if err != nil {
				return err
			}
			answer, err := client.PullReport(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return fmt.Errorf("pull report: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			a.printReport(answer.Msg)
			return nil
		},
	}
	cmd.Flags().BoolVar(&last, "last", false, "the last pull (the default)")
	return cmd
}

// printJSON prints an answer for scripts. What is zero or empty is printed too:
// a script that counts or loops should not meet null where a list has nothing.
func (a *app) printJSON(m proto.Message) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its spaces from one build to the next.
	var even bytes.Buffer
	if err := json.Indent(&even, raw, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, even.String())
	return err
}

func (a *app) printReport(r *shoalv1.PullReportResponse) {
	took := "still running"
	if r.Ended != nil {
		took = fmt.Sprintf("%.2f s", r.Ended.AsTime().Sub(r.Started.AsTime()).Seconds())
	}
	fmt.Fprintf(a.out, "%s  (pull %s, %s, started %s)\n", r.Image, r.Id, took, r.Started.AsTime().Local().Format("15:04:05"))
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	totals := map[string]int64{}
	var sum int64
	for _, b := range r.Blobs {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", clipDigest(b.Digest), formatBytes(b.Size), sources(b.Sources), notes(b))
		for _, s := range b.Sources {
			totals[s.Kind] += s.Bytes
			sum += s.Bytes
		}
	}
	w.Flush()
	if sum == 0 {
		return
	}
	kinds := make([]string, 0, len(totals))
	for k := range totals {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(x, y string) int { return int(totals[y] - totals[x]) })
	fmt.Fprintln(a.out, "In all:")
	for _, k := range kinds {
		fmt.Fprintf(a.out, "  %-11s %10s  %3d %%\n", k, formatBytes(totals[k]), totals[k]*100/sum)
	}
}

func sources(list []*shoalv1.BytesFrom) string {
	parts := make([]string, 0, len(list))
	for _, s := range list {
		name := s.Kind
		if s.Name != "" {
			name += " " + clipPeer(s.Name)
		}
		parts = append(parts, fmt.Sprintf("%s %s", name, formatBytes(s.Bytes)))
	}
	return strings.Join(parts, ", ")
}

func notes(b *shoalv1.BlobReport) string {
	var parts []string
	if b.Hedges > 0 {
		parts = append(parts, fmt.Sprintf("%d hedges", b.Hedges))
	}
	if b.WhyWaited != "" {
		parts = append(parts, "waited: "+b.WhyWaited)
	}
	if b.Error != "" {
		parts = append(parts, "error: "+b.Error)
	}
	return strings.Join(parts, "; ")
}

// clipDigest and clipPeer keep enough of a name to tell two apart.
func clipDigest(d string) string {
	_, hex, _ := strings.Cut(d, ":")
	return hex[:min(12, len(hex))]
}

func clipPeer(id string) string {
	if len(id) > 40 {
		return "…" + id[len(id)-8:]
	}
	return id
}
