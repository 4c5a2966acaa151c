package ssh

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/shoalproject/shoal/pkg/profile"
	"github.com/shoalproject/shoal/supernode/provision"
)

// found is what a look at a host says.
type found struct {
	system, machine string // as uname says
	root            bool   // commands run as root
	marker          string // who has adopted the host; "" for nobody
	joined          bool   // an agent is a member from here
	program         string // SHA-256 of the agent's program that is there
	systemd         bool
	containerd      bool
	docker          bool
}

// parseLook reads what lookScript prints. Lines that it does not know are left
// out: a shell may greet.
func parseLook(text string) found {
	var f found
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "system":
			f.system = printable(value)
		case "machine":
			f.machine = printable(value)
		case "user":
			f.root = value == "0"
		case "marker":
			f.marker = printable(value)
		case "joined":
			f.joined = value == "yes"
		case "program":
			f.program = value
		case "systemd":
			f.systemd = value == "yes"
		case "containerd":
			f.containerd = value == "yes"
		case "docker":
			f.docker = value == "yes"
		}
	}
	return f
}

// markerOf is what stands on a host that was adopted for a server.
func markerOf(tag, key string) string {
	return fmt.Sprintf("fleet %s server %s", tag, key)
}

// refusal says why a host cannot be adopted, or go on being so; nil is that
// it can.
func refusal(f found, marker string, p *Program) error {
	switch {
	case f.system != "Linux":
		return fmt.Errorf("%w: the host runs %q, and the agent needs Linux", provision.ErrRefused, f.system)
	case p.machine != "" && p.machine != f.machine:
		return fmt.Errorf("%w: the host is %s, and the agent's program is for %s; give the supernode another one by --agent-binary", provision.ErrRefused, f.machine, p.machine)
	case f.marker != "" && f.marker != marker:
		return fmt.Errorf("%w: the host is adopted already (%s); retire it there, or remove /etc/shoal/server if that supernode is no more", provision.ErrRefused, f.marker)
	case f.marker == "" && f.joined:
		return fmt.Errorf("%w: an agent that was not started from here is a member already; stop it and remove its data folder", provision.ErrRefused)
	case !f.root:
		return errors.New("the user is not root, and sudo does not make it root")
	}
	return nil
}

// bootstrap brings a host to where its agent has joined. Each step looks at
// what is there, so it may be cut off anywhere and be called again.
func (p *Provider) bootstrap(ctx context.Context, to target, key string, spec provision.Spec) error {
	program, err := p.cfg.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	l, err := p.connect(ctx, to)
	if err != nil {
		return err
	}
	defer l.close()
	have, err := p.look(ctx, l)
	if err != nil {
		return err
	}
	marker := markerOf(spec.Tag, key)
	if err := refusal(have, marker, program); err != nil {
		return err
	}
	supernodes, err := p.cfg.Supernodes(l.local())
	if err != nil {
		return err
	}
	if err := p.claim(ctx, l, marker); err != nil {
		return err
	}
	if have.program != program.sum {
		content, err := program.content()
		if err != nil {
			return err
		}
		if err := l.send(ctx, content, putScript, p.program(), "0755", program.sum); err != nil {
			return fmt.Errorf("put the agent's program there: %w", err)
		}
	}
	if err := p.put(ctx, l, path.Join(p.etc(), "dfagent.yaml"), p.settings(have)); err != nil {
		return fmt.Errorf("put the agent's configuration there: %w", err)
	}
	if !have.joined {
		token, err := spec.Join(ctx)
		if err != nil {
			return fmt.Errorf("draw a join token: %w", err)
		}
		if err := p.put(ctx, l, path.Join(p.etc(), "join"), token+"\n"); err != nil {
			return fmt.Errorf("put the join token there: %w", err)
		}
	}
	return p.start(ctx, l, have.systemd, supernodes)
}

func (p *Provider) look(ctx context.Context, l *line) (found, error) {
	text, err := l.tell(ctx, lookScript, p.etc(), p.data(), p.program(), p.cfg.Root)
	if err != nil {
		return found{}, fmt.Errorf("look at the host: %w", err)
	}
	return parseLook(text), nil
}

