package inventory

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// A host that came by itself: one server however often it comes, ready when
// it told its facts, in a pool that nobody made.
func TestAHostThatJoins(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	a := Arrival{PeerID: "peer-1", Hostname: "web1.example.com", Pool: "web"}
	first, err := b.Arrived(ctx, a)
	b.must(err)
	if first.Phase != Initialising || first.Name != a.Hostname || !first.Joined() {
		t.Errorf("arrived as %+v", first)
	}
	b.must(b.SetFacts(ctx, a.PeerID, someFacts()))
	again, err := b.Arrived(ctx, a)
	b.must(err)
	if again.ID != first.ID || again.Phase != Ready || again.Facts.GetCpuMilli() != 32_000 {
		t.Errorf("came again as %+v", again)
	}
	other, err := b.Arrived(ctx, Arrival{PeerID: "peer-2", Hostname: a.Hostname, Pool: "web"})
	b.must(err)
	if other.ID == first.ID || other.Name == first.Name || !strings.HasPrefix(other.Name, a.Hostname+"-") {
		t.Errorf("another host of that name: %+v", other)
	}
	odd, err := b.Arrived(ctx, Arrival{PeerID: "peer-3", Hostname: "no name at all", Pool: "db"})
	b.must(err)
	if odd.Name != "host-"+odd.ID {
		t.Errorf("a host with an odd name: %+v", odd)
	}
	for _, name := range []string{first.ID, first.Name} {
		if s, err := b.Server(ctx, name); err != nil || s.ID != first.ID {
			t.Errorf("looked up as %s: %+v, %v", name, s, err)
		}
	}
	list, err := b.Servers(ctx, "web")
	if err != nil || len(list) != 2 {
		t.Errorf("the pool's servers: %v, %v", list, err)
	}
	// Its pool is the system administrators' as long as nobody made it.
	if p, err := b.May(ctx, sysAdmin, "web", Deploy); err != nil || p.Name != "web" || !p.Created.IsZero() {
		t.Errorf("the pool: %+v, %v", p, err)
	}
	if pools, err := b.Pools(ctx, sysAdmin); err != nil || len(pools) != 2 {
		t.Errorf("pools: %v, %v", pools, err)
	}
	if pools, err := b.Pools(ctx, user("ada")); err != nil || len(pools) != 0 {
		t.Errorf("pools for anybody: %v, %v", pools, err)
	}
	if err := b.SetRole(ctx, sysAdmin, "web", "ada", RoleAdmin); !errors.Is(err, ErrNoPool) {
		t.Errorf("a role on a pool that nobody made: %v", err)
	}
	b.pool(Pool{Name: "web", Quota: Quota{Servers: 2}})
	if _, err := b.CreateServers(ctx, sysAdmin, "web", 1, "k"); !errors.Is(err, ErrQuota) {
		t.Errorf("those who joined count: %v", err)
	}
	// It joins another pool.
	a.Pool = "db"
	moved, err := b.Arrived(ctx, a)
	b.must(err)
	if moved.ID != first.ID || moved.Pool != "db" {
		t.Errorf("in another pool: %+v", moved)
	}
	_, err = b.CreateServers(ctx, sysAdmin, "web", 1, "k")
	b.must(err)
	if len(b.changes[first.ID]) == 0 || b.changes[first.ID][0].Phase != Initialising {
		t.Errorf("told: %v", b.changes[first.ID])
	}
}

func TestAHostOfAPoolWithAProfile(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web", Profile: "host"})
	a := Arrival{PeerID: "p", Hostname: "h", Pool: "web"}
	s, err := b.Arrived(ctx, a)
	b.must(err)
	b.must(b.SetFacts(ctx, "p", someFacts()))
	b.is(s.ID, Initialising)
	b.must(b.SetSteps(ctx, "p", steps("host", shoalv1.StepStatus_OK, shoalv1.StepStatus_FAILED)))
	if got := b.is(s.ID, Failed); got.FailedAt != "step mirror" || got.Reason != "it broke" || len(got.Steps) != 2 {
		t.Errorf("failed: %+v", got)
	}
	// It connects again, and still is what it was.
	_, err = b.Arrived(ctx, a)
	b.must(err)
	b.is(s.ID, Failed)
	b.must(b.SetSteps(ctx, "p", steps("host", shoalv1.StepStatus_OK, shoalv1.StepStatus_CHANGED)))
	if got := b.is(s.ID, Ready); got.FailedAt != "" || got.Reason != "" {
		t.Errorf("ready: %+v", got)
	}
	// A drift is shown, and takes nothing out of service.
	b.must(b.SetSteps(ctx, "p", steps("host", shoalv1.StepStatus_WOULD_CHANGE)))
	if got := b.is(s.ID, Ready); got.Steps[0].State != shoalv1.StepStatus_WOULD_CHANGE {
		t.Errorf("a drift: %+v", got.Steps)
	}
	// Another one comes, and the profile is taken away.
	_, err = b.Arrived(ctx, Arrival{PeerID: "q", Hostname: "i", Pool: "web"})
	b.must(err)
	b.must(b.SetFacts(ctx, "q", someFacts()))
	b.is("i", Initialising)
	none := ""
	_, err = b.SetPool(ctx, sysAdmin, "web", PoolChange{Profile: &none})
	b.must(err)
	b.is("i", Ready)
}

