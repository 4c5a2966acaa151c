package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
	"github.com/shoalproject/shoal/supernode/registry"
)

func (s *scene) retentions(who account) shoalv1connect.RetentionServiceClient {
	return shoalv1connect.NewRetentionServiceClient(s.client(who), s.public.URL+"/api")
}

// runRetention gives the tags that go, and the error of the call.
func runRetention(t *testing.T, c shoalv1connect.RetentionServiceClient, request *shoalv1.RunRetentionRequest) (going []string, err error) {
	t.Helper()
	stream, err := c.RunRetention(t.Context(), connect.NewRequest(request))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		v := stream.Msg()
		if v.Removed && (request.DryRun || !v.Goes) || v.Why == "" {
			t.Errorf("dry run %t: %v", request.DryRun, v)
		}
		if v.Goes {
			going = append(going, v.Tag)
		}
	}
	return going, stream.Err()
}

// pushTag puts an empty index of its own under a tag.
func (s *scene) pushTag(repository, tag string) {
	s.t.Helper()
	body := strings.Replace(otherList, `"b"`, `"`+tag+`"`, 1)
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodPut, "/v2/"+repository+"/manifests/"+tag, strings.NewReader(body))
	r.Header.Set("Content-Type", indexType)
	w := httptest.NewRecorder()
	if s.open.ServeHTTP(w, r); w.Code != http.StatusCreated {
		s.t.Fatalf("push %s:%s: %d %s", repository, tag, w.Code, w.Body)
	}
}

func (s *scene) tags(repository string) string {
	s.t.Helper()
	var names []string
	for tag, err := range s.Registry.Tags(s.t.Context(), repository) {
		s.must(err)
		names = append(names, tag.Name)
	}
	return strings.Join(names, " ")
}

// Only a project's admins and the system's see, set and run its rules; to who
// may not see the project it is as if it were not there.
func TestRetentionIsTheAdmins(t *testing.T) {
	s := newScene(t)
	for name, want := range map[string]map[string]connect.Code{
		"project admin": {"own": 0, "other": connect.CodeNotFound, "public": connect.CodePermissionDenied, "nowhere": connect.CodeNotFound},
		"developer":     {"own": connect.CodePermissionDenied, "other": connect.CodeNotFound, "public": connect.CodePermissionDenied},
		"guest":         {"own": connect.CodePermissionDenied, "other": connect.CodeNotFound},
		"no member":     {"own": connect.CodeNotFound, "public": connect.CodePermissionDenied},
	} {
		c := s.retentions(s.who[name])
		for project, want := range want {
			rule := &shoalv1.RetentionRule{KeepLast: 100}
			_, getErr := c.GetRetention(t.Context(), connect.NewRequest(&shoalv1.GetRetentionRequest{Project: project}))
			_, setErr := c.SetRetention(t.Context(), connect.NewRequest(&shoalv1.SetRetentionRequest{Project: project, Rule: rule}))
			_, runErr := runRetention(t, c, &shoalv1.RunRetentionRequest{Project: project})
			_, dryErr := runRetention(t, c, &shoalv1.RunRetentionRequest{Project: project, DryRun: true})
			_, clearErr := c.ClearRetention(t.Context(), connect.NewRequest(&shoalv1.ClearRetentionRequest{Project: project, All: true}))
			for what, err := range map[string]error{"get": getErr, "set": setErr, "run": runErr, "dry run": dryErr, "clear": clearErr} {
				if code(err) != want {
					t.Errorf("%s, %s of %s: %v, want %v", name, what, project, err, want)
				}
			}
		}
	}
}

