package auth

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/meta"
)

func (g *gate) user(name string) User {
	g.t.Helper()
	record, _, err := g.readUser(g.t.Context(), name)
	must(g.t, err)
	if record == nil {
		g.t.Fatalf("no user %s", name)
	}
	return record.user()
}

// grants reports whether user gets an action on a repository, with a token
// made for it and with the password alone, which must agree.
func (g *gate) grants(name, password, repository, action string) bool {
	g.t.Helper()
	_, answer := g.get(name, password, url.Values{"scope": {"repository:" + repository + ":" + action}})
	_, byToken := g.Authorize(g.bearing(answer.Token), repository, action)
	_, byPassword := g.Authorize(g.as(name, password), repository, action)
	if (byToken == nil) != (byPassword == nil) || (byToken == nil) != (answer.Scope != "") {
		g.t.Errorf("%s, %s on %s: by token %v (scope %q), by password %v", name, action, repository, byToken, answer.Scope, byPassword)
	}
	return byToken == nil && byPassword == nil
}

func TestProjectNames(t *testing.T) {
	g := newGate(t)
	for _, name := range []string{"", "A", "a/b", "..", "docker.io", "localhost", "a:1", "-a", "a-", "a b", "a$b", "ä", "a\x00", strings.Repeat("a", maxProject+1)} {
		if _, err := g.CreateProject(t.Context(), root, name, Settings{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := g.Authorize(g.as("root", rootPassword), name+"/x", "push"); err == nil && name != "a/b" {
			t.Errorf("a push made the project %q", name)
		}
	}
	for _, name := range []string{"b", "web-team", "web__team", "7", strings.Repeat("b", maxProject)} {
		g.project(name, Settings{})
	}
	if _, err := g.CreateProject(t.Context(), root, "shop", Settings{}); !errors.Is(err, ErrProjectExists) {
		t.Errorf("a second time: %v", err)
	}
	for _, s := range []Settings{{QuotaBytes: -1}, {ImmutableTags: []string{""}}, {ImmutableTags: []string{"[a"}}, {ImmutableTags: []string{strings.Repeat("x", maxPattern+1)}}, {ImmutableTags: make([]string, maxPatterns+1)}} {
		if _, err := g.CreateProject(t.Context(), root, "bad", s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestAPushOfASystemAdministratorMakesTheProject(t *testing.T) {
	g := newGate(t)
	for name, password := range map[string]string{"ann": annPassword, "root": rootPassword} {
		if _, err := g.Authorize(g.as(name, password), "fresh/app", "pull"); name == "ann" && !errors.Is(err, ErrDenied) {
			t.Errorf("%s pulls: %v", name, err)
		}
		if p, _, err := g.readProject(t.Context(), "fresh"); p != nil || err != nil {
			t.Fatalf("a pull by %s made %+v, %v", name, p, err)
		}
	}
	if g.grants("ann", annPassword, "fresh/app", "push") {
		t.Error("ann pushes where there is no project")
	}
	if !g.grants("root", rootPassword, "fresh/app", "push") {
		t.Error("the administrator does not")
	}
	if p, _, err := g.Project(t.Context(), root, "fresh"); err != nil || p.Creator != "root" {
		t.Fatalf("%+v, %v", p, err)
	}
	if g.grants("ann", annPassword, "fresh/app", "pull") {
		t.Error("ann pulls from a project that is not hers")
	}
}

// A change of members counts for the next token, and what is taken away is
// gone from the tokens that are out.
func TestMembersComeAndGo(t *testing.T) {
	g := newGate(t)
	g.project("web", Settings{})
	before, _, err := g.Project(t.Context(), root, "web")
	must(t, err)
	if g.grants("ann", annPassword, "web/app", "pull") {
		t.Fatal("ann pulls as no member")
	}
	g.seat("web", "ann", RoleGuest)
	if !g.grants("ann", annPassword, "web/app", "pull") || g.grants("ann", annPassword, "web/app", "push") {
		t.Fatal("ann as a guest")
	}
	g.seat("web", "ann", RoleDeveloper)
	_, answer := g.get("ann", annPassword, url.Values{"scope": {"repository:web/app:pull,push,delete"}})
	if answer.Scope != "repository:web/app:pull,push" {
		t.Fatalf("as a developer: %q", answer.Scope)
	}
	_, err = g.SetSettings(t.Context(), root, "web", func(s *Settings) { s.DevelopersDelete = true })
	must(t, err)
	if _, err := g.Authorize(g.bearing(answer.Token), "web/app", "delete"); challengeOf(err) == "" {
		t.Errorf("a token from before the switch: %v, want a challenge", err)
	}
	if !g.grants("ann", annPassword, "web/app", "delete") {
		t.Error("the switch does not let developers delete")
	}
	must(t, g.RemoveMember(t.Context(), root, "web", "ann"))
	if _, err := g.Authorize(g.bearing(answer.Token), "web/app", "pull"); !errors.Is(err, ErrDenied) {
		t.Errorf("a token of somebody who was taken out: %v", err)
	}
	after, _, err := g.Project(t.Context(), root, "web")
	if err != nil || after.Epoch != before.Epoch+4 {
		t.Errorf("epoch %d, then %d after four changes, %v", before.Epoch, after.Epoch, err)
	}
	for what, err := range map[string]error{
		"a role of no kind": g.SetMember(t.Context(), root, "web", "ann", "owner"),
		"nobody":            g.SetMember(t.Context(), root, "web", "nobody", RoleGuest),
		"a path":            g.SetMember(t.Context(), root, "web", "../shop/ann", RoleGuest),
		"gone already":      g.RemoveMember(t.Context(), root, "web", "ann"),
		"no project":        g.SetMember(t.Context(), root, "nowhere", "ann", RoleGuest),
	} {
		if err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

// A name that is given again inherits nothing: no role, no token, no project's
// members.
func TestNamesakesInheritNothing(t *testing.T) {
	g := newGate(t)
	_, old := g.get("ann", annPassword, url.Values{"scope": {"repository:shop/app:pull"}})
	stale, _, err := meta.ReadRecord[Member](t.Context(), g.store, memberPrefix+"shop/ann")
	must(t, err)
	must(t, g.RemoveUser(t.Context(), "ann"))
	if m, _, err := meta.ReadRecord[Member](t.Context(), g.store, memberPrefix+"shop/ann"); m != nil || err != nil {
		t.Errorf("the removed user's role stayed: %+v, %v", m, err)
	}
	// As if the supernode had stopped before it got to that.
	must(t, update(t.Context(), g.store, memberPrefix+"shop/ann", func(*Member) (*Member, error) { return stale, nil }))
	g.advance(time.Second)
	must(t, g.createUser(t.Context(), "ann", annPassword, false, false))
	if g.grants("ann", annPassword, "shop/app", "pull") {
		t.Error("the namesake has the role")
	}
	g.seat("shop", "ann", RoleDeveloper)
	if _, err := g.Authorize(g.bearing(old.Token), "shop/app", "pull"); challengeOf(err) == "" {
		t.Errorf("the namesake's token of before: %v", err)
	}

	must(t, g.DeleteProject(t.Context(), root, "shop", holding(0)))
	g.project("shop", Settings{})
	if g.grants("ann", annPassword, "shop/app", "pull") {
		t.Error("the new project has the old one's members")
	}
}

type holding int

func (h holding) Vacate(context.Context, string) (int, error) { return int(h), nil }

func TestDeleteProject(t *testing.T) {
	g := newGate(t)
	_, _, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"pull"}, time.Hour)
	must(t, err)
	g.seat("shop", "ann", RoleAdmin)
	if err := g.DeleteProject(t.Context(), g.user("ann"), "shop", holding(0)); !errors.Is(err, ErrDenied) {
		t.Errorf("its own admin: %v", err)
	}
	if err := g.DeleteProject(t.Context(), root, "shop", holding(2)); !errors.Is(err, ErrProjectHolds) || !strings.Contains(err.Error(), "2 repositories") {
		t.Errorf("with images: %v", err)
	}
	must(t, g.DeleteProject(t.Context(), root, "shop", holding(0)))
	for _, prefix := range []string{memberPrefix + "shop/", robotPrefix + "shop/", projectPrefix + "shop"} {
		if left, err := g.store.List(t.Context(), prefix, "", 0); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", prefix, left, err)
		}
	}
	if err := g.DeleteProject(t.Context(), root, "shop", holding(0)); !errors.Is(err, ErrNoProject) {
		t.Errorf("a second time: %v", err)
	}
}

// Threat 11 and IDOR: an admin of one project has no say in another, and
// cannot tell whether it is there.
func TestAProjectsAdminHasNoSayInAnother(t *testing.T) {
	g := newGate(t)
	g.project("own", Settings{})
	g.project("other", Settings{})
	g.project("public", Settings{Public: true})
	g.seat("own", "ann", RoleAdmin)
	must(t, g.createUser(t.Context(), "bob", "bob's password", false, false))
	ann, ctx := g.user("ann"), t.Context()
	deeds := func(project string) map[string]error {
		_, settings := g.SetSettings(ctx, ann, project, func(s *Settings) { s.Public = true })
		_, members := g.Members(ctx, ann, project)
		_, _, robot := g.CreateRobot(ctx, ann, project, "r1", []string{"pull"}, time.Hour)
		_, robots := g.Robots(ctx, ann, project)
		return map[string]error{
			"settings": settings, "members": members, "make robot": robot, "robots": robots,
			"add member": g.SetMember(ctx, ann, project, "bob", RoleGuest), "remove member": g.RemoveMember(ctx, ann, project, "bob"),
			"disable robot": g.SetRobotDisabled(ctx, ann, project, "r1", true), "remove robot": g.RemoveRobot(ctx, ann, project, "r1"),
		}
	}
	for what, err := range deeds("own") {
		if err != nil {
			t.Errorf("%s of the own project: %v", what, err)
		}
	}
	if _, err := g.SetSettings(ctx, ann, "own", func(s *Settings) { s.QuotaBytes = 1 << 40 }); !errors.Is(err, ErrDenied) {
		t.Errorf("the own quota: %v", err)
	}
	if _, err := g.CreateProject(ctx, ann, "third", Settings{}); !errors.Is(err, ErrDenied) {
		t.Errorf("a project of her own: %v", err)
	}
	missing := deeds("nowhere")
	for what, err := range deeds("other") {
		if !errors.Is(err, ErrNoProject) || strings.ReplaceAll(err.Error(), "other", "nowhere") != missing[what].Error() {
			t.Errorf("%s of another's project: %v; of one that is not there: %v", what, err, missing[what])
		}
	}
	for what, err := range deeds("public") {
		if !errors.Is(err, ErrDenied) {
			t.Errorf("%s of a public project: %v", what, err)
		}
	}
	list, _, err := g.Projects(ctx, ann)
	must(t, err)
	var names []string
	for _, p := range list {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "a own public shop" {
		t.Errorf("ann sees %s", got)
	}
}

func TestImmutableTags(t *testing.T) {
	g := newGate(t)
	g.project("web", Settings{ImmutableTags: []string{"v*", "release-[0-9]"}, QuotaBytes: 7})
	for tag, want := range map[string]bool{"v1": true, "v": true, "release-1": true, "release-11": false, "latest": false, "": false} {
		if got, err := g.Immutable(t.Context(), "web/a/b", tag); err != nil || got != want {
			t.Errorf("%q: %v, %v", tag, got, err)
		}
	}
	for project, want := range map[string]int64{"web": 7, "shop": 0, "nowhere": 0, "docker.io": 0} {
		if got, err := g.Quota(t.Context(), project); err != nil || got != want {
			t.Errorf("quota of %s: %d, %v", project, got, err)
		}
	}
}
