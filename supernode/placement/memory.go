package placement

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// Memory is an Engine whose hosts exist in memory only. They do what an agent
// does, and write down when.
type Memory struct {
	report func(server string, m *shoalv1.ReportContainersRequest)

	mu     sync.Mutex
	hosts  map[string]*memoryHost // guarded by mu, as all that is in them
	images map[string]Behaviour   // guarded by mu, by digest
	ledger []Entry                // guarded by mu
}

// Behaviour is how an image fares on a pretended host.
type Behaviour struct {
	Size    int64         // bytes
	Fetch   time.Duration // until it is there
	Start   time.Duration // from a container's start until it is healthy
	Missing bool          // nobody has it
	Stop    time.Duration // from the order to remove a container until it is gone
	Sick    bool          // its containers end at once
}

// Entry is a line of the ledger.
type Entry struct {
	At     time.Time
	Server string
	// asked, ready, started or removed; unready is a container that was started
	// without its image, clash one while its port was taken.
	What      string
	Container string // or the image's digest
}

type memoryHost struct {
	gone       chan struct{} // closed while the host is away
	images     map[string]bool
	generation int64
	containers map[string]*memoryContainer
	telling    sync.Mutex // held while a report is on its way, so that they stay in order
}

type memoryContainer struct {
	want   *shoalv1.Container
	status *shoalv1.ContainerStatus
	log    []string
	going  bool // it was told to end
}

// NewMemory makes a house of pretended hosts; report hears what they say.
func NewMemory(report func(server string, m *shoalv1.ReportContainersRequest)) *Memory {
	return &Memory{report: report, hosts: map[string]*memoryHost{}, images: map[string]Behaviour{}}
}

// Add puts up a host, which is there at once.
func (m *Memory) Add(server string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[server] = &memoryHost{gone: make(chan struct{}), images: map[string]bool{}, containers: map[string]*memoryContainer{}}
}

// Set says how an image fares.
func (m *Memory) Set(digest string, b Behaviour) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images[digest] = b
}

// Cut takes a host's line away; what it runs goes on, unseen.
func (m *Memory) Cut(server string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.hosts[server]; h.up() {
		close(h.gone)
	}
}

// Mend gives it back.
func (m *Memory) Mend(server string) {
	m.mu.Lock()
	h := m.hosts[server]
	if !h.up() {
		h.gone = make(chan struct{})
	}
	m.mu.Unlock()
	m.tell(server)
}

// Up reports whether a host has its line.
func (m *Memory) Up(server string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.hosts[server]
	return h != nil && h.up()
}

// Ledger is what happened so far, in order.
func (m *Memory) Ledger() []Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ledger)
}

// Containers are those on a host, by ID.
func (m *Memory) Containers(server string) []*shoalv1.Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*shoalv1.Container
	for _, c := range m.hosts[server].containers {
		out = append(out, c.want)
	}
	slices.SortFunc(out, func(a, b *shoalv1.Container) int { return strings.Compare(a.Id, b.Id) })
	return out
}

func (h *memoryHost) up() bool {
	select {
	case <-h.gone:
		return false
	default:
		return true
	}
}

// find is a host that can be spoken to; the caller holds mu.
func (m *Memory) find(server string) (*memoryHost, error) {
	h := m.hosts[server]
	if h == nil || !h.up() {
		return nil, fmt.Errorf("%w: %s", ErrUnreachable, server)
	}
	return h, nil
}

func (m *Memory) note(server, what, of string) {
	m.ledger = append(m.ledger, Entry{time.Now(), server, what, of})
}

