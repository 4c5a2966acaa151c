package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/settings"
	"github.com/shoalproject/shoal/supernode/auth/openid"
)

// config is every setting of the supernode; its help tags are the manual that
// `supernode config print` shows.
type config struct {
	Data          string                    `yaml:"data" help:"Folder for everything the supernode keeps."`
	Listen        string                    `yaml:"listen" help:"Registry, tokens, API and console. TLS is on unless this is a loopback address."`
	SwarmListen   string                    `yaml:"swarm-listen" help:"Pieces and the members' API, mutual TLS."`
	P2PListen     string                    `yaml:"p2p-listen" help:"libp2p, for finding neighbours when no supernode answers."`
	MetricsListen string                    `yaml:"metrics-listen" help:"/metrics and /debug/pprof; open on loopback only."`
	MetricsToken  string                    `yaml:"metrics-token-file" help:"File with the bearer token that metrics-listen asks for off loopback."`
	PublicNames   []string                  `yaml:"public-name" help:"HOST[:PORT] by which clients know this supernode; taken as ns= too. The listen address counts by itself."`
	TLSCert       string                    `yaml:"tls-cert" help:"PEM certificate chain for listen, instead of the supernode's own authority."`
	TLSKey        string                    `yaml:"tls-key" help:"PEM key of tls-cert."`
	IDC           string                    `yaml:"idc" help:"Name of this data centre."`
	AdminPassword string                    `yaml:"admin-password-file" help:"File with the password of the user admin, instead of a one-time one in DATA/first-login."`
	CacheSize     settings.Size             `yaml:"cache-size" help:"How much to keep of what came from upstream registries."`
	UploadSlots   int                       `yaml:"upload-slots" help:"How many pieces are sent at once."`
	UploadLimit   settings.Rate             `yaml:"upload-limit" help:"Limit of what is sent to the swarm; 0 is none."`
	OfflineGrace  time.Duration             `yaml:"offline-grace" help:"How long agents may act on what they last heard while no supernode answers; 0 switches that off."`
	GCEvery       time.Duration             `yaml:"gc-every" help:"How often what nothing refers to is removed; 0 leaves it to 'supernode gc'."`
	AuditKeep     time.Duration             `yaml:"audit-keep" help:"How long the audit's rows are kept, by whole days; 0 is for ever."`
	AuditSize     settings.Size             `yaml:"audit-size" help:"How much room the audit's rows may take; the oldest go first. 0 is no limit."`
	SSHKey        string                    `yaml:"ssh-key" help:"Private key by which the supernode logs in on hosts that are adopted, instead of its own in DATA/keys/ssh; 'supernode ssh-key' prints the public half."`
	AgentBinary   string                    `yaml:"agent-binary" help:"Program dfagent that adopted hosts get; empty takes the one beside the supernode's own."`
	AgentConfig   string                    `yaml:"agent-config" help:"YAML file with dfagent's settings for adopted hosts; empty names containerd, or Docker where that alone is found."`
	Upstreams     map[string]upstreamConfig `yaml:"upstreams" help:"file: Registries that are pulled through and cached, by the name that stands in image references.\nAn empty entry takes the well-known address of that name:\n  docker.io: {}\n  registry.example.com: {url: \"https://…\", username: …, password_file: …, projects: [demo], ca_file: …}\nA login here opens all that it may read to system administrators and to the members, robots and\nhosts of pools of the projects named beside it. Everybody else logs in with an account of that registry.\nPlain HTTP and private addresses are taken only when named here by url."`
	OIDC          oidcConfig                `yaml:"oidc" help:"file: Login of people at an OpenID Connect provider, beside users of our own; off without an issuer.\n  oidc: {issuer: \"https://login.example.com\", client_id: shoal, client_secret_file: /etc/shoal/oidc-secret}\nscopes are asked for besides openid; add the one that gives groups_claim, where the provider has one.\nRegister there, as the client's redirect address, URL/login/oidc/callback for each URL under which\nthe console is opened, and allow the device grant for 'dfget login --oidc'.\nWho logs in first becomes a user without rights, named by username_claim and bound to issuer and\nsubject; a name that another user has is refused. Everybody whom the provider lets in may log in.\nadmin_group makes the members of that group system administrators, as of each login: all others\nwho log in there are none. ca_file replaces the system's certificate authorities."`
}

// upstreamConfig is one registry outside.
type upstreamConfig struct {
	URL          string `yaml:"url,omitempty"`
	Username     string `yaml:"username,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty"`
	// Projects are those whose members, robots and pools may read with this
	// login; nobody else but the system administrators may.
	Projects   []string `yaml:"projects,omitempty"`
	CAFile     string   `yaml:"ca_file,omitempty"`
	TokenHosts []string `yaml:"token_hosts,omitempty"`
	// RedirectHosts are private hosts that blobs may be redirected to.
	RedirectHosts []string `yaml:"redirect_hosts,omitempty"`
}

