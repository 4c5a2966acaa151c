package dfget

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

func TestParseReference(t *testing.T) {
	const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"demo/app":                       " demo/app latest ",
		"demo/app:v1":                    " demo/app v1 ",
		"app":                            " app latest ",
		"docker.io/alpine:3":             "docker.io library/alpine 3 ",
		"docker.io/library/alpine":       "docker.io library/alpine latest ",
		"localhost/x/y:z":                "localhost x/y z ",
		"127.0.0.1:5000/x/y":             "127.0.0.1:5000 x/y latest ",
		"demo/app@" + d:                  " demo/app  " + d,
		"r.example.com:8001/a/b:t@" + d:  "r.example.com:8001 a/b t " + d,
		"r.example.com:8001/a/b/c/d:t.1": "r.example.com:8001 a/b/c/d t.1 ",
	} {
		r, err := parseReference(in)
		got := r.Registry + " " + r.Repository + " " + r.tag + " " + string(r.digest)
		if err != nil || got != want {
			t.Errorf("parseReference(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"", d, "demo/app@sha256:00", "a b", "demo/app?x=1", "docker.io/"} {
		if r, err := parseReference(bad); !errors.Is(err, errUsage) {
			t.Errorf("parseReference(%q) = %+v, %v; want wrong usage", bad, r, err)
		}
	}
}

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
		if u, err := parseSupernode(bad); !errors.Is(err, errUsage) {
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
	for _, c := range append((&app{out: &out, errOut: &out}).command().Commands(), (&app{}).command()) {
		if c.Example == "" && c.Name() != "version" {
			t.Errorf("dfget %s: --help shows no example", c.Name())
		}
	}
}