// claim makes the host this server's, unless it is another one's by now.
func (p *Provider) claim(ctx context.Context, l *line, marker string) error {
	stands, err := l.tell(ctx, claimScript, p.etc(), marker)
	if err != nil {
		return fmt.Errorf("claim the host: %w", err)
	}
	if stands = printable(stands); stands != marker {
		return fmt.Errorf("%w: the host was adopted meanwhile (%s)", provision.ErrRefused, stands)
	}
	return nil
}

// put writes a small file that only root may read.
func (p *Provider) put(ctx context.Context, l *line, to, content string) error {
	sum := sha256.Sum256([]byte(content))
	return l.send(ctx, strings.NewReader(content), putScript, to, "0600", hex.EncodeToString(sum[:]))
}

// settings is the agent's configuration: the operator's, or the container
// runtime that is there or is to come.
func (p *Provider) settings(have found) string {
	const head = "# Written by the supernode when it adopted this host.\n"
	switch {
	case p.cfg.Settings != "":
		return p.cfg.Settings
	case have.docker && !have.containerd:
		return head + "docker: /run/docker.sock\n"
	}
	// Also where it is not there yet: the pool's profile may install it.
	return head + "containerd: /run/containerd/containerd.sock\n"
}

// start starts the agent, anew if it runs, and waits until it has joined.
func (p *Provider) start(ctx context.Context, l *line, systemd bool, supernodes []string) error {
	args := []string{"serve", "--config", path.Join(p.etc(), "dfagent.yaml"), "--data", p.data(), "--join-file", path.Join(p.etc(), "join")}
	for _, url := range supernodes {
		args = append(args, "--supernode", url)
	}
	pid, said := p.pidFile(), p.logFile()
	if systemd {
		pid, said = "", profile.AgentUnit
		unit := profile.UnitFile(profile.Agent{Executable: p.program(), Args: args, Folder: p.data()})
		if err := p.put(ctx, l, p.unitFile(), unit); err != nil {
			return fmt.Errorf("put the agent's unit there: %w", err)
		}
		if _, err := l.tell(ctx, unitScript, profile.AgentUnit, p.data()); err != nil {
			return fmt.Errorf("start the agent's unit: %w", err)
		}
	} else {
		if _, err := l.tell(ctx, stopScript, pid, p.program()); err != nil {
			return fmt.Errorf("stop the agent that runs: %w", err)
		}
		if _, err := l.tell(ctx, startScript, append([]string{pid, said, p.data(), p.program()}, args...)...); err != nil {
			return fmt.Errorf("start the agent: %w", err)
		}
	}
	if _, err := l.tell(ctx, awaitScript, p.data(), pid, said); err != nil {
		return fmt.Errorf("the agent did not come up: %w", err)
	}
	return nil
}

func (p *Provider) unitFile() string { return p.place("etc/systemd/system", profile.AgentUnit) }

// leave takes the agent off a host that is this machine's; one that is another
// one's by now, or nobody's, is left as it is.
func (p *Provider) leave(ctx context.Context, e *entry) error {
	to, err := targetOf(e.Address, e.User, e.HostKey)
	if err != nil {
		return err
	}
	l, err := p.connect(ctx, to)
	if errors.Is(err, provision.ErrRefused) {
		p.cfg.Log.Warn("what was to be given back is another host by now, and is left as it is", "address", e.Address, "machine", e.Key, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer l.close()
	have, err := p.look(ctx, l)
	if err != nil {
		return err
	}
	if have.marker != markerOf(e.Tag, e.Key) {
		return nil
	}
	if _, err := l.tell(ctx, stopScript, p.pidFile(), p.program()); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	if _, err := l.tell(ctx, removeScript, p.etc(), p.data(), p.program(), p.unitFile()); err != nil {
		return fmt.Errorf("take the agent away: %w", err)
	}
	return nil
}
