package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/profile"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/fleet"
	"github.com/shoalproject/shoal/supernode/inventory"
)

func TestErrandFor(t *testing.T) {
	for _, c := range []struct {
		phase        inventory.Phase
		wanted, told string
		want         errand
	}{
		{inventory.Initialising, "a", "", apply},
		{inventory.Initialising, "a", "a", apply},
		{inventory.Initialising, "", "", nothing},
		{inventory.Initialising, "", "a", look},
		{inventory.Ready, "a", "", look},
		{inventory.Ready, "a", "a", nothing},
		{inventory.Ready, "b", "a", look},
		{inventory.Ready, "", "a", look},
		{inventory.Ready, "", "", nothing},
		{inventory.Draining, "a", "", look},
		{inventory.Failed, "a", "", look},
		{inventory.Failed, "a", "a", nothing},
		{inventory.Requested, "a", "", nothing},
		{inventory.Provisioning, "a", "", nothing},
		{inventory.Imported, "a", "", nothing},
		{inventory.Retired, "a", "", nothing},
	} {
		if got := errandFor(c.phase, c.wanted, c.told); got != c.want {
			t.Errorf("%s wants %q and was told %q: %d, want %d", c.phase, c.wanted, c.told, got, c.want)
		}
	}
}

// initialised is a front with a pool "web" that has the profile "light", and a
// host of it whose line is open.
type initialised struct {
	*front
	*member
	line  *connect.ServerStreamForClient[shoalv1.Order]
	cut   context.CancelFunc // of the line
	tells shoalv1connect.HostServiceClient
	wait  sync.WaitGroup
}

var root = inventory.Caller{Name: "admin", Admin: true}

