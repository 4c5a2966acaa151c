package inventory

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

func ids(list []Server) (out []string) {
	for _, s := range list {
		out = append(out, s.ID)
	}
	return out
}

func TestCreateServers(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web", Quota: Quota{Servers: 10}})
	b.pool(Pool{Name: "other"})
	b.must(b.SetRole(ctx, sysAdmin, "web", "ada", RoleAdmin))
	b.must(b.SetRole(ctx, sysAdmin, "web", "dora", RoleDeployer))
	first, err := b.CreateServers(ctx, user("ada"), "web", 3, "k")
	b.must(err)
	again, err := b.CreateServers(ctx, user("ada"), "web", 3, "k")
	b.must(err)
	if fmt.Sprint(ids(first)) != fmt.Sprint(ids(again)) || len(first) != 3 {
		t.Errorf("asked for twice: %v, %v", ids(first), ids(again))
	}
	elsewhere, err := b.CreateServers(ctx, sysAdmin, "other", 3, "k")
	b.must(err)
	if ids(elsewhere)[0] == ids(first)[0] {
		t.Error("the key of another pool gave the same servers")
	}
	for name, c := range map[string]struct {
		by    Caller
		pool  string
		count int
		key   string
		want  error
	}{
		"more by the same key": {user("ada"), "web", 4, "k", ErrInvalid},
		"fewer":                {user("ada"), "web", 2, "k", ErrInvalid},
		"none":                 {user("ada"), "web", 0, "l", ErrInvalid},
		"too many":             {user("ada"), "web", maxCount + 1, "l", ErrInvalid},
		"no key":               {user("ada"), "web", 1, "", ErrInvalid},
		"a long key":           {user("ada"), "web", 1, strings.Repeat("k", maxKey+1), ErrInvalid},
		"above the quota":      {user("ada"), "web", 8, "l", ErrQuota},
		"a deployer":           {user("dora"), "web", 1, "l", ErrDenied},
		"a stranger":           {user("x"), "web", 1, "l", ErrNoPool},
		"another's pool":       {user("ada"), "other", 1, "l", ErrNoPool},
	} {
		if _, err := b.CreateServers(ctx, c.by, c.pool, c.count, c.key); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := b.Servers(ctx, "web"); err != nil || len(list) != 3 {
		t.Errorf("%d servers, %v", len(list), err)
	}
	if _, err := b.CreateServers(ctx, user("ada"), "web", 7, "l"); err != nil {
		t.Errorf("what the quota has left: %v", err)
	}
	b.cfg.ProviderFor = nil
	if _, err := b.CreateServers(ctx, sysAdmin, "other", 1, "m"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "adopt") {
		t.Errorf("where nobody makes machines: %v", err)
	}
}

// A supernode that is killed at any commit of a request, before or after it
// had its effect, has in the end exactly the servers that were asked for: when
// it starts again, and when the caller asks again.
func TestCreateServersSurvivesAKill(t *testing.T) {
	const count = 2*perCommit + 5
	for _, after := range []bool{false, true} {
		for died := 1; ; died++ {
			b := newBook(t)
			ctx := t.Context()
			b.pool(Pool{Name: "web", Quota: Quota{Servers: count}})
			b.store.left, b.store.after = died, after
			_, err := b.CreateServers(ctx, sysAdmin, "web", count, "k")
			b.store.left = -1
			if err == nil {
				if died != 5 {
					t.Errorf("a request took %d commits", died-1)
				}
				break
			}
			if !errors.Is(err, errDead) {
				t.Fatal(err)
			}
			c := reopen(t, b.store)
			b.must(c.Resume(ctx))
			resumed, err := c.Servers(ctx, "web")
			b.must(err)
			if want := count; (died > 1 || after) && len(resumed) != want || died == 1 && !after && len(resumed) != 0 {
				t.Errorf("killed at commit %d (effect: %v): %d servers after the start", died, after, len(resumed))
			}
			made, err := c.CreateServers(ctx, sysAdmin, "web", count, "k")
			b.must(err)
			all, err := c.Servers(ctx, "web")
			b.must(err)
			if len(made) != count || len(all) != count {
				t.Errorf("killed at commit %d (effect: %v): %d servers given, %d there", died, after, len(made), len(all))
			}
			if has, _, err := c.seatsOf(ctx, "web"); err != nil || has.Servers != count {
				t.Errorf("killed at commit %d: seats %+v, %v", died, has, err)
			}
			if _, err := c.CreateServers(ctx, sysAdmin, "web", 1, "l"); !errors.Is(err, ErrQuota) {
				t.Errorf("killed at commit %d: one more: %v", died, err)
			}
		}
	}
}

func TestAdoptServer(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "old", Quota: Quota{Servers: 2}})
	b.pool(Pool{Name: "new"})
	b.must(b.SetRole(ctx, sysAdmin, "old", "ada", RoleAdmin))
	const key = "SHA256:3q2+7w"
	good := Adoption{Pool: "old", Name: "old1", Address: "10.0.7.1:22", User: "root", HostKey: key}
	s, err := b.AdoptServer(ctx, user("ada"), good)
	if err != nil || s.Phase != Requested || s.Provider != ProviderSSH || s.Released || s.Address != good.Address || s.HostKey != key || s.User != "root" {
		t.Fatalf("%+v, %v", s, err)
	}
	if again, err := b.AdoptServer(ctx, user("ada"), good); err != nil || again.ID != s.ID {
		t.Errorf("again: %+v, %v", again, err)
	}
	with := func(change func(*Adoption)) Adoption {
		a := good
		change(&a)
		return a
	}
	for name, c := range map[string]struct {
		by   Caller
		a    Adoption
		want error
	}{
		"another machine of that name": {user("ada"), with(func(a *Adoption) { a.Address = "10.0.7.2" }), ErrExists},
		"another pool":                 {user("ada"), with(func(a *Adoption) { a.Pool = "new" }), ErrNoPool},
		"a name in another pool":       {sysAdmin, with(func(a *Adoption) { a.Pool = "new" }), ErrExists},
		"no host key":                  {user("ada"), with(func(a *Adoption) { a.Name, a.HostKey = "old2", "" }), ErrInvalid},
		"no address":                   {user("ada"), with(func(a *Adoption) { a.Name, a.Address = "old2", "" }), ErrInvalid},
		"an option as address":         {user("ada"), with(func(a *Adoption) { a.Name, a.Address = "old2", "-oProxyCommand=x" }), ErrInvalid},
		"an odd user":                  {user("ada"), with(func(a *Adoption) { a.Name, a.User = "old2", "a b" }), ErrInvalid},
		"two host keys":                {user("ada"), with(func(a *Adoption) { a.Name, a.HostKey = "old2", key+"\n"+key }), ErrInvalid},
		"an odd name":                  {user("ada"), with(func(a *Adoption) { a.Name = "a/b" }), ErrInvalid},
		"a pool that is not there":     {sysAdmin, with(func(a *Adoption) { a.Pool = "nowhere" }), ErrNoPool},
	} {
		if _, err := b.AdoptServer(ctx, c.by, c.a); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that failed is tried again, with what was mended.
	_, err = b.Move(ctx, s.ID, nil, Failed, "provisioning", "the host key is another one", nil)
	b.must(err)
	s, err = b.AdoptServer(ctx, user("ada"), with(func(a *Adoption) { a.HostKey = "SHA256:other" }))
	if err != nil || s.Phase != Requested || s.HostKey != "SHA256:other" || s.Reason != "" {
		t.Errorf("tried again: %+v, %v", s, err)
	}
	// A host that joined by itself is nothing to adopt.
	_, err = b.Arrived(ctx, Arrival{PeerID: "p", Hostname: "joined1", Pool: "old"})
	b.must(err)
	if _, err := b.AdoptServer(ctx, user("ada"), with(func(a *Adoption) { a.Name = "joined1" })); !errors.Is(err, ErrExists) {
		t.Errorf("one that joined: %v", err)
	}
	if _, err := b.AdoptServer(ctx, user("ada"), with(func(a *Adoption) { a.Name = "old3" })); !errors.Is(err, ErrQuota) {
		t.Errorf("above the quota: %v", err)
	}
}