// Prepull implements Engine.
func (m *Memory) Prepull(ctx context.Context, host Host, service Service, progress func(done, total int64)) error {
	m.mu.Lock()
	h, err := m.find(host.Server)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	b := m.images[service.Digest]
	has, gone := h.images[service.Digest], h.gone
	m.note(host.Server, "asked", service.Digest)
	m.mu.Unlock()
	if b.Missing {
		return fmt.Errorf("%s@%s: not found", service.Image.Repository, service.Digest)
	}
	if !has {
		progress(b.Size/2, b.Size)
		timer := time.NewTimer(b.Fetch)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-gone:
			return fmt.Errorf("%w: %s went away", ErrUnreachable, host.label())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	progress(b.Size, b.Size)
	m.mu.Lock()
	defer m.mu.Unlock()
	h.images[service.Digest] = true
	m.note(host.Server, "ready", service.Digest)
	return nil
}

// Assign implements Engine.
func (m *Memory) Assign(_ context.Context, host Host, desired *shoalv1.Desired) error {
	m.mu.Lock()
	h, err := m.find(host.Server)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	if desired.Generation >= h.generation {
		h.generation = desired.Generation
		m.obey(host.Server, h, desired)
	}
	m.mu.Unlock()
	m.tell(host.Server)
	return nil
}

// obey brings a host in line with what it is to run; the caller holds mu.
func (m *Memory) obey(server string, h *memoryHost, desired *shoalv1.Desired) {
	want := map[string]*shoalv1.Container{}
	for _, c := range desired.Containers {
		want[c.Id] = c
	}
	for id, c := range h.containers {
		if want[id] == nil && !c.going {
			m.remove(server, h, c)
		}
	}
	for id, c := range want {
		had := h.containers[id]
		if had != nil && !had.going && had.want.Run == c.Run && had.want.RestartsWanted == c.RestartsWanted {
			continue
		}
		one := &memoryContainer{want: c, status: &shoalv1.ContainerStatus{Id: id, State: shoalv1.ContainerStatus_STOPPED, ExitCode: -1}}
		h.containers[id] = one
		if c.Run {
			m.begin(server, h, one)
		}
	}
}

// remove ends a container, which may take its time; the caller holds mu.
func (m *Memory) remove(server string, h *memoryHost, c *memoryContainer) {
	c.going = true
	gone := func() {
		if h.containers[c.want.Id] == c {
			delete(h.containers, c.want.Id)
			m.note(server, "removed", c.want.Id)
		}
	}
	b := m.images[c.want.Digest]
	if b.Stop == 0 {
		gone()
		return
	}
	time.AfterFunc(b.Stop, func() {
		m.mu.Lock()
		gone()
		m.mu.Unlock()
		m.tell(server)
	})
}

// begin starts a container; the caller holds mu.
func (m *Memory) begin(server string, h *memoryHost, c *memoryContainer) {
	if !h.images[c.want.Digest] {
		m.note(server, "unready", c.want.Id)
		c.status.State, c.status.Error = shoalv1.ContainerStatus_FAILED, "its image is not there"
		return
	}
	for _, other := range h.containers {
		if other != c && slices.ContainsFunc(other.want.Ports, func(p int32) bool { return slices.Contains(c.want.Ports, p) }) {
			m.note(server, "clash", c.want.Id)
		}
	}
	m.note(server, "started", c.want.Id)
	c.status.State, c.status.Started = shoalv1.ContainerStatus_STARTING, timestamppb.Now()
	c.log = append(c.log, "started "+c.want.Id, strings.Join(c.want.Args, " "))
	b := m.images[c.want.Digest]
	time.AfterFunc(b.Start, func() {
		m.mu.Lock()
		c.status.State = shoalv1.ContainerStatus_RUNNING
		if b.Sick {
			c.status.State, c.status.ExitCode, c.status.Restarts = shoalv1.ContainerStatus_EXITED, 1, restartsTooMany
			time.AfterFunc(startAgain, func() { m.again(server, h, c) })
		}
		m.mu.Unlock()
		m.tell(server)
	})
}

// startAgain is the pause before a container that ended is started again.
const startAgain = 30 * time.Second

// again starts a container that ended, if it is still to run.
func (m *Memory) again(server string, h *memoryHost, c *memoryContainer) {
	m.mu.Lock()
	if h.containers[c.want.Id] == c && !c.going {
		m.begin(server, h, c)
	}
	m.mu.Unlock()
	m.tell(server)
}

// tell has a host report, when it can.
func (m *Memory) tell(server string) {
	m.mu.Lock()
	h := m.hosts[server]
	m.mu.Unlock()
	h.telling.Lock()
	defer h.telling.Unlock()
	m.mu.Lock()
	said := &shoalv1.ReportContainersRequest{Generation: h.generation}
	for _, c := range h.containers {
		s := c.status
		said.Containers = append(said.Containers, &shoalv1.ContainerStatus{
			Id: s.Id, State: s.State, ExitCode: s.ExitCode, Error: s.Error, Restarts: s.Restarts, Started: s.Started,
		})
	}
	up := h.up()
	m.mu.Unlock()
	if up {
		m.report(server, said)
	}
}

// Logs implements Engine.
func (m *Memory) Logs(ctx context.Context, host Host, container string, tail int, follow bool, write func([]byte) error) error {
	m.mu.Lock()
	h, err := m.find(host.Server)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	c := h.containers[container]
	if c == nil {
		m.mu.Unlock()
		return fmt.Errorf("%s has no container %s", host.label(), container)
	}
	lines, gone := slices.Clone(c.log), h.gone
	m.mu.Unlock()
	if tail > 0 && tail < len(lines) {
		lines = lines[len(lines)-tail:]
	}
	for _, line := range lines {
		if err := write([]byte(line + "\n")); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	select {
	case <-gone:
		return fmt.Errorf("%w: %s went away", ErrUnreachable, host.label())
	case <-ctx.Done():
		return ctx.Err()
	}
}
