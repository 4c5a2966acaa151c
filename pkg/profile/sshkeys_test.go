package profile

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// homely is a place with a user whose files are the test's own.
func homely(t *testing.T) *place {
	t.Helper()
	p := newPlace(t, map[string]string{"/home/ann/x": ""})
	p.put("/etc/passwd", fmt.Sprintf("root:x:0:0:root:/nowhere:/bin/sh\nann:x:%d:%d::/home/ann:/bin/sh\n", os.Getuid(), os.Getgid()))
	return p
}

const annsKeys = "/home/ann/.ssh/authorized_keys"

func TestSSHKeysStep(t *testing.T) {
	p := homely(t)
	p.says(p.step(kindSSHKeys, ok, "user", "ann"), "gives no keys")
	p.says(p.dry(kindSSHKeys, would, "user", "ann", "keys", "# Ann\n"+testKey+"\n"), testKey)
	p.step(kindSSHKeys, changed, "user", "ann", "keys", testKey)
	p.step(kindSSHKeys, ok, "user", "ann", "keys", testKey)
	if got := p.get(annsKeys); got != keysBegin+testKey+"\n"+keysEnd {
		t.Errorf("the file holds %q", got)
	}
	for name, want := range map[string]os.FileMode{"/home/ann/.ssh": 0o700, annsKeys: 0o600} {
		if info, err := os.Stat(p.path(name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	// What the user wrote stays, whatever the profile gives.
	p.put(annsKeys, "before"+"\n"+keysBegin+"old\n"+keysEnd+"after")
	p.step(kindSSHKeys, changed, "user", "ann", "keys", testKey)
	if got, want := p.get(annsKeys), "before\n"+keysBegin+testKey+"\n"+keysEnd+"after"; got != want {
		t.Errorf("the file holds %q", got)
	}
	p.step(kindSSHKeys, changed, "user", "ann")
	if got := p.get(annsKeys); got != "before\nafter" {
		t.Errorf("without keys the file holds %q", got)
	}
	p.step(kindSSHKeys, changed, "user", "ann", "keys", testKey)
	if got := p.get(annsKeys); got != "before\nafter\n"+keysBegin+testKey+"\n"+keysEnd {
		t.Errorf("the file holds %q", got)
	}
	// sshd would refuse it.
	if err := os.Chmod(p.path(annsKeys), 0o666); err != nil {
		t.Fatal(err)
	}
	p.says(p.dry(kindSSHKeys, would, "user", "ann", "keys", testKey), "sshd")
	p.step(kindSSHKeys, changed, "user", "ann", "keys", testKey)
	p.put(annsKeys, keysBegin+testKey+"\n")
	p.says(p.step(kindSSHKeys, fails, "user", "ann", "keys", testKey), "by hand")
	p.says(p.step(kindSSHKeys, fails, "user", "bob", "keys", testKey), "no user bob")
	p.says(p.step(kindSSHKeys, fails, "keys", testKey), "open the home of root")
}

// TestKeysFollowNoLinks: the owner of a home rules what lies in it, and the
// agent is root.
func TestKeysFollowNoLinks(t *testing.T) {
	for name, link := range map[string][2]string{
		"folder":              {"/srv", "/home/ann/.ssh"},
		"folder inside":       {"inside", "/home/ann/.ssh"},
		"file":                {"/etc/shadow", annsKeys},
		"file that is a dir":  {"..", annsKeys},
		"file inside of home": {"../secret", annsKeys},
	} {
		p := homely(t)
		p.put("/srv/x", "")
		p.put("/home/ann/inside/x", "")
		p.put("/home/ann/secret", "secret\n")
		if strings.HasSuffix(link[1], "keys") {
			if err := os.Mkdir(p.path("/home/ann/.ssh"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(strings.Replace(link[0], "/", p.Root+"/", min(1, strings.Count(link[0][:1], "/"))), p.path(link[1])); err != nil {
			t.Fatal(err)
		}
		p.step(kindSSHKeys, fails, "user", "ann", "keys", testKey)
		if got := p.get("/srv/authorized_keys") + p.get("/home/ann/inside/authorized_keys"); got != "(none)(none)" {
			t.Errorf("%s: the link was followed: %s", name, got)
		}
	}
}

// TestForeignKeysAreNotTakenOver: a second name of a file that the user may
// not read must not become one that they may.
func TestForeignKeysAreNotTakenOver(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: files of two users need root")
	}
	p := homely(t)
	p.put("/etc/passwd", "ann:x:4711:4711::/home/ann:/bin/sh\n")
	p.put("/secret", "secret\n")
	p.step(kindSSHKeys, changed, "user", "ann", "keys", testKey)
	if info, err := os.Stat(p.path(annsKeys)); err != nil || !ownedBy(info, account{uid: 4711}) {
		t.Errorf("the file is not the user's: %v", err)
	}
	if err := os.Remove(p.path(annsKeys)); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(p.path("/secret"), p.path(annsKeys)); err != nil {
		t.Fatal(err)
	}
	p.says(p.step(kindSSHKeys, fails, "user", "ann", "keys", testKey), "belongs to its user")
}

func FuzzWithKeys(f *testing.F) {
	f.Add([]byte("a\n"+keysBegin+"x\n"+keysEnd+"b"), "k")
	f.Add([]byte("a"), "")
	f.Fuzz(func(t *testing.T, have []byte, key string) {
		var keys []string
		if key != "" && !strings.Contains(key, "#") {
			keys = []string{key}
		}
		once, err := withKeys(have, keys)
		if err != nil {
			return
		}
		twice, err := withKeys(once, keys)
		if err != nil || string(twice) != string(once) {
			t.Errorf("not the same twice: %q, %q, %v", once, twice, err)
		}
	})
}
