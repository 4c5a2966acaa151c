// Package supervise keeps the containers on a host as the supernode wants
// them: it makes, starts, stops and removes them, starts again what ended, and
// tells how they stand. What is wanted comes as a whole, is kept on disk, and
// is gone by until something newer comes, so a host goes on without any
// supernode and after a restart.
//
// What to do is decided by pure functions (decide.go) at each look; one
// container has one thing done to it at a time. Nothing is removed before the
// supernode has once said what is wanted here.
//
// Limits: health is that TCP ports answer on 127.0.0.1, or for containers
// without ports that they run for three seconds; one that is not healthy is
// told so and left alone.
package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// MostContainers bounds what a host is asked to run, and mostTold a report:
	// what is not wanted and still there comes last in it.
	MostContainers = 512
	mostTold       = 1000

	// grace is how long a container has to end by itself.
	grace = 10 * time.Second
	// actionsAtOnce bounds what is done side by side.
	actionsAtOnce = 8
	// lookEvery is the longest time between two looks while all is well,
	// lookOften while a container is not healthy, and lookSoon while it is young.
	lookEvery = 5 * time.Second
	lookOften = time.Second
	lookSoon  = 200 * time.Millisecond
	youngFor  = 10 * time.Second
	// gatherFor lets words that come together be one look.
	gatherFor = 20 * time.Millisecond
	// reportEvery is how often is told how things stand while nothing changes.
	reportEvery  = 10 * time.Second
	probeTimeout = 500 * time.Millisecond
	probesAtOnce = 16
)

// Engine is what runs the containers.
type Engine interface {
	Create(ctx context.Context, s engine.Spec) error
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	List(ctx context.Context) ([]engine.State, error)
	Watch(ctx context.Context) <-chan struct{}
}

// Config wires a Supervisor.
type Config struct {
	Engine Engine
	// Dir is the folder for what outlives the agent.
	Dir string
	// Bring fetches and unpacks the image of a container that is wanted here
	// when it is gone. Nil: that is an error.
	Bring func(ctx context.Context, c *shoalv1.Container) error
	// Report tells the supernode how things stand. An error is followed by the
	// next report.
	Report func(ctx context.Context, r *shoalv1.ReportContainersRequest) error
	// Probe reports whether a TCP port of this host answers. Nil: it is dialled.
	Probe func(ctx context.Context, port int) bool
	Log   *slog.Logger
}

// Supervisor keeps the containers of one host.
type Supervisor struct {
	cfg    Config
	poke   chan struct{} // holds a word when a look is worth it
	news   chan struct{} // holds a word when a report is worth it
	slots  chan struct{}
	doings sync.WaitGroup

	mu      sync.Mutex
	desired *shoalv1.Desired         // guarded by mu; nil before the first
	records map[string]record        // guarded by mu
	have    map[string]*engine.State // guarded by mu: of the last look
	health  map[string]health        // guarded by mu
	busy    map[string]bool          // guarded by mu: something is being done
	unseen  map[string]bool          // guarded by mu: something was done since they were looked at
	looked  bool                     // guarded by mu: what there is was seen in this life
	sick    error                    // guarded by mu: of the last look at the engine
	turn    int                      // guarded by mu: grows when something was done
	// told is the last report that arrived; nil makes one due. Guarded by mu.
	told *shoalv1.ReportContainersRequest
}

// New makes a Supervisor that goes on from what was kept. What cannot be read
// is told to the log, and the supernode says again what it wants.
func New(cfg Config) *Supervisor {
	if cfg.Probe == nil {
		cfg.Probe = dial
	}
	desired, records, err := load(cfg.Dir)
	if err != nil {
		cfg.Log.Error("what is to run here is not known until the supernode says it again", "error", err)
		records = map[string]record{}
	}
	return &Supervisor{
		cfg: cfg, poke: make(chan struct{}, 1), news: make(chan struct{}, 1), slots: make(chan struct{}, actionsAtOnce),
		desired: desired, records: records, have: map[string]*engine.State{}, health: map[string]health{}, busy: map[string]bool{}, unseen: map[string]bool{},
	}
}

func dial(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func word(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default: // one waits already
	}
}

