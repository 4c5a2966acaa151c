package facts

import (
	"context"
	"log/slog"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// lookEvery is how often the host is looked at again.
	lookEvery = 30 * time.Second
	// againAfter is when a report is tried again that was not taken.
	againAfter = 5 * time.Second
)

// Line is the way to the supernode.
type Line interface {
	// Reachable reports whether a supernode holds the line open.
	Reachable() bool
	// Opened is closed the next time that the line opens.
	Opened() <-chan struct{}
	ReportFacts(ctx context.Context, f *shoalv1.Facts) error
}

// Keep tells the supernode what look finds, whenever the line opens and
// whenever it is something new, until ctx ends.
func Keep(ctx context.Context, line Line, look func(context.Context) (*shoalv1.Facts, error), log *slog.Logger) {
	var told *shoalv1.Facts
	complained := ""
	for {
		opened, wait := line.Opened(), lookEvery
		if line.Reachable() {
			found, err := look(ctx)
			if err != nil && err.Error() != complained && ctx.Err() == nil {
				complained = err.Error()
				log.Warn("not all is known of this host; the rest is told to the supernode", "error", err)
			}
			if Changed(told, found) {
				if err := line.ReportFacts(ctx, found); err == nil {
					told = found
				} else if wait = againAfter; ctx.Err() == nil {
					log.Warn("the supernode was not told about this host; it is tried again", "error", err)
				}
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-opened:
			timer.Stop()
			told = nil
		case <-timer.C:
		}
	}
}
