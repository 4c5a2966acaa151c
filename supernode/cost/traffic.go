package cost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// maxBytes bounds each counter of a host: more than any line carries while
	// a process lives.
	maxBytes = 1 << 60
	// hostsPerCommit is how many hosts' counters are written with one sum.
	hostsPerCommit = 90
	// maxWaiting bounds the hosts whose counters wait to be written.
	maxWaiting = 100_000
)

// Counters are bytes of blobs by where they came from.
type Counters struct {
	Peer      int64 `json:"peer,omitempty"`
	Supernode int64 `json:"supernode,omitempty"`
	Upstream  int64 `json:"upstream,omitempty"`
	Local     int64 `json:"local,omitempty"` // were on the host already
}

func (c Counters) plus(d Counters) Counters {
	return Counters{plus(c.Peer, d.Peer), plus(c.Supernode, d.Supernode), plus(c.Upstream, d.Upstream), plus(c.Local, d.Local)}
}

// report is what a host said last: what it counted since its process, the
// instance, was started.
type report struct {
	Pool     string    `json:"pool"`
	Instance string    `json:"instance"`
	Counters Counters  `json:"counters"`
	At       time.Time `json:"at"`
}

// since is what came between two reports of a host. Another process has begun
// to count anew. A counter that went back is a mistake, and counts nothing.
func (r report) since(before report) Counters {
	if r.Instance != before.Instance {
		return r.Counters
	}
	return Counters{
		max(r.Counters.Peer-before.Counters.Peer, 0), max(r.Counters.Supernode-before.Counters.Supernode, 0),
		max(r.Counters.Upstream-before.Counters.Upstream, 0), max(r.Counters.Local-before.Counters.Local, 0),
	}
}

// traffic is what a pool's hosts fetched in an hour, at one price of a
// gigabyte from outside.
type traffic struct {
	Currency string `json:"currency,omitempty"`
	EgressGB int64  `json:"egress_gb_micro,omitempty"`
	Counters
}

// saved is what the bytes from peers would have cost from outside.
func (t traffic) saved() int64 { return divided(t.Peer, t.EgressGB, gigabyte) }

// with adds bytes to the part of an hour that has their price.
func with(hour []traffic, terms Terms, c Counters) []traffic {
	i := slices.IndexFunc(hour, func(t traffic) bool { return t.Currency == terms.Currency && t.EgressGB == terms.EgressGB })
	if i < 0 {
		return append(hour, traffic{terms.Currency, terms.EgressGB, c})
	}
	hour[i].Counters = hour[i].plus(c)
	return hour
}

// Traffic takes in what a host counted since its process was started. It is
// written down by Flush; a report that is lost is made good by the next.
func (b *Book) Traffic(peer, pool, instance string, c Counters) error {
	if peer == "" || instance == "" || len(peer) > maxName || len(pool) > maxName || len(instance) > maxName || strings.Contains(peer+pool, "/") {
		return fmt.Errorf("a report of bytes without a host and an instance is %w", ErrInvalid)
	}
	for _, n := range []int64{c.Peer, c.Supernode, c.Upstream, c.Local} {
		if n < 0 || n > maxBytes {
			return fmt.Errorf("a host that fetched %d bytes is %w: 0 to %d are taken", n, ErrInvalid, int64(maxBytes))
		}
	}
	b.reports.Lock()
	defer b.reports.Unlock()
	if _, known := b.waiting[peer]; !known && len(b.waiting) >= maxWaiting {
		return fmt.Errorf("%w: the bytes of %d hosts wait to be written down", ErrTooMuch, len(b.waiting))
	}
	b.waiting[peer] = report{pool, instance, c, milli(b.cfg.Now())}
	return nil
}

// Flush writes down what hosts reported: the bytes since their last reports
// and these reports in one commit, so that nothing counts twice.
func (b *Book) Flush(ctx context.Context) error {
	b.flushing.Lock()
	defer b.flushing.Unlock()
	b.reports.Lock()
	waiting := b.waiting
	b.waiting = map[string]report{}
	b.reports.Unlock()
	byPool := map[string][]string{}
	for peer, r := range waiting {
		byPool[r.Pool] = append(byPool[r.Pool], peer)
	}
	var errs []error
	for pool, peers := range byPool {
		slices.Sort(peers)
		for some := range slices.Chunk(peers, hostsPerCommit) {
			if err := b.flush(ctx, pool, some, waiting); err != nil {
				errs = append(errs, err)
				b.putBack(some, waiting)
			}
		}
	}
	return errors.Join(errs...)
}