func TestRetentionRules(t *testing.T) {
	s := newScene(t, "project admin")
	c := s.retentions(s.who["project admin"])
	ctx := t.Context()
	set := func(rule *shoalv1.RetentionRule) ([]*shoalv1.RetentionRule, error) {
		answer, err := c.SetRetention(ctx, connect.NewRequest(&shoalv1.SetRetentionRequest{Project: "own", Rule: rule}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.Rules, nil
	}
	for _, bad := range []*shoalv1.RetentionRule{nil, {}, {Keep: []string{"v*"}}, {KeepLast: -1}, {KeepLast: 1, Keep: []string{"["}}} {
		if _, err := set(bad); code(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
		if _, err := runRetention(t, c, &shoalv1.RunRetentionRequest{Project: "own", DryRun: true, Try: bad}); bad != nil && code(err) != connect.CodeInvalidArgument {
			t.Errorf("trying %v: %v", bad, err)
		}
	}
	_, err := set(&shoalv1.RetentionRule{KeepLast: 5})
	s.must(err)
	_, err = set(&shoalv1.RetentionRule{Repositories: "ci/*", KeepDays: 7})
	s.must(err)
	rules, err := set(&shoalv1.RetentionRule{KeepLast: 3, Keep: []string{"v*"}})
	s.must(err)
	if len(rules) != 2 || rules[0].KeepLast != 3 || rules[1].KeepDays != 7 {
		t.Errorf("the rules are %v", rules)
	}
	// Other settings are changed beside them.
	_, err = s.projects(s.who["project admin"]).SetSettings(ctx, connect.NewRequest(&shoalv1.SetSettingsRequest{Project: "own", SetImmutableTags: true, ImmutableTags: []string{"x"}}))
	s.must(err)
	remove := func(request *shoalv1.ClearRetentionRequest) (int, error) {
		request.Project = "own"
		answer, err := c.ClearRetention(ctx, connect.NewRequest(request))
		if err != nil {
			return 0, err
		}
		return len(answer.Msg.Rules), nil
	}
	if _, err := remove(&shoalv1.ClearRetentionRequest{Repositories: "ci"}); code(err) != connect.CodeNotFound {
		t.Errorf("a rule that is not there was cleared: %v", err)
	}
	if n, err := remove(&shoalv1.ClearRetentionRequest{}); err != nil || n != 1 {
		t.Errorf("%d left, %v", n, err)
	}
	if n, err := remove(&shoalv1.ClearRetentionRequest{All: true}); err != nil || n != 0 {
		t.Errorf("%d left, %v", n, err)
	}
}

// A dry run shows what a rule would do before it is set and removes nothing;
// the supernode's own round then does what was shown.
func TestRetentionRunsWithTheCollection(t *testing.T) {
	s := newScene(t, "project admin")
	c := s.retentions(s.who["project admin"])
	for _, project := range []string{"own", "other"} {
		for i := range 4 {
			s.pushTag(project+"/many", fmt.Sprint(i))
		}
	}
	all := s.tags("own/many")
	rule := &shoalv1.RetentionRule{Repositories: "many", KeepLast: 1, Keep: []string{"1"}}
	shown, err := runRetention(t, c, &shoalv1.RunRetentionRequest{Project: "own", DryRun: true, Try: rule})
	if err != nil || len(shown) != 2 || slices.Contains(shown, "1") {
		t.Fatalf("%v would go, %v", shown, err)
	}
	if _, err := runRetention(t, c, &shoalv1.RunRetentionRequest{Project: "own", Try: rule}); code(err) != connect.CodeInvalidArgument {
		t.Errorf("a rule is tried in earnest: %v", err)
	}
	_, err = s.Collect(t.Context())
	s.must(err)
	if s.tags("own/many") != all {
		t.Errorf("before there is a rule, left are %s of %s", s.tags("own/many"), all)
	}
	_, err = c.SetRetention(t.Context(), connect.NewRequest(&shoalv1.SetRetentionRequest{Project: "own", Rule: rule}))
	s.must(err)
	if again, err := runRetention(t, c, &shoalv1.RunRetentionRequest{Project: "own", DryRun: true}); err != nil || !slices.Equal(again, shown) || s.tags("own/many") != all {
		t.Errorf("%v would go, %v; left %s", again, err, s.tags("own/many"))
	}
	_, err = s.Collect(t.Context())
	s.must(err)
	for _, tag := range shown {
		if slices.Contains(strings.Fields(s.tags("own/many")), tag) {
			t.Errorf("%s is still there", tag)
		}
	}
	if s.tags("other/many") != all || len(strings.Fields(s.tags("own/many"))) != 2 {
		t.Errorf("left: %s, and of the other project %s", s.tags("own/many"), s.tags("other/many"))
	}
	if report, err := s.Registry.Verify(t.Context(), func(registry.VerifyProgress) {}); err != nil || len(report.Problems) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
