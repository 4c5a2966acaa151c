package ssh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/supernode/provision"
)

const (
	defaultPort = "22"
	defaultUser = "root"
	// forgottenAfter is how long a host is tried that is to be left and cannot
	// be reached.
	forgottenAfter = 7 * 24 * time.Hour
	maxAddress     = 255 // bytes, of a host's name (RFC 1035)
	maxUser        = 32  // bytes, of a user's name (useradd(8))
)

// Config is what a Provider is made of.
type Config struct {
	Meta Store
	// Key logs in on hosts.
	Key gossh.Signer
	// Program opens the agent's program. It is asked for each host.
	Program func() (*Program, error)
	// Supernodes are the URLs by which an agent reaches this supernode, given
	// the address by which its host sees us; nil when it does not know.
	Supernodes func(seen net.IP) ([]string, error)
	// Settings is the agent's configuration, YAML; empty for what suits the
	// host.
	Settings string
	// Dial opens a connection to a host; nil takes the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Root is put before every path on the host; for tests without a host of
	// their own. Empty otherwise.
	Root string
	Now  func() time.Time
	Log  *slog.Logger
}

// Provider adopts machines by SSH.
type Provider struct {
	cfg    Config
	ledger ledger

	mu   sync.Mutex
	keys map[string]*turn // guarded by mu
}

// turn is who may work on a machine: one call at a time.
type turn struct {
	free    chan struct{} // holds one value while nobody works
	waiting int           // guarded by Provider.mu
}

// New makes a provider.
func New(cfg Config) (*Provider, error) {
	if cfg.Meta == nil || cfg.Key == nil || cfg.Program == nil || cfg.Supernodes == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("provision/ssh: Meta, Key, Program, Supernodes, Now and Log are all needed")
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	return &Provider{cfg: cfg, ledger: ledger{cfg.Meta}, keys: map[string]*turn{}}, nil
}

// alone waits until no other call works on the machine with a key.
func (p *Provider) alone(ctx context.Context, key string) (release func(), err error) {
	p.mu.Lock()
	t := p.keys[key]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		t.free <- struct{}{}
		p.keys[key] = t
	}
	t.waiting++
	p.mu.Unlock()
	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(p.keys, key)
		}
	}
	select {
	case <-t.free:
		return func() { t.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// Create implements provision.Provider: it adopts the machine at the spec's
// address, or goes on with that.
func (p *Provider) Create(ctx context.Context, key string, spec provision.Spec) (provision.Machine, error) {
	none := provision.Machine{}
	if err := errors.Join(provision.CheckKey(key), provision.CheckKey(spec.Tag)); err != nil {
		return none, err
	}
	to, err := targetOf(spec.Address, spec.User, spec.HostKey)
	if err != nil {
		return none, fmt.Errorf("%w: %w", provision.ErrRefused, err)
	}
	release, err := p.alone(ctx, key)
	if err != nil {
		return none, fmt.Errorf("adopt %s: %w", to.address, err)
	}
	defer release()
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("adopt %s: %w", to.address, err)
	}
	e, err := p.begin(ctx, key, to, spec)
	if err != nil {
		return none, err
	}
	if e.State == provision.Running {
		return e.machine(), nil
	}
	if err := p.bootstrap(ctx, to, key, spec); err != nil {
		return none, err
	}
	if e, err = p.turnTo(ctx, key, provision.Running); err != nil {
		return none, err
	}
	return e.machine(), nil
}

// begin sees that the machine stands in the ledger before anything is done to
// it.
func (p *Provider) begin(ctx context.Context, key string, to target, spec provision.Spec) (*entry, error) {
	old, revision, err := p.ledger.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if old != nil {
		switch {
		case old.Tag != spec.Tag:
			return nil, fmt.Errorf("%w: the key %s is of the fleet %s", provision.ErrRefused, key, old.Tag)
		case old.State == provision.Ending:
			return nil, fmt.Errorf("%w: the machine is being given back; adopt it again when that is done", provision.ErrRefused)
		case old.State == provision.Running:
			return old, nil
		}
	}
	now := p.cfg.Now().UTC()
	e := &entry{
		Key: key, Tag: spec.Tag, Address: to.address, User: to.user, HostKey: spec.HostKey,
		State: provision.Partial, Created: now, Since: now,
	}
	if old != nil {
		e.Created = old.Created
	}
	return e, p.ledger.put(ctx, old, revision, e)
}

// turnTo puts the machine of a key into another state.
func (p *Provider) turnTo(ctx context.Context, key string, state provision.State) (*entry, error) {
	old, revision, err := p.ledger.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, fmt.Errorf("the ledger lost machine %s: %w", key, provision.ErrNoMachine)
	}
	if old.State == state {
		return old, nil
	}
	e := *old
	e.State, e.Since = state, p.cfg.Now().UTC()
	return &e, p.ledger.put(ctx, old, revision, &e)
}

