package auth

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/pkg/token"
)

// TestDecide is the whole table: who asks, where the repository lies, and what
// of pull, push and delete is granted there.
func TestDecide(t *testing.T) {
	robot := func(may ...string) User {
		return User{Name: "robot$own+ci", robot: &Robot{Project: "own", Name: "ci", May: may}}
	}
	plain := Settings{}
	// In these places: own project, own project that lets developers delete,
	// own project that is public, another's project, another's that is public,
	// a project that is not there, another registry.
	places := []struct {
		name       string
		repository string
		settings   *Settings
		member     bool
	}{
		{"own", "own/app", &plain, true},
		{"own, developers delete", "own/app", &Settings{DevelopersDelete: true}, true},
		{"own, public", "own/app", &Settings{Public: true}, true},
		{"other", "other/app", &plain, false},
		{"other, public", "other/app", &Settings{Public: true, DevelopersDelete: true}, false},
		{"nowhere", "nowhere/app", nil, false},
		{"upstream", "docker.io/own/app", nil, false},
	}
	const all, none = "pull,push,delete", ""
	for _, who := range []struct {
		name string
		user User
		role Role
		want [7]string
	}{
		{"system administrator", User{Name: "root", Admin: true}, "", [7]string{all, all, all, all, all, all, "pull"}},
		{"project admin", User{Name: "eve"}, RoleAdmin, [7]string{all, all, all, none, "pull", none, "pull"}},
		{"developer", User{Name: "ann"}, RoleDeveloper, [7]string{"pull,push", all, "pull,push", none, "pull", none, "pull"}},
		{"guest", User{Name: "bob"}, RoleGuest, [7]string{"pull", "pull", "pull", none, "pull", none, "pull"}},
		{"no member", User{Name: "zoe"}, "", [7]string{none, none, "pull", none, "pull", none, "pull"}},
		{"a role of no kind", User{Name: "zoe"}, "owner", [7]string{none, none, "pull", none, "pull", none, "pull"}},
		{"robot that pulls", robot("pull"), "", [7]string{"pull", "pull", "pull", none, "pull", none, "pull"}},
		{"robot that pushes", robot("push"), "", [7]string{"push", "push", "push,pull", none, "pull", none, "pull"}},
		{"robot that does all", robot("pull", "push", "delete"), "", [7]string{all, all, all, none, "pull", none, "pull"}},
		{"robot with a member's role", robot("pull"), RoleAdmin, [7]string{"pull", "pull", "pull", none, "pull", none, "pull"}},
		{"robot that calls itself an administrator", User{Name: "robot$own+ci", Admin: true, robot: &Robot{Project: "own", May: []string{"pull"}}}, "",
			[7]string{"pull", "pull", "pull", none, "pull", none, "pull"}},
		{"node", User{Name: nodePrefix + "x", node: true}, RoleAdmin, [7]string{}},
		{"node that calls itself an administrator", User{Name: nodePrefix + "x", node: true, Admin: true}, RoleAdmin, [7]string{}},
	} {
		for i, place := range places {
			at := standing{}
			if place.settings != nil {
				at.project = &Project{Name: projectOf(place.repository), Settings: *place.settings}
			}
			if place.member {
				at.role = who.role
			}
			for _, asked := range []string{"pull", "push", "delete", "pull,push", all, "*", "sudo", ""} {
				access := token.Access{Type: "repository", Name: place.repository, Actions: strings.Split(asked, ",")}
				var want []string
				for action := range strings.SplitSeq(who.want[i], ",") {
					if action != "" && access.Allows(action) {
						want = append(want, action)
					}
				}
				got := decide(who.user, at, access)
				if !slices.Equal(got.Actions, want) || got.Name != access.Name || got.Type != access.Type || got.Actions == nil {
					t.Errorf("%s asks for %q in %s: %+v, want %q", who.name, asked, place.name, got, want)
				}
			}
		}
		catalog := decide(who.user, standing{}, token.Access{Type: "registry", Name: "catalog", Actions: []string{"*"}})
		if granted := len(catalog.Actions) == 1; granted == who.user.node {
			t.Errorf("%s asks for the catalogue: %v", who.name, catalog)
		}
		for _, other := range []token.Access{
			{Type: "registry", Name: "settings", Actions: []string{"*"}}, {Type: "plugin", Name: "own/app", Actions: []string{"pull"}},
			{Type: "repository", Name: "OWN/app", Actions: []string{"pull"}}, {Type: "repository", Name: "", Actions: []string{"pull"}},
		} {
			if got := decide(who.user, standing{role: who.role}, other); len(got.Actions) > 0 {
				t.Errorf("%s gets %+v", who.name, got)
			}
		}
	}
}

func TestMayManage(t *testing.T) {
	p := &Project{Name: "own"}
	public := &Project{Name: "own", Settings: Settings{Public: true}}
	for _, c := range []struct {
		name string
		user User
		at   standing
		want string // of see, members, manage, end
	}{
		{"system administrator", User{Admin: true}, standing{project: p}, "see members manage end"},
		{"system administrator, no project", User{Admin: true}, standing{}, ""},
		{"admin", User{}, standing{project: p, role: RoleAdmin}, "see members manage"},
		{"developer", User{}, standing{project: p, role: RoleDeveloper}, "see members"},
		{"guest", User{}, standing{project: p, role: RoleGuest}, "see members"},
		{"no member", User{}, standing{project: p}, ""},
		{"no member, public", User{}, standing{project: public}, "see"},
		{"robot", User{Admin: true, robot: &Robot{Project: "own", May: []string{"pull"}}}, standing{project: public, role: RoleAdmin}, ""},
		{"node", User{Admin: true, node: true}, standing{project: public, role: RoleAdmin}, ""},
	} {
		var got []string
		for what, name := range []string{"see", "members", "manage", "end"} {
			if mayManage(c.user, c.at, task(what)) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}