// A machine that was made: from the request to the end.
func TestALife(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web", HardwareClass: "32c-32g"})
	made, err := b.CreateServers(ctx, sysAdmin, "web", 1, "k")
	b.must(err)
	id := made[0].ID
	if made[0].Provider != "memory" || made[0].Phase != Requested || made[0].HardwareClass != "32c-32g" {
		t.Errorf("requested: %+v", made[0])
	}
	_, err = b.Move(ctx, id, []Phase{Requested}, Provisioning, "", "asked the provider", nil)
	b.must(err)
	if _, err := b.Move(ctx, id, []Phase{Requested}, Provisioning, "", "", nil); !errors.Is(err, ErrPhase) {
		t.Errorf("moved by somebody who came too late: %v", err)
	}
	if _, err := b.Move(ctx, id, nil, Ready, "", "", nil); !errors.Is(err, ErrPhase) {
		t.Errorf("ready at once: %v", err)
	}
	if _, err := b.Move(ctx, "nobody", nil, Ready, "", "", nil); !errors.Is(err, ErrNoServer) {
		t.Errorf("one that is not there: %v", err)
	}
	s, err := b.Move(ctx, id, nil, Failed, "provisioning", "no room", func(s *Server) { s.ProviderID = "vm-1" })
	b.must(err)
	if s.Phase != Failed || s.FailedAt != "provisioning" || s.Reason != "no room" || s.ProviderID != "vm-1" {
		t.Errorf("failed: %+v", s)
	}
	b.later(time.Minute)
	s, err = b.Arrived(ctx, Arrival{PeerID: "p", Hostname: "h", Pool: "web", Server: id})
	b.must(err)
	if s.ID != id || s.Phase != Initialising || s.PeerID != "p" || s.Reason != "" || s.PhaseSince != b.now {
		t.Errorf("it arrived after all: %+v", s)
	}
	b.must(b.SetFacts(ctx, "p", someFacts()))
	b.is(id, Ready)
	drained, err := b.Drain(ctx, sysAdmin, s.Name, false)
	if err != nil || drained.Phase != Draining {
		t.Errorf("drained: %+v, %v", drained, err)
	}
	_, err = b.Arrived(ctx, Arrival{PeerID: "p", Hostname: "h", Pool: "web", Server: id})
	b.must(err)
	b.is(id, Draining)
	_, err = b.Drain(ctx, sysAdmin, id, true)
	b.must(err)
	b.is(id, Ready)
	if _, err := b.Drain(ctx, sysAdmin, id, true); err != nil {
		t.Errorf("back in service twice: %v", err)
	}
	_, err = b.Retire(ctx, sysAdmin, id)
	b.must(err)
	// Its host speaks once more, before it is cut off.
	s, err = b.Arrived(ctx, Arrival{PeerID: "p", Hostname: "h", Pool: "web", Server: id})
	if err != nil || s.ID != id || s.Phase != Retired {
		t.Errorf("it came back: %+v, %v", s, err)
	}
	b.must(b.SetFacts(ctx, "p", someFacts()))
	got := b.is(id, Retired)
	var said []string
	for _, line := range got.Log {
		_, line, _ = strings.Cut(line, " ")
		said = append(said, line)
	}
	want := []string{
		"requested: by admin", "provisioning: asked the provider", "failed at provisioning: no room", "initialising: the host arrived after all",
		"ready", "draining: asked for by admin", "ready: asked for by admin", "retired: asked for by admin",
	}
	if !slices.Equal(said, want) {
		t.Errorf("the log: %q", said)
	}
	// The name is free again, and the machine is one that joins by itself now.
	s, err = b.Arrived(ctx, Arrival{PeerID: "p", Hostname: got.Name, Pool: "web"})
	if err != nil || s.ID == id || s.Name != got.Name || s.Phase != Initialising {
		t.Errorf("the machine came again: %+v, %v", s, err)
	}
}

