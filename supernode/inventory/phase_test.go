package inventory

import (
	"testing"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestNext(t *testing.T) {
	want := map[Phase]string{ // one letter for each phase that may follow
		Imported: "qiR", Requested: "piFR", Provisioning: "qiFR", Initialising: "rdFR", Ready: "idFR", Draining: "rFR", Failed: "qpirR", Retired: "",
	}
	letters := map[Phase]string{Imported: "m", Requested: "q", Provisioning: "p", Initialising: "i", Ready: "r", Draining: "d", Failed: "F", Retired: "R"}
	for _, from := range Phases {
		got := ""
		for _, to := range []Phase{Imported, Requested, Provisioning, Initialising, Ready, Draining, Failed, Retired} {
			if next(from, to) && from != to {
				got += letters[to]
			}
		}
		if got != want[from] {
			t.Errorf("after %s: %s, want %s", from, got, want[from])
		}
		if !next(from, from) {
			t.Errorf("%s may not stay", from)
		}
	}
	if next("", Ready) || next(Ready, "gone") {
		t.Error("a phase that is none")
	}
}

func TestSettle(t *testing.T) {
	const (
		ok, changed, would, failed, waiting = shoalv1.StepStatus_OK, shoalv1.StepStatus_CHANGED, shoalv1.StepStatus_WOULD_CHANGE, shoalv1.StepStatus_FAILED, shoalv1.StepStatus_WAITING
	)
	told := func(profile string, done bool, states ...shoalv1.StepStatus_State) report {
		r := steps(profile, states...)
		return report{r.Profile, done, false, r.Steps}
	}
	fresh := Server{Phase: Initialising, Facts: someFacts()}
	broken := Server{Phase: Failed, FailedAt: "step time", Reason: "late", Facts: someFacts()}
	for name, c := range map[string]struct {
		s       Server
		profile string
		told    report
		want    outcome
	}{
		"no profile, no facts":           {Server{Phase: Initialising}, "", report{}, outcome{phase: Initialising}},
		"no profile":                     {fresh, "", report{}, outcome{phase: Ready}},
		"nothing told":                   {fresh, "host", report{}, outcome{phase: Initialising}},
		"not done":                       {fresh, "host", told("host", false, ok, ok), outcome{phase: Initialising}},
		"another profile":                {fresh, "host", told("light", true, ok), outcome{phase: Initialising}},
		"all hold":                       {fresh, "host", told("host", true, ok, changed), outcome{phase: Ready}},
		"all hold, no facts":             {Server{Phase: Initialising}, "host", told("host", true, ok), outcome{phase: Initialising}},
		"a profile without steps":        {fresh, "host", told("host", true), outcome{phase: Ready}},
		"a dry run":                      {fresh, "host", told("host", true, ok, would), outcome{phase: Initialising}},
		"a look that failed":             {fresh, "host", report{profile: "host", done: true, dryRun: true, steps: steps("host", failed).Steps}, outcome{phase: Initialising}},
		"one failed":                     {fresh, "host", told("host", true, ok, failed, waiting), outcome{Failed, "step mirror", "it broke"}},
		"it failed, and holds now":       {broken, "host", told("host", true, ok), outcome{phase: Ready}},
		"it failed, and another does":    {broken, "host", told("host", true, failed), outcome{Failed, "step runtime", "it broke"}},
		"it failed, and waits":           {broken, "host", told("host", false, waiting), outcome{Failed, "step time", "late"}},
		"the machine was not made":       {Server{Phase: Failed, FailedAt: "provisioning", Reason: "no room", Facts: someFacts()}, "host", told("host", true, ok), outcome{Failed, "provisioning", "no room"}},
		"a drift of one in service":      {Server{Phase: Ready, Facts: someFacts()}, "host", told("host", true, failed), outcome{phase: Ready}},
		"a drift of one that is drained": {Server{Phase: Draining, Facts: someFacts()}, "host", told("host", true, ok), outcome{phase: Draining}},
		"one that is retired":            {Server{Phase: Retired, Facts: someFacts()}, "", report{}, outcome{phase: Retired}},
	} {
		if got := settle(c.s, c.profile, c.told); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
