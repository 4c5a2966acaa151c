package api

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/audit"
)

func (s *scene) audits(who account) shoalv1connect.AuditServiceClient {
	return shoalv1connect.NewAuditServiceClient(s.client(who), s.public.URL+"/api")
}

func (f *front) rows(q audit.Query) []audit.Row {
	f.t.Helper()
	rows, _, err := f.Audit.Search(f.t.Context(), q, 0, 0)
	f.must(err)
	return rows
}

// closedCalls are the calls of all services on the public listener that need a
// login.
func (f *front) closedCalls() (out []protoreflect.MethodDescriptor) {
	f.t.Helper()
	routes, err := f.routes()
	f.must(err)
	for _, r := range routes {
		name := strings.Trim(strings.TrimPrefix(r.pattern, "/api/"), "/")
		if slices.Contains(OpenRoutes, r.pattern) || !strings.HasPrefix(name, callsPackage) {
			continue
		}
		service, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		f.must(err)
		methods := service.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			out = append(out, methods.Get(i))
		}
	}
	if len(out) < 20 {
		f.t.Fatalf("only %d calls were found", len(out))
	}
	return out
}

// empty sends an empty request to a call, whatever it is.
func (s *scene) empty(m protoreflect.MethodDescriptor, who account) {
	s.t.Helper()
	body, kind := []byte("{}"), "application/json"
	if m.IsStreamingServer() {
		body, kind = append(binary.BigEndian.AppendUint32([]byte{0}, 2), body...), "application/connect+json"
	}
	response, _ := s.do("POST", fmt.Sprintf("/api/%s/%s", m.Parent().FullName(), m.Name()), bytes.NewReader(body), func(r *http.Request) {
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Connect-Protocol-Version", "1")
		if who.name != "" {
			r.SetBasicAuth(who.name, who.password)
		}
	})
	if response.StatusCode == http.StatusUnsupportedMediaType || response.StatusCode == http.StatusNotFound && m.IsStreamingServer() {
		s.t.Errorf("%s: %s", m.FullName(), response.Status)
	}
}

// Every call has its row, whoever made it and whether they were let in.
func TestEveryCallHasARow(t *testing.T) {
	s := newScene(t, "no member")
	administrators := shoalv1.File_shoal_v1_admin_proto.Services().Get(0)
	for _, m := range s.closedCalls() {
		action := actionOf(string(m.Name()))
		for who, want := range map[string]string{"system administrator": "admin", "no member": "no-member", "stranger": audit.Unknown} {
			count := func() (n int) {
				for _, row := range s.rows(audit.Query{Subject: want, Action: action}) {
					n++
					if row.From != "127.0.0.1" {
						t.Errorf("%s as %s came from %q", m.Name(), who, row.From)
					}
					if row.Allowed && (want == audit.Unknown || m.Parent() == administrators && want != "admin") {
						t.Errorf("%s as %s was allowed: %+v", m.Name(), who, row)
					}
				}
				return n
			}
			before := count()
			s.empty(m, s.who[who])
			own := slices.Contains(ownCalls, string(m.Name())) && want != audit.Unknown
			if got := count() - before; got != 1 && !own || own && got != 0 {
				t.Errorf("%s as %s: %d rows", m.Name(), who, got)
			}
		}
	}
}

// Who may open the data folder is told apart, and told of.
func TestCallsThroughTheSocketHaveRows(t *testing.T) {
	f := newFront(t)
	handler := Admin(f.Config)
	for path, action := range map[string]string{"AdminService/CreateJoinToken": "join-token.create", "KeyService/RotateTokenKeys": "token-keys.rotate"} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/api/shoal.v1."+path, strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusNotFound || w.Code == http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d", path, w.Code)
		}
		if rows := f.rows(audit.Query{Subject: operator, Action: action}); len(rows) != 1 || rows[0].From == "" {
			t.Errorf("%s: %+v", path, rows)
		}
	}
}

