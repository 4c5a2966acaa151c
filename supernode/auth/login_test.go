package auth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

func TestPasswordHash(t *testing.T) {
	p := newPasswords(cost{memory: 8, time: 1, threads: 1})
	one, err := p.hash(t.Context(), "a password")
	must(t, err)
	two, err := p.hash(t.Context(), "a password")
	must(t, err)
	if one == two || !strings.HasPrefix(one, "$argon2id$v=19$m=8,t=1,p=1$") {
		t.Fatalf("%s and %s", one, two)
	}
	for password, want := range map[string]bool{"a password": true, "a passwore": false, "": false, "a password\x00": false} {
		if right, err := p.matches(password, one); err != nil || right != want {
			t.Errorf("%q: %v %v", password, right, err)
		}
	}
	for _, password := range []string{"", "1234567", strings.Repeat("x", maxPassword+1)} {
		if _, err := p.hash(t.Context(), password); err == nil {
			t.Errorf("a password of %d bytes was taken", len(password))
		}
	}
	for _, stored := range []string{
		"", "x", one[:len(one)-1], strings.Replace(one, "argon2id", "argon2i", 1), strings.Replace(one, "v=19", "v=16", 1),
		strings.Replace(one, "m=8", "m=99999999", 1), strings.Replace(one, "t=1", "t=0", 1), strings.Replace(one, "p=1", "p=0", 1), one + "$x",
	} {
		if right, err := p.matches("a password", stored); err == nil || right {
			t.Errorf("%q was compared", stored)
		}
	}
}

// The cost in use is what RFC 9106 recommends.
func TestPasswordCost(t *testing.T) {
	if defaultCost.memory != 64<<10 || defaultCost.time != 3 || defaultCost.threads != 4 {
		t.Fatalf("%+v", defaultCost)
	}
}