// putBack has reports wait on, unless newer ones came.
func (b *Book) putBack(peers []string, from map[string]report) {
	b.reports.Lock()
	defer b.reports.Unlock()
	for _, peer := range peers {
		if _, newer := b.waiting[peer]; !newer {
			b.waiting[peer] = from[peer]
		}
	}
}

// flush writes the reports of some hosts of one pool. They count in the hour
// in which they are written.
func (b *Book) flush(ctx context.Context, pool string, peers []string, reports map[string]report) error {
	terms, err := b.cfg.Terms(ctx, pool)
	if err != nil {
		return fmt.Errorf("look up the price of pool %s: %w", pool, err)
	}
	key := fmt.Sprintf("%s%s/%015d", trafficKeys, pool, b.cfg.Now().UTC().Truncate(time.Hour).UnixMilli())
	hour, revision, err := read[[]traffic](ctx, b.cfg.Meta, key)
	if err != nil {
		return err
	}
	compares := []meta.Compare{{Key: key, Revision: revision}}
	var ops []meta.Op
	sum := Counters{}
	for _, peer := range peers {
		before, revision, err := read[report](ctx, b.cfg.Meta, hostPrefix+peer)
		if err != nil {
			return err
		}
		op, err := meta.PutRecord(hostPrefix+peer, reports[peer])
		if err != nil {
			return err
		}
		sum, ops = sum.plus(reports[peer].since(before)), append(ops, op)
		compares = append(compares, meta.Compare{Key: hostPrefix + peer, Revision: revision})
	}
	if sum != (Counters{}) {
		op, err := meta.PutRecord(key, with(hour, terms, sum))
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	if _, err := b.cfg.Meta.Commit(ctx, compares, ops); err != nil {
		return fmt.Errorf("write down the bytes of pool %s: %w", pool, err)
	}
	return nil
}

// read reads a value that may not be there.
func read[T any](ctx context.Context, from meta.Store, key string) (value T, revision meta.Revision, err error) {
	record, revision, err := meta.ReadRecord[T](ctx, from, key)
	if record != nil {
		value = *record
	}
	return value, revision, err
}

// bytesOf tells what the hosts of a pool fetched in the hours that began
// within a time.
func (b *Book) bytesOf(ctx context.Context, pool string, from, to time.Time, tell func(string, traffic)) error {
	prefix := trafficKeys + pool + "/"
	for v, err := range meta.ScanFrom(ctx, b.cfg.Meta, prefix, fmt.Sprintf("%s%015d", prefix, from.UnixMilli())) {
		if err != nil {
			return fmt.Errorf("read the bytes of pool %s: %w", pool, err)
		}
		began, err := strconv.ParseInt(strings.TrimPrefix(v.Key, prefix), 10, 64)
		if err != nil {
			return fmt.Errorf("read %s: %w", v.Key, err)
		}
		if began >= to.UnixMilli() {
			return nil
		}
		var hour []traffic
		if err := json.Unmarshal(v.Data, &hour); err != nil {
			return fmt.Errorf("read %s: %w", v.Key, err)
		}
		for _, t := range hour {
			tell(pool, t)
		}
	}
	return nil
}

// pruneHosts forgets hosts that have reported nothing for as long as anything
// is kept.
func (b *Book) pruneHosts(ctx context.Context, before time.Time) error {
	for v, err := range meta.Scan(ctx, b.cfg.Meta, hostPrefix) {
		var last report
		if err == nil {
			err = json.Unmarshal(v.Data, &last)
		}
		if err == nil && last.At.Before(before) {
			_, err = b.cfg.Meta.Commit(ctx, []meta.Compare{{Key: v.Key, Revision: v.Revision}}, []meta.Op{meta.Delete(v.Key)})
		}
		if err != nil && !errors.Is(err, meta.ErrConflict) {
			return fmt.Errorf("forget hosts that are gone: %w", err)
		}
	}
	return nil
}
