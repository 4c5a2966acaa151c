package cost

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const gibibyte = 1 << 30

var day = time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC)

func at(hour, minute int) time.Time {
	return day.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
}

func server(id string, cores, gib, hourly int64, from, to time.Time) Interval {
	return Interval{
		Kind: Server, ID: id, Pool: "web", CPUMilli: cores * 1000, MemoryBytes: gib * gibibyte,
		Currency: "EUR", Hourly: hourly, Start: from, End: to,
	}
}

func container(id, on string, cores, gib int64, from, to time.Time) Interval {
	return Interval{
		Kind: Container, ID: id, Server: on, Pool: "web", Placement: "p-" + id, Project: "project-" + id,
		CPUMilli: cores * 1000, MemoryBytes: gib * gibibyte, Start: from, End: to,
	}
}

// costs adds charges up by server and container.
func costs(intervals []Interval, from, to time.Time) map[string]int64 {
	out := map[string]int64{}
	Split(intervals, from, to, func(c Charge) {
		name := c.Server.ID + "/idle"
		if !c.Idle() {
			name = c.Server.ID + "/" + c.Container.ID
		}
		out[name] += c.Micro
	})
	return out
}

// TestADayByHand is a day of one pool, added up with pencil and paper.
func TestADayByHand(t *testing.T) {
	var never time.Time
	intervals := []Interval{
		// a costs 2.40 € an hour. It weighs 10 cores × 4 + 40 GiB = 80.
		server("a", 10, 40, 2_400_000, at(-50, 0), never),
		// 5 × 4 + 20 = 40, the half: 1.20 € an hour; from 06:00 to 18:30, so
		// 12.5 × 1.20 = 15.00 €.
		container("big", "a", 5, 20, at(6, 0), at(18, 30)),
		// 1 × 4 + 4 = 8, a tenth: 0.24 € an hour; 09:15 to 09:45, so 0.12 €.
		container("short", "a", 1, 4, at(9, 15), at(9, 45)),
		// Since yesterday and until tomorrow, 0 cores and 2 GiB, a fortieth:
		// 0.06 € an hour, so 24 × 0.06 = 1.44 €.
		container("old", "a", 0, 2, at(-30, 0), at(30, 0)),
		// Left for a: 24 × 2.40 = 57.60, less 15.00, 0.12 and 1.44: 41.04 €.

		// b comes at noon and costs 1 € an hour until 20:00, then 3 €, and goes
		// at 22:30: 8 × 1 + 2.5 × 3 = 15.50 €. It weighs 3 × 4 + 0 = 12.
		server("b", 3, 0, 1_000_000, at(12, 0), at(20, 0)),
		server("b", 3, 0, 3_000_000, at(20, 0), at(22, 30)),
		// A third each; 0.333333… € an hour. From 13:00 to 14:00 the three of
		// them make up the hour: x 0.333334, y and z 0.333333 €.
		container("x", "b", 1, 0, at(13, 0), at(14, 0)),
		container("y", "b", 1, 0, at(13, 0), at(14, 0)),
		container("z", "b", 1, 0, at(13, 0), at(14, 0)),
		// Three cores of three, but b is there from noon on only: 8 × 1 €,
		// less the hour from 13:00, in which w and the three share it evenly
		// by their weights: w 12, the others 4 each, together 24: w gets
		// 0.50 €, x, y and z 0.166667, 0.166667 and 0.166666 €. Then 2.5 × 3.
		container("w", "b", 3, 0, at(11, 0), at(23, 0)),
	}
	want := map[string]int64{
		"a/big": 15_000_000, "a/short": 120_000, "a/old": 1_440_000, "a/idle": 41_040_000,
		"b/x": 166_667, "b/y": 166_667, "b/z": 166_666, "b/w": 7_000_000 + 500_000 + 7_500_000, "b/idle": 0,
	}
	got := costs(intervals, day, at(24, 0))
	for name, micro := range want {
		if got[name] != micro {
			t.Errorf("%s cost %d, by hand it is %d", name, got[name], micro)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("and these nobody expected: %v", got)
	}
	// Without w the remainder of the third shows.
	got = costs(intervals[:len(intervals)-1], day, at(24, 0))
	if got["b/x"] != 333_334 || got["b/y"] != 333_333 || got["b/z"] != 333_333 || got["b/idle"] != 15_500_000-1_000_000 {
		t.Errorf("three thirds of 1 €: %v", got)
	}
}

func TestWhatIsCharged(t *testing.T) {
	full := server("s", 4, 16, 1_000_000, day, at(24, 0))
	for _, c := range []struct {
		name      string
		intervals []Interval
		from, to  time.Time
		want      map[string]int64
	}{
		{"nothing", nil, day, at(24, 0), map[string]int64{}},
		{"a window that ends before it begins", []Interval{full}, at(2, 0), at(1, 0), map[string]int64{}},
		{"a part of an hour", []Interval{full}, at(1, 10), at(1, 40), map[string]int64{"s/idle": 500_000}},
		{"a container on another server", []Interval{full, container("c", "t", 1, 1, day, at(1, 0))}, day, at(1, 0), map[string]int64{"s/idle": 1_000_000}},
		{"a container before its server", []Interval{server("s", 4, 16, 1_000_000, at(1, 0), at(2, 0)), container("c", "s", 4, 16, day, at(2, 0))}, day, at(24, 0),
			map[string]int64{"s/c": 1_000_000, "s/idle": 0}},
		{"a server about which nothing is known", []Interval{server("s", 0, 0, 1_000_000, day, at(2, 0)), container("c", "s", 1, 1, day, at(2, 0))}, day, at(24, 0),
			map[string]int64{"s/idle": 2_000_000}},
		{"a container without limits", []Interval{full, container("c", "s", 0, 0, day, at(2, 0))}, day, at(1, 0), map[string]int64{"s/c": 0, "s/idle": 1_000_000}},
		{"a pool without a price", []Interval{server("s", 4, 16, 0, day, at(2, 0)), container("c", "s", 2, 8, day, at(2, 0))}, day, at(24, 0), map[string]int64{"s/c": 0, "s/idle": 0}},
		{"told twice", []Interval{full, full, server("s", 4, 16, 1_000_000, at(3, 0), at(5, 0)), container("c", "s", 2, 8, day, at(1, 0)), container("c", "s", 2, 8, day, at(1, 0))}, day, at(24, 0),
			map[string]int64{"s/c": 500_000, "s/idle": 23_500_000}},
		{"a begun MiB", []Interval{
			{Kind: Server, ID: "s", MemoryBytes: 4 * mebibyte, Hourly: 4_000_000, Start: day},
			{Kind: Container, ID: "c", Server: "s", MemoryBytes: 1, Start: day},
		}, day, at(1, 0), map[string]int64{"s/c": 1_000_000, "s/idle": 3_000_000}},
		{"as large as anything may be", []Interval{
			{Kind: Server, ID: "s", CPUMilli: math.MaxInt64, MemoryBytes: math.MaxInt64, CPUWeight: math.MaxInt64, Hourly: MaxMicro, Start: day},
			{Kind: Container, ID: "c", Server: "s", CPUMilli: math.MaxInt64, MemoryBytes: math.MaxInt64, Start: day},
			{Kind: Container, ID: "d", Server: "s", CPUMilli: math.MaxInt64, MemoryBytes: math.MaxInt64, Start: day},
		}, day, at(24, 0), map[string]int64{"s/c": 12 * MaxMicro, "s/d": 12 * MaxMicro, "s/idle": 0}},
		{"a weight of its own", []Interval{
			{Kind: Server, ID: "s", CPUMilli: 10_000, MemoryBytes: 10 * gibibyte, CPUWeight: 1, Hourly: 2_000_000, Start: day},
			container("c", "s", 10, 0, day, at(1, 0)),
		}, day, at(1, 0), map[string]int64{"s/c": 1_000_000, "s/idle": 1_000_000}},
	} {
		got := costs(c.intervals, c.from, c.to)
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// randomDay makes servers and containers that come, change and go at whole
// minutes; some containers have more than there is.
func randomDay(r *rand.Rand) []Interval {
	minute := func() time.Time { return at(0, r.IntN(26*60)-60) }
	var out []Interval
	for n := range 1 + r.IntN(4) {
		id, from := fmt.Sprintf("s%d", n), minute()
		for range 1 + r.IntN(3) {
			to := from.Add(time.Duration(1+r.IntN(900)) * time.Minute)
			s := server(id, int64(r.IntN(33)), int64(r.IntN(65)), r.Int64N(5_000_000), from, to)
			s.CPUWeight = int64(r.IntN(9))
			if out, from = append(out, s), to; r.IntN(3) == 0 {
				from = to.Add(time.Duration(r.IntN(90)) * time.Minute)
			}
		}
		for c := range r.IntN(12) {
			from := minute()
			one := container(fmt.Sprintf("c%d-%d", n, c), id, int64(r.IntN(12)), int64(r.IntN(12)), from, from.Add(time.Duration(r.IntN(600))*time.Minute))
			if r.IntN(6) == 0 {
				one.End = time.Time{}
			}
			out = append(out, one)
		}
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestAllocatedAndIdleMakeUpTheServers is the rule that everything stands on.
func TestAllocatedAndIdleMakeUpTheServers(t *testing.T) {
	for seed := range uint64(300) {
		intervals := randomDay(rand.New(rand.NewPCG(seed, 2)))
		parts, idles := map[string]int64{}, 0
		Split(slices.Clone(intervals), day, at(24, 0), func(c Charge) {
			if c.Micro < 0 || c.CPUMilli < 0 || c.MemoryMiB < 0 {
				t.Fatalf("seed %d: a charge below nothing: %+v", seed, c)
			}
			if c.Idle() {
				idles++
			}
			parts[c.Server.ID] += c.Micro
		})
		want := map[string]int64{}
		for _, i := range intervals {
			if i.Kind != Server {
				continue
			}
			for from := maxTime(i.Start, day); from.Before(i.End) && from.Before(at(24, 0)); {
				to := minTime(from.Truncate(time.Hour).Add(time.Hour), i.End)
				// Half a millionth is rounded up.
				want[i.ID] += (i.Hourly*to.Sub(from).Milliseconds()*2 + hourMilli) / (2 * hourMilli)
				from = to
			}
		}
		for id, micro := range want {
			if parts[id] != micro {
				t.Fatalf("seed %d: allocated and idle of %s are %d, the server cost %d", seed, id, parts[id], micro)
			}
		}
	}
}

// TestSharesAreFair holds every sum of an hour against the exact fraction,
// worked out minute by minute in another way.
func TestSharesAreFair(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		intervals, hour := randomDay(r), at(r.IntN(24), 0)
		exact := map[string]*big.Rat{}
		for m := range 60 {
			from := hour.Add(time.Duration(m) * time.Minute)
			for _, s := range intervals {
				if s.Kind == Server && covers(s, from) {
					addMinute(exact, s, intervals, from)
				}
			}
		}
		for name, micro := range costs(intervals, hour, hour.Add(time.Hour)) {
			want := exact[name]
			if want == nil {
				want = new(big.Rat)
			}
			// A server that changes within the hour is rounded more than once.
			if off, _ := new(big.Rat).Sub(want, big.NewRat(micro, 1)).Float64(); off > 4 || off < -4 {
				t.Fatalf("seed %d: %s cost %d, exactly it is %s", seed, name, micro, want.FloatString(3))
			}
		}
	}
}

func covers(i Interval, at time.Time) bool {
	return !i.Start.After(at) && (i.End.IsZero() || i.End.After(at))
}

// addMinute spreads a minute of a server in fractions.
func addMinute(exact map[string]*big.Rat, s Interval, all []Interval, from time.Time) {
	weight := s.CPUWeight
	if weight == 0 {
		weight = 4
	}
	weigh := func(i Interval) int64 { return i.CPUMilli*weight*gibibyte + i.MemoryBytes*1000 }
	users := map[string]int64{}
	sum, capacity := int64(0), weigh(s)
	for _, c := range all {
		if c.Kind == Container && c.Server == s.ID && covers(c, from) && capacity > 0 {
			users[s.ID+"/"+c.ID] += weigh(c)
			sum += weigh(c)
		}
	}
	users[s.ID+"/idle"] = max(capacity-sum, 0)
	if capacity == 0 {
		users[s.ID+"/idle"], capacity = 1, 1
	}
	for name, w := range users {
		if exact[name] == nil {
			exact[name] = new(big.Rat)
		}
		part := big.NewRat(s.Hourly, 60)
		exact[name].Add(exact[name], part.Mul(part, big.NewRat(w, max(capacity, sum))))
	}
}

// TestReportsAddUp: two times that meet on an hour make up the time of both,
// and charges lie within a day, whatever the order of the intervals.
func TestReportsAddUp(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 4))
		intervals := randomDay(r)
		whole, parts := costs(intervals, at(-24, 0), at(48, 0)), map[string]int64{}
		cut := at(r.IntN(24), 0)
		for _, w := range [][2]time.Time{{at(-24, 0), cut}, {cut, at(48, 0)}} {
			r.Shuffle(len(intervals), func(i, j int) { intervals[i], intervals[j] = intervals[j], intervals[i] })
			for name, micro := range costs(intervals, w[0], w[1]) {
				parts[name] += micro
			}
		}
		if fmt.Sprint(whole) != fmt.Sprint(parts) {
			t.Fatalf("seed %d: the whole is %v, its parts are %v", seed, whole, parts)
		}
		Split(intervals, at(-24, 0), at(48, 0), func(c Charge) {
			if last := c.To.Add(-1); c.From.Truncate(24*time.Hour) != last.Truncate(24*time.Hour) || !c.From.Before(c.To) {
				t.Fatalf("seed %d: a charge from %v to %v", seed, c.From, c.To)
			}
		})
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
