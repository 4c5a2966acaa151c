package profile

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHPJEaxf8Y1AnD8pMi/er8EshP+E3RKGt9mrVzSvNEWd ann@example.com"

// place is a folder that stands for a host.
type place struct {
	*Host
	t *testing.T
	// calls is where the programs of the folder write down how they were called.
	calls string
}

func newPlace(t *testing.T, files map[string]string) *place {
	t.Helper()
	root, err := os.MkdirTemp("", "host") // short, since sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	p := &place{t: t, calls: filepath.Join(root, "calls"), Host: &Host{Root: root, Data: root, unrooted: true,
		Authority: func(context.Context) ([]byte, error) { return nil, nil },
		Clock:     func() (Clock, error) { return Clock{Synchronised: true}, nil },
		Agent:     Agent{Executable: "/bin/sh", Args: []string{"serve"}, Folder: "/", Member: func() error { return nil }},
	}}
	for name, content := range files {
		p.put(name, content)
	}
	return p
}

func (p *place) put(name, content string) {
	p.t.Helper()
	full := p.path(name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// program puts a program there that notes each call and then runs script.
func (p *place) program(name, script string) {
	p.t.Helper()
	full := p.path(name)
	p.put(name, fmt.Sprintf("#!/bin/sh\nroot='%s'\necho \"${0##*/} $*\" >>'%s'\n%s\n", p.Root, p.calls, script))
	if err := os.Chmod(full, 0o755); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) get(name string) string {
	p.t.Helper()
	raw, err := os.ReadFile(p.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}

func (p *place) called() string { return strings.TrimSuffix(p.get("/calls"), "\n") }

// step runs one step of a kind and wants it to end in a state.
func (p *place) step(kind string, want shoalv1.StepStatus_State, settings ...string) *shoalv1.StepStatus {
	p.t.Helper()
	return p.run(kind, false, want, settings...)
}

// dry is step without a change.
func (p *place) dry(kind string, want shoalv1.StepStatus_State, settings ...string) *shoalv1.StepStatus {
	p.t.Helper()
	return p.run(kind, true, want, settings...)
}

func (p *place) run(kind string, dry bool, want shoalv1.StepStatus_State, settings ...string) *shoalv1.StepStatus {
	p.t.Helper()
	s := &shoalv1.Step{Name: "step", Kind: kind, Version: 1, Settings: map[string]string{}}
	for i := 0; i < len(settings); i += 2 {
		s.Settings[settings[i]] = settings[i+1]
	}
	steps, err := Plan(&shoalv1.Profile{Steps: []*shoalv1.Step{s}}, p.Host)
	if err != nil {
		p.t.Fatal(err)
	}
	got, err := Run(p.t.Context(), steps, Options{DryRun: dry, Memory: notes{}, Now: now})
	if err != nil {
		p.t.Fatal(err)
	}
	if got[0].State != want {
		p.t.Fatalf("%s ended as %v, want %v: %s %s", kind, got[0].State, want, got[0].Error, got[0].Output)
	}
	return got[0]
}

func (p *place) says(s *shoalv1.StepStatus, words ...string) {
	p.t.Helper()
	for _, w := range words {
		if !strings.Contains(s.Output+"\n"+s.Error, w) {
			p.t.Errorf("nothing is said of %q:\n%s\n%s", w, s.Output, s.Error)
		}
	}
}

func TestSysctlStep(t *testing.T) {
	p := newPlace(t, map[string]string{
		"/proc/sys/net/core/somaxconn":              "128\n",
		"/proc/sys/net/ipv4/conf/eth0.1/forwarding": "0\n",
		"/proc/sys/net/ipv4/ip_local_port_range":    "1024\t60999\n",
	})
	settings := []string{"net.core.somaxconn", "4096", "net.ipv4.conf.eth0/1.forwarding", "1", "net.ipv4.ip_local_port_range", "1024 60999"}
	p.says(p.dry(kindSysctl, would, settings...), "somaxconn is 128, is to be 4096")
	if got := p.get(sysctlFile); got != "(none)" {
		t.Errorf("a dry run wrote %s", got)
	}
	p.step(kindSysctl, changed, settings...)
	p.step(kindSysctl, ok, settings...)
	if got := p.get("/proc/sys/net/core/somaxconn"); got != "4096\n" {
		t.Errorf("the kernel has %q", got)
	}
	if got := p.get("/proc/sys/net/ipv4/ip_local_port_range"); got != "1024\t60999\n" {
		t.Errorf("what was right was written again: %q", got)
	}
	want := marker + "net.core.somaxconn = 4096\nnet.ipv4.conf.eth0/1.forwarding = 1\nnet.ipv4.ip_local_port_range = 1024 60999\n"
	if got := p.get(sysctlFile); got != want {
		t.Errorf("the file holds %q", got)
	}
	// Drift: by hand in the kernel, by hand in the file.
	p.put("/proc/sys/net/core/somaxconn", "5\n")
	p.says(p.dry(kindSysctl, would, settings...), "somaxconn is 5")
	p.step(kindSysctl, changed, settings...)
	p.put(sysctlFile, marker)
	p.dry(kindSysctl, would, settings...)
	p.says(p.step(kindSysctl, fails, "vm.no_such_thing", "1"), "no_such_thing", "module")
	p.put(sysctlFile, "vm.swappiness = 1\n")
	p.says(p.step(kindSysctl, fails, settings...), "somebody else")
	if got := p.get(sysctlFile); got != "vm.swappiness = 1\n" {
		t.Errorf("somebody else's file became %q", got)
	}
}

func TestLimitsStep(t *testing.T) {
	p := newPlace(t, nil)
	p.step(kindLimits, ok) // nothing is asked for
	p.says(p.dry(kindLimits, would, "nofile", "65536"), limitsFile, "* - nofile 65536")
	p.step(kindLimits, changed, "nofile", "65536", "memlock", "unlimited")
	if got, want := p.get(limitsFile), marker+"* - memlock unlimited\nroot - memlock unlimited\n* - nofile 65536\nroot - nofile 65536\n"; got != want {
		t.Errorf("the limits are %q", got)
	}
	if got := p.get(systemdFile); got != "(none)" {
		t.Errorf("without systemd there is %q", got)
	}
	p.put("/run/systemd/system/x", "")
	p.program("/usr/bin/systemctl", "")
	p.step(kindLimits, changed, "nofile", "65536", "core", "0", "memlock", "unlimited")
	if got, want := p.get(systemdFile), marker+"[Manager]\nDefaultLimitCORE=0K\nDefaultLimitMEMLOCK=infinity\nDefaultLimitNOFILE=65536\n"; got != want {
		t.Errorf("systemd's are %q", got)
	}
	if got := p.called(); got != "systemctl daemon-reexec" {
		t.Errorf("called: %s", got)
	}
	p.step(kindLimits, ok, "nofile", "65536", "core", "0", "memlock", "unlimited")
}

func TestDiskStep(t *testing.T) {
	p := newPlace(t, map[string]string{"/proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" +
		"23 22 8:2 / /var rw shared:2 - xfs /dev/sdb rw\n24 23 8:3 / /var/my\\040data rw - ext4 /dev/sdc rw\nnonsense\n",
		"/var/my data/x": "", "/var/lib/x": ""})
	p.says(p.step(kindDisk, ok, "/var", "mount fs=xfs|btrfs free=1 size=1kB", "data", "free=1"), "xfs mounted at /var")
	p.step(kindDisk, ok, "/var/my data", "mount fs=ext4")
	p.says(p.step(kindDisk, fails, "/var/lib", "mount"), "no mount point", "by hand")
	p.says(p.step(kindDisk, fails, "/var/lib", "fs=ext4"), "it is xfs, which is not ext4")
	p.says(p.dry(kindDisk, would, "/", "size=9000TB"), "less than 9000000.0 GB")
	p.says(p.dry(kindDisk, would, "data", "free=9000TB"), "are free")
	p.says(p.step(kindDisk, fails, "/nowhere", "free=1"), "/nowhere")
}

func TestTimeStep(t *testing.T) {
	clock := Clock{}
	p := newPlace(t, nil)
	p.Clock = func() (Clock, error) { return clock, nil }
	p.says(p.dry(kindTime, would), "nothing synchronises")
	p.says(p.step(kindTime, fails), "install chrony")
	p.program("/usr/bin/dpkg", "")
	p.program("/usr/bin/apt-get", `case "$*" in *install*) echo '#!/bin/sh' >"$root/usr/sbin/chronyd"; /bin/chmod +x "$root/usr/sbin/chronyd";; esac`)
	p.put("/usr/sbin/x", "")
	p.says(p.step(kindTime, fails, "install", "apt"), "systemd does not run this host")
	p.put("/run/systemd/system/x", "")
	p.program("/usr/bin/systemctl", "")
	p.Clock = func() (Clock, error) { return Clock{Synchronised: strings.Contains(p.called(), "systemctl")}, nil }
	p.step(kindTime, changed, "install", "apt")
	if got := p.called(); !strings.HasSuffix(got, "install chrony\nsystemctl enable --now chrony") {
		t.Errorf("called: %s", got)
	}
	clock = Clock{Synchronised: true, Off: -3 * time.Minute}
	p.Clock = func() (Clock, error) { return clock, nil }
	p.says(p.dry(kindTime, would), "-3m0s")
	clock.Off = 59 * time.Second
	p.step(kindTime, ok)
}

func TestRuntimeStep(t *testing.T) {
	p := newPlace(t, nil)
	p.says(p.dry(kindRuntime, would), "containerd and runc: not installed")
	p.says(p.step(kindRuntime, fails), "install containerd and runc")
	p.says(p.step(kindRuntime, fails, "install", "apt"), "no apt-get")
	p.program("/usr/bin/dpkg", "")
	p.program("/usr/bin/apt-get", "echo 'E: no network'; exit 100")
	p.says(p.step(kindRuntime, fails, "install", "apt"), "E: no network", "exit status 100")
	p.program("/usr/bin/apt-get", `case "$*" in *install*)
for one in containerd runc; do
printf '#!/bin/sh\necho containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1\n' >"$root/usr/bin/$one"; /bin/chmod +x "$root/usr/bin/$one"
done;; esac`)
	p.says(p.step(kindRuntime, fails, "install", "apt"), "start containerd")
	p.put("/run/systemd/system/x", "")
	p.put("/run/containerd/x", "")
	p.program("/usr/bin/systemctl", "")
	p.says(p.step(kindRuntime, fails), "does not hold yet") // started, and nobody answers
	l, err := net.Listen("unix", p.path("/run/containerd/containerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p.says(p.step(kindRuntime, ok, "min-version", "1.6"), "1.6.20~ds1", "answers on")
	p.says(p.step(kindRuntime, fails, "min-version", "2"), "older", "by hand")
	p.program("/usr/bin/containerd", "echo something")
	p.says(p.step(kindRuntime, fails), "does not say which version")
	p.Sockets = map[string]string{"containerd": "/nowhere.sock"}
	p.program("/usr/bin/containerd", "echo v2.4.2")
	p.says(p.dry(kindRuntime, would), "/nowhere.sock")
}

func TestVersions(t *testing.T) {
	for said, want := range map[string]string{
		"containerd github.com/containerd/containerd/v2 v2.4.2 abc": "[2 4 2]",
		"Docker version 20.10.24+dfsg1, build 297e128":              "[20 10 24]",
		"1.6": "[1 6]", "nothing": "[]", "x1.2": "[]",
	} {
		if got := fmt.Sprint(parseVersion(said)); got != want {
			t.Errorf("%q: %s, want %s", said, got, want)
		}
	}
	for _, c := range []struct {
		a, b  string
		older bool
	}{{"1.6", "1.6.0", false}, {"1.6.20", "1.10", true}, {"2", "1.9.9", false}, {"1.6", "1.6.1", true}} {
		if older(parseVersion(c.a), parseVersion(c.b)) != c.older {
			t.Errorf("%s older than %s: want %v", c.a, c.b, c.older)
		}
	}
}

func TestMirrorStep(t *testing.T) {
	p := newPlace(t, map[string]string{"/run/systemd/system/x": ""})
	planned := map[string]MirrorPlan{}
	p.Mirror = func(engine string) (MirrorPlan, error) {
		plan, known := planned[engine]
		if !known {
			return plan, errors.New("not ours to change")
		}
		plan.Apply = func() error { planned[engine] = MirrorPlan{}; return nil }
		return plan, nil
	}
	p.says(p.step(kindMirror, fails), "runtime step")
	p.program("/usr/bin/systemctl", "")
	p.program("/usr/bin/containerd", "")
	p.says(p.step(kindMirror, fails), "not ours to change")
	hosts := MirrorPlan{Diff: "+hosts", Files: []string{"/etc/containerd/certs.d/_default/hosts.toml"}, Notes: []string{"a note"}}
	planned["containerd"] = hosts
	p.says(p.dry(kindMirror, would), "+hosts")
	p.says(p.step(kindMirror, changed, "restart", "yes"), "a note")
	if got := p.called(); got != "(none)" {
		t.Errorf("for hosts.toml alone it called %s", got)
	}
	p.step(kindMirror, ok)
	hosts.Files = append(hosts.Files, "/etc/containerd/config.toml")
	planned["containerd"] = hosts
	p.says(p.step(kindMirror, changed), "restart containerd for it")
	planned["containerd"] = hosts
	p.step(kindMirror, changed, "restart", "yes")
	p.program("/usr/sbin/dockerd", "")
	planned["docker"] = MirrorPlan{Diff: "+daemon", Files: []string{"/etc/docker/daemon.json"}}
	planned["containerd"] = hosts // Docker's own: it is left alone
	p.step(kindMirror, changed, "restart", "yes")
	if got := p.called(); got != "systemctl restart containerd\nsystemctl reload docker" {
		t.Errorf("called: %s", got)
	}
	p.Sockets = map[string]string{"containerd": "/x.sock"}
	p.says(p.dry(kindMirror, would), "+hosts", "docker is configured")
}

func TestAgentStep(t *testing.T) {
	p := newPlace(t, nil)
	p.says(p.step(kindAgent, ok), "is not known")
	p.put("/run/systemd/system/x", "")
	p.step(kindAgent, ok, "boot", "no")
	p.says(p.dry(kindAgent, would), "next boot")
	p.program("/usr/bin/systemctl", `case "$*" in enable*) /bin/mkdir -p "$root/etc/systemd/system/multi-user.target.wants"; /bin/ln -s /dev/null "$root/etc/systemd/system/multi-user.target.wants/dfagent.service";; esac`)
	p.step(kindAgent, changed)
	p.step(kindAgent, ok)
	if got := p.get(unitFile); !strings.HasPrefix(got, marker) || !strings.Contains(got, `ExecStart="/bin/sh" "serve"`) {
		t.Errorf("the unit is %s", got)
	}
	p.put(unitFile, "[Service]\nExecStart=/opt/dfagent serve\n")
	p.step(kindAgent, ok) // somebody else's is as good
	p.Agent.Member = func() error { return errors.New("revoked") }
	p.says(p.step(kindAgent, fails), "revoked")
	p.Agent.Member = func() error { return nil }
	p.Agent.Executable = p.path("/gone")
	p.says(p.step(kindAgent, fails), "install it again")
}

func TestUnitQuoting(t *testing.T) {
	got := UnitFile(Agent{Executable: "/opt/my agent", Args: []string{"--rack", `a"b\c`, "100%", "$HOME"}, Folder: "/srv/50%"})
	for _, want := range []string{`ExecStart="/opt/my agent" "--rack" "a\"b\\c" "100%%" "$$HOME"`, "WorkingDirectory=/srv/50%%\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %s in\n%s", want, got)
		}
	}
}

// authority makes a certificate of an authority, or of a server.
func authority(t *testing.T, name string, isCA bool) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: now(), NotAfter: now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, cert, cert, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}

func TestCAStep(t *testing.T) {
	first, second := authority(t, "first", true), authority(t, "second", true)
	own := ""
	p := newPlace(t, nil)
	p.Authority = func(context.Context) ([]byte, error) { return []byte(own), nil }
	p.says(p.step(kindCA, ok), "no authority of its own")
	own = first
	p.says(p.step(kindCA, fails), "install ca-certificates")
	p.program("/usr/sbin/update-ca-certificates", `/bin/mkdir -p "$root/etc/ssl/certs"; /bin/cat "$root"/usr/local/share/ca-certificates/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"`)
	p.says(p.dry(kindCA, would), `"first" is not trusted`)
	p.step(kindCA, changed)
	p.says(p.step(kindCA, ok), `"first" is trusted`)
	// Another step's authority, and one that takes the first one's place.
	p.step(kindCA, changed, "name", "supernode-more", "pem", second)
	own = second
	p.says(p.dry(kindCA, would), "no longer to be trusted")
	p.step(kindCA, changed)
	p.step(kindCA, ok, "name", "supernode-more", "pem", second)
	if bundle := p.get("/etc/ssl/certs/ca-certificates.crt"); strings.Contains(bundle, first) || strings.Count(bundle, second) != 2 {
		t.Errorf("the bundle holds %s", bundle)
	}
	// Somebody took it out of the bundle.
	p.put("/etc/ssl/certs/ca-certificates.crt", first)
	p.dry(kindCA, would)
	own = authority(t, "server", false)
	p.says(p.step(kindCA, fails), "no authority's")
	own = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	p.says(p.step(kindCA, fails), "only certificates")
}
