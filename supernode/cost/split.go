package cost

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

const (
	hourMilli = int64(time.Hour / time.Millisecond)
	dayMilli  = 24 * hourMilli
)

// Charge is what one thing cost in one time, which lies within one day (UTC).
type Charge struct {
	From, To time.Time
	Server   *Interval
	// Container is what used that part of the server; nil for the part that
	// nothing used.
	Container *Interval
	Micro     int64
	// Used is for how long of that it was used; a container may have come or
	// gone meanwhile.
	Used time.Duration
	// What could be used, each times milliseconds.
	CPUMilli  int64
	MemoryMiB int64
}

// Idle reports whether the charge is for what nothing used.
func (c Charge) Idle() bool { return c.Container == nil }

// Split spreads what the servers of one pool cost from one time to another
// over the containers that ran on them and what nothing used. For every server
// and clock hour the charges make up the server's price exactly, and none is
// negative. A container is charged on its server alone and only while that
// was there. The intervals may come in any order.
func Split(intervals []Interval, from, to time.Time, emit func(Charge)) {
	w := span{from.UnixMilli(), to.UnixMilli()}
	servers, containers := map[string][]*Interval{}, map[string][]*Interval{}
	for n := range intervals {
		i := &intervals[n]
		if i.Kind == Server {
			servers[i.ID] = append(servers[i.ID], i)
		} else {
			containers[i.ID] = append(containers[i.ID], i)
		}
	}
	on := map[string][]*piece{} // by server
	for _, list := range containers {
		for _, p := range clipped(list, w) {
			on[p.Server] = append(on[p.Server], p)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(servers)) {
		slices.SortFunc(on[id], func(a, b *piece) int { return cmp.Compare(a.from, b.from) })
		for _, server := range clipped(servers[id], w) {
			s := &splitter{server: server, cpuWeight: weightOf(server.CPUWeight), containers: on[id], emit: emit}
			s.capacity = server.weight(s.cpuWeight)
			s.run()
		}
	}
}

// splitter spreads one interval of one server.
type splitter struct {
	server              *piece
	cpuWeight, capacity int64
	containers          []*piece // of the server, by start
	emit                func(Charge)

	next    int      // the first of containers that has not begun
	active  []*piece // those that began and had not ended when last looked at, by ID
	users   []*piece // those that had something in the hour that is spread
	weights []int64  // what nothing had in it, and behind that what each of users had
}

// run goes from hour to hour. Hours in which nothing begins or ends come out
// alike, so those of one day are worked out once.
func (s *splitter) run() {
	for at := s.server.from; at < s.server.to; {
		end := min(at-at%hourMilli+hourMilli, s.server.to)
		change := s.change(at)
		times := int64(1)
		if end-at == hourMilli {
			quiet := min(change, s.server.to, at-at%dayMilli+dayMilli)
			times = max((quiet-at)/hourMilli, 1)
		}
		s.hour(span{at, end}, times)
		at += (end - at) * times
	}
}

// change takes in what has begun by a time and drops what has ended, and is
// the next time at which a container begins or ends.
func (s *splitter) change(at int64) int64 {
	for ; s.next < len(s.containers) && s.containers[s.next].from <= at; s.next++ {
		p := s.containers[s.next]
		if p.to <= at {
			continue
		}
		// By ID, so that who gets a remainder does not depend on the window.
		n, _ := slices.BinarySearchFunc(s.active, p, func(a, b *piece) int {
			return cmp.Or(cmp.Compare(a.ID, b.ID), a.Start.Compare(b.Start))
		})
		s.active = slices.Insert(s.active, n, p)
	}
	s.active = slices.DeleteFunc(s.active, func(p *piece) bool { return p.to <= at })
	next := s.server.to
	if s.next < len(s.containers) {
		next = min(next, s.containers[s.next].from)
	}
	for _, p := range s.active {
		next = min(next, p.to)
	}
	return next
}

// hour spreads the price of an hour, or of a part of one, and charges it so
// many times.
func (s *splitter) hour(h span, times int64) {
	s.weigh(h)
	amounts := shares(divided(s.server.Hourly, h.length(), hourMilli), s.weights)
	from, to := time.UnixMilli(h.from).UTC(), time.UnixMilli(h.from+h.length()*times).UTC()
	usedCPU, usedMemory := int64(0), int64(0)
	for i, u := range s.users {
		c := Charge{From: from, To: to, Server: s.server.Interval, Container: u.Interval, Micro: amounts[i+1] * times, Used: duration(u.used * times)}
		c.CPUMilli, c.MemoryMiB = u.cpuMilli()*u.used*times, u.memoryMiB()*u.used*times
		usedCPU, usedMemory = usedCPU+c.CPUMilli, usedMemory+c.MemoryMiB
		s.emit(c)
	}
	whole := h.length() * times
	s.emit(Charge{
		From: from, To: to, Server: s.server.Interval, Micro: amounts[0] * times, Used: duration(whole),
		CPUMilli: max(s.server.cpuMilli()*whole-usedCPU, 0), MemoryMiB: max(s.server.memoryMiB()*whole-usedMemory, 0),
	})
}

func duration(milli int64) time.Duration { return time.Duration(milli) * time.Millisecond }

// weigh adds up how much of the server each container had in a time, in weight
// times milliseconds. The first weight is that of what nothing had, and the
// sum is the server's. Containers that have more than there is share what
// there is; a server about which nothing is known is nobody's.
func (s *splitter) weigh(h span) {
	s.users, s.weights = s.users[:0], append(s.weights[:0], 0)
	if s.capacity == 0 {
		s.weights[0] = 1
		return
	}
	for at := h.from; at < h.to; {
		end := min(s.change(at), h.to)
		rates, sum := make([]int64, 0, len(s.active)+1), int64(0)
		for _, p := range s.active {
			rates = append(rates, p.weight(s.cpuWeight))
			sum += rates[len(rates)-1]
		}
		idle := max(s.capacity-sum, 0)
		parts := shares(s.capacity*(end-at), append(rates, idle))
		s.weights[0] += parts[len(s.active)]
		for i, p := range s.active {
			s.add(p, end-at, parts[i])
		}
		at = end
	}
}

// add puts what a container had in a part of the hour to what it had before.
func (s *splitter) add(p *piece, milli, weight int64) {
	if p.user >= len(s.users) || s.users[p.user] != p {
		p.user, p.used = len(s.users), 0
		s.users, s.weights = append(s.users, p), append(s.weights, 0)
	}
	p.used += milli
	s.weights[p.user+1] += weight
}
