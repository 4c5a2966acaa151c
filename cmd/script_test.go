package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/shoalproject/shoal/supernode/auth/openid/openidtest"
)

const (
	// patience bounds every wait for a program of a script.
	patience = 60 * time.Second
	// stopWithin is how long a program may take to stop when it is asked to.
	stopWithin = 10 * time.Second
	password   = "correct horse battery staple"
)

var bin string // folder of the programs

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "shoal-programs-")
	if err != nil {
		panic(err)
	}
	bin = dir
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./supernode", "./dfagent", "./dfget")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(fmt.Sprint("build the programs: ", err))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("*/testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{
		Files: files, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			s := &stage{running: map[string]*program{}}
			env.Values[stageKey{}] = s
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
			env.Setenv("PASSWORD", password)
			env.Defer(s.end)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "address": address, "start": start, "halt": halt, "ready": ready, "await": await,
			"supernode": supernode, "agent": agent, "capture": capture, "push": push, "isjson": isJSON,
			"secret": secret, "secretfield": secretField, "token": getToken, "ask": ask, "console": consoleLogin, "page": page, "unsaid": unsaid,
			"rotate": rotate, "provider": provider, "confirm": confirm,
		},
	})
}

type stageKey struct{}

// stage is what runs beside one script.
type stage struct {
	running  map[string]*program
	secrets  []string             // that were used, in all their spellings
	provider *openidtest.Provider // nil: none runs
}

type program struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

func of(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

func (s *stage) end() {
	for _, p := range s.running {
		p.cmd.Process.Kill()
		<-p.done
	}
}

func need(ts *testscript.TestScript, neg bool, args []string, atLeast int, usage string) {
	if neg || len(args) < atLeast {
		ts.Fatalf("usage: %s", usage)
	}
}

// exits runs a program and checks its exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "exits STATUS PROGRAM [ARG…]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// address sets variables to loopback addresses that nothing listens on.
func address(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "address VARIABLE…")
	for _, variable := range args {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(variable, l.Addr().String())
		defer l.Close()
	}
}

// start runs a program beside the script; what it says goes to NAME.log.
func start(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "start NAME PROGRAM [ARG…]")
	p := &program{log: ts.MkAbs(args[0] + ".log"), done: make(chan struct{})}
	file, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ts.Check(err)
	defer file.Close()
	p.cmd = exec.Command(filepath.Join(bin, args[1]), args[2:]...)
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = os.Environ()
	for _, home := range []string{"HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG"} { // never the tester's own
		p.cmd.Env = append(p.cmd.Env, home+"="+ts.Getenv(home))
	}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ts.Check(p.cmd.Start())
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	of(ts).running[args[0]] = p
}

// halt asks a program to stop, and checks that it does so in time and well. (The
// name stop is taken: it ends a script, and all that stands below is not run.)
func halt(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "halt NAME")
	p := of(ts).running[args[0]]
	if p == nil {
		ts.Fatalf("%s was not started", args[0])
	}
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(stopWithin):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.done
		ts.Fatalf("%s did not stop within %v\n%s", args[0], stopWithin, ts.ReadFile(p.log))
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		ts.Fatalf("%s ended with status %d\n%s", args[0], code, ts.ReadFile(p.log))
	}
	delete(of(ts).running, args[0])
}

// ready waits until a program answers 200 at a URL.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "ready NAME URL")
	p := of(ts).running[args[0]]
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		response, err := http.Get(args[1])
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-p.done:
			ts.Fatalf("%s ended before it was ready\n%s", args[0], ts.ReadFile(p.log))
		case <-deadline:
			ts.Fatalf("%s was not ready within %v: %v\n%s", args[0], patience, err, ts.ReadFile(p.log))
		}
	}
}

// await runs a program again and again until a line of its output matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "await PATTERN PROGRAM [ARG…]")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline, tick := time.After(patience), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%q was not seen within %v: %v", args[0], patience, err)
		}
	}
}

// supernode runs one in the folder sn, at $REGISTRY, whose admin has $PASSWORD.
// Run again, it is at the same addresses.
func supernode(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 0, "supernode [FLAG…]")
	if ts.Getenv("REGISTRY") == "" {
		address(ts, false, []string{"REGISTRY", "SN_SWARM", "SN_P2P", "SN_METRICS"})
	}
	ts.Check(os.WriteFile(ts.MkAbs("admin-password"), []byte(password+"\n"), 0o600))
	start(ts, false, slices.Concat([]string{"sn", "supernode", "serve", "--data", "sn", "--listen", ts.Getenv("REGISTRY"),
		"--swarm-listen", ts.Getenv("SN_SWARM"), "--p2p-listen", ts.Getenv("SN_P2P"), "--metrics-listen", ts.Getenv("SN_METRICS"),
		"--admin-password-file", "admin-password"}, args))
	ready(ts, false, []string{"sn", "http://" + ts.Getenv("REGISTRY") + "/readyz"})
}

// agent runs one in the folder NAME, whose mirror is at $NAME_MIRROR; with a
// token of its own when it never ran before.
func agent(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "agent NAME [FLAG…]")
	mirror := args[0] + "_MIRROR"
	if ts.Getenv(mirror) == "" {
		address(ts, false, []string{mirror, args[0] + "_SWARM", args[0] + "_P2P", args[0] + "_METRICS"})
	}
	flags := []string{args[0], "dfagent", "serve", "--data", args[0], "--hostname", args[0], "--docker-mirror", "",
		"--mirror", ts.Getenv(mirror), "--swarm-listen", ts.Getenv(args[0] + "_SWARM"),
		"--p2p-listen", ts.Getenv(args[0] + "_P2P"), "--metrics-listen", ts.Getenv(args[0] + "_METRICS")}
	if _, err := os.Stat(ts.MkAbs(args[0])); err != nil {
		ts.Check(ts.Exec("supernode", "join-token", "--data", "sn"))
		flags = append(flags, "--supernode", "http://"+ts.Getenv("REGISTRY"), "--join", strings.TrimSpace(ts.ReadFile("stdout")))
	}
	start(ts, false, append(flags, args[1:]...))
	ready(ts, false, []string{args[0], "http://" + ts.Getenv(mirror) + "/readyz"})
}

// capture keeps the last output in a variable.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "capture VARIABLE")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// push brings an image of two random layers to the supernode and sets $DIGEST
// to its manifest's digest and $LAYER to its first layer's.
func push(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "push REPOSITORY:TAG")
	image, err := random.Image(300_000, 2)
	ts.Check(err)
	ref, err := name.ParseReference(ts.Getenv("REGISTRY")+"/"+args[0], name.Insecure)
	ts.Check(err)
	ts.Check(remote.Write(ref, image, remote.WithAuth(&authn.Basic{Username: "admin", Password: password})))
	digest, err := image.Digest()
	ts.Check(err)
	layers, err := image.Layers()
	ts.Check(err)
	layer, err := layers[0].Digest()
	ts.Check(err)
	ts.Setenv("DIGEST", digest.String())
	ts.Setenv("LAYER", layer.String())
}

// isJSON checks that the last output is one JSON value after another, at least
// one.
func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 0, "isjson")
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	for n := 0; ; n++ {
		var value map[string]any
		err := d.Decode(&value)
		if errors.Is(err, io.EOF) && n > 0 {
			return
		}
		if err != nil {
			ts.Check(fmt.Errorf("value %d of the output is no JSON object: %w", n+1, err))
		}
	}
}
