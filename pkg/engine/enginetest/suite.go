// Package enginetest is the suite that every engine passes, and the image
// that it runs.
package enginetest

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
)

// LogBytes is what engines under test are to keep of a log.
const LogBytes = 128 << 10

// ImageName is the name of the image of the suite.
const ImageName = "registry.example.com/team/play"

// Subject is an engine under test. It has no containers yet.
type Subject struct {
	Engine engine.Engine
	// Manifest and Index are digests of the image, unpacked by both.
	Manifest, Index blob.Digest
	// Reopen makes another Engine in place of this one, as a restart of the
	// agent does.
	Reopen func(t *testing.T) engine.Engine
	// Other is of another agent on the same runtime; nil where there is none.
	Other engine.Engine
	// Bounce restarts the runtime; nil where there is none, or where its
	// containers do not survive that.
	Bounce func(t *testing.T)
	// Limits says that limits are held.
	Limits bool
}

const (
	patience = 60 * time.Second
	grace    = 20 * time.Second
)

// Run is the suite. Each part gets a Subject of its own.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	for name, part := range map[string]func(*testing.T, Subject){
		"output and exit code come back":     ends,
		"args and env reach the program":     args,
		"what cannot be made is refused":     refuses,
		"it stops and starts again":          stops,
		"what does not stop is killed":       kills,
		"what is removed is gone":            removes,
		"containers survive the agent":       survives,
		"an exit while nobody looks is told": told,
		"other agents' are left alone":       strangers,
		"a watch tells of an end":            watches,
		"logs are read from the end":         tails,
		"logs are followed":                  follows,
		"logs are bounded":                   bounds,
		"the network is the host's":          network,
		"memory is limited":                  memory,
		"CPU is limited":                     cpu,
		"images are listed":                  images,
		"containers survive the runtime":     bounces,
		"an index stands for its image":      index,
		"secrets are not in errors":          secrets,
		"nothing is there at first":          nothing,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { part(t, subject(t)) })
	}
}

// spec is a container that plays.
func (s Subject) spec(id string, args ...string) engine.Spec {
	return engine.Spec{ID: id + "-" + short(), Image: ImageName, Digest: s.Manifest, Args: args}
}

func short() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }

// start makes and starts a container.
func (s Subject) start(t *testing.T, spec engine.Spec) string {
	t.Helper()
	if err := s.Engine.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if err := s.Engine.Start(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	return spec.ID
}

// state is how one container stands; nil when it is not listed.
func state(t *testing.T, e engine.Engine, id string) *engine.State {
	t.Helper()
	list, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(list, func(s engine.State) bool { return s.ID == id }); i >= 0 {
		return &list[i]
	}
	return nil
}

// await polls until good.
func await(t *testing.T, what string, good func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !good() {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func awaitEnd(t *testing.T, e engine.Engine, id string) engine.State {
	t.Helper()
	var last *engine.State
	await(t, "the end of "+id, func() bool {
		last = state(t, e, id)
		return last != nil && !last.Running && !last.Ended.IsZero()
	})
	return *last
}

// output is all that is kept of a log.
func output(t *testing.T, e engine.Engine, id string) string {
	t.Helper()
	log, err := e.Logs(t.Context(), id, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	raw, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func awaitOutput(t *testing.T, e engine.Engine, id, part string) {
	t.Helper()
	await(t, part+" in the log of "+id, func() bool { return strings.Contains(output(t, e, id), part) })
}

func ends(t *testing.T, s Subject) {
	began := time.Now().Add(-time.Second)
	id := s.start(t, s.spec("say", "say", "a", "b"))
	end := awaitEnd(t, s.Engine, id)
	if end.ExitCode != 0 || end.Started.Before(began) || end.Ended.Before(end.Started.Add(-time.Second)) || end.Hash == "" {
		t.Errorf("ended as %+v", end)
	}
	awaitOutput(t, s.Engine, id, "a\nb\n")
	if end := awaitEnd(t, s.Engine, s.start(t, s.spec("exit", "exit", "7"))); end.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", end.ExitCode)
	}
}

func args(t *testing.T, s Subject) {
	spec := s.spec("env", "env", "GREETING")
	spec.Env = []string{"GREETING=moin = moin"}
	awaitOutput(t, s.Engine, s.start(t, spec), "moin = moin\n")
}

func refuses(t *testing.T, s Subject) {
	good := s.spec("twice", "say")
	for range 2 {
		if err := s.Engine.Create(t.Context(), good); err != nil {
			t.Fatal(err)
		}
	}
	if got := state(t, s.Engine, good.ID); got == nil || got.Running || !got.Started.IsZero() || got.ExitCode != -1 || got.Hash != good.Hash() {
		t.Errorf("created, it stands at %+v", got)
	}
	other, absent, bad := good, s.spec("absent", "say"), s.spec("bad", "say")
	other.Args = []string{"wait"}
	absent.Digest = digest.FromString("no such image")
	bad.ID = "../" + bad.ID
	for _, c := range []struct {
		spec engine.Spec
		want error
	}{{other, engine.ErrDiffers}, {absent, engine.ErrNoImage}, {bad, engine.ErrSpec}} {
		if err := s.Engine.Create(t.Context(), c.spec); !errors.Is(err, c.want) {
			t.Errorf("Create %s: %v, want %v", c.spec.ID, err, c.want)
		}
	}
	if err := s.Engine.Start(t.Context(), "nobody"); !errors.Is(err, engine.ErrNone) {
		t.Errorf("Start of nothing: %v, want %v", err, engine.ErrNone)
	}
}

func stops(t *testing.T, s Subject) {
	id := s.start(t, s.spec("stops", "wait"))
	awaitOutput(t, s.Engine, id, "waiting")
	if err := s.Engine.Start(t.Context(), id); err != nil {
		t.Errorf("start what runs: %v", err)
	}
	first := state(t, s.Engine, id)
	if first == nil || !first.Running || first.ExitCode != -1 || !first.Ended.IsZero() {
		t.Fatalf("running, it stands at %+v", first)
	}
	for range 2 {
		if err := s.Engine.Stop(t.Context(), id, grace); err != nil {
			t.Fatal(err)
		}
	}
	if end := state(t, s.Engine, id); end == nil || end.Running || end.ExitCode != 0 || end.Ended.IsZero() {
		t.Errorf("stopped, it stands at %+v", end)
	}
	awaitOutput(t, s.Engine, id, "bye")
	if err := s.Engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	awaitOutput(t, s.Engine, id, "waiting\nbye\nwaiting\n")
	if again := state(t, s.Engine, id); again == nil || !again.Running || !again.Started.After(first.Started) || again.ExitCode != -1 {
		t.Errorf("started again, it stands at %+v, before %+v", again, first)
	}
	if err := s.Engine.Stop(t.Context(), "nobody", grace); err != nil {
		t.Errorf("stop nothing: %v", err)
	}
}

func kills(t *testing.T, s Subject) {
	id := s.start(t, s.spec("kills", "stubborn"))
	awaitOutput(t, s.Engine, id, "waiting")
	if err := s.Engine.Stop(t.Context(), id, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if end := state(t, s.Engine, id); end == nil || end.Running || end.ExitCode != 137 {
		t.Errorf("killed, it stands at %+v", end)
	}
}

func removes(t *testing.T, s Subject) {
	spec := s.spec("removes", "stubborn")
	id := s.start(t, spec)
	awaitOutput(t, s.Engine, id, "waiting")
	for range 2 {
		if err := s.Engine.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if left := state(t, s.Engine, id); left != nil {
		t.Errorf("removed, it stands at %+v", left)
	}
	if log, err := s.Engine.Logs(t.Context(), id, 0, false); !errors.Is(err, engine.ErrNone) {
		t.Errorf("its log: %v, %v, want %v", log, err, engine.ErrNone)
	}
	if err := s.Engine.Create(t.Context(), spec); err != nil {
		t.Fatalf("make it again: %v", err)
	}
	if text := output(t, s.Engine, id); text != "" {
		t.Errorf("made again, its log says %q", text)
	}
}

func survives(t *testing.T, s Subject) {
	id := s.start(t, s.spec("survives", "count"))
	awaitOutput(t, s.Engine, id, "2\n")
	before := state(t, s.Engine, id)
	s.Engine = s.Reopen(t)
	after := state(t, s.Engine, id)
	if after == nil || !after.Running || !after.Started.Equal(before.Started) || after.Hash != before.Hash {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	size := len(output(t, s.Engine, id))
	await(t, "more of its log", func() bool { return len(output(t, s.Engine, id)) > size })
	if err := s.Engine.Stop(t.Context(), id, grace); err != nil {
		t.Fatal(err)
	}
	if end := state(t, s.Engine, id); end == nil || end.Running || end.ExitCode != 0 {
		t.Errorf("stopped, it stands at %+v", end)
	}
}

func told(t *testing.T, s Subject) {
	id := s.start(t, s.spec("told", "exit", "5"))
	s.Engine = s.Reopen(t)
	for range 2 {
		if end := awaitEnd(t, s.Engine, id); end.ExitCode != 5 {
			t.Errorf("ended as %+v, want code 5", end)
		}
		s.Engine = s.Reopen(t)
	}
}

func strangers(t *testing.T, s Subject) {
	if s.Other == nil {
		t.Skip("this engine has one agent")
	}
	spec := s.spec("mine", "wait")
	id := s.start(t, spec)
	awaitOutput(t, s.Engine, id, "waiting")
	if list, err := s.Other.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("another agent lists %v, %v", list, err)
	}
	if log, err := s.Other.Logs(t.Context(), id, 0, false); !errors.Is(err, engine.ErrNone) {
		t.Errorf("another agent reads its log: %v, %v", log, err)
	}
	if err := s.Other.Start(t.Context(), id); !errors.Is(err, engine.ErrNone) {
		t.Errorf("another agent starts it: %v", err)
	}
	if err := s.Other.Create(t.Context(), spec); !errors.Is(err, engine.ErrDiffers) {
		t.Errorf("another agent takes it for its own: %v", err)
	}
	err := errors.Join(s.Other.Stop(t.Context(), id, 0), s.Other.Remove(t.Context(), id))
	if got := state(t, s.Engine, id); err != nil || got == nil || !got.Running {
		t.Errorf("another agent stopped it: %+v, %v", got, err)
	}
}

func watches(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	words := s.Engine.Watch(ctx)
	id := s.start(t, s.spec("watched", "wait"))
	awaitOutput(t, s.Engine, id, "waiting")
	for empty := false; !empty; {
		select {
		case <-words:
		case <-time.After(time.Second):
			empty = true
		}
	}
	if err := s.Engine.Stop(t.Context(), id, grace); err != nil {
		t.Fatal(err)
	}
	select {
	case <-words:
	case <-time.After(patience):
		t.Error("nothing was told of the end")
	}
	cancel()
	deadline := time.After(patience)
	for open := true; open; {
		select {
		case _, open = <-words:
		case <-deadline:
			t.Fatal("the channel of an ended watch stays open")
		}
	}
}

func network(t *testing.T, s Subject) {
	id := s.start(t, s.spec("serves", "serve"))
	awaitOutput(t, s.Engine, id, "\n")
	addr := strings.TrimSpace(output(t, s.Engine, id))
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatalf("the container listens at %s: %v", addr, err)
	}
	conn.Close()
}

func memory(t *testing.T, s Subject) {
	if !s.Limits {
		t.Skip("this engine holds no limits, and says so")
	}
	small, large := s.spec("small", "eat", "96"), s.spec("large", "eat", "16")
	small.MemoryBytes, large.MemoryBytes = 48<<20, 96<<20
	id := s.start(t, small)
	end := awaitEnd(t, s.Engine, id)
	if end.ExitCode != 137 || strings.Contains(output(t, s.Engine, id), "full") {
		t.Errorf("took 96 MiB of 48 and ended as %+v: %s", end, output(t, s.Engine, id))
	}
	if !strings.Contains(end.Error, "memory") {
		t.Errorf("why it was killed is not told: %+v", end)
	}
	awaitOutput(t, s.Engine, s.start(t, large), "full")
}

func cpu(t *testing.T, s Subject) {
	if !s.Limits {
		t.Skip("this engine holds no limits, and says so")
	}
	spec := s.spec("burns", "burn", "3s")
	spec.CPUMilli = 200
	id := s.start(t, spec)
	if end := awaitEnd(t, s.Engine, id); end.ExitCode != 0 {
		t.Fatalf("ended as %+v: %s", end, output(t, s.Engine, id))
	}
	awaitOutput(t, s.Engine, id, "\n")
	got, err := strconv.ParseFloat(strings.TrimSpace(output(t, s.Engine, id)), 64)
	if err != nil || got < 0.1 || got > 1.2 {
		t.Errorf("two busy threads got %v s of CPU in 3 s, %v; the limit is 0.6", got, err)
	}
}

func images(t *testing.T, s Subject) {
	list, err := s.Engine.Images(t.Context())
	if err != nil || !slices.Contains(list, s.Manifest) || !slices.Contains(list, s.Index) {
		t.Errorf("images %v, %v; want %s and %s among them", list, err, s.Manifest, s.Index)
	}
	for i, d := range list {
		if slices.Contains(list[:i], d) {
			t.Errorf("%s is listed twice", d)
		}
	}
	if v, err := s.Engine.Version(t.Context()); err != nil || v == "" {
		t.Errorf("version %q, %v", v, err)
	}
}

func index(t *testing.T, s Subject) {
	spec := s.spec("index", "say", "hello")
	spec.Digest = s.Index
	awaitOutput(t, s.Engine, s.start(t, spec), "hello\n")
}

func bounces(t *testing.T, s Subject) {
	if s.Bounce == nil {
		t.Skip("this runtime's containers end with it")
	}
	id := s.start(t, s.spec("bounces", "count"))
	awaitOutput(t, s.Engine, id, "2\n")
	before := state(t, s.Engine, id)
	s.Bounce(t)
	var after *engine.State
	await(t, "the runtime to answer", func() bool {
		list, err := s.Engine.List(t.Context())
		for _, c := range list {
			after = &c
		}
		return err == nil
	})
	if after == nil || !after.Running || !after.Started.Equal(before.Started) {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	size := len(output(t, s.Engine, id))
	await(t, "more of its log", func() bool { return len(output(t, s.Engine, id)) > size })
}

func secrets(t *testing.T, s Subject) {
	spec := s.spec("secret", "say")
	spec.Env, spec.Digest = []string{"PASSWORD=hunter2"}, digest.FromString("no such image")
	if err := s.Engine.Create(t.Context(), spec); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Create: %v", err)
	}
}

func nothing(t *testing.T, s Subject) {
	list, err := s.Engine.List(t.Context())
	err = errors.Join(err, s.Engine.Stop(t.Context(), "nobody", 0), s.Engine.Remove(t.Context(), "nobody"))
	if err != nil || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
}
