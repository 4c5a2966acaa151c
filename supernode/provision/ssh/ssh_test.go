package ssh

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/shoalproject/shoal/supernode/provision"
)

const tag = "fleet-a"

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestAdopt brings a bare host to one whose agent has joined, and back.
func TestAdopt(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	joins := &tokens{text: "token-"}
	m, err := p.Create(t.Context(), "server-1", h.spec(tag, joins))
	if err != nil {
		t.Fatal(err)
	}
	if m.State != provision.Running || m.Key != "server-1" || m.Address != h.address {
		t.Errorf("%+v", m)
	}
	if got := h.read("var/lib/shoal/agent/welcome.pb"); got != "token-1\n" {
		t.Errorf("it joined with %q", got)
	}
	if got := h.read("etc/shoal/server"); got != "fleet fleet-a server server-1\n" {
		t.Errorf("the marker is %q", got)
	}
	for _, secret := range []string{"etc/shoal/join", "etc/shoal/dfagent.yaml"} {
		if info, err := os.Stat(filepath.Join(h.root, secret)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, info, err)
		}
	}
	commands, _, sent := h.saw()
	for _, c := range commands {
		if strings.Contains(c, "token-1") {
			t.Errorf("the token stands in a command line: %q", c)
		}
	}
	if info, err := os.Stat(filepath.Join(h.root, "usr/local/bin/dfagent")); err != nil || info.Size() > sent {
		t.Errorf("the program: %v, %v; %d bytes were sent", info, err, sent)
	}
	if n := len(h.agents()); n != 1 {
		t.Errorf("%d agents run", n)
	}

	if err := p.Delete(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if n := len(h.agents()); n != 0 {
		t.Errorf("%d agents run on a host that was given back", n)
	}
	for _, gone := range []string{"etc/shoal", "var/lib/shoal/agent", "usr/local/bin/dfagent"} {
		if _, err := os.Stat(filepath.Join(h.root, gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	if _, err := p.Create(t.Context(), "server-2", h.spec(tag, joins)); err != nil {
		t.Errorf("adopt it again: %v", err)
	}
}

// TestOtherHostKeyGetsNothing: a host that shows another key is not even told
// who wants to log in.
func TestOtherHostKeyGetsNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for name, key := range map[string]string{
		"another fingerprint": gossh.FingerprintSHA256(newSigner(t).PublicKey()),
		"another known host":  "[127.0.0.1]:22 " + string(gossh.MarshalAuthorizedKey(newSigner(t).PublicKey())),
		"a family it has not": "host " + newRSALine(t),
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			p := newProvider(t, newStore(t), h)
			joins := &tokens{}
			spec := h.spec(tag, joins)
			spec.HostKey = key
			_, err := p.Create(t.Context(), "server-1", spec)
			if !errors.Is(err, provision.ErrRefused) {
				t.Errorf("got %v", err)
			}
			if commands, logins, _ := h.saw(); logins != 0 || len(commands) != 0 || joins.drawn() != 0 {
				t.Errorf("%d logins, %d commands, %d tokens", logins, len(commands), joins.drawn())
			}
		})
	}
}

// TestEveryFormOfAHostKey: the fingerprint of any of its keys will do, and so
// does a line of known_hosts.
func TestEveryFormOfAHostKey(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for name, key := range map[string]string{
		"first fingerprint":  gossh.FingerprintSHA256(h.keys[0].PublicKey()),
		"second fingerprint": gossh.FingerprintSHA256(h.keys[1].PublicKey()),
		"known hosts":        "metal-1,10.0.0.1 " + string(gossh.MarshalAuthorizedKey(h.keys[1].PublicKey())),
		"public key file":    string(gossh.MarshalAuthorizedKey(h.keys[0].PublicKey())),
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			p := newProvider(t, newStore(t), h)
			to, err := targetOf(h.address, "", key)
			if err != nil {
				t.Fatal(err)
			}
			l, err := p.connect(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			l.close()
		})
	}
}

// bothWays runs a test with connections that break before a command runs, and
// with such that break before its answer comes.
func bothWays(t *testing.T, test func(t *testing.T, when cut)) {
	for name, when := range map[string]cut{"before": before, "after": after} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, when)
		})
	}
}

// TestCutAnywhere breaks the connection before and after every command of a
// bootstrap. The next call goes on: one agent, which joined once, with a
// program that arrived whole.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, when cut) {
		for at, more := 0, true; more; at++ {
			h := newHost(t)
			store := newStore(t)
			joins := &tokens{text: "token-"}
			h.breaks(func(n int) cut {
				if n == at {
					return when
				}
				return never
			})
			_, err := newProvider(t, store, h).Create(t.Context(), "server-1", h.spec(tag, joins))
			more = err != nil
			if errors.Is(err, provision.ErrRefused) {
				t.Fatalf("cut at %d: %v", at, err)
			}
			h.breaks(nil)
			// Another supernode goes on.
			p := newProvider(t, store, h)
			list, err := p.List(t.Context(), tag)
			if err != nil || len(list) != 1 || more && list[0].State != provision.Partial {
				t.Fatalf("cut at %d: List = %+v, %v", at, list, err)
			}
			m, err := p.Create(t.Context(), "server-1", h.spec(tag, joins))
			if err != nil || m.State != provision.Running {
				t.Fatalf("cut at %d, then: %+v, %v", at, m, err)
			}
			if n := len(h.agents()); n != 1 {
				t.Errorf("cut at %d: %d agents run", at, n)
			}
			if joins.drawn() > 2 {
				t.Errorf("cut at %d: %d tokens were drawn", at, joins.drawn())
			}
			if at > 12 {
				t.Fatal("a bootstrap has no end")
			}
			h.stopAgent()
		}
	})
}