func TestTheLogIsBounded(t *testing.T) {
	b := newBook(t)
	s, err := b.Arrived(t.Context(), Arrival{PeerID: "p", Hostname: "h", Pool: "web"})
	b.must(err)
	for n := range maxLog + 10 {
		s, err = b.Move(t.Context(), s.ID, nil, Initialising, "", fmt.Sprint(n, strings.Repeat("é\n", maxLine)), nil)
		b.must(err)
	}
	if len(s.Log) != maxLog || !strings.Contains(s.Log[maxLog-1], "initialising: 109é") {
		t.Errorf("%d lines, the last is %.60q", len(s.Log), s.Log[len(s.Log)-1])
	}
	for _, line := range s.Log {
		if len(line) > maxLine+40 || strings.Contains(line, "\n") {
			t.Fatalf("a line of %d bytes: %q", len(line), line)
		}
	}
}

func TestWhatAHostTellsIsBounded(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	_, err := b.Arrived(ctx, Arrival{PeerID: "p", Hostname: "h", Pool: "web"})
	b.must(err)
	long := strings.Repeat("x", 20<<10)
	for name, f := range map[string]*shoalv1.Facts{
		"none": nil, "long": {Kernel: long}, "below 0": {CpuMilli: -1}, "images": {Images: make([]string, 1001)}, "an image": {Images: []string{long}},
	} {
		if err := b.SetFacts(ctx, "p", f); !errors.Is(err, ErrInvalid) {
			t.Errorf("facts, %s: %v", name, err)
		}
	}
	many := &shoalv1.ReportStepsRequest{Steps: make([]*shoalv1.StepStatus, 101)}
	large := &shoalv1.ReportStepsRequest{}
	for range 60 {
		large.Steps = append(large.Steps, &shoalv1.StepStatus{Output: long[:16<<10]})
	}
	for name, r := range map[string]*shoalv1.ReportStepsRequest{
		"many": many, "a long output": {Steps: []*shoalv1.StepStatus{{Output: long}}}, "long in sum": large, "a long name": {Profile: long},
	} {
		if err := b.SetSteps(ctx, "p", r); !errors.Is(err, ErrInvalid) {
			t.Errorf("steps, %s: %v", name, err)
		}
	}
	if err := b.SetFacts(ctx, "q", someFacts()); !errors.Is(err, ErrNoServer) {
		t.Errorf("facts of nobody: %v", err)
	}
}

func TestLastSeen(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	a := Arrival{PeerID: "p", Hostname: "h", Pool: "web"}
	s, err := b.Arrived(ctx, a)
	b.must(err)
	b.later(5 * time.Minute)
	b.must(b.Gone(ctx, "p"))
	if got := b.is(s.ID, Initialising).LastSeen; got != b.now {
		t.Errorf("seen last at %v, it is %v", got, b.now)
	}
	told := len(b.changes[s.ID])
	b.later(time.Minute)
	_, err = b.Arrived(ctx, a)
	b.must(err)
	if len(b.changes[s.ID]) != told {
		t.Error("a line that comes back after a minute was written down")
	}
}

// Many at once: every seat is counted once, and no name is given twice.
func TestAtOnce(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web", Quota: Quota{Servers: 30}})
	var wait sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for n := range 20 {
		wait.Go(func() {
			got, err := b.CreateServers(ctx, sysAdmin, "web", 2, fmt.Sprint("key", n))
			if err != nil && !errors.Is(err, ErrQuota) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			taken += len(got)
		})
		wait.Go(func() {
			_, err := b.AdoptServer(ctx, sysAdmin, Adoption{Pool: "web", Name: "same", Address: "10.0.0.1", HostKey: "SHA256:x"})
			if err != nil && !errors.Is(err, ErrQuota) {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	list, err := b.Servers(ctx, "web")
	b.must(err)
	names := map[string]bool{}
	for _, s := range list {
		if names[s.Name] {
			t.Errorf("two servers are called %s", s.Name)
		}
		names[s.Name] = true
	}
	seats, _, err := b.seatsOf(ctx, "web")
	if err != nil || seats.Servers != len(list) || len(list) > 30 || len(list) < 29 || taken > len(list) {
		t.Errorf("%d servers, %d made, seats: %+v, %v", len(list), taken, seats, err)
	}
	for _, s := range list {
		_, err := b.Retire(ctx, sysAdmin, s.ID)
		b.must(err)
	}
	if seats, _, err = b.seatsOf(ctx, "web"); err != nil || seats.Servers != 0 {
		t.Errorf("after the last one: %+v, %v", seats, err)
	}
	b.must(b.DeletePool(ctx, sysAdmin, "web"))
}