// What the audit tells of a request are the fields that it may tell. Every
// other holds a secret here.
func TestCallsTellNoSecret(t *testing.T) {
	const hidden = "do-not-tell"
	var fill func(m protoreflect.Message, deep int)
	fill = func(m protoreflect.Message, deep int) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			text := protoreflect.ValueOfString(hidden)
			switch {
			case f.IsMap():
			case f.Message() != nil && !f.IsList() && deep > 0:
				fill(m.Mutable(f).Message(), deep-1)
			case toldFields[f.Name()]:
			case f.Kind() == protoreflect.StringKind && f.IsList():
				m.Mutable(f).List().Append(text)
			case f.Kind() == protoreflect.StringKind:
				m.Set(f, text)
			case f.Kind() == protoreflect.BytesKind:
				m.Set(f, protoreflect.ValueOfBytes([]byte(hidden)))
			}
		}
	}
	for _, m := range newFront(t).closedCalls() {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		request := kind.New()
		fill(request, 3)
		if e := callEvent(string(m.Name()), request.Interface()); strings.Contains(fmt.Sprintf("%+v", e), hidden) {
			t.Errorf("%s: %+v", m.Name(), e)
		}
	}
	for _, name := range []protoreflect.Name{"password", "old_password", "new_password", "token", "secret", "proof", "state", "code"} {
		if toldFields[name] {
			t.Errorf("%s is told", name)
		}
	}
}

