package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/shoalproject/shoal/supernode/auth/openid/openidtest"
)

// provider runs a real login provider with one person, eve, and writes
// oidc.yaml, the supernode's settings for it.
func provider(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 0, "provider")
	dir := ts.MkAbs("provider")
	ts.Check(os.MkdirAll(dir, 0o700))
	p, err := openidtest.Run(context.Background(), dir, true, "http://127.0.0.1/login/oidc/callback")
	var missing *openidtest.MissingError
	if errors.As(err, &missing) && os.Getenv("CI") == "" {
		ts.Fatalf("NOT RUN: %v", err)
	}
	ts.Check(err)
	ts.Defer(p.Stop)
	ts.Check(p.SetPeople(map[string]openidtest.Human{"subject-1": {Username: "eve", Password: password}}))
	of(ts).provider = p
	ts.Check(os.WriteFile(ts.MkAbs("oidc.yaml"), fmt.Appendf(nil, "oidc: {issuer: %q, client_id: %q, client_secret_file: %q, ca_file: %q}\n",
		p.Issuer, openidtest.ClientID, p.SecretFile, filepath.Join(dir, "ca.pem")), 0o600))
}

// confirm answers the login that a program of the script, run with --json,
// asks for, as eve, and waits until the program has ended well.
func confirm(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "confirm NAME allow|deny")
	p := of(ts).running[args[0]]
	if p == nil || of(ts).provider == nil {
		ts.Fatalf("%s or the provider was not started", args[0])
	}
	var asked struct {
		URL  string `json:"verification_url"`
		Code string `json:"user_code"`
	}
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for asked.Code == "" {
		said := ts.ReadFile(p.log)
		if line, _, whole := strings.Cut(said, "\n"); whole {
			ts.Check(json.Unmarshal([]byte(line), &asked))
			break
		}
		select {
		case <-tick.C:
		case <-p.done:
			ts.Fatalf("%s ended before it asked for a login\n%s", args[0], ts.ReadFile(p.log))
		case <-deadline:
			ts.Fatalf("%s did not ask for a login within %v", args[0], patience)
		}
	}
	browser := openidtest.Browser(of(ts).provider.Transport(), "")
	ts.Check(openidtest.Confirm(context.Background(), browser, asked.URL, asked.Code, "eve", password, args[1]))
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s did not end within %v\n%s", args[0], patience, ts.ReadFile(p.log))
	}
	delete(of(ts).running, args[0])
	if well := p.cmd.ProcessState.ExitCode() == 0; well != (args[1] == "allow") {
		ts.Fatalf("%s ended with status %d\n%s", args[0], p.cmd.ProcessState.ExitCode(), ts.ReadFile(p.log))
	}
}