// Threat 21: logins cannot take the memory.
func TestThreat21HashesAtOnce(t *testing.T) {
	p := newPasswords(cost{memory: 8, time: 1, threads: 1})
	var held []func()
	for range hashesAtOnce {
		release, err := p.slot(t.Context())
		must(t, err)
		held = append(held, release)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.slot(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("one more than %d at once: %v", hashesAtOnce, err)
	}
	p.waiting.Store(hashesWaiting)
	if _, err := p.slot(t.Context()); !errors.Is(err, errBusy) {
		t.Fatalf("one more than %d waiting: %v", hashesWaiting, err)
	}
	p.waiting.Store(0)
	held[0]()
	release, err := p.slot(t.Context())
	must(t, err)
	release()
}

// Threat 21: a name that nobody has costs what a wrong password costs, and
// answers the same.
func TestThreat21UnknownUser(t *testing.T) {
	g := newGate(t)
	unknown, err := g.credentials(t.Context(), "nobody")
	must(t, err)
	ann, err := g.credentials(t.Context(), "ann")
	must(t, err)
	c1, salt1, hash1, err1 := decodeHash(unknown.Hash)
	c2, salt2, hash2, err2 := decodeHash(ann.Hash)
	must(t, errors.Join(err1, err2))
	if c1 != c2 || len(salt1) != len(salt2) || len(hash1) != len(hash2) {
		t.Fatalf("%+v and %+v cost differently", c1, c2)
	}
	for _, name := range []string{"nobody", "", "../ann", "ANN", "ann/", strings.Repeat("a", maxUser+1)} {
		_, err := g.Login(g.as("", ""), name, annPassword)
		_, wrong := g.Login(g.as("", ""), "ann", "wrong")
		if !errors.Is(err, ErrLogin) || err.Error() != wrong.Error() {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Threat 21: attempts are limited, per user and per address.
func TestThreat21AttemptsAreLimited(t *testing.T) {
	g := newGate(t)
	try := func(addr, user, password string) error {
		r := g.as("", "")
		r.RemoteAddr = addr + ":1234"
		_, err := g.Login(r, user, password)
		return err
	}
	limited := func(err error) bool {
		var l *LimitError
		return errors.As(err, &l) && l.After > 0
	}
	must(t, try("192.0.2.1", "ann", annPassword)) // ann's own address
	for _, user := range []string{"root", "nobody"} {
		for i := range userFree + 1 {
			if err := try(fmt.Sprintf("198.51.100.%d", i), user, "guess"); !errors.Is(err, ErrLogin) {
				t.Fatalf("%s, attempt %d: %v", user, i, err)
			}
		}
		if err := try("198.51.100.99", user, "guess"); !limited(err) {
			t.Fatalf("%s: not limited: %v", user, err)
		}
	}
	if err := try("198.51.100.99", "root", rootPassword); !limited(err) {
		t.Fatalf("the right password showed itself: %v", err)
	}
	g.advance(firstWait)
	must(t, try("198.51.100.99", "root", rootPassword))
	for i := range userFree {
		if err := try(fmt.Sprintf("198.51.100.%d", 100+i), "root", "guess"); !errors.Is(err, ErrLogin) {
			t.Fatalf("a success did not start the user's count anew: %v", err)
		}
	}

	// Guesses from elsewhere do not lock ann out where she logged in before.
	for i := range userFree + 1 {
		try(fmt.Sprintf("203.0.113.%d", i), "ann", "guess") // guesses
	}
	if err := try("203.0.113.99", "ann", annPassword); !limited(err) {
		t.Fatalf("ann from elsewhere: %v", err)
	}
	must(t, g.SetPassword(t.Context(), "ann", "ann's next password")) // no remembered proof
	must(t, try("192.0.2.1", "ann", "ann's next password"))

	// One address that tries many names.
	for i := range addressFree + 1 {
		if err := try("192.0.2.66", fmt.Sprintf("name%d", i), "guess"); !errors.Is(err, ErrLogin) {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	if err := try("192.0.2.66", "another", "guess"); !limited(err) {
		t.Fatalf("the address is not limited: %v", err)
	}
	g.advance(forgetAfter + addrLongest)
	must(t, try("192.0.2.66", "root", rootPassword))
}

// An own account is no way around the address's limit.
func TestThreat21OwnAccountBuysNoGuesses(t *testing.T) {
	l := newLimits()
	for range 3 * addressFree {
		own := l.begin("ann", "192.0.2.1", noon)
		l.begin("root", "192.0.2.1", noon) // at the same time
		l.succeed("ann", "192.0.2.1", own, noon)
	}
	wait := l.wait("someone", "192.0.2.1", noon)
	if wait == 0 {
		t.Fatal("successes washed the failures away")
	}
	l.succeed("ann", "192.0.2.1", l.begin("ann", "192.0.2.1", noon), noon)
	if got := l.wait("someone", "192.0.2.1", noon); got != wait {
		t.Fatalf("a lone success changed the wait from %v to %v", wait, got)
	}
}

func TestLimitsGrowAndForget(t *testing.T) {
	for _, c := range []struct {
		failures int
		want     time.Duration
	}{
		{1, 0}, {userFree, 0}, {userFree + 1, time.Second}, {userFree + 2, 2 * time.Second}, {userFree + 5, 16 * time.Second},
		{userFree + 7, time.Minute}, {userFree + 1000, time.Minute},
	} {
		users := table{}
		for range c.failures {
			users.fail("ann", noon, userFree, userLongest)
		}
		if got := max(0, users.wait("ann", noon)); got != c.want {
			t.Errorf("after %d failures: %v, want %v", c.failures, got, c.want)
		}
	}
	users := table{}
	for range userFree {
		users.fail("ann", noon, userFree, userLongest)
	}
	later := noon.Add(forgetAfter + 1)
	users.fail("ann", later, userFree, userLongest)
	if users.wait("ann", later) > 0 {
		t.Error("failures of long ago still count")
	}
}

func TestLimitsAreBounded(t *testing.T) {
	l := newLimits()
	for range userFree + 5 {
		l.begin("victim", "192.0.2.1", noon)
	}
	for i := range 2 * maxTracked {
		name := fmt.Sprint(i)
		l.succeed(name, name, l.begin(name, name, noon), noon)
		l.begin(name, name, noon)
	}
	if len(l.users) > maxTracked || len(l.addresses) > maxTracked || len(l.known) > maxTracked {
		t.Fatalf("%d users, %d addresses, %d known", len(l.users), len(l.addresses), len(l.known))
	}
	if l.wait("victim", "elsewhere", noon) == 0 {
		t.Fatal("a flood of names washed the guesser's count away")
	}
}

func TestAddressOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:99": "192.0.2.1", "[::ffff:192.0.2.1]:99": "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:99": "2001:db8:1:2::/64", "[fe80::1%eth0]:99": "fe80::/64", "@": "@",
	} {
		if got := addressOf(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestPasswordIsHashedOnceAMinute(t *testing.T) {
	g := newGate(t)
	login := func(password string) error {
		_, err := g.Login(g.as("", ""), "ann", password)
		return err
	}
	must(t, login(annPassword))
	// With all room to hash taken, only what is remembered gets through.
	for range hashesAtOnce {
		release, err := g.passwords.slot(t.Context())
		must(t, err)
		defer release()
	}
	g.passwords.waiting.Store(hashesWaiting)
	must(t, login(annPassword))
	if err := login(annPassword + "x"); !errors.Is(err, errBusy) {
		t.Fatalf("another password: %v", err)
	}
	g.advance(proofLife)
	if err := login(annPassword); !errors.Is(err, errBusy) {
		t.Fatalf("after a minute: %v", err)
	}
}

func TestManyLoginsAtOnce(t *testing.T) {
	g := newGate(t)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range cap(errs) {
		wg.Go(func() {
			_, err := g.Login(g.as("", ""), "ann", annPassword)
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err) // right passwords from one address do not limit each other
	}
}

func TestChangePassword(t *testing.T) {
	g := newGate(t)
	login := func(password string) (User, error) { return g.Login(g.as("", ""), "ann", password) }
	_, err := login(annPassword) // it is remembered now
	must(t, err)
	must(t, g.SetPassword(t.Context(), "ann", "from the admin"))
	if u, err := login("from the admin"); err != nil || !u.MustChange {
		t.Fatalf("%+v %v", u, err)
	}
	if _, err := login(annPassword); !errors.Is(err, ErrLogin) {
		t.Fatalf("the old password: %v", err)
	}
	for name, err := range map[string]error{
		"wrong old":   g.ChangePassword(g.as("", ""), "ann", "wrong", "a new password"),
		"short":       g.ChangePassword(g.as("", ""), "ann", "from the admin", "short"),
		"the same":    g.ChangePassword(g.as("", ""), "ann", "from the admin", "from the admin"),
		"nobody":      g.ChangePassword(g.as("", ""), "nobody", "x", "a new password"),
		"set, nobody": g.SetPassword(t.Context(), "nobody", "a new password"),
		"set, a path": g.SetPassword(t.Context(), "../ann", "a new password"),
	} {
		if err == nil {
			t.Errorf("%s: changed", name)
		}
	}
	must(t, g.ChangePassword(g.as("", ""), "ann", "from the admin", "a new password"))
	if u, err := login("a new password"); err != nil || u.MustChange {
		t.Fatalf("%+v %v", u, err)
	}
}

func TestUsers(t *testing.T) {
	g := newGate(t)
	for _, name := range []string{"", "-a", "a b", "a:b", "a/b", "Ann", "ä", "a\x00b", strings.Repeat("a", maxUser+1)} {
		if err := g.CreateUser(t.Context(), name, "long enough", false); err == nil {
			t.Errorf("%q was made", name)
		}
	}
	must(t, g.CreateUser(t.Context(), "bob@example.com", "long enough", false))
	if err := g.CreateUser(t.Context(), "ann", "long enough", false); !errors.Is(err, ErrUserExists) {
		t.Fatal(err)
	}
	if err := g.RemoveUser(t.Context(), "root"); err == nil || !strings.Contains(err.Error(), "last admin") {
		t.Fatalf("the last admin: %v", err)
	}
	if err := g.RemoveUser(t.Context(), "nobody"); !errors.Is(err, ErrNoUser) {
		t.Fatal(err)
	}
	must(t, g.CreateUser(t.Context(), "root2", "long enough", true))
	must(t, g.RemoveUser(t.Context(), "root"))
	list, err := g.Users(t.Context())
	if err != nil || len(list) != 3 || list[0].Name != "ann" || !list[2].Admin || !list[2].MustChange {
		t.Fatalf("%+v %v", list, err)
	}
}

// Threat 20: no default secret; the first password is drawn at random.
func TestThreat20FirstLogin(t *testing.T) {
	saved := map[string]bool{}
	for range 2 {
		g := &gate{t: t, store: meta.NewMemory()}
		var err error
		g.Auth, err = New(t.Context(), g.config())
		must(t, err)
		g.passwords = newPasswords(cost{memory: 8, time: 1, threads: 1})
		full := errors.New("disk full")
		if _, err := g.FirstLogin(t.Context(), "", func(string, string) error { return full }); !errors.Is(err, full) {
			t.Fatal(err)
		}
		var password string
		created, err := g.FirstLogin(t.Context(), "", func(user, p string) error {
			if user != "admin" {
				t.Errorf("user %q", user)
			}
			password = p
			return nil
		})
		if err != nil || !created || len(password) < 20 || saved[password] {
			t.Fatalf("%v %d bytes %v", created, len(password), err)
		}
		saved[password] = true
		u, err := g.Login(g.as("", ""), "admin", password)
		if err != nil || !u.Admin || !u.MustChange {
			t.Fatalf("%+v %v", u, err)
		}
		created, err = g.FirstLogin(t.Context(), "", func(string, string) error { t.Error("saved again"); return nil })
		if err != nil || created {
			t.Fatalf("a second time: %v %v", created, err)
		}
	}
}

func TestFirstPasswordFromAFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	must(t, os.WriteFile(file, []byte("from the file\r\nsecond line\n"), 0o600))
	short := filepath.Join(dir, "short")
	must(t, os.WriteFile(short, []byte("short\n"), 0o600))
	g := &gate{t: t, store: meta.NewMemory()}
	var err error
	g.Auth, err = New(t.Context(), g.config())
	must(t, err)
	g.passwords = newPasswords(cost{memory: 8, time: 1, threads: 1})
	never := func(string, string) error { t.Error("saved"); return nil }
	for _, bad := range []string{short, filepath.Join(dir, "none")} {
		if created, err := g.FirstLogin(t.Context(), bad, never); err == nil || created || strings.Contains(err.Error(), "short\n") {
			t.Fatalf("%s: %v %v", bad, created, err)
		}
	}
	created, err := g.FirstLogin(t.Context(), file, never)
	must(t, err)
	u, err := g.Login(g.as("", ""), "admin", "from the file")
	if err != nil || !created || !u.Admin || u.MustChange {
		t.Fatalf("%v %+v %v", created, u, err)
	}
}

func BenchmarkLogin(b *testing.B) {
	g := newGate(b)
	g.passwords = newPasswords(defaultCost)
	must(b, g.SetPassword(b.Context(), "ann", annPassword))
	r := g.as("", "")
	for b.Loop() {
		g.passwords.young, g.passwords.aged = nil, nil
		if _, err := g.Login(r, "ann", annPassword); err != nil {
			b.Fatal(err)
		}
	}
}