func TestImportedServersAreBounded(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "old"})
	full, err := meta.PutRecord(seatsPrefix+"old", seats{Imported: maxImported - 1})
	b.must(err)
	_, err = b.store.Commit(ctx, nil, []meta.Op{full})
	b.must(err)
	const list = "name,address\nold1,10.0.7.1\nold2,10.0.7.2\n"
	if _, _, err := b.ImportServers(ctx, sysAdmin, "old", FormatCSV, list, false); !errors.Is(err, ErrQuota) {
		t.Errorf("one more than there may be: %v", err)
	}
	if all, err := b.Servers(ctx, ""); err != nil || len(all) != 1 {
		t.Errorf("%d were taken, %v", len(all), err)
	}
}

func TestImportServers(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "old", Quota: Quota{Servers: 1}})
	b.must(b.SetRole(ctx, sysAdmin, "old", "ada", RoleAdmin))
	b.must(b.SetRole(ctx, sysAdmin, "old", "dora", RoleDeployer))
	const list = "name,address,host_key,hardware_class\nold1,10.0.7.1,SHA256:a,12c-16g\nold2,10.0.7.2,SHA256:b,\nbad name,x,,\n"
	for _, by := range []Caller{user("dora"), user("x")} {
		if got, problems, err := b.ImportServers(ctx, by, "old", FormatCSV, list, true); err == nil || got != nil || problems != nil {
			t.Errorf("%s: %v, %v, %v", by.Name, got, problems, err)
		}
	}
	tried, problems, err := b.ImportServers(ctx, user("ada"), "old", FormatCSV, list, true)
	if err != nil || len(tried) != 2 || len(problems) != 1 {
		t.Errorf("a dry run: %v, %q, %v", tried, problems, err)
	}
	if all, err := b.Servers(ctx, ""); err != nil || len(all) != 0 {
		t.Errorf("a dry run wrote %v, %v", all, err)
	}
	got, problems, err := b.ImportServers(ctx, user("ada"), "old", FormatCSV, list, false)
	if err != nil || len(got) != 2 || len(problems) != 1 || got[0].Phase != Imported || got[0].HardwareClass != "12c-16g" {
		t.Errorf("imported: %+v, %q, %v", got, problems, err)
	}
	again, problems, err := b.ImportServers(ctx, user("ada"), "old", FormatCSV, strings.ReplaceAll(list, "10.0.7.1", "6.6.6.6"), false)
	if err != nil || len(again) != 0 || len(problems) != 3 || b.is("old1", Imported).Address != "10.0.7.1" {
		t.Errorf("again: %+v, %q, %v", again, problems, err)
	}
	// They take no seat until they are adopted, with what the list says.
	s, err := b.AdoptServer(ctx, user("ada"), Adoption{Pool: "old", Name: "old1", User: "root"})
	if err != nil || s.Phase != Requested || s.ID != got[0].ID || s.HostKey != "SHA256:a" || s.User != "root" || s.Released {
		t.Errorf("adopted: %+v, %v", s, err)
	}
	if _, err := b.AdoptServer(ctx, user("ada"), Adoption{Pool: "old", Name: "old2"}); !errors.Is(err, ErrQuota) {
		t.Errorf("above the quota: %v", err)
	}
	b.is("old2", Imported)
	if err := b.DeletePool(ctx, sysAdmin, "old"); !errors.Is(err, ErrHolds) {
		t.Errorf("the pool goes: %v", err)
	}
	for _, name := range []string{"old1", "old2"} {
		_, err = b.Retire(ctx, user("ada"), name)
		b.must(err)
	}
	b.must(b.DeletePool(ctx, sysAdmin, "old"))
}

