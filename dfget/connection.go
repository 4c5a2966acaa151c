package dfget

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	dockerconfig "github.com/docker/cli/cli/config"

	"github.com/shoalproject/shoal/pkg/control"
	"github.com/shoalproject/shoal/pkg/durable"
	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// agentPlaces is where an agent's socket is looked for, in this order.
var agentPlaces = []string{"shoal-agent/agent.sock", "/var/lib/shoal/agent/agent.sock"}

// remembered is what a login leaves for later commands, without secrets:
// those stay where Docker keeps them.
type remembered struct {
	Supernode string `json:"supernode"`
	CAFile    string `json:"ca_file,omitempty"`
}

func rememberedPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for settings: %w", err)
	}
	return filepath.Join(dir, "shoal", "dfget.json"), nil
}

func (r remembered) save() error {
	path, err := rememberedPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(raw, '\n'), 0o600)
}

func loadRemembered() (r remembered, err error) {
	path, err := rememberedPath()
	if err != nil {
		return r, err
	}
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("read %s: %w; log in again to write it anew", path, err)
	}
	return r, nil
}

// supernodeURL is the supernode to speak to: the flag, else the last login.
func (a *app) supernodeURL() (*url.URL, error) {
	raw, ca := a.supernode, a.caFile
	if raw == "" {
		last, err := loadRemembered()
		if err != nil {
			return nil, err
		}
		raw = last.Supernode
		if ca == "" {
			ca = last.CAFile
		}
	}
	if raw == "" {
		return nil, fmt.Errorf("%w: no supernode is known; name one with --supernode URL or 'dfget login URL'", settings.ErrUsage)
	}
	a.caFile = ca
	return parseSupernode(raw)
}

// parseSupernode takes a URL or a bare host:port. Plain HTTP is meant only
// for loopback, where the supernode listens without TLS.
func parseSupernode(raw string) (*url.URL, error) {
	if !strings.Contains(raw, "://") {
		host, _, err := net.SplitHostPort(raw)
		if err != nil {
			host = raw
		}
		scheme := "https"
		if settings.Loopback(host) {
			scheme = "http"
		}
		raw = scheme + "://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", settings.ErrUsage, err)
	}
	if u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("%w: %q is not the URL of a supernode, such as https://registry.example.com:8001", settings.ErrUsage, raw)
	}
	if u.Scheme == "http" && !settings.Loopback(u.Hostname()) {
		return nil, fmt.Errorf("%w: %s would send a password in the clear; use https, plain http is for loopback only", settings.ErrUsage, raw)
	}
	u.Path = ""
	return u, nil
}

// supernodeHTTP is a client that trusts the system and the CA that was named.
func (a *app) supernodeHTTP() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if a.caFile != "" {
		pem, err := os.ReadFile(a.caFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate authority: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s holds no PEM certificate", settings.ErrUsage, a.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport}, nil
}

// api is how to reach the supernode's services with this person's login.
func (a *app) api() (client *http.Client, base string, err error) {
	u, err := a.supernodeURL()
	if err != nil {
		return nil, "", err
	}
	if client, err = a.supernodeHTTP(); err != nil {
		return nil, "", err
	}
	creds, err := credentialsFor(u.Host)
	if err != nil {
		return nil, "", err
	}
	if creds == (credentials{}) {
		return nil, "", fmt.Errorf("%w: nobody is logged in to %s; use 'dfget login %s'", errDenied, u.Host, u)
	}
	client.Transport = creds.over(client.Transport, u.String())
	return client, u.String() + "/api", nil
}

// admin is the administrator's API.
func (a *app) admin() (shoalv1connect.AdminServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewAdminServiceClient(client, base), nil
}

// projects is the API of projects, members and robots.
func (a *app) projects() (shoalv1connect.ProjectServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewProjectServiceClient(client, base), nil
}

// users is the API of users.
func (a *app) users() (shoalv1connect.UserServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewUserServiceClient(client, base), nil
}

// audits is the API of the audit.
func (a *app) audits() (shoalv1connect.AuditServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewAuditServiceClient(client, base), nil
}

// sessions is the API of sessions.
func (a *app) sessions() (shoalv1connect.SessionServiceClient, error) {
	client, base, err := a.api()
	if err != nil {
		return nil, err
	}
	return shoalv1connect.NewSessionServiceClient(client, base), nil
}

// credentials are a user with a password, or a refresh token (which Docker
// calls an identity token) and perhaps whose it is.
type credentials struct{ user, password, identity string }

// over is a transport that sends the credentials to the supernode at base.
func (c credentials) over(next http.RoundTripper, base string) http.RoundTripper {
	if c.identity != "" {
		return &identityAuth{identity: c.identity, base: base, next: next}
	}
	return basicAuth{creds: c, next: next}
}

// credentialsFor reads what Docker's own configuration and helpers hold.
func credentialsFor(host string) (credentials, error) {
	file, err := dockerconfig.Load("")
	if err != nil {
		return credentials{}, fmt.Errorf("read Docker's configuration: %w", err)
	}
	auth, err := file.GetAuthConfig(host)
	if err != nil {
		return credentials{}, fmt.Errorf("read the credentials for %s: %w", host, err)
	}
	return credentials{auth.Username, auth.Password, auth.IdentityToken}, nil
}

type basicAuth struct {
	creds credentials
	next  http.RoundTripper
}

func (b basicAuth) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(b.creds.user, b.creds.password)
	return b.next.RoundTrip(r)
}

// agentClient speaks to the agent on this host over its socket.
func (a *app) agentClient() (shoalv1connect.AgentServiceClient, error) {
	path := a.agent
	if path == "" {
		for _, place := range agentPlaces {
			if _, err := os.Stat(place); err == nil {
				path = place
				break
			}
		}
	}
	if path == "" {
		return nil, fmt.Errorf("no agent was found on this host (looked for %s); start 'dfagent serve', or name its socket with --agent", strings.Join(agentPlaces, ", "))
	}
	return shoalv1connect.NewAgentServiceClient(control.Socket(path), "http://agent"), nil
}

// agentStatus asks the agent who it is; that also tells its mirror's address.
func (a *app) agentStatus(ctx context.Context) (*shoalv1.StatusResponse, error) {
	client, err := a.agentClient()
	if err != nil {
		return nil, err
	}
	status, err := client.Status(ctx, connect.NewRequest(&shoalv1.StatusRequest{}))
	if err != nil {
		return nil, fmt.Errorf("ask the agent on this host: %w; is 'dfagent serve' running?", err)
	}
	return status.Msg, nil
}

// ociMessage picks the message out of an OCI error body, else gives the text.
func ociMessage(body []byte) string {
	var parsed struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &parsed) == nil && len(parsed.Errors) > 0 {
		return parsed.Errors[0].Code + ": " + parsed.Errors[0].Message
	}
	return strings.TrimSpace(string(body))
}
