package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

func (s *scene) projects(who account) shoalv1connect.ProjectServiceClient {
	return shoalv1connect.NewProjectServiceClient(s.client(who), s.public.URL+"/api")
}

func (s *scene) users(who account) shoalv1connect.UserServiceClient {
	return shoalv1connect.NewUserServiceClient(s.client(who), s.public.URL+"/api")
}

func (s *scene) client(who account) *http.Client {
	return &http.Client{Transport: with{func(r *http.Request) {
		if who.name != "" {
			r.SetBasicAuth(who.name, who.password)
		}
	}}}
}

// call makes one of a service's calls and gives its error.
type call func(ctx context.Context, c shoalv1connect.ProjectServiceClient, project string) error

func failed[T any](_ *connect.Response[T], err error) error { return err }

// projectCalls are all calls that name a project, with what they need of its
// reader, member, admin or the system's administrator.
var projectCalls = map[string]struct {
	need string
	call call
}{
	"GetProject": {"reader", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.GetProject(ctx, connect.NewRequest(&shoalv1.GetProjectRequest{Name: p})))
	}},
	"ListMembers": {"member", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.ListMembers(ctx, connect.NewRequest(&shoalv1.ListMembersRequest{Project: p})))
	}},
	"SetSettings": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.SetSettings(ctx, connect.NewRequest(&shoalv1.SetSettingsRequest{Project: p})))
	}},
	"SetMember": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.SetMember(ctx, connect.NewRequest(&shoalv1.SetMemberRequest{Project: p, User: "extra", Role: "guest"})))
	}},
	"RemoveMember": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.RemoveMember(ctx, connect.NewRequest(&shoalv1.RemoveMemberRequest{Project: p, User: "extra"})))
	}},
	"GrantPool": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.GrantPool(ctx, connect.NewRequest(&shoalv1.GrantPoolRequest{Project: p, Pool: "web"})))
	}},
	"RevokePool": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.RevokePool(ctx, connect.NewRequest(&shoalv1.RevokePoolRequest{Project: p, Pool: "web"})))
	}},
	"ListPoolGrants": {"member", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.ListPoolGrants(ctx, connect.NewRequest(&shoalv1.ListPoolGrantsRequest{Project: p})))
	}},
	"CreateRobot": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.CreateRobot(ctx, connect.NewRequest(&shoalv1.CreateRobotRequest{Project: p, Name: "extra", Permissions: []string{"pull"}, TtlSeconds: 60})))
	}},
	"ListRobots": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.ListRobots(ctx, connect.NewRequest(&shoalv1.ListRobotsRequest{Project: p})))
	}},
	"SetRobotDisabled": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.SetRobotDisabled(ctx, connect.NewRequest(&shoalv1.SetRobotDisabledRequest{Project: p, Name: "extra", Disabled: true})))
	}},
	"RemoveRobot": {"admin", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.RemoveRobot(ctx, connect.NewRequest(&shoalv1.RemoveRobotRequest{Project: p, Name: "extra"})))
	}},
	"DeleteProject": {"system", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, p string) error {
		return failed(c.DeleteProject(ctx, connect.NewRequest(&shoalv1.DeleteProjectRequest{Name: p})))
	}},
	"CreateProject": {"system", func(ctx context.Context, c shoalv1connect.ProjectServiceClient, _ string) error {
		return failed(c.CreateProject(ctx, connect.NewRequest(&shoalv1.CreateProjectRequest{Name: "fresh"})))
	}},
}

