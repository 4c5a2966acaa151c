package profile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const (
	// maxOutput bounds what is told of one step, in bytes.
	maxOutput = 16 << 10
	// maxError bounds the words of an error, in bytes.
	maxError = 4 << 10
)

// ErrStep is wrapped by what went wrong in a step, as opposed to a run that
// was ended from outside.
var ErrStep = errors.New("the step failed")

// Found is what a check saw.
type Found struct {
	Holds bool
	// Output tells what is there and, where the step does not hold, what would
	// change.
	Output string
}

// Step is one thing about a host. Both methods heed their context and may be
// called again at any time.
type Step interface {
	// Check only looks.
	Check(ctx context.Context) (Found, error)
	// Apply makes the check hold and says what it did, also when it fails.
	Apply(ctx context.Context) (string, error)
}

// Planned is a step with its place in a profile.
type Planned struct {
	Name, Kind string
	Version    int32
	// Timeout bounds its check and its change, each.
	Timeout time.Duration
	Step    Step
}

// Memory keeps which version of a step was applied last: 0 when none was.
type Memory interface {
	Applied(step Planned) int32
	Remember(step Planned) error
}

// Options say how to run.
type Options struct {
	// DryRun looks at every step and changes nothing.
	DryRun bool
	Memory Memory
	Now    func() time.Time
	// Report gets all statuses after each step, if not nil.
	Report func([]*shoalv1.StepStatus)
}

// Run looks at the steps one after the other and applies those that do not
// hold, or that hold by an older version; after each change it looks again. The
// first that fails ends it. A dry run changes nothing, and so looks at all of
// them whatever it finds. It returns an error only when ctx ended: then nothing
// is known of the step that was under way.
func Run(ctx context.Context, steps []Planned, o Options) ([]*shoalv1.StepStatus, error) {
	statuses := make([]*shoalv1.StepStatus, len(steps))
	for i, s := range steps {
		statuses[i] = &shoalv1.StepStatus{Name: s.Name, Version: s.Version, State: shoalv1.StepStatus_WAITING}
	}
	for i, s := range steps {
		status := o.one(ctx, s)
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("the run ended at step %q: %w", s.Name, err)
		}
		status.Name, status.Version, status.At = s.Name, s.Version, timestamppb.New(o.Now())
		status.Output, status.Error = clip(status.Output, maxOutput), clip(status.Error, maxError)
		statuses[i] = status
		if o.Report != nil {
			o.Report(statuses)
		}
		if status.State == shoalv1.StepStatus_FAILED && !o.DryRun {
			break
		}
	}
	return statuses, nil
}

func (o Options) one(ctx context.Context, s Planned) *shoalv1.StepStatus {
	found, err := check(ctx, s)
	if err != nil {
		return failed(found.Output, err)
	}
	applied := o.Memory.Applied(s)
	again := applied != 0 && applied != s.Version
	switch {
	case found.Holds && !again && o.DryRun:
		return &shoalv1.StepStatus{State: shoalv1.StepStatus_OK, Output: found.Output}
	case found.Holds && !again:
		return o.remember(s, shoalv1.StepStatus_OK, found.Output)
	case again:
		found.Output = lines(fmt.Sprintf("version %d was applied, version %d is wanted", applied, s.Version), found.Output)
	}
	if o.DryRun {
		return &shoalv1.StepStatus{State: shoalv1.StepStatus_WOULD_CHANGE, Output: found.Output}
	}
	said, err := apply(ctx, s)
	if err != nil {
		return failed(lines(found.Output, said), err)
	}
	found, err = check(ctx, s)
	if err == nil && !found.Holds {
		err = fmt.Errorf("%w: it was applied, and its check does not hold yet", ErrStep)
	}
	if err != nil {
		return failed(lines(said, found.Output), err)
	}
	return o.remember(s, shoalv1.StepStatus_CHANGED, lines(said, found.Output))
}

// remember writes down that this version holds. Without that a later version
// would not be told from a first one.
func (o Options) remember(s Planned, state shoalv1.StepStatus_State, output string) *shoalv1.StepStatus {
	if o.Memory.Applied(s) != s.Version {
		if err := o.Memory.Remember(s); err != nil {
			return failed(output, fmt.Errorf("write down that version %d holds: %w", s.Version, err))
		}
	}
	return &shoalv1.StepStatus{State: state, Output: output}
}

func failed(output string, err error) *shoalv1.StepStatus {
	return &shoalv1.StepStatus{State: shoalv1.StepStatus_FAILED, Output: output, Error: err.Error()}
}

func check(ctx context.Context, s Planned) (found Found, err error) {
	err = within(ctx, s.Timeout, "the check", func(ctx context.Context) error {
		found, err = s.Step.Check(ctx)
		return err
	})
	return found, err
}

func apply(ctx context.Context, s Planned) (said string, err error) {
	err = within(ctx, s.Timeout, "the change", func(ctx context.Context) error {
		said, err = s.Step.Apply(ctx)
		return err
	})
	return said, err
}

// within bounds one part of a step. What was done although the time had run
// out counts: the check that follows tells.
func within(ctx context.Context, limit time.Duration, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := do(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s was not done within %v (the step's setting \"timeout\"): %w", what, limit, err)
	}
	return err
}

// lines joins what was said, without empty parts.
func lines(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, "\n")
}

// clip bounds a text that may hold anything: what it begins and what it ends
// with is kept, since a difference is read from its top and a program's output
// from its end. The result is valid UTF-8.
func clip(s string, limit int) string {
	if len(s) > limit {
		const gap = "\n[…]\n"
		head := limit / 3
		s = s[:head] + gap + s[len(s)-(limit-head-len(gap)):]
	}
	for s = strings.ToValidUTF8(s, "?"); len(s) > limit; {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}
