package placement

import (
	"errors"
	"slices"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Limits of a placement, so that its record stays within one commit.
const (
	MaxReplicas  = 1000
	MaxRevisions = 10
	// MaxServiceBytes bounds the arguments and the environment together.
	MaxServiceBytes = 16 << 10
	// maxTolerated bounds the taints that a placement tolerates.
	maxTolerated = 20
	// MaxPlacements bounds the placements of one pool, those that failed too:
	// each is looked at again and again.
	MaxPlacements = 1000
	// keptVerdicts bounds those that are written down; all are told.
	keptVerdicts = 500
)

// Errors of a Runner; test for them with errors.Is.
var (
	// ErrNotFound is wrapped for a placement that is not there.
	ErrNotFound = errors.New("no such placement")
	// ErrExists is wrapped when a name is taken.
	ErrExists = errors.New("there is a placement of that name")
	// ErrNoRevision is wrapped for a version that the placement does not keep.
	ErrNoRevision = errors.New("no such version")
	// ErrStopped is wrapped for what only containers that run can do.
	ErrStopped = errors.New("the placement is stopped")
	// ErrBusy is wrapped while another change is in progress.
	ErrBusy = errors.New("another change of the placement is in progress")
	// ErrNotPlaced is wrapped for a placement that failed before anything of it
	// ran.
	ErrNotPlaced = errors.New("nothing was placed")
	// ErrTooMany is wrapped when a pool has as many placements as it may.
	ErrTooMany = errors.New("too many placements")
	// ErrInvalid is wrapped for what cannot be placed.
	ErrInvalid = errors.New("not valid")
)

// Service is what runs: an image by its digest, and how.
type Service struct {
	Image  blob.Image `json:"image"`
	Digest string     `json:"digest"`
	Args   []string   `json:"args,omitempty"`
	Env    []string   `json:"env,omitempty"`
	Need   Need       `json:"need"`
}

// Revision is one version of a placement's service.
type Revision struct {
	Number  int64     `json:"number"`
	Service Service   `json:"service"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

// Placed is a container of a placement.
type Placed struct {
	ID       string    `json:"id"`
	Server   string    `json:"server"`
	Host     string    `json:"host"` // the server's name
	Revision int64     `json:"revision"`
	Ordered  time.Time `json:"ordered,omitzero"` // when the gate was lifted
	Restarts int32     `json:"restarts,omitempty"`
}

// The phases of a placement.
const (
	PhasePlanning   = "planning"
	PhasePrepulling = "prepulling"
	PhaseStarting   = "starting"
	PhaseRunning    = "running"
	PhaseUpdating   = "updating"
	PhaseDegraded   = "degraded"
	PhaseStopped    = "stopped"
	PhaseFailed     = "failed"
	PhaseRemoving   = "removing"
)

// Record is a placement as stored.
type Record struct {
	Name     string   `json:"name"`
	Pool     string   `json:"pool"`
	Project  string   `json:"project,omitempty"`
	Replicas int      `json:"replicas"`
	Spares   int      `json:"spares"`
	Spread   Spread   `json:"spread,omitempty"`
	Tier     string   `json:"tier,omitempty"`
	Class    string   `json:"class,omitempty"`
	Tolerate []string `json:"tolerate,omitempty"`

	Stopped  bool   `json:"stopped,omitempty"`
	Removing bool   `json:"removing,omitempty"`
	Phase    string `json:"phase"`
	Reason   string `json:"reason,omitempty"`

	By      string    `json:"by"`
	Created time.Time `json:"created"`
	// Revisions are the newest last; the last is in force or being brought in.
	Revisions  []Revision `json:"revisions"`
	Drawn      int64      `json:"drawn"` // the highest number of a revision so far
	Containers []Placed   `json:"containers,omitempty"`
	Change     *Change    `json:"change,omitempty"`
	Ended      Ended      `json:"ended,omitzero"`
	// Of the last change.
	Prepulls []Prepull `json:"prepulls,omitempty"`
	Verdicts []Verdict `json:"verdicts,omitempty"`
}

// Ended says how the last change came out.
type Ended struct {
	ID      string `json:"id"` // of the change
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

// The outcomes of a change.
const (
	EndedRunning    = "running"
	EndedFailed     = "failed"      // what it started is not healthy, or the first one was undone
	EndedUndone     = "undone"      // nothing was changed
	EndedRolledBack = "rolled-back" // the version before runs again
)

// The kinds of changes.
const (
	kindPlace  = "place"
	kindScale  = "scale"
	kindUpdate = "update"
	kindRepair = "repair" // of what stood on hosts that are gone or drained
)

// The steps of a change, in order.
const (
	stepPlan    = "plan"
	stepPrepull = "prepull"
	// The gate is between these.
	stepStart  = "start"  // all at once
	stepRoll   = "roll"   // a few at a time
	stepRevert = "revert" // back to what was before
)

// Change is what is being done to a placement.
type Change struct {
	ID       string        `json:"id"`
	Kind     string        `json:"kind"`
	Step     string        `json:"step"`
	Revision int64         `json:"revision"` // to be run
	Before   int64         `json:"before,omitempty"`
	Began    time.Time     `json:"began"`
	Until    time.Time     `json:"until"` // of the prepull
	Lasts    time.Duration `json:"lasts"`
	Since    time.Time     `json:"since,omitzero"` // of the step
	Tries    int           `json:"tries,omitempty"`
	Moves    []Move        `json:"moves,omitempty"`
	// Spares get the image too; Rest would fit as well.
	Spares []string          `json:"spares,omitempty"`
	Rest   []string          `json:"rest,omitempty"`
	Avoid  map[string]string `json:"avoid,omitempty"`
	Reason string            `json:"reason,omitempty"` // why it is taken back
	// Was is the number of replicas before.
	Was int `json:"was,omitempty"`
}

// Phase is the change's step, in the words of a placement's phases.
func (c *Change) Phase() string {
	switch c.Step {
	case stepPlan:
		return PhasePlanning
	case stepPrepull:
		return PhasePrepulling
	case stepStart:
		return PhaseStarting
	}
	return PhaseUpdating
}

// State is how far a move is.
type State string

// The states of a Move.
const (
	// moveClaimed: capacity is held, nothing runs.
	moveClaimed State = ""
	// moveBoth: the new container was ordered while the old one still runs.
	moveBoth State = "both"
	// moveStopping: the old one was told to go; the new one is not ordered before
	// it has, since both would want the same ports.
	moveStopping State = "stopping"
	// moveSwapped: the new one was ordered in place of the old one, if any.
	moveSwapped State = "swapped"
	// moveDone: the new one is healthy.
	moveDone State = "done"
	// moveReturning: the new one was told to go, to make room for the old version.
	moveReturning State = "returning"
	// moveBack: a container of the old revision was ordered in place of the new one.
	moveBack State = "back"
	// moveDropped: given up, the old one stays.
	moveDropped State = "dropped"
)

// Move brings one container into being, in place of another one or not.
type Move struct {
	ID     string    `json:"id"`
	Server string    `json:"server"`
	Host   string    `json:"host"`
	Old    string    `json:"old,omitempty"`
	State  State     `json:"state,omitempty"`
	Back   string    `json:"back,omitempty"` // the container that was ordered last, going back
	Since  time.Time `json:"since,omitzero"` // of the last order
}

// The states of a Prepull.
const (
	PrepullAsked    = "asked"
	PrepullReady    = "ready"
	PrepullFailed   = "failed"
	PrepullReplaced = "replaced"
)

// Prepull is how one host stands with the image.
type Prepull struct {
	Server string    `json:"server"`
	Host   string    `json:"host"`
	State  string    `json:"state"`
	Error  string    `json:"error,omitempty"`
	Done   int64     `json:"done,omitempty"`  // bytes
	Total  int64     `json:"total,omitempty"` // bytes
	Asked  time.Time `json:"asked,omitzero"`
	Ready  time.Time `json:"ready,omitzero"`
}

// Claim is what one container holds of a host.
type Claim struct {
	ID        string `json:"id"`
	Placement string `json:"placement"`
	Project   string `json:"project,omitempty"`
	Revision  int64  `json:"revision"`
	Need      Need   `json:"need"`
	// Open: the gate was lifted, the host is told of it. Run is false for one
	// that is to be there, stopped.
	Open     bool  `json:"open,omitempty"`
	Run      bool  `json:"run,omitempty"`
	Restarts int32 `json:"restarts,omitempty"`
	// Replaces names the claim whose capacity this one takes over.
	Replaces string `json:"replaces,omitempty"`
	// Told: it was open once, so that it may be running.
	Told bool `json:"told,omitempty"`
	// Gone is the generation in which the host was told to remove it.
	Gone int64 `json:"gone,omitempty"`
}

// HostRecord is what a host is to run, and what is held there.
type HostRecord struct {
	Server     string  `json:"server"`
	Pool       string  `json:"pool"`
	Generation int64   `json:"generation"` // of what it is to run
	Claims     []Claim `json:"claims,omitempty"`
}

// used is what all claims hold together.
func (h HostRecord) used() (n Need) {
	for _, c := range h.Claims {
		n = n.plus(c.Need)
	}
	return n
}

// takes is what all claims hold together, without their ports.
func (h HostRecord) takes() (n Need) {
	for _, c := range h.Claims {
		n = n.plus(Need{CPU: c.Need.CPU, Memory: c.Need.Memory})
	}
	return n
}

// revision finds a version of the service.
func (r *Record) revision(number int64) (Revision, bool) {
	i := slices.IndexFunc(r.Revisions, func(v Revision) bool { return v.Number == number })
	if i < 0 {
		return Revision{}, false
	}
	return r.Revisions[i], true
}

// current is the version that is in force when no change is in progress.
func (r *Record) current() Revision { return r.Revisions[len(r.Revisions)-1] }

// need of a version; nothing when it is not known any more.
func (r *Record) need(number int64) Need {
	v, _ := r.revision(number)
	return v.Service.Need
}

// container finds one by its ID.
func (r *Record) container(id string) (Placed, bool) {
	i := slices.IndexFunc(r.Containers, func(p Placed) bool { return p.ID == id })
	if i < 0 {
		return Placed{}, false
	}
	return r.Containers[i], true
}

// trim drops the oldest revisions beyond those that are kept.
func (r *Record) trim() {
	if over := len(r.Revisions) - MaxRevisions; over > 0 {
		r.Revisions = slices.Clone(r.Revisions[over:])
	}
}