func newInitialised(t *testing.T) *initialised {
	t.Helper()
	f := newFront(t)
	if _, err := f.Inventory.AddCluster(t.Context(), root, "here", "metal", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Inventory.CreatePool(t.Context(), root, inventory.Pool{Name: "web", Cluster: "here", Tier: "core", Profile: "light"}); err != nil {
		t.Fatal(err)
	}
	i := &initialised{front: f, member: f.join()}
	i.open("first")
	i.tells = shoalv1connect.NewHostServiceClient(i.http, "https://supernode")
	if _, err := i.tells.ReportFacts(t.Context(), connect.NewRequest(&shoalv1.ReportFactsRequest{Facts: &shoalv1.Facts{Hostname: "host-1", CpuMilli: 1000}})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.wait.Wait)
	return i
}

// open opens the line of a process.
func (i *initialised) open(instance string) {
	i.front.t.Helper()
	ctx, cut := context.WithCancel(i.front.t.Context())
	line, err := i.Watch(ctx, connect.NewRequest(&shoalv1.WatchRequest{Hostname: "host-1", Instance: instance}))
	if err != nil || !line.Receive() {
		i.front.t.Fatal(err)
	}
	i.line, i.cut = line, cut
	i.front.t.Cleanup(cut)
}

// again lets the pause pass after which a host is told again, and looks who is
// to be told. It waits until earlier orders are done.
func (i *initialised) again(ctx context.Context) {
	i.front.t.Helper()
	i.wait.Wait()
	i.offset.Add(int64(initialiseAgain))
	if err := i.Initialiser.round(ctx, &i.wait); err != nil {
		i.front.t.Fatal(err)
	}
}

// silent wants that nothing is told.
func (i *initialised) silent(what string) {
	i.front.t.Helper()
	i.again(i.front.t.Context())
	if i.busy() {
		i.front.t.Fatalf("%s: it is told something", what)
	}
}

// busy reports whether the host is told something.
func (i *initialised) busy() bool {
	i.Initialiser.mu.Lock()
	defer i.Initialiser.mu.Unlock()
	h := i.Initialiser.hosts[i.id()]
	return h != nil && len(h.busy) > 0
}

// ordered is the next order, which is to be of this kind.
func (i *initialised) ordered(dryRun bool, steps int) *shoalv1.Order {
	i.front.t.Helper()
	defer time.AfterFunc(20*time.Second, i.cut).Stop() // else a host that is told nothing waits for ever
	o := order(i.front.t, i.line)
	a := o.GetApplyProfile()
	if a == nil || a.DryRun != dryRun || len(a.Profile.GetSteps()) != steps {
		i.front.t.Fatalf("the order is %v", o)
	}
	return o
}

// report answers an order, or tells by itself, by one state for all steps.
func (i *initialised) report(o *shoalv1.Order, done bool, state shoalv1.StepStatus_State) {
	i.front.t.Helper()
	a := o.GetApplyProfile()
	r := &shoalv1.ReportStepsRequest{OrderId: o.GetId(), Profile: a.GetProfile().GetName(), DryRun: a.GetDryRun(), Done: done}
	for _, s := range a.GetProfile().GetSteps() {
		status := &shoalv1.StepStatus{Name: s.Name, Version: s.Version, State: state, Output: "looked"}
		if state == shoalv1.StepStatus_FAILED {
			status.Error = "it broke"
		}
		r.Steps = append(r.Steps, status)
	}
	i.tell(r)
}

func (i *initialised) tell(r *shoalv1.ReportStepsRequest) {
	i.front.t.Helper()
	if _, err := i.tells.ReportSteps(i.front.t.Context(), connect.NewRequest(r)); err != nil {
		i.front.t.Fatal(err)
	}
}

func (i *initialised) is(phase inventory.Phase) inventory.Server {
	i.front.t.Helper()
	s, err := i.Inventory.OfPeer(i.front.t.Context(), i.id())
	if err == nil {
		s, err = i.Inventory.Server(i.front.t.Context(), s.ID) // with its steps
	}
	if err != nil || s.Phase != phase {
		i.front.t.Fatalf("the server is %s (%s), want %s; %v", s.Phase, s.Reason, phase, err)
	}
	return s
}

const lightSteps = 3

func TestAHostThatArrivesIsInitialised(t *testing.T) {
	i := newInitialised(t)
	i.is(inventory.Initialising)
	i.again(t.Context())
	o := i.ordered(false, lightSteps)
	i.report(o, false, shoalv1.StepStatus_WAITING)
	i.is(inventory.Initialising)
	i.report(o, true, shoalv1.StepStatus_CHANGED)
	if s := i.is(inventory.Ready); len(s.Steps) != lightSteps {
		t.Errorf("its steps are %v", s.Steps)
	}
	i.silent("a host that was told")

	// Another setting: it hears of it, and nothing is changed unasked.
	settings := map[string]string{"disk.data": "free=5GB"}
	if _, err := i.Inventory.SetPool(t.Context(), root, "web", inventory.PoolChange{ProfileSettings: &settings}); err != nil {
		t.Fatal(err)
	}
	i.again(t.Context())
	o = i.ordered(true, lightSteps)
	if got := o.GetApplyProfile().Profile.Steps[0].Settings["data"]; got != "free=5GB" {
		t.Errorf("the pool's setting became %q", got)
	}
	i.report(o, true, shoalv1.StepStatus_WOULD_CHANGE)
	if s := i.is(inventory.Ready); s.Steps[0].State != shoalv1.StepStatus_WOULD_CHANGE {
		t.Errorf("the drift is not shown: %v", s.Steps)
	}
	i.silent("a host with a drift")

	// A host that looks after something else than it is to is told again.
	i.tell(&shoalv1.ReportStepsRequest{Profile: "host", Done: true, DryRun: true})
	i.again(t.Context())
	i.report(i.ordered(true, lightSteps), true, shoalv1.StepStatus_OK)

	// So is another process of it, and one whose pool has no profile any more.
	i.line.Close()
	i.open("second")
	i.again(t.Context())
	i.report(i.ordered(true, lightSteps), true, shoalv1.StepStatus_OK)
	none, no := "", map[string]string{}
	if _, err := i.Inventory.SetPool(t.Context(), root, "web", inventory.PoolChange{Profile: &none, ProfileSettings: &no}); err != nil {
		t.Fatal(err)
	}
	i.again(t.Context())
	i.report(i.ordered(true, 0), true, shoalv1.StepStatus_OK)
	i.silent("a pool without a profile")
}

func TestAHostThatTakesNoProfile(t *testing.T) {
	i := newInitialised(t)
	refuse := func(o *shoalv1.Order, busy bool) {
		t.Helper()
		i.tell(&shoalv1.ReportStepsRequest{OrderId: o.Id, Profile: "light", DryRun: o.GetApplyProfile().DryRun, Done: true, Error: "not here", Busy: busy})
		i.wait.Wait()
	}
	i.again(t.Context())
	refuse(i.ordered(false, lightSteps), true) // it is at it already
	i.is(inventory.Initialising)
	if err := i.Initialiser.round(t.Context(), &i.wait); err != nil {
		t.Fatal(err)
	}
	if i.busy() {
		t.Fatal("it is told again at once")
	}
	i.again(t.Context())
	refuse(i.ordered(false, lightSteps), false)
	if s := i.is(inventory.Failed); s.Reason != "not here" {
		t.Errorf("it failed by %q", s.Reason)
	}
	// It is looked at all the same, and somebody put it in order by hand.
	i.again(t.Context())
	i.report(i.ordered(true, lightSteps), true, shoalv1.StepStatus_OK)
	i.is(inventory.Ready)

	for name, r := range map[string]*shoalv1.ReportStepsRequest{
		"a long error":        {Error: strings.Repeat("x", maxRefusal+1)},
		"an error with steps": {Error: "x", Steps: []*shoalv1.StepStatus{{Name: "a"}}},
	} {
		if _, err := i.tells.ReportSteps(t.Context(), connect.NewRequest(r)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestALookDoesNotFailAHost: before the runtime is installed the mirror cannot
// be looked at.
func TestALookDoesNotFailAHost(t *testing.T) {
	i := newInitialised(t)
	i.again(t.Context())
	i.report(i.ordered(false, lightSteps), true, shoalv1.StepStatus_FAILED)
	i.is(inventory.Failed)
	i.wait.Wait()
	stream := i.initialise("admin", i.password, "host-1", true)
	o := i.ordered(true, lightSteps)
	if _, err := i.Inventory.Move(t.Context(), i.is(inventory.Failed).ID, nil, inventory.Initialising, "", "again", nil); err != nil {
		t.Fatal(err)
	}
	i.report(o, true, shoalv1.StepStatus_FAILED)
	i.is(inventory.Initialising)
	for stream.Receive() {
	}
}

// initialise calls as a user.
func (i *initialised) initialise(user, password, server string, dryRun bool) *connect.ServerStreamForClient[shoalv1.InitialiseServerUpdate] {
	i.front.t.Helper()
	client := shoalv1connect.NewInventoryServiceClient(&http.Client{Transport: with{func(r *http.Request) { r.SetBasicAuth(user, password) }}}, i.public.URL+"/api")
	stream, err := client.InitialiseServer(i.front.t.Context(), connect.NewRequest(&shoalv1.InitialiseServerRequest{Id: server, DryRun: dryRun}))
	if err != nil {
		i.front.t.Fatal(err)
	}
	i.front.t.Cleanup(func() { stream.Close() })
	return stream
}

func TestInitialiseServer(t *testing.T) {
	i := newInitialised(t)
	passwords := map[string]string{}
	for name, role := range map[string]inventory.Role{"ann": inventory.RoleAdmin, "dan": inventory.RoleDeployer, "eve": ""} {
		passwords[name] = "a long password of " + name
		i.must(i.Auth.CreateUser(t.Context(), name, passwords[name], false))
		if role != "" {
			if err := i.Inventory.SetRole(t.Context(), root, "web", name, role); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]connect.Code{"dan": connect.CodePermissionDenied, "eve": connect.CodeNotFound} {
		stream := i.initialise(name, passwords[name], "host-1", true)
		if stream.Receive() || connect.CodeOf(stream.Err()) != want {
			t.Errorf("%s: %v, want %v", name, stream.Err(), want)
		}
	}
	i.again(t.Context())
	i.report(i.ordered(false, lightSteps), true, shoalv1.StepStatus_FAILED)
	i.is(inventory.Failed)
	i.wait.Wait()

	stream := i.initialise("ann", passwords["ann"], "host-1", false)
	o := i.ordered(false, lightSteps)
	i.is(inventory.Initialising)
	i.report(o, false, shoalv1.StepStatus_WAITING)
	for range 2 { // before the host says anything, and what it says first
		if !stream.Receive() || stream.Msg().Done || len(stream.Msg().Steps) != lightSteps {
			t.Fatalf("the first words are %v, %v", stream.Msg(), stream.Err())
		}
	}
	i.again(t.Context()) // it has an order, and gets no second one
	i.report(o, true, shoalv1.StepStatus_OK)
	if !stream.Receive() || !stream.Msg().Done || stream.Msg().Error != "" {
		t.Fatalf("the last word is %v, %v", stream.Msg(), stream.Err())
	}
	if stream.Receive() || stream.Err() != nil {
		t.Errorf("after that: %v, %v", stream.Msg(), stream.Err())
	}
	i.is(inventory.Ready)

	stream = i.initialise("ann", passwords["ann"], "host-1", true)
	i.report(i.ordered(true, lightSteps), true, shoalv1.StepStatus_FAILED)
	for stream.Receive() && !stream.Msg().Done {
	}
	if !stream.Msg().Done || !strings.Contains(stream.Msg().Error, "it broke") {
		t.Errorf("a look that failed: %v, %v", stream.Msg(), stream.Err())
	}
	i.is(inventory.Ready)
	i.line.Close()
	for h := true; h; h = len(i.Fleet.Hosts()) > 0 {
		<-time.After(time.Millisecond)
	}
	stream = i.initialise("ann", passwords["ann"], "host-1", true)
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeFailedPrecondition {
		t.Errorf("a host that is away: %v", stream.Err())
	}
	none := ""
	if _, err := i.Inventory.SetPool(t.Context(), root, "web", inventory.PoolChange{Profile: &none}); err != nil {
		t.Fatal(err)
	}
	stream = i.initialise("ann", passwords["ann"], "host-1", true)
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeFailedPrecondition || !strings.Contains(stream.Err().Error(), "--profile") {
		t.Errorf("a pool without a profile: %v", stream.Err())
	}
}

// TestAllServersAreReadWhenThereIsNews and else now and then.
func TestAllServersAreReadWhenThereIsNews(t *testing.T) {
	now, hosts := time.Unix(1700000000, 0), fleet.New()
	i := NewInitialiser(nil, hosts, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	is := func(what string, want bool) {
		t.Helper()
		if got := i.due(); got != want {
			t.Errorf("%s: %v", what, got)
		}
	}
	is("the start", true)
	is("no news", false)
	line, _, err := hosts.Connect(fleet.Host{PeerID: "p", Instance: "1"})
	if err != nil {
		t.Fatal(err)
	}
	is("a line", true)
	is("the same line", false)
	if _, _, err := hosts.Connect(fleet.Host{PeerID: "p", Instance: "2"}); err != nil {
		t.Fatal(err)
	}
	line.Close()
	is("another process", true)
	i.Changed()
	is("a change", true)
	is("the change before", false)
	now = now.Add(initialiseAgain)
	is("a while later", true)
}

func TestListProfiles(t *testing.T) {
	f := newFront(t)
	client := shoalv1connect.NewInventoryServiceClient(&http.Client{Transport: with{func(r *http.Request) { r.SetBasicAuth("admin", f.password) }}}, f.public.URL+"/api")
	answer, err := client.ListProfiles(t.Context(), connect.NewRequest(&shoalv1.ListProfilesRequest{}))
	if err != nil || len(answer.Msg.Profiles) != len(profile.Shipped()) {
		t.Errorf("%v, %v", answer, err)
	}
}
