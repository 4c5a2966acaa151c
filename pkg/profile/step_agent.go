package profile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// AgentUnit is the name of the agent's unit of systemd.
const AgentUnit = "dfagent.service"

const (
	unitFile    = "/etc/systemd/system/" + AgentUnit
	unitEnabled = "/etc/systemd/system/multi-user.target.wants/" + AgentUnit
)

// agentStep sees that the agent is a member and, where systemd is, that it is
// there again after the next boot.
type agentStep struct {
	host *Host
	boot bool
}

func newAgentStep(h *Host, v *values) Step {
	return &agentStep{host: h, boot: v.yes("boot", true)}
}

// UnitFile is a unit of systemd that starts an agent the way the given one was
// started.
func UnitFile(a Agent) string {
	var line strings.Builder
	line.WriteString(unitQuote(a.Executable))
	for _, arg := range a.Args {
		line.WriteString(" " + unitQuote(arg))
	}
	return fmt.Sprintf(`[Unit]
Description=Shoal agent: registry mirror and seed of this host
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=%s
WorkingDirectory=%s
Restart=always
RestartSec=2
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
`, line.String(), strings.ReplaceAll(a.Folder, "%", "%%"))
}

// unitQuote writes a word as systemd.service(5) reads it.
func unitQuote(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`).Replace(word) + `"`
}

// Check implements Step.
func (s *agentStep) Check(context.Context) (Found, error) {
	if err := s.host.Agent.Member(); err != nil {
		return Found{}, fmt.Errorf("the agent is no member of the data centre: %w", err)
	}
	out := Found{Holds: true, Output: "the agent is a member of the data centre"}
	if info, err := os.Stat(s.host.Agent.Executable); err != nil || !info.Mode().IsRegular() {
		return out, fmt.Errorf("the agent's program %s is not there any more: install it again", s.host.Agent.Executable)
	}
	switch {
	case !s.boot:
		return out, nil
	case !s.host.systemd():
		out.Output = lines(out.Output, "systemd does not run this host: whether the agent starts at the next boot is not known")
		return out, nil
	}
	have, err := s.host.read(unitFile)
	if err != nil {
		return out, err
	}
	if have == nil || !s.host.exists(unitEnabled) {
		out.Holds = false
		out.Output = lines(out.Output, "it does not start at the next boot: "+AgentUnit+" is to be written and enabled")
	}
	return out, nil
}

// Apply implements Step. A unit that is there stays as it is: whoever wrote it
// knows better how this agent is to be started.
func (s *agentStep) Apply(ctx context.Context) (string, error) {
	have, err := s.host.read(unitFile)
	if err != nil {
		return "", err
	}
	said := ""
	if have == nil {
		if s.host.Agent.Executable == "" {
			return "", errors.New("where the agent's program lies is not known")
		}
		if err := s.host.writeOwn(unitFile, UnitFile(s.host.Agent)); err != nil {
			return "", err
		}
		said = "wrote " + unitFile
		told, err := s.host.run(ctx, "systemctl", "daemon-reload")
		said = lines(said, told)
		if err != nil {
			return said, err
		}
	}
	told, err := s.host.run(ctx, "systemctl", "enable", AgentUnit)
	return lines(said, told), err
}