// TestGoesOn: what arrived whole is not sent again, and an agent that has
// joined gets no other token.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	store := newStore(t)
	joins := &tokens{text: "token-"}
	last := func(n int) cut { // the answer to the last command is lost
		if n == 7 {
			return after
		}
		return never
	}
	h.breaks(last)
	if _, err := newProvider(t, store, h).Create(t.Context(), "server-1", h.spec(tag, joins)); err == nil {
		t.Fatal("the connection was not cut")
	}
	if h.read("var/lib/shoal/agent/welcome.pb") == "" {
		t.Fatal("it had not joined yet")
	}
	h.breaks(nil)
	if _, err := newProvider(t, store, h).Create(t.Context(), "server-1", h.spec(tag, joins)); err != nil {
		t.Fatal(err)
	}
	if _, _, sent := h.saw(); sent > 10_000 {
		t.Errorf("%d bytes were sent again", sent)
	}
	if joins.drawn() != 1 {
		t.Errorf("%d tokens were drawn", joins.drawn())
	}
}

// TestDeleteCutAnywhere: a host is given back in the end, wherever that was
// cut off.
func TestDeleteCutAnywhere(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, when cut) {
		for at, more := 0, true; more; at++ {
			h := newHost(t)
			p := newProvider(t, newStore(t), h)
			if _, err := p.Create(t.Context(), "server-1", h.spec(tag, &tokens{})); err != nil {
				t.Fatal(err)
			}
			h.breaks(func(n int) cut {
				if n == at {
					return when
				}
				return never
			})
			more = p.Delete(t.Context(), "server-1") != nil
			if m, err := p.Get(t.Context(), "server-1"); more && (err != nil || m.State != provision.Ending) {
				t.Errorf("cut at %d: %+v, %v", at, m, err)
			}
			h.breaks(nil)
			if err := p.Delete(t.Context(), "server-1"); err != nil {
				t.Fatalf("cut at %d, then: %v", at, err)
			}
			if n := len(h.agents()); n != 0 || h.read("etc/shoal/server") != "" {
				t.Errorf("cut at %d: %d agents, marker %q", at, n, h.read("etc/shoal/server"))
			}
		}
	})
}