func TestSweep(t *testing.T) {
	b := newBook(t)
	ctx := t.Context()
	b.pool(Pool{Name: "web"})
	made, err := b.CreateServers(ctx, sysAdmin, "web", 2, "k")
	b.must(err)
	_, err = b.Arrived(ctx, Arrival{PeerID: "p", Hostname: "h", Pool: "web", Server: made[0].ID})
	b.must(err)
	b.must(b.SetFacts(ctx, "p", someFacts()))
	for _, s := range made {
		_, err = b.Retire(ctx, sysAdmin, s.ID)
		b.must(err)
	}
	left := func(want int, what string) {
		t.Helper()
		b.must(b.Sweep(ctx))
		if list, err := b.Servers(ctx, ""); err != nil || len(list) != want {
			t.Errorf("%s: %d servers, %v", what, len(list), err)
		}
	}
	b.later(keepRetired + time.Second)
	left(2, "their provider still has something")
	for _, s := range made {
		_, err = b.Move(ctx, s.ID, []Phase{Retired}, Retired, "", "given back", func(s *Server) { s.Released = true })
		b.must(err)
	}
	left(0, "long retired, and given back")
	for _, prefix := range []string{factsPrefix, peerPrefix, requestPrefix, namePrefix} {
		if page, err := b.cfg.Meta.List(ctx, prefix, "", 0); err != nil || len(page) != 0 {
			t.Errorf("left behind: %v, %v", page, err)
		}
	}
	// What was retired just now stays, and so does its key.
	made, err = b.CreateServers(ctx, sysAdmin, "web", 1, "k")
	b.must(err)
	_, err = b.Move(ctx, made[0].ID, nil, Retired, "", "", func(s *Server) { s.Released = true })
	b.must(err)
	b.later(keepRetired - time.Second)
	left(1, "retired not long ago")
	again, err := b.CreateServers(ctx, sysAdmin, "web", 1, "k")
	if err != nil || len(again) != 1 || again[0].Phase != Retired {
		t.Errorf("asked for again: %+v, %v", again, err)
	}
}
