package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/e2e/metal"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// bareProfile are the settings by which the profile "host" fits a machine
// without a network to install from, whose kernel and clock are this one's.
var bareProfile = map[string]string{
	"time.skip": "yes", "ca.skip": "yes", "runtime.skip": "yes", "mirror.engine": "containerd",
	"disk./": "size=1MB", "disk.data": "free=1kB", "limits.nofile": "65536",
	"sysctl.fs.inotify.max_user_instances": "", "sysctl.fs.inotify.max_user_watches": "", "sysctl.vm.max_map_count": "",
	"sysctl.net.core.somaxconn": "4321",
}

// TestAdoptedMetalIsInitialised brings a bare machine to a ready server by a
// profile, with the real programs; what is changed by hand is found, shown and
// put right when somebody asks for that.
func TestAdoptedMetalIsInitialised(t *testing.T) {
	h := buildAdopting(t)
	administrator, key := sshKey(t)
	settings := map[string]string{"ssh-keys.keys": key}
	for name, value := range bareProfile {
		settings[name] = value
	}
	profile := "host"
	if _, err := h.inventory.SetPool(h.ctx, connect.NewRequest(&shoalv1.SetPoolRequest{
		Name: "metal", Profile: &profile, SetProfileSettings: true, ProfileSettings: settings,
	})); err != nil {
		t.Fatal(err)
	}
	m := h.machine("metal1")
	h.adopt("metal1", m.Address, m.HostKey)
	server := h.reaches("metal1", "ready")
	if got := states(server.Steps); got != "disk=OK sysctl=CHANGED limits=CHANGED mirror=CHANGED ssh-keys=CHANGED agent=OK" {
		t.Errorf("its steps are %s", got)
	}
	for file, want := range map[string]string{
		"/proc/sys/net/core/somaxconn":                "4321",
		"/etc/sysctl.d/60-shoal.conf":                 "net.core.somaxconn = 4321",
		"/etc/security/limits.d/60-shoal.conf":        "* - nofile 65536",
		"/etc/containerd/certs.d/_default/hosts.toml": "http://127.0.0.1:65001",
		"/root/.ssh/authorized_keys":                  strings.TrimSpace(h.key), // the supernode's way in stays
	} {
		if got, err := m.Run(h.ctx, "cat", file); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s holds %q, %v; want %q", file, got, err, want)
		}
	}
	h.logsIn(m, administrator)

	// A drift, by hand.
	if _, err := m.Run(h.ctx, "sh", "-c", "echo 128 >/proc/sys/net/core/somaxconn"); err != nil {
		t.Fatal(err)
	}
	if got, failure := h.initialise("metal1", true); failure != "" || !strings.Contains(got, "sysctl=WOULD_CHANGE limits=OK mirror=OK") {
		t.Errorf("the drift is shown as %s %s", got, failure)
	}
	if server := h.reaches("metal1", "ready"); !strings.Contains(states(server.Steps), "sysctl=WOULD_CHANGE") {
		t.Errorf("the drift is kept as %s", states(server.Steps))
	}
	if got, failure := h.initialise("metal1", false); failure != "" || !strings.Contains(got, "sysctl=CHANGED limits=OK mirror=OK") {
		t.Errorf("the drift is put right as %s %s", got, failure)
	}
	if got, err := m.Run(h.ctx, "cat", "/proc/sys/net/core/somaxconn"); err != nil || strings.TrimSpace(got) != "4321" {
		t.Errorf("the kernel has %q, %v", got, err)
	}

	// Somebody else's file is not overwritten, and ends the run.
	if _, err := m.Run(h.ctx, "sh", "-c", "echo '* - nofile 7' >/etc/security/limits.d/60-shoal.conf"); err != nil {
		t.Fatal(err)
	}
	got, failure := h.initialise("metal1", false)
	if got != "disk=OK sysctl=OK limits=FAILED mirror=WAITING ssh-keys=WAITING agent=WAITING" || !strings.Contains(failure, "somebody else") {
		t.Errorf("a file in the way: %s %s", got, failure)
	}
}

func sshKey(t *testing.T) (gossh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(gossh.MarshalAuthorizedKey(signer.PublicKey()))
}

// logsIn sees that the machine's SSH server takes a key.
func (h *adopting) logsIn(m *metal.Machine, key gossh.Signer) {
	h.t.Helper()
	conn, err := m.Host.DialContext(h.ctx, "tcp", m.Address)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	client, _, _, err := gossh.NewClientConn(conn, m.Address, &gossh.ClientConfig{
		User: "root", Auth: []gossh.AuthMethod{gossh.PublicKeys(key)},
		HostKeyCallback: gossh.InsecureIgnoreHostKey(), // the machine is the test's own
	})
	if err != nil {
		h.t.Errorf("an administrator of the profile cannot log in: %v", err)
		return
	}
	client.Close()
}

// initialise has a server carry out its profile and returns how its steps
// ended.
func (h *adopting) initialise(server string, dryRun bool) (steps, failure string) {
	h.t.Helper()
	stream, err := h.inventory.InitialiseServer(h.ctx, connect.NewRequest(&shoalv1.InitialiseServerRequest{Id: server, DryRun: dryRun}))
	if err != nil {
		h.t.Fatal(err)
	}
	defer stream.Close()
	var last *shoalv1.InitialiseServerUpdate
	for stream.Receive() {
		last = stream.Msg()
	}
	if err := stream.Err(); err != nil || !last.GetDone() {
		h.t.Fatalf("initialise %s: %v, %v", server, last, err)
	}
	return states(last.Steps), last.Error
}

func states(steps []*shoalv1.StepStatus) string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Name+"="+s.State.String())
	}
	return strings.Join(out, " ")
}
