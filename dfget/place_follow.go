package dfget

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// phaseStopped is the phase of a placement whose containers are not to run.
const phaseStopped = "stopped"

// followPlacement shows how a change goes on until it is over. Anything but
// all that was asked for is a failure.
func (a *app) followPlacement(what string, stream *connect.ServerStreamForClient[shoalv1.PlaceUpdate], err error, explain bool) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer stream.Close()
	show := placeView{app: a, said: map[string]string{}}
	var last *shoalv1.PlaceUpdate
	for stream.Receive() {
		last = stream.Msg()
		show.update(last)
	}
	if err := stream.Err(); err != nil && last == nil {
		return fmt.Errorf("%s: %w", what, err)
	} else if err != nil {
		return fmt.Errorf("%s: %w; the change goes on without this command: see 'dfget place show%s'", what, err, nameAfter(last.Placement))
	}
	if last == nil || !last.Done {
		return fmt.Errorf("%s: the supernode stopped telling; the change goes on: see 'dfget place show%s'", what, nameAfter(last.GetPlacement()))
	}
	if !a.json && (explain || last.Error != "" && len(last.Verdicts) > 0) {
		if err := a.printVerdicts(last.Verdicts); err != nil {
			return err
		}
	}
	if last.Error != "" {
		return fmt.Errorf("%s: %s: %s", what, last.Phase, last.Error)
	}
	switch p := last.Placement; {
	case p == nil:
	case p.Phase == phaseStopped:
		a.say("%s is stopped, with %d containers; 'dfget place start %s' runs them.", p.Name, p.Replicas, p.Name)
	default:
		a.say("%s runs: %d of %d containers are healthy.", p.Name, p.Healthy, p.Replicas)
	}
	return nil
}

// nameAfter is a placement's name as it follows a command, once it is known.
func nameAfter(p *shoalv1.Placement) string {
	if p.GetName() == "" {
		return ""
	}
	return " " + p.Name
}

// placeView draws a change in place on a terminal, and otherwise says what is
// new.
type placeView struct {
	app   *app
	phase string
	said  map[string]string // the last word of each host and container
	drawn int
}

func (v *placeView) update(u *shoalv1.PlaceUpdate) {
	a := v.app
	newPhase := u.Phase != v.phase
	v.phase = u.Phase
	switch {
	case a.json:
		if raw, err := (protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}).Marshal(u); err == nil && (newPhase || u.Done) {
			fmt.Fprintln(a.out, string(raw))
		}
	case a.onTerminal():
		v.draw(a.errOut, u)
	case !a.quiet:
		if newPhase && !u.Done {
			fmt.Fprintln(a.errOut, u.Phase)
		}
		for _, line := range v.lines(u) {
			if v.said[line.of] != line.state {
				v.said[line.of] = line.state
				fmt.Fprintf(a.errOut, "  %-24s %s\n", line.of, line.state)
			}
		}
	}
}

type placeLine struct{ of, state, figures string }

func (v *placeView) lines(u *shoalv1.PlaceUpdate) []placeLine {
	var out []placeLine
	for _, h := range u.Prepulls {
		out = append(out, placeLine{h.Server, "prepull " + withError(h.State, h.Error), fmt.Sprintf("%10s of %-10s", formatBytes(h.BytesDone), formatBytes(h.BytesTotal))})
	}
	for _, c := range u.GetPlacement().GetContainers() {
		out = append(out, placeLine{c.Id, "on " + c.Server + " " + withError(containerState(c.Status), c.Status.GetError()), ""})
	}
	return out
}

func (v *placeView) draw(w io.Writer, u *shoalv1.PlaceUpdate) {
	if v.drawn > 0 {
		fmt.Fprintf(w, "\x1b[%dA", v.drawn)
	}
	width := v.app.width()
	fmt.Fprintf(w, "\x1b[2K%s\n", cut(u.Phase+" "+u.Message, width))
	lines := v.lines(u)
	for _, line := range lines {
		fmt.Fprintf(w, "\x1b[2K%s\n", cut(fmt.Sprintf("  %-24s %-24s %s", line.of, line.figures, line.state), width))
	}
	for i := len(lines) + 1; i < v.drawn; i++ {
		fmt.Fprint(w, "\x1b[2K\n")
	}
	v.drawn = max(v.drawn, len(lines)+1)
}

func (a *app) placeLogsCommand() *cobra.Command {
	var request shoalv1.ReadLogsRequest
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Read what a placement's containers wrote",
		Long: `Read what a placement's containers wrote: all that is kept, or the last lines.
Lines of more than one container begin with its ID. With --json each line is an
object with container and line.`,
		Example: "  dfget place logs app --tail 20\n  dfget place logs app --follow\n  dfget place logs app --container app-5ncdefg7h2",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Name = args[0]
			client, err := a.placements()
			if err != nil {
				return err
			}
			stream, err := client.ReadLogs(cmd.Context(), connect.NewRequest(&request))
			if err != nil {
				return fmt.Errorf("read the logs: %w", err)
			}
			defer stream.Close()
			failures := 0
			prefixes := linePrefixer{out: a.out, rest: map[string]string{}, plain: request.Container != "", json: a.json}
			for stream.Receive() {
				line := stream.Msg()
				if line.Error != "" {
					failures++
					fmt.Fprintf(a.errOut, "dfget: %s on %s: %s\n", line.Container, line.Server, line.Error)
				}
				prefixes.write(line.Container, line.Data)
			}
			prefixes.end()
			if err := stream.Err(); err != nil && cmd.Context().Err() == nil {
				return fmt.Errorf("read the logs: %w", err)
			}
			if failures > 0 {
				return errors.New("not all logs could be read")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&request.Container, "container", "", "of this one only, by its ID")
	f.Int32Var(&request.Tail, "tail", 0, "only the last so many lines of each; all that is kept when 0")
	f.BoolVarP(&request.Follow, "follow", "f", false, "go on with what comes")
	return cmd
}

// maxHeld bounds the begun line that is held back for each container, in
// bytes.
const maxHeld = 64 << 10

// linePrefixer puts the container's ID before each of its lines, so that those
// of several do not run into each other.
type linePrefixer struct {
	out   io.Writer
	rest  map[string]string // begun lines
	plain bool
	json  bool
}

// logLine is one line of a container's log, in JSON.
type logLine struct {
	Container string `json:"container"`
	Line      string `json:"line"`
}

func (p *linePrefixer) line(container, text string) {
	if !p.json {
		fmt.Fprintf(p.out, "%s | %s\n", container, text)
		return
	}
	_ = json.NewEncoder(p.out).Encode(logLine{container, text})
}

func (p *linePrefixer) write(container string, data []byte) {
	if p.plain && !p.json {
		_, _ = p.out.Write(data)
		return
	}
	text := p.rest[container] + string(data)
	for {
		line, rest, whole := strings.Cut(text, "\n")
		if !whole && len(text) < maxHeld {
			p.rest[container] = text
			return
		}
		p.line(container, line)
		text = rest
	}
}

func (p *linePrefixer) end() {
	for container, rest := range p.rest {
		if rest != "" {
			p.line(container, rest)
		}
	}
}
