package inventory

import (
	"fmt"
	"slices"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// Phase is how far a server is in its life.
type Phase string

// The phases. An imported server is only written down: nothing is done to it
// until it is adopted.
const (
	Imported     Phase = "imported"
	Requested    Phase = "requested"
	Provisioning Phase = "provisioning"
	Initialising Phase = "initialising"
	Ready        Phase = "ready"
	Draining     Phase = "draining"
	Retired      Phase = "retired"
	Failed       Phase = "failed"
)

// Phases are all of them, in the order of a life.
var Phases = []Phase{Imported, Requested, Provisioning, Initialising, Ready, Draining, Failed, Retired}

// moves are the phases that may follow each one. Nothing follows Retired: a
// machine that comes back is another server.
var moves = map[Phase][]Phase{
	Imported:     {Requested, Initialising, Retired},
	Requested:    {Provisioning, Initialising, Failed, Retired},
	Provisioning: {Requested, Initialising, Failed, Retired},
	Initialising: {Ready, Draining, Failed, Retired},
	Ready:        {Initialising, Draining, Failed, Retired},
	Draining:     {Ready, Failed, Retired},
	Failed:       {Requested, Provisioning, Initialising, Ready, Retired},
}

// next reports whether a server may go from one phase to another. Staying is
// always allowed.
func next(from, to Phase) bool { return from == to || slices.Contains(moves[from], to) }

// seated reports whether a server in this phase counts against its pool's
// quota.
func (p Phase) seated() bool { return p != Imported && p != Retired }

// report is the last thing that a server told about its pool's profile.
type report struct {
	profile string
	done    bool
	// dryRun: the steps were looked at, not put in place.
	dryRun bool
	steps  []*shoalv1.StepStatus
}

// outcome is a phase and, when it is Failed, at what and why.
type outcome struct {
	phase      Phase
	at, reason string
}

// settle decides in which phase a server is that has arrived, by what it told.
// It is ready when it told its facts and all steps of its pool's profile hold.
// A step that fails later, on a server in service, is a drift: it is shown, and
// the server stays.
func settle(s Server, profile string, told report) outcome {
	as := outcome{s.Phase, s.FailedAt, s.Reason}
	failedStep := s.Phase == Failed && s.failedInStep()
	if s.Phase != Initialising && !failedStep {
		return as
	}
	if profile != "" {
		if !told.done || told.profile != profile {
			return as
		}
		for _, step := range told.steps {
			switch step.State {
			case shoalv1.StepStatus_OK, shoalv1.StepStatus_CHANGED:
			case shoalv1.StepStatus_FAILED:
				if told.dryRun {
					return as // a step before it may put that right
				}
				return outcome{Failed, stepPrefix + step.Name, step.Error}
			default:
				return as
			}
		}
	}
	if s.Facts == nil {
		return as
	}
	return outcome{phase: Ready}
}

// stepPrefix marks in FailedAt that a step of the profile failed, and not the
// making of the machine.
const stepPrefix = "step "

func (s *Server) failedInStep() bool {
	return len(s.FailedAt) > len(stepPrefix) && s.FailedAt[:len(stepPrefix)] == stepPrefix
}

// checkMove says which move is not allowed, and what would be.
func checkMove(name string, from, to Phase) error {
	if next(from, to) {
		return nil
	}
	return fmt.Errorf("server %s is %s and cannot become %s: %w", name, from, to, ErrPhase)
}
