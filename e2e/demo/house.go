package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	poll = 50 * time.Millisecond
	// grace is how long a process has to stop by itself.
	grace = 10 * time.Second
)

// house is one supernode and its agents, as processes of this host.
type house struct {
	bin, dir  string
	registry  string // host:port of the supernode
	password  string // of the user admin
	hosts     []host
	processes []*process
	died      chan string
}

// host is one agent.
type host struct {
	name, dir, mirror string
}

func (h host) socket() string { return filepath.Join(h.dir, "agent.sock") }

type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs one of our programs in its own process group, so that Ctrl-C
// reaches it through us and in order.
func (h *house) start(name, program string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(h.dir, name+".log"), done: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd = exec.Command(filepath.Join(h.bin, program), args...) //nolint:noctx // stopped in order by close
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w; 'make build' makes it", name, err)
	}
	if h.died == nil {
		h.died = make(chan string, agents+1)
	}
	go func() {
		p.cmd.Wait() //nolint:errcheck // the log tells more than the status
		close(p.done)
		h.died <- name
	}()
	h.processes = append(h.processes, p)
	return p, nil
}

// close stops the agents first, then the supernode.
func (h *house) close() {
	for i := len(h.processes) - 1; i >= 0; i-- {
		h.processes[i].cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	}
	deadline := time.After(grace)
	for _, p := range h.processes {
		select {
		case <-p.done:
		case <-deadline:
			p.cmd.Process.Kill() //nolint:errcheck // it may have ended
			<-p.done
		}
	}
}

// logs is the end of each process's log, for the reader of a failure.
func (h *house) logs() error {
	var out bytes.Buffer
	for _, p := range h.processes {
		raw, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		fmt.Fprintf(&out, "\n--- %s said last:\n%s\n", p.name, strings.Join(lines[max(0, len(lines)-12):], "\n"))
	}
	return errors.New(out.String())
}

// startSupernode brings the supernode up and reads the one-time password.
func (h *house) startSupernode(ctx context.Context) error {
	ports, err := freePorts(8001, 8002, 8003, 9090)
	if err != nil {
		return err
	}
	h.registry = ports[0]
	data := filepath.Join(h.dir, "supernode")
	p, err := h.start("supernode", "supernode", "serve", "--data", data,
		"--listen", ports[0], "--swarm-listen", ports[1], "--p2p-listen", ports[2], "--metrics-listen", ports[3])
	if err != nil {
		return err
	}
	if err := p.ready(ctx, "http://"+h.registry+"/readyz"); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(data, "first-login"))
	if err != nil {
		return fmt.Errorf("read the one-time password: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if password, ok := strings.CutPrefix(strings.TrimSpace(line), "password:"); ok {
			h.password = strings.TrimSpace(password)
		}
	}
	if h.password == "" {
		return errors.New("DATA/first-login holds no password")
	}
	return nil
}

// startAgents joins the agents with one token.
func (h *house) startAgents(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, filepath.Join(h.bin, "supernode"), "join-token",
		"--data", filepath.Join(h.dir, "supernode"), "--uses", fmt.Sprint(agents)).Output()
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	token := strings.TrimSpace(string(out))
	var started []*process
	for i := range agents {
		ports, err := freePorts(65001+10*i, 65002+10*i, 65003+10*i, 9091+10*i)
		if err != nil {
			return err
		}
		host := host{name: fmt.Sprintf("agent-%d", i+1), mirror: ports[0]}
		host.dir = filepath.Join(h.dir, host.name)
		p, err := h.start(host.name, "dfagent", "serve", "--supernode", "http://"+h.registry, "--join", token,
			"--data", host.dir, "--hostname", host.name, "--mirror", ports[0], "--swarm-listen", ports[1],
			"--p2p-listen", ports[2], "--metrics-listen", ports[3], "--docker-mirror", "")
		if err != nil {
			return err
		}
		h.hosts = append(h.hosts, host)
		started = append(started, p)
	}
	for i, p := range started {
		if err := p.ready(ctx, "http://"+h.hosts[i].mirror+"/readyz"); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until the address answers 200.
func (p *process) ready(ctx context.Context, url string) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready", p.name)
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time", p.name)
		}
	}
}

// freePorts are loopback addresses with the wanted ports where they are free
// and others where not.
func freePorts(wanted ...int) ([]string, error) {
	var out []string
	for _, port := range wanted {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out, nil
}
