// Command bench measures how long it takes until one image stands on N hosts
// that all ask for it at the same moment, over links that are shaped and
// equal. Each host is a network namespace. It sets our exchange beside a pull
// straight from a registry and beside anacrolix/torrent, and expresses time
// as a ratio to T*, below which nothing can go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/origin"
	"github.com/shoalproject/shoal/e2e/pull"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "origin":
			return serveOrigin(ctx, args[1:])
		case "pull":
			return pullOnce(ctx, args[1:], out)
		}
	}
	return bench(ctx, args, out)
}

// serveOrigin is the registry of the direct pull and of the cold runs.
func serveOrigin(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("origin", flag.ContinueOnError)
	layout := flags.String("layout", "", "OCI layout folder")
	listen := flags.String("listen", "", "IP:port")
	if err := flags.Parse(args); err != nil {
		return err
	}
	registry, err := origin.New(*layout)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	return server.Serve(l)
}

// pullOnce is one host's pull; it writes a note at the end.
func pullOnce(ctx context.Context, args []string, out io.Writer) error {
	var img pull.Image
	flags := flag.NewFlagSet("pull", flag.ContinueOnError)
	flags.StringVar(&img.Base, "base", "", "registry or mirror")
	flags.StringVar(&img.Repository, "repo", "", "repository")
	flags.StringVar(&img.Reference, "ref", "", "tag or digest")
	flags.StringVar(&img.Registry, "ns", "", "registry for ns=")
	flags.BoolVar(&img.Verify, "verify", false, "hash every blob")
	start := flags.Int64("start", 0, "begin at this Unix time in nanoseconds")
	if err := flags.Parse(args); err != nil {
		return err
	}
	img.User, img.Password = os.Getenv("PULL_USER"), os.Getenv("PULL_PASSWORD")
	timer := time.NewTimer(time.Until(time.Unix(0, *start)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	got, err := pull.Pull(ctx, img)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(note{Done: got.Done.UnixNano(), First: got.FirstByte.UnixNano(), Bytes: got.Bytes})
}

// bench runs one table, or with -full those of docs/benchmarks.md.
func bench(ctx context.Context, args []string, out io.Writer) error {
	var p params
	var one table
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&p.bin, "bin", "bin", "folder of supernode and dfagent")
	full := flags.Bool("full", false, "run every table of docs/benchmarks.md; the flags that describe one table are ignored")
	hit := flags.Bool("hit", false, "compare a cache hit with nginx and do nothing else")
	start := flags.Bool("start", false, "compare how soon placed containers start and do nothing else")
	flags.StringVar(&one.hosts, "n", "4,8,16", "numbers of hosts")
	flags.Float64Var(&one.mbit, "mbit", 100, "rate of every link, both ways")
	flags.IntVar(&one.layers, "layers", 4, "layers of the image")
	flags.Int64Var(&one.layerMiB, "layer-mib", 32, "size of a layer")
	flags.StringVar(&one.engines, "engines", "direct,torrent,exchange,exchange-cold", "what to run")
	flags.IntVar(&one.repeat, "repeat", 1, "runs of each; the one with the median last host is shown")
	work := flags.String("work", filepath.Join(os.TempDir(), "shoal-bench-image"), "folder for the images")
	markdown := flags.String("out", "", "write the report to this file (default: standard output only)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := netns.Missing(); err != nil {
		return err
	}
	var err error
	if p, err = locate(p); err != nil {
		return err
	}
	tables := []table{one}
	switch {
	case *full:
		tables = fullTables
	case *hit, *start:
		tables = nil
	}
	rep := &report{command: "bench " + strings.Join(args, " ")}
	for _, t := range tables {
		if err := t.run(ctx, p, *work, rep, out); err != nil {
			return err
		}
	}
	if *full || *hit {
		note, err := compareHit(ctx, p, *work)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, note)
		rep.notes = append(rep.notes, note)
	}
	if *full || *start {
		note, err := compareStart(ctx, p)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, note)
		rep.notes = append(rep.notes, note)
	}
	text := rep.markdown()
	if *markdown == "" {
		fmt.Fprintln(out, text)
		return nil
	}
	old, err := os.ReadFile(*markdown)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read what the report holds besides: %w", err)
	}
	if err := os.WriteFile(*markdown, []byte(text+byHand(string(old))), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// table is one set of runs with the same image and links.
type table struct {
	title    string
	hosts    string // numbers, comma between
	mbit     float64
	layers   int
	layerMiB int64
	engines  string // comma between
	repeat   int
}

// fullTables are those of docs/benchmarks.md. Two cores are too few for the
// seed and sixteen hosts at 100 Mbit/s, so there is a slower table that holds
// on such a machine, and the library is compared at 40.
var fullTables = []table{
	{"One image of four layers", "4,8,16", 100, 4, 32, "direct,exchange,exchange-cold", 3},
	{"The same image over slower links", "16", 40, 4, 32, "exchange,exchange-cold", 2},
	{"One blob, beside the torrent engine", "4,8,16", 40, 1, 64, "direct,torrent-defaults,torrent,exchange", 1},
	{"A host that goes silent half way", "8", 40, 4, 16, "exchange,frozen", 3},
	{"A layer of 1 GiB: memory", "4", 250, 1, 1024, "exchange", 1},
}

func (t table) run(ctx context.Context, p params, work string, rep *report, out io.Writer) error {
	c, err := load(ctx, work, t.layers, t.layerMiB<<20)
	if err != nil {
		return err
	}
	p.mbit = t.mbit
	s := section{table: t}
	for _, field := range strings.Split(t.hosts, ",") {
		if p.n, err = strconv.Atoi(field); err != nil {
			return fmt.Errorf("-n %q: %w", t.hosts, err)
		}
		for _, name := range strings.Split(t.engines, ",") {
			e, cold, err := engineNamed(name)
			if err != nil {
				return err
			}
			p.cold = cold
			times := t.repeat
			if name == "direct" {
				times = 1 // the links decide: it is the same each time
			}
			r, err := median(ctx, e, p, c, times)
			if err != nil {
				return err
			}
			s.runs = append(s.runs, r)
			fmt.Fprintln(out, r)
		}
	}
	rep.sections = append(rep.sections, s)
	return nil
}

// locate finds the programs.
func locate(p params) (params, error) {
	var err error
	if p.self, err = os.Executable(); err != nil {
		return p, fmt.Errorf("find myself: %w", err)
	}
	p.node = filepath.Join(filepath.Dir(p.self), "torrentnode")
	if p.bin, err = filepath.Abs(p.bin); err != nil {
		return p, fmt.Errorf("-bin: %w", err)
	}
	return p, nil
}

// engineNamed also says whether the run is a cold one.
func engineNamed(name string) (engine, bool, error) {
	switch name {
	case "direct":
		return direct{}, false, nil
	case "exchange":
		return &exchange{}, false, nil
	case "exchange-cold":
		return &exchange{}, true, nil
	case "frozen":
		return &frozen{}, false, nil
	case "torrent":
		return torrentEngine{label: "anacrolix/torrent, best tuning found", piece: 256 << 10, args: nil}, false, nil
	case "torrent-defaults":
		return torrentEngine{label: "anacrolix/torrent, defaults", piece: 256 << 10, args: []string{"-defaults"}}, false, nil
	}
	if tuning, found := strings.CutPrefix(name, "torrent:"); found { // torrent:piece:flag=value:…
		parts := strings.Split(tuning, ":")
		piece, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil {
			return nil, false, fmt.Errorf("engine %q: %w", name, err)
		}
		var args []string
		for _, flag := range parts[1:] {
			args = append(args, "-"+flag)
		}
		return torrentEngine{label: name, piece: piece, args: args}, false, nil
	}
	return nil, false, fmt.Errorf("no engine %q", name)
}
