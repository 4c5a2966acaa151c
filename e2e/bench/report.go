package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

func (r result) String() string {
	s := fmt.Sprintf("%-40s N=%-2d last %.2f mean %.2f T*; seed %.2f copies", r.label(), r.N, r.Last, r.Mean, r.SeedCopies)
	if r.Cold {
		s += fmt.Sprintf(", upstream %.2f", r.UpCopies)
	}
	s += fmt.Sprintf("; %.1f CPU-s/GiB; host %s RSS, %s anon; machine %.0f %% busy", r.CPUPerGiB,
		mib(r.RSS["host"]), mib(r.Anon["host"]), 100*r.Busy)
	if r.Busy > maxBusy {
		s += "  VOID"
	}
	return s
}

func (r result) label() string {
	if r.Cold {
		return r.Engine + ", cold"
	}
	return r.Engine
}

func mib(b int64) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%d MiB", (b+1<<19)>>20)
}

// median runs an engine several times and keeps the run with the median time
// of the last host; void runs count only when all are.
func median(ctx context.Context, e engine, p params, c *cargo, times int) (result, error) {
	var all []result
	for range times {
		r, err := measure(ctx, e, p, c)
		if err != nil {
			return r, err
		}
		all = append(all, r)
	}
	good := slices.DeleteFunc(slices.Clone(all), func(r result) bool { return r.Busy > maxBusy })
	if len(good) == 0 {
		good = all
	}
	slices.SortFunc(good, func(a, b result) int { return cmp.Compare(a.Last, b.Last) })
	return good[len(good)/2], nil
}

// report gathers the runs for docs/benchmarks.md.
type report struct {
	command  string
	sections []section
	notes    []string
}

// section is a table with its runs.
type section struct {
	table
	runs []result
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\n")
	fmt.Fprintf(&b, "Measured %s by `make bench` (`%s`); %s.\n\n", time.Now().UTC().Format("2 January 2006"), r.command, describeMachine())
	fmt.Fprintf(&b, `N hosts pull one image at the same moment. Every host is a network namespace; every link, the seed's
included, is shaped to the same rate both ways by the kernel's token bucket. Times are ratios to
T* = max(F/u_seed, F/d_min, N·F/(u_seed+Σu_i)), which nothing can beat (cold, the upstream's link counts as
well); headers alone make 1.05. Copies are the bytes that left the seed's (the upstream's) interface, in
images. CPU is that of the engine's processes, seed and hosts, for each GiB that arrived somewhere. Memory is
the peak of the greediest process, RssAnon in brackets. A run in which the machine's CPU was more than
%.0f %% busy is void: it measures the machine. Of several runs the one with the median last host is shown; straight from a registry, where the links alone
decide, it is one run.
`, 100*maxBusy)
	for _, s := range r.sections {
		s.markdown(&b)
	}
	for _, n := range r.notes {
		b.WriteString("\n" + n + "\n")
	}
	return b.String()
}

// handMark begins what is kept by hand at the end of the report.
const handMark = "\n<!-- What follows is kept by hand. -->\n"

// byHand is the part of an older report that is to stay.
func byHand(old string) string {
	if i := strings.Index(old, handMark); i >= 0 {
		return old[i:]
	}
	return ""
}

func (s section) markdown(b *strings.Builder) {
	if s.title != "" {
		fmt.Fprintf(b, "\n## %s\n", s.title)
	}
	fmt.Fprintf(b, "\n%d × %d MiB of random bytes, links of %.0f Mbit/s, %d run(s) each.\n\n", s.layers, s.layerMiB, s.mbit, s.repeat)
	b.WriteString("| engine | N | last / T* | mean / T* | first byte | seed copies | upstream copies | CPU-s/GiB | host | seed | busy |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, x := range s.runs {
		first, up, busy := "", "", fmt.Sprintf("%.0f %%", 100*x.Busy)
		if x.First > 0 {
			first = fmt.Sprintf("%.2f s", x.First)
		}
		if x.Cold {
			up = fmt.Sprintf("%.2f", x.UpCopies)
		}
		if x.Busy > maxBusy {
			busy += " **void**"
		}
		fmt.Fprintf(b, "| %s | %d | **%.2f** | %.2f | %s | %.2f | %s | %.1f | %s (%s) | %s (%s) | %s |\n",
			x.label(), x.N, x.Last, x.Mean, first, x.SeedCopies, up, x.CPUPerGiB,
			mib(x.RSS["host"]), mib(x.Anon["host"]), mib(x.RSS["seed"]), mib(x.Anon["seed"]), busy)
	}
}

// describeMachine names the processor, the kernel and Go.
func describeMachine() string {
	model := "unknown processor"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := ""
	if out, err := exec.CommandContext(context.Background(), "uname", "-r").Output(); err == nil {
		kernel = ", Linux " + strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%d × %s%s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}