// oidcConfig is the provider at which people log in.
type oidcConfig struct {
	Issuer           string   `yaml:"issuer"`
	ClientID         string   `yaml:"client_id"`
	ClientSecretFile string   `yaml:"client_secret_file"`
	CAFile           string   `yaml:"ca_file"`
	Scopes           []string `yaml:"scopes"`
	UsernameClaim    string   `yaml:"username_claim"`
	GroupsClaim      string   `yaml:"groups_claim"`
	AdminGroup       string   `yaml:"admin_group"`
}

// provider is nil when none is configured. It is not spoken to yet.
func (c oidcConfig) provider() (*openid.Provider, error) {
	if c.Issuer == "" {
		return nil, nil
	}
	out := openid.Config{
		Issuer: c.Issuer, ClientID: c.ClientID, Scopes: c.Scopes, Now: time.Now,
		UsernameClaim: c.UsernameClaim, GroupsClaim: c.GroupsClaim, AdminGroup: c.AdminGroup,
	}
	var err error
	if c.ClientSecretFile != "" { // a public client has none
		if out.ClientSecret, err = secret(c.ClientSecretFile); err != nil {
			return nil, fmt.Errorf("oidc.client_secret_file: %w", err)
		}
	}
	if c.CAFile != "" {
		if out.CA, err = os.ReadFile(c.CAFile); err != nil {
			return nil, fmt.Errorf("oidc.ca_file: %w", err)
		}
	}
	p, err := openid.New(out)
	if err != nil {
		return nil, fmt.Errorf("oidc: %w", err)
	}
	return p, nil
}

func defaults() config {
	return config{
		Data:          "shoal-data",
		Listen:        ":8001",
		SwarmListen:   ":8002",
		P2PListen:     ":8003",
		MetricsListen: "127.0.0.1:9090",
		IDC:           "default",
		CacheSize:     50e9,
		UploadSlots:   8,
		OfflineGrace:  time.Hour,
		GCEvery:       6 * time.Hour,
		AuditKeep:     365 * 24 * time.Hour,
		AuditSize:     10e9,
		OIDC:          oidcConfig{Scopes: []string{"profile", "email"}, UsernameClaim: "preferred_username", GroupsClaim: "groups"},
	}
}

func (c *config) check() error {
	for flag, addr := range map[string]string{"listen": c.Listen, "swarm-listen": c.SwarmListen, "p2p-listen": c.P2PListen} {
		if _, err := settings.Listen(flag, addr); err != nil {
			return err
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key go together")
	}
	loopback, err := settings.Listen("metrics-listen", c.MetricsListen)
	if err != nil {
		return err
	}
	if !loopback && c.MetricsToken == "" {
		return fmt.Errorf("--metrics-listen %s is not loopback: name a file with a bearer token by --metrics-token-file", c.MetricsListen)
	}
	if c.UploadSlots < 1 {
		return fmt.Errorf("--upload-slots %d: at least one is needed", c.UploadSlots)
	}
	if c.OIDC.Issuer == "" && c.OIDC.ClientID != "" {
		return errors.New("oidc.client_id is set and oidc.issuer is not: name the provider too")
	}
	if c.IDC == "" {
		return errors.New("--idc must not be empty")
	}
	return nil
}

// loopback reports whether the registry is reached from this host alone.
func (c *config) loopback() bool {
	loopback, err := settings.Listen("listen", c.Listen)
	return loopback && err == nil
}

// names are those by which clients may call this supernode: HOST and
// HOST:PORT.
func (c *config) names() []string {
	names := append([]string(nil), c.PublicNames...)
	host, port, _ := net.SplitHostPort(c.Listen)
	if c.loopback() {
		return append(names, net.JoinHostPort(host, port), net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("localhost", port))
	}
	hosts := []string{host}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		hosts = hostAddresses()
	}
	for _, h := range hosts {
		names = append(names, net.JoinHostPort(h, port))
	}
	return names
}

// hostAddresses are what a supernode that listens everywhere can be called.
func hostAddresses() []string {
	out := []string{"localhost"}
	if name, err := os.Hostname(); err == nil {
		out = append(out, name)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// secret reads a one-line file such as a password or a token.
func secret(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	s := strings.TrimRight(string(raw), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return s, nil
}

func (c *config) path(elem ...string) string {
	return filepath.Join(append([]string{c.Data}, elem...)...)
}
