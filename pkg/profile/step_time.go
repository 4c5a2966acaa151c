package profile

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxOff is how far a clock may be from the supernode's; an agent does not
// tell less.
const maxOff = time.Minute

// timeServices are what keeps a clock: the program, and its unit of systemd.
var timeServices = [][2]string{
	{"chronyd", "chrony"}, {"ntpd", "ntp"}, {"systemd-timesyncd", "systemd-timesyncd"},
}

// timeStep sees that something keeps the clock, and starts that.
type timeStep struct {
	host    *Host
	install bool
	wait    time.Duration // for the clock to be synchronised after a change
}

func newTimeStep(h *Host, v *values) Step {
	return &timeStep{
		host: h, install: v.choice("install", "no", "apt") == "apt",
		wait: v.duration("wait", time.Minute, maxTimeout),
	}
}

// Check implements Step.
func (s *timeStep) Check(context.Context) (Found, error) {
	clock, err := s.host.Clock()
	if err != nil {
		return Found{}, fmt.Errorf("ask the kernel about its clock: %w", err)
	}
	out := Found{Holds: clock.Synchronised && clock.Off.Abs() < maxOff, Output: "the clock is synchronised"}
	if !clock.Synchronised {
		out.Output = "the kernel says that nothing synchronises the clock"
	}
	if clock.Off.Abs() >= maxOff {
		out.Output = lines(out.Output, fmt.Sprintf("it differs from the supernode's by %v", clock.Off))
	}
	return out, nil
}

// Apply implements Step.
func (s *timeStep) Apply(ctx context.Context) (string, error) {
	unit, said := s.service(), ""
	if unit == "" {
		if !s.install {
			return "", errors.New("nothing here keeps the clock: install chrony, or let the step do so (setting install=apt)")
		}
		told, err := s.host.aptInstall(ctx, "chrony")
		if err != nil {
			return told, err
		}
		unit, said = "chrony", told
	}
	if !s.host.systemd() {
		return said, fmt.Errorf("systemd does not run this host: start %s as it is done here", unit)
	}
	told, err := s.host.run(ctx, "systemctl", "enable", "--now", unit)
	said = lines(said, told)
	if err != nil {
		return said, err
	}
	return said, s.settle(ctx)
}

// service is the unit of what is installed to keep the clock; "" for none.
func (s *timeStep) service() string {
	for _, one := range timeServices {
		if s.host.program(one[0]) != "" || s.host.exists("/lib/systemd/"+one[0]) || s.host.exists("/usr/lib/systemd/"+one[0]) {
			return one[1]
		}
	}
	return ""
}

// settle waits until the clock is synchronised. When it never is, the check
// that follows says so.
func (s *timeStep) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		clock, err := s.host.Clock()
		if err != nil || clock.Synchronised {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
