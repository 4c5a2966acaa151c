package ssh

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/supernode/provision"
)

func newRSALine(t *testing.T) string {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(gossh.MarshalAuthorizedKey(signer.PublicKey()))
}

func TestParseHostKey(t *testing.T) {
	key := string(gossh.MarshalAuthorizedKey(newSigner(t).PublicKey()))
	for name, text := range map[string]string{
		"nothing":          "",
		"words":            "trust me",
		"short":            "SHA256:abc",
		"hex":              "SHA256:" + strings.Repeat("ab", 32),
		"padded":           gossh.FingerprintSHA256(newSigner(t).PublicKey()) + "=",
		"md5":              "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
		"two lines":        "host " + key + "host " + key,
		"revoked":          "@revoked host " + key,
		"an authority":     "@cert-authority * " + key,
		"long":             strings.Repeat("x", maxHostKey+1),
		"only the address": "10.0.0.1",
	} {
		if got, err := ParseHostKey(text); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (HostKey{}).fits(newSigner(t).PublicKey()) {
		t.Error("no host key fits every host")
	}
}

func FuzzParseHostKey(f *testing.F) {
	f.Add("SHA256:uNiVztksCsDhcc0u9e8BrUJg0hY3Nmxg0aDEKNgZzzM")
	f.Add("@cert-authority *.example.com ssh-ed25519 AAAA")
	f.Add("host ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8rBb0sM8kWw0o7mB6eHqkz1kZ0n0o5iF4mC0l1cQ2e")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseHostKey(text)
		if err == nil && (len(key.families) == 0 || !strings.HasPrefix(key.String(), "SHA256:")) {
			t.Errorf("%q became %+v", text, key)
		}
	})
}

func FuzzParseLook(f *testing.F) {
	f.Add("system=Linux\nmachine=x86_64\nuser=0\nmarker=fleet a server b\n")
	f.Add("marker=\x1b[2J\x00\n=\n")
	f.Fuzz(func(t *testing.T, text string) {
		got := parseLook(text)
		for _, s := range []string{got.system, got.machine, got.marker} {
			if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
				t.Errorf("%q", s)
			}
		}
	})
}

func TestRefusal(t *testing.T) {
	const mine = "fleet a server 1"
	good := found{system: "Linux", machine: "x86_64", root: true}
	program := &Program{machine: "x86_64"}
	for name, c := range map[string]struct {
		change  func(*found)
		want    string
		forGood bool
	}{
		"bare":              {func(*found) {}, "", false},
		"ours":              {func(f *found) { f.marker, f.joined = mine, true }, "", false},
		"another server's":  {func(f *found) { f.marker = "fleet a server 2" }, "adopted already", true},
		"a stranger's":      {func(f *found) { f.joined = true }, "not started from here", true},
		"another processor": {func(f *found) { f.machine = "aarch64" }, "--agent-binary", true},
		"another system":    {func(f *found) { f.system = "FreeBSD" }, "needs Linux", true},
		"no root":           {func(f *found) { f.root = false }, "not root", false},
	} {
		f := good
		c.change(&f)
		err := refusal(f, mine, program)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		case errors.Is(err, provision.ErrRefused) != c.forGood:
			t.Errorf("%s: for good is wrong: %v", name, err)
		}
	}
}

func TestTargetOf(t *testing.T) {
	key := gossh.FingerprintSHA256(newSigner(t).PublicKey())
	for address, want := range map[string]string{
		"10.0.0.1":          "10.0.0.1:22",
		"10.0.0.1:2222":     "10.0.0.1:2222",
		"Metal-1.Example":   "metal-1.example:22",
		"[fd00::1]:22":      "[fd00::1]:22",
		"fd00::1":           "[fd00::1]:22",
		"[fd00::1]":         "[fd00::1]:22",
		"":                  "",
		":22":               "",
		"a b":               "",
		"host:0":            "",
		"host:99999":        "",
		"host:ssh":          "",
		"-oProxyCommand=id": "",
		"host/path":         "",
	} {
		got, err := targetOf(address, "", key)
		if got.address != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", address, got.address, err, want)
		}
	}
	for _, user := range []string{"a b", "x;id", strings.Repeat("u", 33), "ä"} {
		if _, err := targetOf("host", user, key); err == nil {
			t.Errorf("user %q", user)
		}
	}
}

func TestQuoted(t *testing.T) {
	if got := quoted(`it's $HOME`); got != `'it'\''s $HOME'` {
		t.Error(got)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssh")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil || AuthorizedKey(first, "x") != AuthorizedKey(again, "x") {
		t.Errorf("another key at the second start: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("a key that others may read was taken")
	}
	if err := os.WriteFile(path, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("what is no key was taken, or overwritten")
	}
}

func TestSettings(t *testing.T) {
	for name, c := range map[string]struct {
		operator string
		have     found
		want     string
	}{
		"bare":       {"", found{}, "\ncontainerd: /run/containerd/containerd.sock\n"},
		"docker":     {"", found{docker: true}, "\ndocker: /run/docker.sock\n"},
		"both":       {"", found{docker: true, containerd: true}, "\ncontainerd: /run/containerd/containerd.sock\n"},
		"operator's": {"zone: a\n", found{docker: true}, "zone: a\n"},
	} {
		p := &Provider{cfg: Config{Settings: c.operator}}
		if got := p.settings(c.have); !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
