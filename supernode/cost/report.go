package cost

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// What a report is by.
const (
	ByProject = "project"
	ByPool    = "pool"
	ByService = "service"
)

// Names of rows for what has none.
const (
	Idle      = "(idle)"       // what nothing used
	NoProject = "(no project)" // of another registry's image
)

// Question asks what was used from one time to another. An empty pool or
// project is any.
type Question struct {
	From, To      time.Time
	Pool, Project string
}

// Sight is what somebody may see: all, everything about some pools, and of
// other pools what some projects used there since they were made. What an
// older project of that name used is nothing to its new members.
type Sight struct {
	All      bool
	Pools    map[string]bool
	Projects map[string]time.Time
}

// Pool reports whether all about a pool may be seen, what nothing used and the
// bytes included.
func (s Sight) Pool(name string) bool { return s.All || s.Pools[name] }

// charge reports whether a charge may be seen.
func (s Sight) charge(c Charge) bool {
	if c.Idle() || s.Pool(c.Server.Pool) {
		return s.Pool(c.Server.Pool)
	}
	since, member := s.Projects[c.Container.Project]
	return c.Container.Project != "" && member && !c.Container.Start.Before(since)
}

// Row is what one project, pool or service cost.
type Row struct {
	Name, Pool, Currency string
	Micro                int64
	CPUMilliSeconds      int64
	MemoryMiBSeconds     int64
}

// PoolSum is what a pool's servers cost: Allocated and Idle together, exactly.
type PoolSum struct {
	Pool, Currency           string
	Servers, Allocated, Idle int64 // millionths
	Counters
	Saved int64 // millionths: what the bytes from peers would have cost from outside
}

// Report answers a question.
type Report struct {
	Rows  []Row
	Pools []PoolSum
}

// Report adds up what somebody may see.
func (b *Book) Report(ctx context.Context, by string, q Question, sight Sight) (Report, error) {
	if by != ByProject && by != ByPool && by != ByService {
		return Report{}, fmt.Errorf("a report by %.70q is %w: project, pool and service are there", by, ErrInvalid)
	}
	sums := newSums(by)
	pools, err := b.asked(ctx, q, sight)
	if err != nil {
		return Report{}, err
	}
	for _, pool := range pools {
		if err := b.Charges(ctx, pool, q, sight, sums.add); err != nil {
			return Report{}, err
		}
		if !sight.Pool(pool) || q.Project != "" {
			continue
		}
		if err := b.bytesOf(ctx, pool, q.From, q.To, sums.bytes); err != nil {
			return Report{}, err
		}
	}
	if len(sums.rows) > maxRows {
		return Report{}, fmt.Errorf("%w: %d rows, at most %d fit; ask for one pool or project", ErrTooMuch, len(sums.rows), maxRows)
	}
	return sums.report(), nil
}

// asked are the pools that a question is about.
func (b *Book) asked(ctx context.Context, q Question, sight Sight) ([]string, error) {
	if q.Pool != "" {
		return []string{q.Pool}, nil
	}
	all, err := b.pools(ctx)
	if err != nil {
		return nil, err
	}
	if len(sight.Projects) == 0 {
		all = slices.DeleteFunc(all, func(pool string) bool { return !sight.Pool(pool) })
	}
	return all, nil
}

// Charges tells of each charge of one pool that a question is about and
// somebody may see. Only so many questions are worked out at once; emit must
// not ask another one, nor wait for anybody.
func (b *Book) Charges(ctx context.Context, pool string, q Question, sight Sight, emit func(Charge)) error {
	select {
	case b.asking <- struct{}{}:
		defer func() { <-b.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	intervals, err := b.intervals(ctx, pool, q.From, q.To)
	if err != nil {
		return err
	}
	Split(intervals, q.From, q.To, func(c Charge) {
		if sight.charge(c) && (q.Project == "" || !c.Idle() && c.Container.Project == q.Project) {
			emit(c)
		}
	})
	return nil
}

// rowKey tells rows apart; amounts of two currencies never meet.
type rowKey struct{ name, pool, currency string }

// sums adds charges up.
type sums struct {
	by    string
	rows  map[rowKey]*Row
	pools map[rowKey]*PoolSum
	whole map[string]bool // pools of which charges of what nothing used were seen
}

func newSums(by string) *sums {
	return &sums{by: by, rows: map[rowKey]*Row{}, pools: map[rowKey]*PoolSum{}, whole: map[string]bool{}}
}

func (s *sums) add(c Charge) {
	key := s.key(c)
	row := s.rows[key]
	if row == nil {
		row = &Row{Name: key.name, Pool: key.pool, Currency: key.currency}
		s.rows[key] = row
	}
	row.Micro = plus(row.Micro, c.Micro)
	row.CPUMilliSeconds = plus(row.CPUMilliSeconds, c.CPUMilli)
	row.MemoryMiBSeconds = plus(row.MemoryMiBSeconds, c.MemoryMiB)
	pool := s.pool(c.Server.Pool, c.Server.Currency)
	pool.Servers = plus(pool.Servers, c.Micro)
	if c.Idle() {
		s.whole[c.Server.Pool] = true
		pool.Idle = plus(pool.Idle, c.Micro)
	} else {
		pool.Allocated = plus(pool.Allocated, c.Micro)
	}
}

func (s *sums) key(c Charge) rowKey {
	k := rowKey{pool: c.Server.Pool, currency: c.Server.Currency}
	switch {
	case c.Idle():
		k.name = Idle
	case s.by == ByPool:
		k.name = c.Server.Pool
	case s.by == ByService:
		k.name = c.Server.Pool + "/" + c.Container.Placement
	case c.Container.Project == "":
		k.name = NoProject
	default:
		k.name = c.Container.Project
	}
	if s.by == ByProject {
		k.pool = ""
	}
	return k
}

func (s *sums) pool(name, currency string) *PoolSum {
	key := rowKey{pool: name, currency: currency}
	if s.pools[key] == nil {
		s.pools[key] = &PoolSum{Pool: name, Currency: currency}
	}
	return s.pools[key]
}

func (s *sums) bytes(pool string, t traffic) {
	s.whole[pool] = true
	p := s.pool(pool, t.Currency)
	p.Counters = p.Counters.plus(t.Counters)
	p.Saved = plus(p.Saved, t.saved())
}

// report puts the sums in order. What somebody saw a part of only is no sum of
// a pool.
func (s *sums) report() Report {
	var out Report
	for _, r := range s.rows {
		r.CPUMilliSeconds /= 1000
		r.MemoryMiBSeconds /= 1000
		out.Rows = append(out.Rows, *r)
	}
	slices.SortFunc(out.Rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Currency, b.Currency), cmp.Compare(b.Micro, a.Micro), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pool, b.Pool))
	})
	for _, p := range s.pools {
		if s.whole[p.Pool] {
			out.Pools = append(out.Pools, *p)
		}
	}
	slices.SortFunc(out.Pools, func(a, b PoolSum) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Currency, b.Currency))
	})
	return out
}
