package dfget

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
)

func TestParseSupernode(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:8001":               "http://127.0.0.1:8001",
		"http://localhost:8001/":       "http://localhost:8001",
		"registry.example.com":         "https://registry.example.com",
		"https://registry.example.com": "https://registry.example.com",
		"[::1]:8001":                   "http://[::1]:8001",
	} {
		if u, err := parseSupernode(in); err != nil || u.String() != want {
			t.Errorf("parseSupernode(%q) = %v, %v; want %s", in, u, err, want)
		}
	}
	for _, bad := range []string{"http://registry.example.com", "ftp://x", "https://u:p@x", "https://", "http://10.0.0.1:8001"} {
		if u, err := parseSupernode(bad); !errors.Is(err, settings.ErrUsage) {
			t.Errorf("parseSupernode(%q) = %v, %v; want wrong usage", bad, u, err)
		}
	}
}

func TestExitStatusOfWrongUsage(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, line := range []string{
		"demo/app", "demo/app -O x extra", "--nonsense", "prewarm", "prewarm x --count 0", "prewarm x --count 101%",
		"prewarm x --count many", "login", "pull-report a --last", "swarm not-a-digest", "servers",
		"demo/app@sha256:00 -O x", "login http://registry.example.com",
		"project nonsense", "project create", "project create a b", "project create a --quota lots", "project settings", "project member add a",
		"project member nonsense", "robot create a", "robot create a b --expires soon", "robot remove a", "user create", "user password a b", "user list a",
		"place", "place demo/app", "place demo/app more --pool a", "place show", "place scale a", "place scale a none", "place update", "place list a",
	} {
		var out, errOut bytes.Buffer
		status := Run(context.Background(), strings.Fields(line), strings.NewReader(""), &out, &errOut)
		if status != exitUsage {
			t.Errorf("dfget %s: exit status %d, want %d; it said %q", line, status, exitUsage, errOut.String())
		}
		if !strings.HasPrefix(errOut.String(), "dfget: ") {
			t.Errorf("dfget %s said %q", line, errOut.String())
		}
	}
}

func TestHelpHasExamples(t *testing.T) {
	var out bytes.Buffer
	for commands := []*cobra.Command{(&app{out: &out, errOut: &out}).command()}; len(commands) > 0; {
		c := commands[0]
		commands = append(commands[1:], c.Commands()...)
		if c.Example == "" && c.Name() != "version" {
			t.Errorf("%s: --help shows no example", c.CommandPath())
		}
	}
}
