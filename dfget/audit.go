package dfget

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// auditPage is how many rows are asked for at once.
const auditPage = 1000

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Who did what to which object from where, and whether they were allowed to",
		Long: `The supernode keeps a row for every call that manages something, every login,
push and delete, and everything that was refused. What is done often, such as
pulls, is written once and then counted for some minutes. System administrators
see all of it; a project's admins see their project's, by --project.`,
		Example: "  dfget audit search --since 24h --denied\n  dfget audit export --since 2026-01-01 -O january.jsonl\n  dfget audit verify",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.auditSearchCommand(), a.auditExportCommand(), a.auditVerifyCommand())
	return cmd
}

// auditFlags say which rows are wanted.
type auditFlags struct {
	subject, action, object, project string
	since, until                     string
	denied                           bool
}

func (f *auditFlags) add(cmd *cobra.Command) {
	p := cmd.Flags()
	p.StringVar(&f.since, "since", "", "from this time on: 24h ago, a day such as 2026-01-31, or an RFC 3339 time")
	p.StringVar(&f.until, "until", "", "up to this time, in the same forms")
	p.StringVar(&f.subject, "subject", "", "who: a user, robot$PROJECT+NAME or node:PEER")
	p.StringVar(&f.action, "action", "", "what: image.push, or image for all that begins so")
	p.StringVar(&f.object, "object", "", "to what: demo/app:v1, or demo/app for all below it")
	p.StringVar(&f.project, "project", "", "rows of this project (needed by who is no system administrator)")
	p.BoolVar(&f.denied, "denied", false, "only what was refused")
}

func (f *auditFlags) filter(now time.Time) (*shoalv1.AuditFilter, error) {
	out := &shoalv1.AuditFilter{Subject: f.subject, Action: f.action, Object: f.object, Project: f.project, Denied: f.denied}
	for flag, one := range map[string]struct {
		text string
		to   **timestamppb.Timestamp
	}{"since": {f.since, &out.Since}, "until": {f.until, &out.Until}} {
		if one.text == "" {
			continue
		}
		at, err := parseTime(one.text, now)
		if err != nil {
			return nil, fmt.Errorf("%w: --%s %q: %w", settings.ErrUsage, flag, one.text, err)
		}
		*one.to = timestamppb.New(at)
	}
	return out, nil
}

// parseTime reads a duration before now, a day or a time.
func parseTime(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if at, err := time.ParseInLocation(time.DateOnly, text, now.Location()); err == nil {
		return at, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, errors.New("give how long ago (24h), a day (2026-01-31) or a time (2026-01-31T12:00:00Z)")
	}
	return at, nil
}

func (a *app) auditSearchCommand() *cobra.Command {
	var flags auditFlags
	var limit int
	cmd := &cobra.Command{
		Use:   "search",
		Short: "Show rows, the newest first",
		Example: `  dfget audit search --since 24h --denied
  dfget audit search --project demo --subject ann --limit 20
  dfget audit search --object demo/app --json`,
		Args: settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("%w: --limit %d: ask for at least one row", settings.ErrUsage, limit)
			}
			filter, err := flags.filter(time.Now())
			if err != nil {
				return err
			}
			client, err := a.audits()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			if !a.json {
				fmt.Fprintln(w, "TIME\tWHO\tACTION\tOBJECT\tFROM\tOUTCOME")
			}
			for before := uint64(0); limit > 0; {
				answer, err := client.SearchAudit(cmd.Context(), connect.NewRequest(&shoalv1.SearchAuditRequest{
					Filter: filter, Limit: int32(min(limit, auditPage)), Before: before,
				}))
				if err != nil {
					return fmt.Errorf("search the audit: %w", err)
				}
				for _, row := range answer.Msg.Rows {
					if err := a.printAuditRow(w, row); err != nil {
						return err
					}
				}
				limit -= len(answer.Msg.Rows)
				if before = answer.Msg.Next; before == 0 {
					break
				}
			}
			return w.Flush()
		},
	}
	flags.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "how many rows to show")
	return cmd
}

// printAuditRow shows a row: for scripts, as a line of JSON.
func (a *app) printAuditRow(w *tabwriter.Writer, r *shoalv1.AuditRow) error {
	if a.json {
		raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, string(raw))
		return err
	}
	outcome := "allowed"
	if !r.Allowed {
		outcome = "REFUSED"
	}
	if r.Reason != "" {
		outcome += ": " + r.Reason
	}
	if r.More > 0 {
		outcome += fmt.Sprintf(" (%d more times)", r.More)
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
		r.Time.AsTime().Local().Format(time.DateTime), shown(r.Subject), shown(r.Action), orDash(shown(r.Object)), orDash(shown(r.From)), shown(outcome))
	return err
}

// shown keeps what others wrote from moving a terminal's cursor.
func shown(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return '?'
		}
		return c
	}, s)
}

func (a *app) auditExportCommand() *cobra.Command {
	var flags auditFlags
	var out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write rows as lines of JSON, the oldest first",
		Long: `Write rows as lines of JSON, the oldest first, byte for byte as they are stored:
"previous" in each is the SHA-256 of the line before it, where none was left out.`,
		Example: "  dfget audit export > audit.jsonl\n  dfget audit export --project demo --since 720h -O demo.jsonl",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			filter, err := flags.filter(time.Now())
			if err != nil {
				return err
			}
			client, err := a.audits()
			if err != nil {
				return err
			}
			stream, err := client.ExportAudit(cmd.Context(), connect.NewRequest(&shoalv1.ExportAuditRequest{Filter: filter}))
			if err != nil {
				return fmt.Errorf("export the audit: %w", err)
			}
			defer stream.Close()
			to := a.out
			if out != "" {
				f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return fmt.Errorf("export the audit: %w; name another file with -O", err)
				}
				defer func() {
					if closeErr := f.Close(); err == nil {
						err = closeErr
					}
				}()
				to = f
			}
			for stream.Receive() {
				if _, err := to.Write(stream.Msg().Lines); err != nil {
					return fmt.Errorf("export the audit: %w", err)
				}
			}
			if err := stream.Err(); err != nil {
				return fmt.Errorf("export the audit: %w", err)
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&out, "output", "O", "", "file to write to, a new one; else the standard output")
	return cmd
}

func (a *app) auditVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Check that no row was changed, removed, added or reordered (system administrators)",
		Long: `Check that no row was changed, removed, added or reordered. The exit status is 1
when the chain does not hold; each place is named.`,
		Example: "  dfget audit verify",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.audits()
			if err != nil {
				return err
			}
			answer, err := client.VerifyAudit(cmd.Context(), connect.NewRequest(&shoalv1.VerifyAuditRequest{}))
			if err != nil {
				return fmt.Errorf("verify the audit: %w", err)
			}
			m := answer.Msg
			if a.json {
				if err := a.printJSON(m); err != nil {
					return err
				}
			} else {
				for _, b := range m.Broken {
					fmt.Fprintln(a.out, "BROKEN", shown(b))
				}
				fmt.Fprintf(a.out, "%d rows, from %d to %d: %d places do not hold\n", m.Rows, m.First, m.Last, len(m.Broken))
			}
			if len(m.Broken) > 0 {
				return errors.New("the audit was tampered with, or its disk is damaged; compare it with an earlier export")
			}
			return nil
		},
	}
}
