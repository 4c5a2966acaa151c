// Package openidtest runs a real OpenID Connect provider for tests, and is the
// person who logs in there. The provider is a program of its own
// (scripts/tools/provider), which is built when it is first needed.
package openidtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The client that the provider knows.
const (
	ClientID     = "shoal"
	ClientSecret = "the client's secret + more"
)

// Human is one of the provider's people.
type Human struct {
	Username      string   `json:"username"`
	Password      string   `json:"password"`
	Email         string   `json:"email"`
	EmailVerified bool     `json:"email_verified"`
	Groups        []string `json:"groups"`
}

// Provider is one that runs.
type Provider struct {
	Issuer     string
	SecretFile string // holds ClientSecret
	CAFile     string // of its authority; empty without TLS
	users      string

	cmd *exec.Cmd
	out *os.File
}

// Start runs a provider for the length of a test. What keeps it from running
// is NOT RUN, and in CI a failure.
func Start(t *testing.T, secure bool, redirect ...string) *Provider {
	t.Helper()
	p, err := Run(t.Context(), t.TempDir(), secure, redirect...)
	var missing *MissingError
	if errors.As(err, &missing) && os.Getenv("CI") == "" {
		t.Skip("NOT RUN: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// MissingError says that the provider's program cannot be built here.
type MissingError struct{ cause error }

// Error says why.
func (e *MissingError) Error() string {
	return fmt.Sprintf("build scripts/tools/provider: %v", e.cause)
}

// build makes the program, where it was not made already.
func build(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	into := filepath.Join(root, ".cache", "tests")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return "", err
	}
	// Tests of several packages run at once: one builds, and go leaves a file
	// alone that is as it should be.
	lock, err := os.Create(filepath.Join(into, "provider.lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	program := filepath.Join(into, "provider")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	cmd.Dir = filepath.Join(root, "scripts", "tools", "provider")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", &MissingError{fmt.Errorf("%w: %s", err, said)}
	}
	return program, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Run starts a provider that keeps its files in dir; call Stop.
func Run(ctx context.Context, dir string, secure bool, redirect ...string) (*Provider, error) {
	program, err := build(ctx)
	if err != nil {
		return nil, err
	}
	p := &Provider{SecretFile: filepath.Join(dir, "client-secret"), users: filepath.Join(dir, "users.json")}
	if err := os.WriteFile(p.SecretFile, []byte(ClientSecret+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := p.SetPeople(nil); err != nil {
		return nil, err
	}
	args := []string{"-users", p.users, "-client", ClientID, "-secret-file", p.SecretFile, "-redirect", strings.Join(redirect, ",")}
	if secure {
		p.CAFile = filepath.Join(dir, "ca.pem")
		args = append(args, "-tls", dir)
	}
	p.cmd = exec.CommandContext(ctx, program, args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.out, err = os.Create(filepath.Join(dir, "provider.log")); err != nil {
		return nil, err
	}
	p.cmd.Stderr = p.out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the provider: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("the provider did not start: %w", err)
	}
	p.Issuer = strings.TrimSpace(line)
	return p, nil
}

// Stop ends the provider.
func (p *Provider) Stop() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	p.cmd.Wait()         //nolint:errcheck // it was killed
	p.out.Close()
}

// SetPeople says who may log in from now on, by subject.
func (p *Provider) SetPeople(people map[string]Human) error {
	raw, err := json.Marshal(people)
	if err != nil {
		return err
	}
	next := p.users + ".next"
	if err := os.WriteFile(next, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(next, p.users)
}

// Transport trusts the provider's authority, for the browser of a person.
func (p *Provider) Transport() http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if raw, err := os.ReadFile(p.CAFile); err == nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(raw)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return transport
}

// Browser is a person's: it keeps cookies and follows links, but stops before
// an address that it is told about.
func Browser(base http.RoundTripper, stopAt string) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // it has no other errors than those of its arguments
	}
	return &http.Client{Jar: jar, Transport: base, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if stopAt != "" && strings.HasPrefix(r.URL.String(), stopAt) {
			return http.ErrUseLastResponse
		}
		if len(via) > 10 {
			return errors.New("redirected ten times")
		}
		return nil
	}}
}

var hidden = regexp.MustCompile(`name="id" value="([^"]*)"`)

// LogIn fills in the provider's login form, to which the browser was sent by
// start, and follows the way back. The answer is where that ends; close its
// body.
func LogIn(ctx context.Context, browser *http.Client, start, username, password string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return nil, err
	}
	response, err := browser.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	page := make([]byte, 64<<10)
	n, _ := response.Body.Read(page)
	found := hidden.FindSubmatch(page[:n])
	if found == nil {
		return nil, fmt.Errorf("%s led to no login form: %s at %s: %s", start, response.Status, response.Request.URL, page[:n])
	}
	return post(ctx, browser, response.Request.URL.ResolveReference(&url.URL{Path: "/login/username"}).String(),
		url.Values{"id": {string(found[1])}, "username": {username}, "password": {password}})
}

// Confirm answers a device login at the provider: action is allow or deny.
func Confirm(ctx context.Context, browser *http.Client, page, userCode, username, password, action string) error {
	response, err := post(ctx, browser, page, url.Values{"user_code": {userCode}, "username": {username}, "password": {password}, "action": {action}})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the provider refused: %s", response.Status)
	}
	return nil
}

func post(ctx context.Context, browser *http.Client, target string, form url.Values) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return browser.Do(r)
}
