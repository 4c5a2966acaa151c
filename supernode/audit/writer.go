package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/shoalproject/shoal/pkg/durable"
)

const (
	// maxBatch bounds the rows of one write.
	maxBatch = 256
	// firstWait and lastWait bound the pause before a write is tried again.
	firstWait = 50 * time.Millisecond
	lastWait  = 5 * time.Second
	// aheadAtMost is how far the last row's time may lie ahead of the clock and
	// still hold back the time of the next; beyond, the clock was set right.
	aheadAtMost = time.Hour
)

// run is the one writer.
func (l *Log) run() {
	defer close(l.done)
	tick := time.NewTicker(l.cfg.Window / 2)
	defer tick.Stop()
	for {
		select {
		case it, open := <-l.queue:
			if !open {
				l.write(l.due(time.Time{}))
				l.shut()
				return
			}
			batch, waiters := l.gather(it)
			l.write(batch)
			for _, w := range waiters {
				close(w)
			}
		case <-tick.C:
			l.write(l.due(l.cfg.Now()))
			if err := l.retain(); err != nil {
				l.cfg.Log.Error("old audit rows were not removed; it is tried again", "error", err)
			}
		}
	}
}

func (l *Log) shut() {
	if l.file != nil {
		l.file.Close() // all of it was synced
	}
}

// gather takes what waits already, as far as it fits one write.
func (l *Log) gather(it item) (batch []item, waiters []chan<- struct{}) {
	for {
		if it.waiter != nil {
			waiters = append(waiters, it.waiter)
		} else {
			batch = append(batch, it)
		}
		if len(batch) == maxBatch {
			return batch, waiters
		}
		var open bool
		select {
		case it, open = <-l.queue:
			if !open {
				return batch, waiters
			}
		default:
			return batch, waiters
		}
	}
}

// due makes rows of what was counted in the windows that are over.
func (l *Log) due(now time.Time) []item {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []item
	for _, one := range l.repeats.due(now) {
		out = append(out, item{at: l.cfg.Now(), event: one.kind.event(), more: one.more})
	}
	return out
}

// write appends events, and does not give up before Close.
func (l *Log) write(items []item) {
	wait := firstWait
	for len(items) > 0 || !l.sealed {
		n, err := l.append(items[:min(len(items), maxBatch)])
		items = items[n:]
		if err == nil {
			wait = firstWait
			continue
		}
		l.cfg.Log.Error("the audit cannot be written; it is tried again", "error", err, "events", len(items))
		select {
		case <-l.stopping:
			for _, it := range items {
				l.lost(it, err)
			}
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// append writes those of the first items that belong into one segment, and
// then signs where the chain ends. It returns how many items are on disk.
func (l *Log) append(items []item) (n int, err error) {
	last, now := l.at.Last, segment{}
	if len(l.segments) > 0 {
		now = l.segments[len(l.segments)-1]
	}
	rotate := l.file == nil
	var buffer []byte
	lastTime := l.lastTime
	for _, it := range items {
		at := rowTime(it.at, lastTime)
		full := now.size+int64(len(buffer)) >= segmentBytes || !dayOf(at).Equal(dayOf(now.begin)) || at.Before(lastTime)
		if full && n > 0 {
			break
		}
		if full || rotate && n == 0 {
			rotate, now = true, segment{first: last.Sequence + 1, begin: at}
		}
		row := Row{Sequence: last.Sequence + 1, Time: at, Event: it.event, More: it.more, Previous: last.Hash}
		line, err := row.encode()
		if err != nil {
			return 0, err
		}
		last, lastTime = place{row.Sequence, hashOf(line)}, at
		buffer = append(append(buffer, line...), '\n')
		n++
	}
	if n > 0 {
		if err := l.put(rotate, now, buffer); err != nil {
			return 0, fmt.Errorf("append to the audit: %w", err)
		}
		now.size += int64(len(buffer))
		l.lastTime = lastTime
		l.advance(rotate, now, last)
		l.counts.rows.Add(float64(n))
	}
	if err := l.at.write(l.endsPath(), l.cfg.Sign); err != nil {
		return n, err
	}
	l.sealed = true
	return n, nil
}

// rowTime is when a row is said to be written: a clock that steps back a
// little does not disturb the order.
func rowTime(now, last time.Time) time.Time {
	now = now.UTC().Round(0)
	if now.Before(last) && last.Sub(now) <= aheadAtMost {
		return last
	}
	return now
}

// put brings bytes to the end of a segment, durably. What a failure leaves
// there is written over by the next try.
func (l *Log) put(rotate bool, s segment, data []byte) error {
	if rotate {
		f, err := os.OpenFile(l.path(s.first), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		l.shut()
		l.file = f
	}
	if _, err := l.file.WriteAt(data, s.size); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	if rotate {
		return durable.SyncDir(l.cfg.Dir)
	}
	return nil
}

// advance makes what was written known to readers.
func (l *Log) advance(rotated bool, s segment, last place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rotated {
		l.segments = append(l.segments, s)
	} else {
		l.segments[len(l.segments)-1] = s
	}
	l.at.Last, l.sealed = last, false
}

// retain removes segments that are too old, or too many, and says so by a row.
func (l *Log) retain() error {
	n := expired(l.segments, l.cfg.Now(), l.cfg.Keep, l.cfg.MaxBytes)
	if n == 0 {
		return nil
	}
	first := l.segments[n].first
	before := place{Sequence: first - 1}
	if row, err := firstRow(l.path(first)); err == nil {
		before.Hash = row.Previous
	}
	if err := l.remove(n, before); err != nil {
		return err
	}
	l.write([]item{{at: l.cfg.Now(), event: Event{
		Subject: Supernode, Action: "audit.trim", Object: "audit", Allowed: true,
		Detail: map[string]string{"through": fmt.Sprint(before.Sequence)},
	}}})
	return nil
}

func (l *Log) remove(n int, before place) error {
	l.removing.Lock()
	defer l.removing.Unlock()
	next := ends{Before: before, Last: l.at.Last}
	// First it is signed where the chain begins: what a crash leaves of the
	// files is removed at the next start.
	if err := next.write(l.endsPath(), l.cfg.Sign); err != nil {
		return err
	}
	for _, s := range l.segments[:n] {
		if err := os.Remove(l.path(s.first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments, l.at = append([]segment(nil), l.segments[n:]...), next
	return nil
}

// expired is how many segments are to go, from the oldest on: those whose rows
// are all older than keep, and as many as are needed for the rest to fit the
// limit in bytes. The newest stays.
func expired(list []segment, now time.Time, keep time.Duration, limit int64) int {
	var total int64
	for _, s := range list {
		total += s.size
	}
	n := 0
	for n < len(list)-1 {
		old := keep > 0 && !list[n].until().After(now.Add(-keep))
		if !old && (limit <= 0 || total <= limit) {
			break
		}
		total -= list[n].size
		n++
	}
	return n
}
