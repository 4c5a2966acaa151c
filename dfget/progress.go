package dfget

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// lineEvery is how often progress is told where there is no terminal.
const lineEvery = 5 * time.Second

// progress draws a bar for each download on a terminal and prints lines
// elsewhere; quiet draws nothing.
type progress struct {
	bars  *mpb.Progress // nil where there is no terminal
	lines io.Writer     // nil when quiet
}

func (a *app) newProgress() *progress {
	switch {
	case a.onTerminal():
		return &progress{bars: mpb.New(mpb.WithOutput(a.errOut), mpb.WithWidth(40))}
	case a.quiet || a.json:
		return &progress{}
	}
	return &progress{lines: a.errOut}
}

func (p *progress) wait() {
	if p.bars != nil {
		p.bars.Shutdown()
	}
}

// bar is the progress of one download; it counts what is written to it.
type bar struct {
	name  string
	drawn *mpb.Bar
	lines io.Writer
	mu    sync.Mutex
	done  int64 // guarded by mu
	size  int64 // guarded by mu
	told  time.Time
}

func (p *progress) bar(name string) *bar {
	b := &bar{name: name, lines: p.lines, told: time.Now()}
	if p.bars != nil {
		b.drawn = p.bars.AddBar(0,
			mpb.PrependDecorators(decor.Name(name+" ")),
			mpb.AppendDecorators(
				decor.Counters(decor.SizeB1000(0), "% .1f / % .1f", decor.WCSyncSpace),
				decor.EwmaSpeed(decor.SizeB1000(0), " % .1f", 30),
			))
	}
	return b
}

func (b *bar) total(size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size = size
	if b.drawn != nil && size >= 0 {
		b.drawn.SetTotal(size, false)
	}
}

// skip counts bytes that an earlier run brought.
func (b *bar) skip(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	if b.drawn != nil {
		b.drawn.SetCurrent(n)
	}
}

func (b *bar) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += int64(len(p))
	if b.drawn != nil {
		b.drawn.EwmaIncrBy(len(p), time.Since(b.told))
		b.told = time.Now()
	} else if b.lines != nil && time.Since(b.told) > lineEvery {
		b.told = time.Now()
		fmt.Fprintf(b.lines, "%s: %s of %s\n", b.name, formatBytes(b.done), formatBytes(b.size))
	}
	return len(p), nil
}