// Nobody does to a project what their role there does not allow, and who may
// not see it cannot tell whether it is there.
func TestProjectCallsAreDecidedByTheProjectTheyName(t *testing.T) {
	s := newScene(t)
	s.must(s.Auth.CreateUser(t.Context(), "extra", "a password of extra", false))
	methods := shoalv1.File_shoal_v1_project_proto.Services().ByName("ProjectService").Methods()
	if methods.Len() != len(projectCalls)+1 { // ListProjects names none
		t.Errorf("%d calls of the service, %d in the table", methods.Len(), len(projectCalls))
	}
	levels := map[string]string{"reader": "rmas", "member": "mas", "admin": "as", "system": "s"} // who reaches them
	standing := map[string]map[string]string{                                                    // r(eader), m(ember), a(dmin), s(ystem), - none
		"project admin": {"own": "a", "other": "-", "public": "r", "nowhere": "-"},
		"developer":     {"own": "m", "other": "-", "public": "r", "nowhere": "-"},
		"guest":         {"own": "m", "other": "-", "public": "r", "nowhere": "-"},
		"no member":     {"own": "-", "other": "-", "public": "r", "nowhere": "-"},
	}
	for name, places := range standing {
		for project, at := range places {
			for what, c := range projectCalls {
				err := c.call(t.Context(), s.projects(s.who[name]), project)
				want := connect.CodePermissionDenied
				switch {
				case what == "CreateProject":
				case strings.Contains(levels[c.need], at):
					want = 0
				case at == "-":
					want = connect.CodeNotFound
				}
				// What an admin takes away may not be there (yet).
				gone := want == 0 && code(err) == connect.CodeNotFound && !strings.Contains(err.Error(), "no such project")
				exists := want == 0 && code(err) == connect.CodeAlreadyExists
				if code(err) != want && !gone && !exists {
					t.Errorf("%s, %s of %s: %v, want %v", name, what, project, err, want)
				}
				if at == "-" && what != "CreateProject" {
					nowhere := c.call(t.Context(), s.projects(s.who[name]), "nowhere")
					if got := strings.ReplaceAll(err.Error(), project, "nowhere"); got != nowhere.Error() {
						t.Errorf("%s, %s of %s: %q, of what is not there: %q", name, what, project, got, nowhere)
					}
				}
			}
		}
	}
}

