package cost

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// maxIntervals bounds the intervals of one pool that one answer is made
	// from: about a hundred megabytes of memory.
	maxIntervals = 200_000
	// maxRows bounds the rows of one answer.
	maxRows = 10_000
)

// Window checks the time of a question: it ends now at the latest, and a
// question without a time is about this month (UTC).
func Window(from, to, now time.Time) (time.Time, time.Time, error) {
	if now = milli(now); to.IsZero() || to.After(now) {
		to = now
	}
	if from.IsZero() {
		from = month(to)
	}
	from, to = milli(from), milli(to)
	if !from.Before(to) {
		return from, to, fmt.Errorf("a time that ends before it begins, or lies ahead, is %w: it went from %s to %s",
			ErrInvalid, from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	if to.Sub(from) > Keep {
		return from, to, fmt.Errorf("a time of more than %d days is %w: ask for parts of it", Keep/(24*time.Hour), ErrInvalid)
	}
	return from, to, nil
}

// month is the beginning of a time's calendar month.
func month(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// intervals are those of a pool that share something with a time. They are no
// snapshot, but what goes on is read first: an interval that ends meanwhile is
// seen twice and counted once.
func (b *Book) intervals(ctx context.Context, pool string, from, to time.Time) ([]Interval, error) {
	var out []Interval
	b.mu.Lock()
	if b.open == nil {
		if err := b.load(ctx); err != nil {
			b.mu.Unlock()
			return nil, err
		}
	}
	for _, e := range b.open {
		if e.Pool == pool && e.Start.Before(to) {
			out = append(out, e.Interval)
		}
	}
	b.mu.Unlock()
	prefix := usedPrefix + pool + "/"
	for v, err := range meta.ScanFrom(ctx, b.cfg.Meta, prefix, fmt.Sprintf("%s%015d", prefix, from.UnixMilli())) {
		if err != nil {
			return nil, fmt.Errorf("read the usage of pool %s: %w", pool, err)
		}
		var i Interval
		if err := json.Unmarshal(v.Data, &i); err != nil {
			return nil, fmt.Errorf("read %s: %w", v.Key, err)
		}
		if !i.Start.Before(to) {
			continue
		}
		if out = append(out, i); len(out) > maxIntervals {
			return nil, fmt.Errorf("%w: pool %s changed more than %d times; ask for a shorter time", ErrTooMuch, pool, maxIntervals)
		}
	}
	return out, nil
}

// pools are the names of all pools of which anything is known, in order.
func (b *Book) pools(ctx context.Context) ([]string, error) {
	var out []string
	b.mu.Lock()
	for _, e := range b.open {
		out = append(out, e.Pool)
	}
	b.mu.Unlock()
	for _, prefix := range []string{usedPrefix, trafficKeys} {
		names, err := b.poolsBelow(ctx, prefix)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// poolsBelow reads one key of each pool.
func (b *Book) poolsBelow(ctx context.Context, prefix string) (out []string, err error) {
	for from := prefix; ; {
		page, err := b.cfg.Meta.List(ctx, prefix, from, 1)
		if err != nil {
			return nil, fmt.Errorf("look for pools that were used: %w", err)
		}
		if len(page) == 0 {
			return out, nil
		}
		pool, _, _ := strings.Cut(strings.TrimPrefix(page[0].Key, prefix), "/")
		out = append(out, pool)
		from = prefix + pool + "0" // the next byte after the slash
	}
}

// Prune drops what ended longer ago than it is kept.
func (b *Book) Prune(ctx context.Context) error {
	before := b.cfg.Now().Add(-Keep)
	for _, prefix := range []string{usedPrefix, trafficKeys} {
		pools, err := b.poolsBelow(ctx, prefix)
		if err != nil {
			return err
		}
		for _, pool := range pools {
			below := prefix + pool + "/"
			last := fmt.Sprintf("%s%015d", below, before.UnixMilli())
			if err := b.prune(ctx, below, func(v meta.Value) bool { return v.Key < last }); err != nil {
				return err
			}
		}
	}
	return b.pruneHosts(ctx, before)
}

// prune removes the first values below a prefix that are old.
func (b *Book) prune(ctx context.Context, prefix string, old func(meta.Value) bool) error {
	for {
		page, err := b.cfg.Meta.List(ctx, prefix, "", meta.MaxOps)
		if err != nil {
			return fmt.Errorf("look for old usage: %w", err)
		}
		var ops []meta.Op
		for _, v := range page {
			if !old(v) {
				break
			}
			ops = append(ops, meta.Delete(v.Key))
		}
		if len(ops) == 0 {
			return nil
		}
		if _, err := b.cfg.Meta.Commit(ctx, nil, ops); err != nil {
			return fmt.Errorf("drop old usage: %w", err)
		}
	}
}
