package supervise

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// backoffFirst and backoffMost bound the pause before a container that
	// ended is started again; it doubles each time.
	backoffFirst = time.Second
	backoffMost  = time.Minute
	// stableAfter is how long a run has to last for the pause to begin anew.
	stableAfter = time.Minute
	// healthyAfter is how long a container without ports has to run to count
	// as healthy.
	healthyAfter = 3 * time.Second
	// missesAllowed is how many looks in a row may find a port silent before a
	// healthy container is not healthy any more.
	missesAllowed = 2
	// maxError bounds what is told of an error, in bytes.
	maxError = 1 << 10
)

// record is what is remembered of a container between looks, and over
// restarts of the agent.
type record struct {
	// Restarts that were not asked for.
	Restarts int32
	// RestartsDone of those that were asked for.
	RestartsDone int32
	// Stopped: it ended because it was to.
	Stopped bool
	// Fails in a row: runs that ended soon, and what could not be done.
	Fails int
	// Next is when something may be done about it again.
	Next time.Time
	// Ended and ExitCode are of the last end that was seen.
	Ended    time.Time
	ExitCode int32
	// Error is what went wrong with the last thing that was done.
	Error string
}

// action is what is to be done about a container next.
type action int

const (
	nothing action = iota
	begin          // make it if it is not there, and start it if it is to run
	restart
	stop
	remove
)

// decide says what to do about one container now. want is nil when it is not
// to be there, have when it is not. later is when to look again at the latest,
// zero for no time.
func decide(want *shoalv1.Container, have *engine.State, r record, now time.Time) (do action, later time.Time) {
	switch {
	case want == nil && have == nil:
		return nothing, time.Time{}
	case want == nil:
		do = remove
	case have == nil:
		do = begin
	case have.Hash != specOf(want).Hash():
		do = remove
	case want.Run && !have.Running:
		do = begin
	case want.Run && want.RestartsWanted > r.RestartsDone:
		do = restart
	case !want.Run && have.Running:
		do = stop
	}
	// A pause that is longer than any is of a clock that was set back.
	if pause := r.Next.Sub(now); do != nothing && 0 < pause && pause <= backoffMost {
		return nothing, r.Next
	}
	return do, time.Time{}
}

// observe takes note of an end that was not seen before.
func (r record) observe(have *engine.State) record {
	if have == nil || have.Running || have.Ended.IsZero() || have.Ended.Equal(r.Ended) {
		return r
	}
	r.Ended, r.ExitCode = have.Ended, int32(have.ExitCode)
	if r.Stopped {
		return r
	}
	if have.Ended.Sub(have.Started) >= stableAfter {
		r.Fails = 0
	}
	r.Fails++
	r.Next = have.Ended.Add(backoff(r.Fails))
	return r
}

// failed takes note of what could not be done.
func (r record) failed(err error, now time.Time) record {
	r.Fails++
	r.Next, r.Error = now.Add(backoff(r.Fails)), plain(err.Error())
	return r
}

// plain makes text of anybody's that may go onto the wire, and not too much.
func plain(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxError)], "?")
}

// backoff is the pause after so many failures in a row.
func backoff(fails int) time.Duration {
	pause := backoffFirst
	for range fails - 1 {
		if pause *= 2; pause >= backoffMost {
			return backoffMost
		}
	}
	return pause
}

// health is what was seen of a running container.
type health struct {
	good   bool
	misses int
}

// next goes by one look more: answers says whether all ports answered.
func (h health) next(ports int, answers bool, running time.Duration) health {
	switch {
	case ports == 0:
		return health{good: running >= healthyAfter}
	case answers:
		return health{good: true}
	case h.good && h.misses < missesAllowed:
		return health{good: true, misses: h.misses + 1}
	}
	return health{}
}

// tell is how a container stands, in the words of the wire.
func tell(id string, want *shoalv1.Container, have *engine.State, r record, h health) *shoalv1.ContainerStatus {
	s := &shoalv1.ContainerStatus{Id: id, ExitCode: -1, Error: r.Error, Restarts: r.Restarts}
	if !r.Ended.IsZero() {
		s.ExitCode, s.Ended = r.ExitCode, timestamppb.New(r.Ended)
	}
	run := want != nil && want.Run
	switch {
	case have != nil && have.Running && h.good:
		s.State = shoalv1.ContainerStatus_RUNNING
	case have != nil && have.Running:
		s.State = shoalv1.ContainerStatus_STARTING
	case r.Error != "":
		s.State = shoalv1.ContainerStatus_FAILED
	case !run && have != nil:
		s.State = shoalv1.ContainerStatus_STOPPED
	case have != nil && !have.Started.IsZero():
		s.State = shoalv1.ContainerStatus_EXITED
	default:
		s.State = shoalv1.ContainerStatus_STARTING
	}
	if have != nil {
		if !have.Started.IsZero() {
			s.Started = timestamppb.New(have.Started)
		}
		if s.Error == "" {
			s.Error = plain(have.Error)
		}
	}
	return s
}

// specOf is what the engine is to make. The name of the image is for people;
// the supernode's own registry has none in it, since it may get another one.
func specOf(c *shoalv1.Container) engine.Spec {
	s := engine.Spec{
		ID: c.Id, Image: c.Repository, Digest: blob.Digest(c.Digest), Args: c.Args, Env: c.Env,
		CPUMilli: c.CpuMilli, MemoryBytes: c.MemoryBytes,
	}
	if c.Registry != "" {
		s.Image = c.Registry + "/" + c.Repository
	}
	for _, p := range c.Ports {
		s.Ports = append(s.Ports, int(p))
	}
	return s
}