// TestWhatArrivesCut: a file that did not arrive whole takes no place.
func TestWhatArrivesCut(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	h.command("cat", "exec head -c 1000")
	_, err := p.Create(t.Context(), "server-1", h.spec(tag, &tokens{}))
	if err == nil || !strings.Contains(err.Error(), "not what was sent") {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(h.root, "usr/local/bin/*")); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestTwoForOneHost: neither two servers nor two fleets have the same host.
func TestTwoForOneHost(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	store, joins := newStore(t), &tokens{}
	p := newProvider(t, store, h)
	if _, err := p.Create(t.Context(), "server-1", h.spec(tag, joins)); err != nil {
		t.Fatal(err)
	}
	refused := func(p *Provider, key, tag, want string) {
		t.Helper()
		h.breaks(nil)
		_, err := p.Create(t.Context(), key, h.spec(tag, joins))
		if !errors.Is(err, provision.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if joins.drawn() != 1 || len(h.agents()) != 1 {
			t.Errorf("%d tokens, %d agents", joins.drawn(), len(h.agents()))
		}
	}
	refused(p, "server-2", tag, "as server server-1")
	// Another fleet has another ledger; the host itself says no.
	refused(newProvider(t, newStore(t), h), "server-1", "fleet-b", "fleet fleet-a server server-1")
	// And when that one gives back what it never had, nothing happens.
	other := newProvider(t, newStore(t), h)
	_, _ = other.Create(t.Context(), "server-9", h.spec("fleet-b", joins))
	if err := other.Delete(t.Context(), "server-9"); err != nil || len(h.agents()) != 1 {
		t.Errorf("%v, %d agents", err, len(h.agents()))
	}
}

// TestAgentThatDoesNotComeUp tells why, in one line and without a terminal's
// escapes; the next try has a new token.
func TestAgentThatDoesNotComeUp(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	joins := &tokens{text: "bad-"}
	_, err := p.Create(t.Context(), "server-1", h.spec(tag, joins))
	if err == nil || !strings.Contains(err.Error(), "the token is unknown [31mor expired") || strings.Contains(err.Error(), "bad-1") {
		t.Errorf("got %v", err)
	}
	joins.text = "good-"
	if _, err := p.Create(t.Context(), "server-1", h.spec(tag, joins)); err != nil {
		t.Error(err)
	}
	if got := h.read("var/lib/shoal/agent/welcome.pb"); got != "good-2\n" {
		t.Errorf("it joined with %q", got)
	}
}

// TestHostThatHangs ends with the context.
func TestHostThatHangs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	h.breaks(func(int) cut { return hangs })
	_, err := p.Create(within(t, 300*time.Millisecond), "server-1", h.spec(tag, &tokens{}))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestSudo: a user that is not root takes sudo, and the host's no is told.
func TestSudo(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	spec := h.spec(tag, &tokens{})
	spec.User = "ops"
	h.command("sudo", `echo "sudo: a password is required" >&2; exit 1`)
	if _, err := p.Create(t.Context(), "server-1", spec); err == nil || !strings.Contains(err.Error(), "a password is required") {
		t.Errorf("got %v", err)
	}
	h.command("sudo", `[ "$1" = -n ] || exit 1; shift; exec "$@"`)
	h.breaks(nil)
	if _, err := p.Create(t.Context(), "server-1", spec); err != nil {
		t.Fatal(err)
	}
	commands, _, _ := h.saw()
	for _, c := range commands {
		if !strings.HasPrefix(c, "sudo -n sh -c ") {
			t.Errorf("%.40q", c)
		}
	}
}

// TestSystemd: where systemd is, the agent is a unit of it that starts again at
// the next boot, and goes with the rest.
func TestSystemd(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if err := os.MkdirAll(filepath.Join(h.root, "run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	// It does what the unit says, and notes what it was asked for.
	h.command("systemctl", `echo "$@" >>"`+h.root+`/asked"
unit="`+h.root+`/etc/systemd/system/dfagent.service"
pid="`+h.root+`/unit.pid"
case "$1 $2" in
"start dfagent.service")
	cd "$(sed -n 's/^WorkingDirectory=//p' "$unit")"
	eval "setsid $(sed -n 's/^ExecStart=//p' "$unit") >/dev/null 2>&1 </dev/null &"
	echo $! >"$pid" ;;
"stop dfagent.service" | "disable --now")
	[ ! -e "$pid" ] || kill "$(cat "$pid")" || : ;;
esac`)
	p := newProvider(t, newStore(t), h)
	if _, err := p.Create(t.Context(), "server-1", h.spec(tag, &tokens{text: "token-"})); err != nil {
		t.Fatal(err)
	}
	if n := len(h.agents()); n != 1 {
		t.Errorf("%d agents run", n)
	}
	if asked := h.read("asked"); !strings.Contains(asked, "enable dfagent.service\n") {
		t.Errorf("systemctl was asked for %q", asked)
	}
	if unit := h.read("etc/systemd/system/dfagent.service"); !strings.Contains(unit, "Restart=always") || strings.Contains(unit, "token-1") {
		t.Errorf("the unit is %q", unit)
	}
	if err := p.Delete(t.Context(), "server-1"); err != nil {
		t.Fatal(err)
	}
	if h.read("etc/systemd/system/dfagent.service") != "" || !strings.Contains(h.read("asked"), "disable --now dfagent.service\n") {
		t.Error("the unit is still there")
	}
}

// TestNoLogin says which key to put where.
func TestNoLogin(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	h.allow(newSigner(t).PublicKey())
	_, err := p.Create(t.Context(), "server-1", h.spec(tag, &tokens{}))
	if err == nil || errors.Is(err, provision.ErrRefused) || !strings.Contains(err.Error(), "supernode ssh-key") {
		t.Errorf("got %v", err)
	}
}

// TestHostThatIsGone: one that was installed anew, or is never reached again,
// does not keep its server for ever.
func TestHostThatIsGone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	store := newStore(t)
	p := newProvider(t, store, h)
	now := time.Now()
	p.cfg.Now = func() time.Time { return now }
	if _, err := p.Create(t.Context(), "server-1", h.spec(tag, &tokens{})); err != nil {
		t.Fatal(err)
	}
	h.allow(newSigner(t).PublicKey()) // nobody gets in any more
	if err := p.Delete(t.Context(), "server-1"); err == nil {
		t.Error("it was forgotten at once")
	}
	now = now.Add(forgottenAfter)
	if err := p.Delete(t.Context(), "server-1"); err != nil {
		t.Error(err)
	}
	if _, err := p.Get(t.Context(), "server-1"); !errors.Is(err, provision.ErrNoMachine) {
		t.Errorf("got %v", err)
	}
}

// TestNewInstallation: a host with another key by now is not the machine that
// is given back, and nothing is sent to it.
func TestNewInstallation(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newProvider(t, newStore(t), h)
	if _, err := p.Create(t.Context(), "server-1", h.spec(tag, &tokens{})); err != nil {
		t.Fatal(err)
	}
	h.install(newSigner(t))
	h.breaks(nil)
	if err := p.Delete(t.Context(), "server-1"); err != nil {
		t.Error(err)
	}
	if commands, _, _ := h.saw(); len(commands) > 0 {
		t.Errorf("%d commands were sent", len(commands))
	}
}