// Threat 19: neither robots nor tokens of the registry are known here, and
// strangers are not at all.
func TestThreat19TheProjectsAPIKnowsPeopleAlone(t *testing.T) {
	s := newScene(t, "developer")
	developer := s.who["developer"]
	token := s.tokenFor(developer, s.public.URL+"/token", url.Values{"scope": {"repository:own/app:pull,push"}})
	clients := map[string]*http.Client{
		"robot": s.client(s.who["robot that does all"]), "stranger": s.client(s.who["stranger"]),
		"wrong password":        s.client(account{developer.name, "wrong"}),
		"token of the registry": {Transport: with{func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }}},
	}
	for name, client := range clients {
		projects := shoalv1connect.NewProjectServiceClient(client, s.public.URL+"/api")
		users := shoalv1connect.NewUserServiceClient(client, s.public.URL+"/api")
		for what, err := range map[string]error{
			"list projects": failed(projects.ListProjects(t.Context(), connect.NewRequest(&shoalv1.ListProjectsRequest{}))),
			"who am I":      failed(users.WhoAmI(t.Context(), connect.NewRequest(&shoalv1.WhoAmIRequest{}))),
		} {
			if code(err) != connect.CodeUnauthenticated {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// Users are the system administrators' business; the own password everybody's.
func TestUserCalls(t *testing.T) {
	s := newScene(t, "project admin", "no member", "guest")
	calls := func(who account) map[string]error {
		c, ctx := s.users(who), t.Context()
		return map[string]error{
			"create":   failed(c.CreateUser(ctx, connect.NewRequest(&shoalv1.CreateUserRequest{Name: "eve", Password: "a long password", Admin: true}))),
			"list":     failed(c.ListUsers(ctx, connect.NewRequest(&shoalv1.ListUsersRequest{}))),
			"password": failed(c.SetPassword(ctx, connect.NewRequest(&shoalv1.SetPasswordRequest{Name: "eve", Password: "another password"}))),
			"remove":   failed(c.RemoveUser(ctx, connect.NewRequest(&shoalv1.RemoveUserRequest{Name: "eve"}))),
		}
	}
	for _, name := range []string{"project admin", "no member"} {
		for what, err := range calls(s.who[name]) {
			if code(err) != connect.CodePermissionDenied {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	for what, err := range calls(s.who["system administrator"]) {
		if err != nil {
			t.Errorf("system administrator, %s: %v", what, err)
		}
	}
	guest := s.who["guest"]
	change := func(old, next string) connect.Code {
		return code(failed(s.users(guest).ChangePassword(t.Context(), connect.NewRequest(&shoalv1.ChangePasswordRequest{OldPassword: old, NewPassword: next}))))
	}
	if got := change("wrong", "a new long password"); got != connect.CodePermissionDenied {
		t.Errorf("with a wrong old password: %v", got)
	}
	if got := change(guest.password, "short"); got != connect.CodeInvalidArgument {
		t.Errorf("to a short one: %v", got)
	}
	if got := change(guest.password, "a new long password"); got != 0 {
		t.Errorf("the own password: %v", got)
	}
	guest.password = "a new long password"
	me, err := s.users(guest).WhoAmI(t.Context(), connect.NewRequest(&shoalv1.WhoAmIRequest{}))
	if err != nil || me.Msg.User.Name != guest.name || me.Msg.User.Admin || me.Msg.User.MustChangePassword {
		t.Errorf("who am I: %v, %v", me, err)
	}
}

// A quota over the API is kept by the registry, and shows what it counts.
func TestQuotaOverTheAPI(t *testing.T) {
	s := newScene(t, "developer")
	s.set("own/app") // 7 bytes and a manifest
	root := s.projects(s.who["system administrator"])
	used := func() (int64, string) {
		answer, err := root.GetProject(t.Context(), connect.NewRequest(&shoalv1.GetProjectRequest{Name: "own"}))
		s.must(err)
		return answer.Msg.Project.UsedBytes, answer.Msg.Project.Role
	}
	before, _ := used()
	if before != int64(len(layer)+len(emptyList)) {
		t.Errorf("%d bytes are used", before)
	}
	limit := before + 1
	_, err := root.SetSettings(t.Context(), connect.NewRequest(&shoalv1.SetSettingsRequest{Project: "own", QuotaBytes: &limit}))
	s.must(err)
	push := func(body string) outcome {
		d := deeds[8]
		return s.try(s.who["developer"], true, d.method, "/v2/own/app"+d.path, body)
	}
	if got := push("new"); got.status != http.StatusForbidden || !strings.Contains(got.body, `"DENIED"`) || !strings.Contains(got.body, `"asked":3`) {
		t.Errorf("past the quota: %d %s", got.status, got.body)
	}
	limit = 0
	_, err = root.SetSettings(t.Context(), connect.NewRequest(&shoalv1.SetSettingsRequest{Project: "own", QuotaBytes: &limit}))
	s.must(err)
	if got := push("new"); got.status != http.StatusCreated {
		t.Errorf("without a quota: %d %s", got.status, got.body)
	}
	if after, _ := used(); after != before+3 {
		t.Errorf("%d bytes, then %d", before, after)
	}
}

// The console shows each person what they may pull, and the fleet to
// administrators.
func TestTheConsoleShowsWhatOneMaySee(t *testing.T) {
	s := newScene(t, "developer", "no member")
	for _, project := range []string{"own", "other", "public"} {
		s.set(project + "/app")
	}
	s.join()
	page := func(who account, path string) string {
		form := url.Values{"user": {who.name}, "password": {who.password}}
		response, raw := s.do("POST", "/login", strings.NewReader(form.Encode()), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		})
		if len(response.Cookies()) == 0 {
			t.Fatalf("log %s in: %s %s", who.name, response.Status, raw)
		}
		_, raw = s.do("GET", path, nil, func(r *http.Request) { r.AddCookie(response.Cookies()[0]) })
		return string(raw)
	}
	for name, want := range map[string]map[string]bool{
		"system administrator": {"own/app": true, "other/app": true, "public/app": true}, "developer": {"own/app": true, "other/app": false, "public/app": true},
		"no member": {"own/app": false, "other/app": false, "public/app": true},
	} {
		images := page(s.who[name], "/images")
		for repository, shown := range want {
			if strings.Contains(images, repository) != shown {
				t.Errorf("%s: %s shown: %v", name, repository, !shown)
			}
		}
		if shown := strings.Contains(page(s.who[name], "/fleet"), "host-1"); shown != (name == "system administrator") {
			t.Errorf("%s: the fleet is shown: %v", name, shown)
		}
	}
}