// Get implements provision.Provider.
func (p *Provider) Get(ctx context.Context, id string) (provision.Machine, error) {
	none := provision.Machine{}
	if provision.CheckKey(id) != nil {
		return none, fmt.Errorf("machine %.80q: %w", id, provision.ErrNoMachine)
	}
	e, _, err := p.ledger.get(ctx, id)
	switch {
	case err != nil:
		return none, err
	case e == nil:
		return none, fmt.Errorf("machine %s: %w", id, provision.ErrNoMachine)
	}
	return e.machine(), nil
}

// List implements provision.Provider.
func (p *Provider) List(ctx context.Context, tag string) ([]provision.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	return p.ledger.all(ctx, tag)
}

// Delete implements provision.Provider: the agent is stopped and taken away,
// with what it kept; the machine stays.
func (p *Provider) Delete(ctx context.Context, id string) error {
	if provision.CheckKey(id) != nil {
		return nil // which no machine ever had
	}
	release, err := p.alone(ctx, id)
	if err != nil {
		return fmt.Errorf("give %s back: %w", id, err)
	}
	defer release()
	if e, _, err := p.ledger.get(ctx, id); err != nil || e == nil {
		return err
	}
	e, err := p.turnTo(ctx, id, provision.Ending)
	if err != nil {
		return err
	}
	if err := p.leave(ctx, e); err != nil {
		if waited := p.cfg.Now().Sub(e.Since); waited < forgottenAfter {
			return fmt.Errorf("give %s back: %w", e.Address, err)
		}
		p.cfg.Log.Warn("a host was to be given back and could not be reached; it is forgotten, and its agent, if it still runs, is a stranger", "address", e.Address, "machine", id, "error", err)
	}
	_, revision, err := p.ledger.get(ctx, id)
	if err != nil {
		return err
	}
	return p.ledger.remove(ctx, e, revision)
}

// targetOf checks what a spec says of a host, and completes it.
func targetOf(address, user, hostKey string) (target, error) {
	key, err := ParseHostKey(hostKey)
	if err != nil {
		return target{}, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || len(host) > maxAddress || err != nil || n == 0 || strings.ContainsFunc(host, notInHost) {
		return target{}, fmt.Errorf("the address %.80q is not HOST or HOST:PORT", address)
	}
	if user == "" {
		user = defaultUser
	}
	if len(user) > maxUser || strings.ContainsFunc(user, notInUser) {
		return target{}, fmt.Errorf("the user %.40q is not a name of 1 to %d letters, digits, dots, dashes and underscores", user, maxUser)
	}
	return target{address: net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(n, 10)), user: user, key: key}, nil
}

func notInUser(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
}

func notInHost(r rune) bool { return notInUser(r) && r != ':' && r != '%' }

// The places on a host.
func (p *Provider) place(elem ...string) string {
	return path.Join(append([]string{p.cfg.Root, "/"}, elem...)...)
}

func (p *Provider) etc() string     { return p.place("etc/shoal") }
func (p *Provider) data() string    { return p.place("var/lib/shoal/agent") }
func (p *Provider) program() string { return p.place("usr/local/bin/dfagent") }
func (p *Provider) pidFile() string { return p.place("run/dfagent.pid") }
func (p *Provider) logFile() string { return p.place("var/log/dfagent.log") }