func TestCallEvents(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		request proto.Message
		want    audit.Event
	}{
		"project made":    {"CreateProject", &shoalv1.CreateProjectRequest{Name: "demo", Settings: &shoalv1.ProjectSettings{Public: true}}, audit.Event{Action: "project.create", Object: "project:demo", Project: "demo", Detail: map[string]string{"public": "true"}}},
		"member set":      {"SetMember", &shoalv1.SetMemberRequest{Project: "demo", User: "ann", Role: "guest"}, audit.Event{Action: "member.set", Object: "user:ann", Project: "demo", Detail: map[string]string{"role": "guest"}}},
		"robot made":      {"CreateRobot", &shoalv1.CreateRobotRequest{Project: "demo", Name: "ci", Permissions: []string{"pull", "push"}}, audit.Event{Action: "robot.create", Object: "robot:ci", Project: "demo", Detail: map[string]string{"permissions": "pull push"}}},
		"robot disabled":  {"SetRobotDisabled", &shoalv1.SetRobotDisabledRequest{Project: "demo", Name: "ci", Disabled: true}, audit.Event{Action: "robot-disabled.set", Object: "robot:ci", Project: "demo", Detail: map[string]string{"disabled": "true"}}},
		"settings":        {"SetSettings", &shoalv1.SetSettingsRequest{Project: "demo", QuotaBytes: proto.Int64(5)}, audit.Event{Action: "settings.set", Object: "project:demo", Project: "demo", Detail: map[string]string{"quota_bytes": "5"}}},
		"user made":       {"CreateUser", &shoalv1.CreateUserRequest{Name: "ann", Password: "secret", Admin: true}, audit.Event{Action: "user.create", Object: "user:ann", Detail: map[string]string{"admin": "true"}}},
		"server revoked":  {"RevokeServer", &shoalv1.RevokeServerRequest{PeerId: "12D3"}, audit.Event{Action: "server.revoke", Object: "node:12D3"}},
		"join token":      {"CreateJoinToken", &shoalv1.CreateJoinTokenRequest{Pool: "web", Uses: 3, TtlSeconds: 60}, audit.Event{Action: "join-token.create", Object: "pool:web", Detail: map[string]string{"uses": "3", "ttl_seconds": "60"}}},
		"prewarm":         {"Prewarm", &shoalv1.PrewarmRequest{Images: []string{"a", "b"}}, audit.Event{Action: "supernode.prewarm", Object: "image:a b"}},
		"session ended":   {"RevokeSession", &shoalv1.RevokeSessionRequest{Id: "abc"}, audit.Event{Action: "session.revoke", Object: "session:abc"}},
		"projects listed": {"ListProjects", &shoalv1.ListProjectsRequest{}, audit.Event{Action: "projects.list", Often: true}},
		"nothing known":   {"Backup", nil, audit.Event{Action: "supernode.backup"}},
	} {
		if got := callEvent(c.method, c.request); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What is done at the registry has one row for each push, delete and refusal.
func TestRegistryRequestsHaveRows(t *testing.T) {
	s := newScene(t, "project admin", "developer", "no member")
	s.set("own/app")
	s.set("public/app")
	as := func(who, method, path, body string, want int) {
		t.Helper()
		response, raw := s.do(method, "/v2/"+path, strings.NewReader(body), func(r *http.Request) {
			if a := s.who[who]; a.name != "" {
				r.SetBasicAuth(a.name, a.password)
			}
			r.Header.Set("Content-Type", indexType)
		})
		if response.StatusCode != want {
			t.Fatalf("%s %s as %s: %s %s", method, path, who, response.Status, raw)
		}
	}
	as("developer", "PUT", "own/app/manifests/v2", emptyList, 201)
	as("developer", "DELETE", "own/app/manifests/v2", "", 403)
	as("project admin", "DELETE", "own/app/manifests/v2", "", 202)
	as("no member", "GET", "own/app/manifests/v1", "", 403)
	as("stranger", "GET", "own/app/manifests/v1", "", 401)
	as("no member", "PUT", "own/app/manifests/v1", emptyList, 403)
	as("no member", "POST", "own/app/blobs/uploads/", "", 403)
	as("developer", "POST", "own/app/blobs/uploads/", "", 202)
	as("developer", "PUT", "own/app/manifests/v3", "no manifest", 400)
	as("robot that pulls", "GET", "own/app/manifests/v1", "", 200)
	as("robot that pulls", "GET", "own/app/manifests/v1", "", 200)
	as("robot that pulls", "GET", "own/app/blobs/"+someDigest, "", 404)
	as("developer", "GET", "library/alpine/manifests/3?ns=docker.io", "", 200)
	as("developer", "GET", "own/app/tags/list", "", 200)
	as("developer", "GET", "", "", 200)
	as("stranger", "GET", "", "", 401)
	as("stranger", "GET", "nonsense", "", 401)
	var got []string
	for _, row := range s.rows(audit.Query{}) {
		noun, _, _ := strings.Cut(row.Action, ".")
		if !slices.Contains([]string{"image", "blob", "tag", "upload", "catalog"}, noun) {
			continue
		}
		outcome := "yes"
		if !row.Allowed {
			outcome = "no"
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s %s", row.Subject, row.Action, row.Object, row.Project, outcome, row.Reason)))
		if row.Action == "image.push" && row.Allowed && row.Reason == "" && !strings.HasPrefix(row.Detail["digest"], "sha256:") {
			t.Errorf("a push without its digest: %+v", row)
		}
	}
	slices.Reverse(got)
	want := []string{
		"developer image.push own/app:v2 own yes",
		"developer tag.delete own/app:v2 own no not allowed: delete on own/app, as developer",
		"project-admin tag.delete own/app:v2 own yes",
		"no-member image.pull own/app:v1 own no not allowed: pull on own/app, as no-member",
		"(unknown) image.pull own/app:v1 own no no login that covers this",
		"no-member image.push own/app:v1 own no not allowed: push on own/app, as no-member",
		"no-member blob.push own/app own no not allowed: push on own/app, as no-member",
		"developer image.push own/app:v3 own yes Bad Request",
		"robot$own+robot-that-pulls image.pull own/app:v1 own yes",
		"robot$own+robot-that-pulls blob.pull own/app own yes Not Found",
		"developer image.pull docker.io/library/alpine:3  yes",
		"developer image.list own/app own yes",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Logins of users and robots have rows; what a stranger typed as a name has not.
func TestLoginsHaveRows(t *testing.T) {
	s := newScene(t, "developer")
	for _, a := range []account{s.who["developer"], {"developer", "wrong password"}, s.who["robot that pulls"], {s.who["robot that pulls"].name, "wrong"}, {"robot$own+nobody", "wrong"}, {"a-password", "wrong"}} {
		s.do("GET", "/token?service=shoal-registry", nil, func(r *http.Request) { r.SetBasicAuth(a.name, a.password) })
	}
	var got []string
	for _, row := range s.rows(audit.Query{Action: "login"}) {
		got = append(got, fmt.Sprint(row.Subject, " ", row.Project, " ", row.Allowed))
	}
	slices.Reverse(got)
	want := []string{"developer  true", "developer  false", "robot$own+robot-that-pulls own true", "robot$own+robot-that-pulls own false", "(unknown)  false"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// The audit of a project is its admins', from the time that it was made on;
// all of it is the system administrators'.
func TestWhoSeesTheAudit(t *testing.T) {
	s := newScene(t, "project admin", "developer")
	s.Audit.Record(audit.Event{Subject: "somebody", Action: "image.push", Object: "own/app:v1", Project: "own", Allowed: true})
	s.Audit.Record(audit.Event{Subject: "somebody", Action: "image.push", Object: "other/app:v1", Project: "other", Allowed: true})
	search := func(who, project string) ([]*shoalv1.AuditRow, error) {
		answer, err := s.audits(s.who[who]).SearchAudit(t.Context(), connect.NewRequest(&shoalv1.SearchAuditRequest{Filter: &shoalv1.AuditFilter{Project: project, Subject: "somebody"}}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.Rows, nil
	}
	export := func(who, project string) (lines string, err error) {
		stream, err := s.audits(s.who[who]).ExportAudit(t.Context(), connect.NewRequest(&shoalv1.ExportAuditRequest{Filter: &shoalv1.AuditFilter{Project: project, Subject: "somebody"}}))
		if err != nil {
			return "", err
		}
		defer stream.Close()
		for stream.Receive() {
			lines += string(stream.Msg().Lines)
		}
		return lines, stream.Err()
	}
	for _, c := range []struct {
		who, project string
		want         connect.Code
		rows         int
	}{
		{"system administrator", "", 0, 2}, {"system administrator", "own", 0, 1}, {"system administrator", "nowhere", 0, 0},
		{"project admin", "own", 0, 1}, {"project admin", "", connect.CodePermissionDenied, 0},
		{"project admin", "other", connect.CodeNotFound, 0}, {"project admin", "nowhere", connect.CodeNotFound, 0},
		{"project admin", "public", connect.CodePermissionDenied, 0},
		{"developer", "own", connect.CodePermissionDenied, 0}, {"developer", "", connect.CodePermissionDenied, 0},
		{"robot that does all", "own", connect.CodeUnauthenticated, 0}, {"stranger", "own", connect.CodeUnauthenticated, 0},
	} {
		rows, err := search(c.who, c.project)
		if code(err) != c.want || len(rows) != c.rows {
			t.Errorf("%s searches %q: %d rows, %v", c.who, c.project, len(rows), err)
		}
		lines, err := export(c.who, c.project)
		if code(err) != c.want || strings.Count(lines, "\n") != c.rows {
			t.Errorf("%s exports %q: %s, %v", c.who, c.project, lines, err)
		}
	}
	for who, want := range map[string]connect.Code{"system administrator": 0, "project admin": connect.CodePermissionDenied} {
		_, err := s.audits(s.who[who]).VerifyAudit(t.Context(), connect.NewRequest(&shoalv1.VerifyAuditRequest{}))
		if code(err) != want {
			t.Errorf("%s verifies: %v", who, err)
		}
	}
	// A project that is made anew under an old name begins anew.
	s.offset.Store(int64(time.Hour))
	s.must(s.Auth.DeleteProject(t.Context(), system, "other", s.Registry))
	_, err := s.Auth.CreateProject(t.Context(), system, "other", settingsOf(nil))
	s.must(err)
	s.must(s.Auth.SetMember(t.Context(), system, "other", s.who["project admin"].name, "admin"))
	if rows, err := search("project admin", "other"); err != nil || len(rows) != 0 {
		t.Errorf("of the project before it: %v %v", rows, err)
	}
	asked := &shoalv1.AuditFilter{Project: "other", Subject: "somebody", Since: timestamppb.New(time.Unix(1, 0))}
	answer, err := s.audits(s.who["project admin"]).SearchAudit(t.Context(), connect.NewRequest(&shoalv1.SearchAuditRequest{Filter: asked}))
	if err != nil || len(answer.Msg.Rows) != 0 {
		t.Errorf("asked for by time: %v %v", answer, err)
	}
}

// What agents decided about their readers has rows, by their word and under
// their own address.
func TestAgentsTellWhatTheyDecided(t *testing.T) {
	s := newScene(t, "project admin")
	m := s.join()
	client := shoalv1connect.NewMirrorAuditServiceClient(m.http, "https://supernode")
	tell := func(pulls ...*shoalv1.ToldPull) error {
		return failed(client.TellPulls(t.Context(), connect.NewRequest(&shoalv1.TellPullsRequest{Pulls: pulls})))
	}
	const far = "198.51.100.7"
	s.must(tell(
		&shoalv1.ToldPull{Subject: "ann", From: far, Repository: "own/app", Reference: "v1", Times: 3},
		&shoalv1.ToldPull{Subject: "ann", From: far, Repository: "own/app", Times: 2, Refused: true},
		&shoalv1.ToldPull{Subject: "node", From: far, Repository: "own/app", Reference: someDigest},
		&shoalv1.ToldPull{From: far, Registry: "docker.io", Repository: "library/alpine", Reference: "3", Refused: true},
		&shoalv1.ToldPull{Subject: operator, From: far, Repository: "own/app", Reference: "v1"},
	))
	var got []string
	for _, row := range s.rows(audit.Query{}) {
		if row.Detail["by"] == nodeSubject(m.id()) && row.Detail["reader"] == far && row.From == "127.0.0.1" {
			got = append(got, fmt.Sprint(row.Subject, " ", row.Action, " ", row.Object, " ", row.Project, " ", row.Allowed))
		}
	}
	slices.Reverse(got)
	want := []string{
		"ann image.pull own/app:v1 own true", "ann blob.pull own/app own false", nodeSubject(m.id()) + " image.pull own/app@" + someDigest + " own true",
		"(unknown) image.pull docker.io/library/alpine:3  false", "(unknown) image.pull own/app:v1 own true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := tell(make([]*shoalv1.ToldPull, maxToldPulls+1)...); code(err) != connect.CodeInvalidArgument {
		t.Errorf("more than is taken: %v", err)
	}
	s.revoke(m.id())
	if err := tell(&shoalv1.ToldPull{Subject: "late", Repository: "own/app"}); err == nil || len(s.rows(audit.Query{Subject: "late"})) > 0 {
		t.Errorf("a node that was turned away tells: %v", err)
	}
}

// Tags that a project's rules let go have rows, by whoever let the rules run.
func TestRetainedTagsHaveRows(t *testing.T) {
	s := newScene(t, "project admin")
	admin := s.retentions(s.who["project admin"])
	_, err := admin.SetRetention(t.Context(), connect.NewRequest(&shoalv1.SetRetentionRequest{Project: "own", Rule: &shoalv1.RetentionRule{KeepLast: 1}}))
	s.must(err)
	deleted := func() (out []string) {
		for _, row := range s.rows(audit.Query{Action: "tag.delete", Project: "own"}) {
			if !row.Allowed || row.Detail["digest"] == "" || row.Detail["rule"] == "" {
				t.Errorf("%+v", row)
			}
			out = append(out, row.Subject+" "+row.Object)
		}
		return out
	}
	s.pushTag("own/app", "v1")
	s.offset.Add(int64(time.Hour))
	s.pushTag("own/app", "v2")
	for _, dry := range []bool{true, false} {
		_, err = runRetention(t, admin, &shoalv1.RunRetentionRequest{Project: "own", DryRun: dry})
		s.must(err)
		if want := map[bool][]string{true: nil, false: {"project-admin own/app:v1"}}[dry]; !slices.Equal(deleted(), want) {
			t.Errorf("dry run %v: %q, want %q", dry, deleted(), want)
		}
	}
	s.offset.Add(int64(time.Hour))
	s.pushTag("own/app", "v3")
	_, err = s.Collect(t.Context())
	s.must(err)
	if want := []string{audit.Supernode + " own/app:v2", "project-admin own/app:v1"}; !slices.Equal(deleted(), want) {
		t.Errorf("%q, want %q", deleted(), want)
	}
}
