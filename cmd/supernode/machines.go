package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/settings"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/provision"
	"github.com/shoalproject/shoal/supernode/provision/ssh"
)

const (
	// joinWithin is how long the agent of a machine may take to join; a machine
	// that takes longer is given another token.
	joinWithin = time.Hour
	// sshParallel is how many hosts are bootstrapped at once.
	sshParallel = 16
	// maxAgentConfig bounds the agents' configuration, in bytes.
	maxAgentConfig = 64 << 10
)

// sshKeyFile is the name of the key for SSH among the keys.
const sshKeyFile = "ssh"

// openMachines makes what adopts machines by SSH and gives them back.
func (h *house) openMachines() error {
	path := h.config.SSHKey
	load := ssh.LoadKey
	if path == "" {
		path, load = h.config.path("keys", sshKeyFile), ssh.LoadOrCreateKey
	}
	key, err := load(path)
	if err != nil {
		return err
	}
	agentSettings := ""
	if h.config.AgentConfig != "" {
		raw, err := os.ReadFile(h.config.AgentConfig)
		if err == nil && len(raw) > maxAgentConfig {
			err = fmt.Errorf("%d bytes are more than the %d that are taken", len(raw), maxAgentConfig)
		}
		if err != nil {
			return fmt.Errorf("read --agent-config: %w", err)
		}
		agentSettings = string(raw)
	}
	provider, err := ssh.New(ssh.Config{
		Meta: h.meta, Key: key, Program: h.agentProgram, Supernodes: h.supernodeURLs, Settings: agentSettings, Now: time.Now, Log: h.log,
	})
	if err != nil {
		return err
	}
	h.machines, err = provision.New(provision.Config{
		Name: inventory.ProviderSSH, Provider: provider, Inventory: &managed{book: h.book, auth: h.auth, provider: inventory.ProviderSSH},
		Tag: h.fleetTag(), Parallel: sshParallel, Log: h.log, Metrics: h.metrics,
	})
	return err
}

// fleetTag marks the machines of this supernode's fleet.
func (h *house) fleetTag() string {
	sum := sha256.Sum256([]byte("shoal fleet v1\x00" + h.key.PeerID().String()))
	return "shoal-" + hex.EncodeToString(sum[:8])
}

// agentProgram is the agent that hosts get.
func (h *house) agentProgram() (*ssh.Program, error) {
	path := h.config.AgentBinary
	if path == "" {
		own, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find dfagent beside the supernode's own program: %w; name it with --agent-binary", err)
		}
		path = filepath.Join(filepath.Dir(own), "dfagent")
	}
	return ssh.OpenProgram(path)
}

// supernodeURLs are those by which a host that sees us at an address reaches
// us.
func (h *house) supernodeURLs(seen net.IP) ([]string, error) {
	_, port, err := net.SplitHostPort(h.config.Listen)
	if err != nil {
		return nil, fmt.Errorf("the supernode's own address: %w", err)
	}
	scheme := "https://"
	if h.tls == nil {
		scheme = "http://"
	}
	if h.config.loopback() && !seen.IsLoopback() {
		return nil, fmt.Errorf("%w: the supernode listens on %s, where no other host reaches it; start it with --listen :%s", provision.ErrRefused, h.config.Listen, port)
	}
	var out []string
	for _, name := range h.config.PublicNames {
		out = append(out, scheme+name)
	}
	if seen != nil {
		out = append(out, scheme+net.JoinHostPort(seen.String(), port))
	}
	return out, nil
}

// lookAtMachines has the machines looked at when a server may need one or may
// need it no more.
func (h *house) lookAtMachines(before, after inventory.Server) {
	if h.machines != nil && before.Phase != after.Phase && (after.Phase == inventory.Requested || after.Phase == inventory.Retired) {
		h.machines.Kick()
	}
}

// managed is the inventory as far as one provider makes its servers.
type managed struct {
	book     *inventory.Inventory
	auth     *auth.Auth
	provider string
}

// Managed implements provision.Inventory.
func (m *managed) Managed(ctx context.Context) (out []provision.Server, err error) {
	list, err := m.book.Servers(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.Provider != m.provider || s.Phase == inventory.Imported || s.Phase == inventory.Retired && s.Released {
			continue
		}
		out = append(out, provision.Server{
			ID: s.ID, Phase: provision.Phase(s.Phase), PhaseSince: s.PhaseSince, MachineID: s.ProviderID,
			Name: s.Name, Pool: s.Pool, HardwareClass: s.HardwareClass, Address: s.Address, User: s.User, HostKey: s.HostKey,
		})
	}
	return out, nil
}

// changed says in the reconciler's words that somebody else moved the server.
func changed(err error) error {
	if errors.Is(err, inventory.ErrPhase) || errors.Is(err, inventory.ErrNoServer) {
		return fmt.Errorf("%w: %w", provision.ErrChanged, err)
	}
	return err
}

// Intend implements provision.Inventory.
func (m *managed) Intend(ctx context.Context, id string) error {
	_, err := m.book.Move(ctx, id, []inventory.Phase{inventory.Requested, inventory.Provisioning}, inventory.Provisioning, "", "", nil)
	return changed(err)
}

// Made implements provision.Inventory.
func (m *managed) Made(ctx context.Context, id string, machine provision.Machine) error {
	_, err := m.book.Note(ctx, id, "its machine is "+machine.ID, func(s *inventory.Server) {
		s.ProviderID, s.Released = machine.ID, false
	})
	return changed(err)
}

// Gone implements provision.Inventory.
func (m *managed) Gone(ctx context.Context, id, machineID string) error {
	_, err := m.book.Note(ctx, id, "", func(s *inventory.Server) {
		if s.ProviderID == machineID && (s.Phase == inventory.Requested || s.Phase == inventory.Retired) {
			s.ProviderID, s.Released = "", s.Phase == inventory.Retired
		}
	})
	return changed(err)
}

// Fail implements provision.Inventory.
func (m *managed) Fail(ctx context.Context, id, at, reason string) error {
	_, err := m.book.Move(ctx, id, []inventory.Phase{
		inventory.Requested, inventory.Provisioning, inventory.Initialising, inventory.Ready, inventory.Draining,
	}, inventory.Failed, at, reason, nil)
	return changed(err)
}

// Note implements provision.Inventory.
func (m *managed) Note(ctx context.Context, id, line string) error {
	_, err := m.book.Note(ctx, id, line, nil)
	return changed(err)
}

// Join implements provision.Inventory.
func (m *managed) Join(ctx context.Context, id string) (string, error) {
	s, err := m.book.Server(ctx, id)
	if err != nil {
		return "", err
	}
	token, _, err := m.auth.CreateServerJoin(ctx, joinWithin, s.Pool, id)
	return token, err
}

func sshKeyCommand() *cobra.Command {
	var data, file string
	cmd := &cobra.Command{
		Use:   "ssh-key",
		Short: "Print the public key by which the supernode logs in on hosts",
		Long: `Print the public key by which the supernode logs in on hosts that are adopted,
as a line for authorized_keys of the user that it logs in as. Whoever is admin
of a pool may adopt any host that lets this key in.`,
		Example: "  supernode ssh-key --data /var/lib/shoal >>authorized_keys",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file = filepath.Join(data, "keys", sshKeyFile)
			}
			key, err := ssh.LoadKey(file)
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w; the first 'supernode serve' makes it: name its folder with --data", err)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), ssh.AuthorizedKey(key, "shoal-supernode"))
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&file, "ssh-key", "", "private key, where the supernode was given one of its own")
	return cmd
}
