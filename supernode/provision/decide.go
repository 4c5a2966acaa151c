package provision

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Phase is how far a server of the inventory is; the words are the
// inventory's.
type Phase string

// The phases that the reconciler knows. Any other one is that of a server
// which is not its business.
const (
	Requested    Phase = "requested"
	Provisioning Phase = "provisioning"
	Initialising Phase = "initialising"
	Ready        Phase = "ready"
	Draining     Phase = "draining"
	Retired      Phase = "retired"
	Failed       Phase = "failed"
)

// Server is what the reconciler has to know of one.
type Server struct {
	ID         string // also the key of its machine
	Phase      Phase
	PhaseSince time.Time
	MachineID  string // the provider's; empty until it was written down

	Name, Pool, HardwareClass string
	Address, User, HostKey    string
}

// verb is what there is to do about one server or machine.
type verb string

const (
	verbCreate verb = "create" // ask the provider for the machine, or to go on with it
	verbRecord verb = "record" // write down a machine that was found by its key
	verbAsk    verb = "ask"    // it is not listed: ask for it by its ID, if it has one
	verbFail   verb = "fail"
	verbDelete verb = "delete"
	verbOrphan verb = "orphan" // delete it, once it was nobody's for long enough
)

// step is one verb with its objects.
type step struct {
	verb    verb
	server  Server  // none for an orphan
	machine Machine // to be written down or deleted
	reason  string  // of verbFail
}

// key is by what steps exclude each other: one server with all that it has,
// or one stray machine.
func (s step) key() string {
	if s.server.ID == "" {
		return "machine " + s.machine.ID
	}
	return "server " + s.server.ID
}

// plan compares what the inventory wants with what the provider shows. The
// machines must have been listed before the servers were read: then a machine
// without a server is one that nobody will ask for.
func plan(servers []Server, machines []Machine, now time.Time, patience time.Duration) []step {
	byKey := map[string][]Machine{}
	for _, m := range machines {
		byKey[m.Key] = append(byKey[m.Key], m)
	}
	var steps []step
	for _, s := range servers {
		steps = append(steps, decide(s, byKey[s.ID], now, patience)...)
		delete(byKey, s.ID)
	}
	var strays []Machine
	for _, left := range byKey {
		strays = append(strays, left...)
	}
	slices.SortFunc(strays, older)
	for _, m := range strays {
		if m.State != Ending {
			steps = append(steps, step{verb: verbOrphan, machine: m})
		}
	}
	return steps
}

// decide says what one server needs, given the machines with its key.
func decide(s Server, machines []Machine, now time.Time, patience time.Duration) []step {
	mine, rest := choose(s, machines)
	var steps []step
	for _, m := range rest {
		steps = append(steps, step{verb: verbDelete, server: s, machine: m})
	}
	if one, any := first(s, mine, now, patience); any {
		steps = append(steps, one)
	}
	return steps
}

// choose picks the one machine that a server may have: the one that is
// written down, else the oldest. The rest is too much; what ends is neither.
func choose(s Server, machines []Machine) (mine *Machine, rest []Machine) {
	var alive []Machine
	for _, m := range machines {
		if m.State != Ending {
			alive = append(alive, m)
		}
	}
	if len(alive) == 0 {
		return nil, nil
	}
	slices.SortFunc(alive, older)
	at := max(0, slices.IndexFunc(alive, func(m Machine) bool { return m.ID == s.MachineID }))
	if s.MachineID != "" && alive[at].ID != s.MachineID {
		return nil, alive // the one that is written down is not listed, and it is the one
	}
	return &alive[at], slices.Delete(slices.Clone(alive), at, at+1)
}

func older(a, b Machine) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
}

// first is what to do about the machine that a server has or should have.
func first(s Server, mine *Machine, now time.Time, patience time.Duration) (step, bool) {
	waited := now.Sub(s.PhaseSince)
	switch {
	case s.Phase == Retired && mine != nil:
		return step{verb: verbDelete, server: s, machine: *mine}, true
	case s.Phase == Retired:
		return step{verb: verbAsk, server: s}, true
	case s.Phase == Requested && mine == nil && s.MachineID == "":
		return step{verb: verbCreate, server: s}, true
	case s.Phase == Requested && mine == nil:
		return step{verb: verbAsk, server: s}, true
	case s.Phase == Requested && mine.State == Partial:
		return step{verb: verbCreate, server: s}, true
	case s.Phase == Requested:
		return step{verb: verbRecord, server: s, machine: *mine}, true
	case s.Phase == Provisioning && waited > patience:
		return step{verb: verbFail, server: s, reason: late(mine, patience)}, true
	case mine == nil && s.MachineID != "" && s.Phase != Failed:
		return step{verb: verbAsk, server: s}, true
	case s.Phase == Provisioning && (mine == nil || mine.State == Partial):
		return step{verb: verbCreate, server: s}, true
	case mine != nil && s.MachineID == "":
		return step{verb: verbRecord, server: s, machine: *mine}, true
	case s.Phase == Provisioning && mine.State == Broken:
		return step{verb: verbFail, server: s, reason: "the provider could not bring the machine up: " + mine.Reason}, true
	}
	return step{}, false
}

func late(m *Machine, patience time.Duration) string {
	switch {
	case m == nil:
		return fmt.Sprintf("no machine was had within %v", patience)
	case m.State == Running:
		return fmt.Sprintf("the machine runs, but its agent did not join within %v; look at the agent's log there", patience)
	}
	return fmt.Sprintf("the machine was not up within %v; it is %s", patience, m.State)
}
