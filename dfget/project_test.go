package dfget

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	dockerconfig "github.com/docker/cli/cli/config"
	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// projectsDouble remembers what it was asked and fails as it is told to.
type projectsDouble struct {
	shoalv1connect.UnimplementedProjectServiceHandler
	settings *shoalv1.SetSettingsRequest
	robot    *shoalv1.CreateRobotRequest
	fail     error
}

func (d *projectsDouble) SetSettings(_ context.Context, r *connect.Request[shoalv1.SetSettingsRequest]) (*connect.Response[shoalv1.SetSettingsResponse], error) {
	d.settings = r.Msg
	return connect.NewResponse(&shoalv1.SetSettingsResponse{Project: &shoalv1.Project{Name: r.Msg.Project}}), d.fail
}

func (d *projectsDouble) CreateRobot(_ context.Context, r *connect.Request[shoalv1.CreateRobotRequest]) (*connect.Response[shoalv1.CreateRobotResponse], error) {
	d.robot = r.Msg
	return connect.NewResponse(&shoalv1.CreateRobotResponse{Robot: &shoalv1.Robot{Login: "robot$demo+ci"}, Secret: "s3cret"}), d.fail
}

// loggedIn serves the double and logs in to it as ann; what it returns runs a
// command line.
func loggedIn(t *testing.T, d *projectsDouble) func(line string) (status int, out, errOut string) {
	t.Helper()
	return loggedInTo(t, func() (string, http.Handler) { return shoalv1connect.NewProjectServiceHandler(d) })
}

// loggedInTo is loggedIn for any service.
func loggedInTo(t *testing.T, service func() (string, http.Handler)) func(line string) (status int, out, errOut string) {
	t.Helper()
	path, handler := service()
	mux := http.NewServeMux()
	mux.Handle("/api"+path, http.StripPrefix("/api", handler))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "hers" {
			t.Errorf("%s asks with %q", r.URL, user)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	host := strings.TrimPrefix(server.URL, "http://")
	dockerconfig.SetDir(home) // it looks into the environment once only
	docker, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("ann:hers"))}}})
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "config.json"), docker, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(line string) (int, string, string) {
		var out, errOut bytes.Buffer
		status := Run(t.Context(), append(strings.Fields(line), "--supernode", server.URL), strings.NewReader(""), &out, &errOut)
		return status, out.String(), errOut.String()
	}
}

// Settings that are not named stay as they are: the request leaves them out.
func TestSettingsSendOnlyWhatIsNamed(t *testing.T) {
	d := &projectsDouble{}
	run := loggedIn(t, d)
	for flags, want := range map[string]*shoalv1.SetSettingsRequest{
		"--public":                         {Public: proto.Bool(true)},
		"--public=false":                   {Public: proto.Bool(false)},
		"--developers-delete --quota 2KiB": {DevelopersDelete: proto.Bool(true), QuotaBytes: proto.Int64(2048)},
		"--quota 0":                        {QuotaBytes: proto.Int64(0)},
		"--immutable-tag v* --immutable-tag r,x*": {SetImmutableTags: true, ImmutableTags: []string{"v*", "r,x*"}},
		"--immutable-tag=":                        {SetImmutableTags: true},
	} {
		want.Project = "demo"
		if status, _, said := run("project settings demo " + flags); status != exitDone || !proto.Equal(d.settings, want) {
			t.Errorf("%s: status %d, %v, want %v; it said %s", flags, status, d.settings, want, said)
		}
	}
}

func TestARobotsSecretIsPrintedAlone(t *testing.T) {
	d := &projectsDouble{}
	run := loggedIn(t, d)
	status, out, said := run("robot create demo ci --allow pull,push --expires 1h")
	if status != exitDone || out != "s3cret\n" || !strings.Contains(said, "robot$demo+ci") || strings.Contains(said, "s3cret") {
		t.Errorf("status %d, %q, %q", status, out, said)
	}
	want := &shoalv1.CreateRobotRequest{Project: "demo", Name: "ci", Permissions: []string{"pull", "push"}, TtlSeconds: 3600}
	if !proto.Equal(d.robot, want) {
		t.Errorf("asked for %v", d.robot)
	}
	if _, out, _ = run("robot create demo ci --json"); !json.Valid([]byte(out)) || !strings.Contains(out, "s3cret") {
		t.Errorf("as JSON: %s", out)
	}
}

func TestExitStatusOfRefusals(t *testing.T) {
	d := &projectsDouble{}
	run := loggedIn(t, d)
	for code, want := range map[connect.Code]int{
		connect.CodePermissionDenied: exitDenied, connect.CodeUnauthenticated: exitDenied, connect.CodeNotFound: exitNotFound,
		connect.CodeInvalidArgument: exitUsage, connect.CodeAlreadyExists: exitFailed, connect.CodeInternal: exitFailed,
	} {
		d.fail = connect.NewError(code, errors.New("for some reason"))
		if status, out, said := run("project settings demo --public"); status != want || out != "" || !strings.Contains(said, "for some reason") {
			t.Errorf("%v: status %d, want %d; %q %q", code, status, want, out, said)
		}
	}
}