// Take goes by a new Desired from now on. One that is older than what is known
// is ignored; one that is as old makes a report due, since the supernode asks.
func (s *Supervisor) Take(d *shoalv1.Desired) error {
	if len(d.Containers) > MostContainers {
		return fmt.Errorf("%d containers are wanted on this host, more than %d", len(d.Containers), MostContainers)
	}
	ids := map[string]bool{}
	for _, c := range d.Containers {
		if ids[c.Id] {
			return fmt.Errorf("container %q is wanted twice", c.Id)
		}
		ids[c.Id] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer word(s.news)
	s.told = nil
	if s.desired != nil && d.Generation <= s.desired.Generation {
		return nil
	}
	before := wanted(s.desired)
	now := wanted(d)
	for id, r := range s.records {
		if !proto.Equal(before[id], now[id]) {
			// Something else is wanted of it: the pause was for what it was.
			r.Next, r.Fails = time.Time{}, 0
			s.records[id] = r
		}
	}
	s.desired = proto.CloneOf(d)
	word(s.poke)
	s.keep()
	return nil
}

// wanted are the containers of a Desired by their ID.
func wanted(d *shoalv1.Desired) map[string]*shoalv1.Container {
	out := map[string]*shoalv1.Container{}
	for _, c := range d.GetContainers() {
		out[c.Id] = c
	}
	return out
}

// keep writes the state down; the caller holds mu. Where the disk does not
// take it, things go on: the supernode says it again after a restart.
func (s *Supervisor) keep() {
	if err := save(s.cfg.Dir, s.desired, s.records); err != nil {
		s.cfg.Log.Error("what is to run here was not written down", "error", err)
	}
}

// Run keeps the containers until ctx ends. They go on running then.
func (s *Supervisor) Run(ctx context.Context) {
	var reports sync.WaitGroup
	reports.Go(func() { s.report(ctx) })
	words := s.cfg.Engine.Watch(ctx)
	for ctx.Err() == nil {
		pause := time.NewTimer(s.look(ctx))
		select {
		case <-words:
		case <-s.poke:
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
		if !rest(ctx, gatherFor) {
			break
		}
	}
	s.doings.Wait()
	reports.Wait()
}

func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// look compares what is with what is wanted, begins what is to be done, and
// returns when to look again.
func (s *Supervisor) look(ctx context.Context) time.Duration {
	s.mu.Lock()
	turn := s.turn
	s.mu.Unlock()
	list, err := s.cfg.Engine.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.ail(err)
		}
		return lookEvery
	}
	answers := s.probe(ctx, list)
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if turn != s.turn {
		return 0 // something was done since; what was seen may be from before
	}
	if s.sick != nil {
		s.cfg.Log.Info("what runs the containers answers again")
	}
	s.sick, s.looked = nil, true
	have := map[string]*engine.State{}
	for _, c := range list {
		have[c.ID] = &c
	}
	s.have = have
	maps.DeleteFunc(s.unseen, func(id string, _ bool) bool { return !s.busy[id] })
	want := wanted(s.desired)
	ids := maps.Clone(have)
	for id := range want {
		ids[id] = have[id]
	}
	wait, changed := lookEvery, false
	for id, state := range ids {
		if state != nil && state.Running {
			ports := len(want[id].GetPorts())
			s.health[id] = s.health[id].next(ports, answers[id], now.Sub(state.Started))
			switch running := now.Sub(state.Started); {
			case s.health[id].good:
			case running < youngFor:
				wait = min(wait, lookSoon)
			default:
				wait = min(wait, lookOften)
			}
		} else {
			delete(s.health, id)
		}
		if s.busy[id] || s.desired == nil {
			continue
		}
		r := s.records[id].observe(state)
		if r != s.records[id] {
			s.records[id], changed = r, true
		}
		do, later := decide(want[id], state, r, now)
		if !later.IsZero() {
			wait = min(wait, max(later.Sub(now), gatherFor))
		}
		if do != nothing {
			s.busy[id], s.unseen[id] = true, true
			s.doings.Go(func() { s.do(ctx, do, id, want[id]) })
		}
	}
	for id := range s.records {
		if want[id] == nil && have[id] == nil && !s.busy[id] {
			delete(s.records, id)
			changed = true
		}
	}
	if changed {
		s.keep()
	}
	s.compare()
	return wait
}

// ail takes note of an engine that does not answer.
func (s *Supervisor) ail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sick == nil {
		s.cfg.Log.Error("what runs the containers does not answer; it is asked again", "error", err)
	}
	s.sick = err
	s.compare()
}

// probe asks the ports of the containers that run whether they answer.
func (s *Supervisor) probe(ctx context.Context, list []engine.State) map[string]bool {
	s.mu.Lock()
	want := wanted(s.desired)
	s.mu.Unlock()
	var asked sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, probesAtOnce)
	answers := map[string]bool{} // guarded by mu
	for _, c := range list {
		ports := want[c.ID].GetPorts()
		if !c.Running || len(ports) == 0 {
			continue
		}
		asked.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			good := !slices.ContainsFunc(ports, func(p int32) bool { return !s.cfg.Probe(ctx, int(p)) })
			mu.Lock()
			defer mu.Unlock()
			answers[c.ID] = good
		})
	}
	asked.Wait()
	return answers
}

// compare makes a report due when something is to be told; the caller holds
// mu.
func (s *Supervisor) compare() {
	if s.told == nil || !proto.Equal(s.told, s.status()) {
		word(s.news)
	}
}

// status is the report; the caller holds mu. What is not wanted and still
// there is in it, and so is what may be: a container that is being made when it
// is not wanted any more comes into being all the same, and goes later.
func (s *Supervisor) status() *shoalv1.ReportContainersRequest {
	out := &shoalv1.ReportContainersRequest{Generation: s.desired.GetGeneration()}
	want := wanted(s.desired)
	ids := slices.Sorted(maps.Keys(want))
	left := maps.Clone(s.unseen)
	for id := range s.have {
		left[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(left)) {
		if want[id] == nil && len(ids) < mostTold {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		c := tell(id, want[id], s.have[id], s.records[id], s.health[id])
		if s.sick != nil {
			c.Error = plain(fmt.Sprintf("this is how it stood last: %v", s.sick))
		}
		out.Containers = append(out.Containers, c)
	}
	return out
}

// Wants reports whether a container of this image is wanted here.
func (s *Supervisor) Wants(image blob.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.desired.GetContainers(), func(c *shoalv1.Container) bool { return c.Digest == string(image) })
}

// Status is how things stand.
func (s *Supervisor) Status() *shoalv1.ReportContainersRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status()
}

// report tells how things stand, when that changes and now and then, until ctx
// ends. What was not looked at is not told: containers that are not in a report
// are taken for gone.
func (s *Supervisor) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.news:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		now, looked := s.status(), s.looked
		s.mu.Unlock()
		if !looked {
			continue // the first look makes a report due
		}
		if err := s.cfg.Report(ctx, now); err != nil {
			s.cfg.Log.Debug("how the containers stand was not told", "error", err)
			continue
		}
		s.mu.Lock()
		s.told = now
		s.compare()
		s.mu.Unlock()
	}
}
