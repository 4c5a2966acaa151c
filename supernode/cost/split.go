package cost

import (
	"cmp"
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
	Server   Interval
	// Container is what used that part of the server; its ID is empty for the
	// part that nothing used.
	Container Interval
	Micro     int64
	// Used is for how long of that it was used; a container may have come or
	// gone meanwhile.
	Used time.Duration
	// What could be used, each times milliseconds.
	CPUMilli  int64
	MemoryMiB int64
}

// Idle reports whether the charge is for what nothing used.
func (c Charge) Idle() bool { return c.Container.ID == "" }

// Split spreads what the servers of one pool cost from one time to another
// over the containers that ran on them and what nothing used. For every server
// and clock hour the charges make up the server's price exactly, and none is
// negative. A container is charged on its server alone and only while that
// was there. The intervals may come in any order.
func Split(intervals []Interval, from, to time.Time, emit func(Charge)) {
	w := span{from.UnixMilli(), to.UnixMilli()}
	servers, containers := map[string][]Interval{}, map[string][]Interval{}
	for _, i := range intervals {
		if i.Kind == Server {
			servers[i.ID] = append(servers[i.ID], i)
		} else {
			containers[i.ID] = append(containers[i.ID], i)
		}
	}
	on := map[string][]piece{} // by server
	for _, list := range containers {
		for _, p := range clipped(list, w) {
			on[p.Server] = append(on[p.Server], p)
		}
	}
	ids := make([]string, 0, len(servers))
	for id := range servers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		slices.SortFunc(on[id], func(a, b piece) int { return cmp.Compare(a.from, b.from) })
		for _, server := range clipped(servers[id], w) {
			(&splitter{server: server, containers: on[id], emit: emit}).run()
		}
	}
}

// splitter spreads one interval of one server.
type splitter struct {
	server     piece
	containers []piece // of the server, by start
	emit       func(Charge)

	next   int     // the first of containers that has not begun
	active []piece // those that began and had not ended when last looked at
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
	for s.next < len(s.containers) && s.containers[s.next].from <= at {
		s.active = append(s.active, s.containers[s.next])
		s.next++
		// By ID, so that who gets a remainder does not depend on the window.
		slices.SortFunc(s.active, func(a, b piece) int { return cmp.Or(cmp.Compare(a.ID, b.ID), a.Start.Compare(b.Start)) })
	}
	s.active = slices.DeleteFunc(s.active, func(p piece) bool { return p.to <= at })
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
	users, weights := s.weigh(h)
	cost := divided(s.server.Hourly, h.length(), hourMilli)
	amounts := shares(cost, weights)
	from, to := time.UnixMilli(h.from).UTC(), time.UnixMilli(h.from+h.length()*times).UTC()
	usedCPU, usedMemory := int64(0), int64(0)
	for i, u := range users {
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

// user is a container in one hour.
type user struct {
	piece
	used int64 // milliseconds of the hour
}

// weigh adds up how much of the server each container had in a time, in weight
// times milliseconds. The first weight is that of what nothing had, and the
// sum is the server's. Containers that have more than there is share what
// there is; a server about which nothing is known is nobody's.
func (s *splitter) weigh(h span) (users []user, weights []int64) {
	cpuWeight := weightOf(s.server.CPUWeight)
	capacity := s.server.weight(cpuWeight)
	if capacity == 0 {
		return nil, []int64{1}
	}
	weights = []int64{0}
	index := map[string]int{} // by interval, into users
	for at := h.from; at < h.to; {
		end := min(s.change(at), h.to)
		rates, sum := make([]int64, len(s.active)), int64(0)
		for i, p := range s.active {
			rates[i] = p.weight(cpuWeight)
			sum += rates[i]
		}
		idle := max(capacity-sum, 0)
		parts := shares(capacity*(end-at), append(rates, idle))
		weights[0] += parts[len(rates)]
		for i, p := range s.active {
			key := p.ID + " " + p.Start.String()
			n, known := index[key]
			if !known {
				n = len(users)
				index[key] = n
				users, weights = append(users, user{piece: p}), append(weights, 0)
			}
			users[n].used += end - at
			weights[n+1] += parts[i]
		}
		at = end
	}
	return users, weights
}
