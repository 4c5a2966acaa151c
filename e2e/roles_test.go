package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/runtimes"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// rights are what each account may do with the project "own"; the names are
// also those of the roles. "outsider" develops in another project.
var rights = map[string]struct{ pull, push bool }{
	"admin-of-it": {true, true}, "developer": {true, true}, "guest": {true, false}, "outsider": {}, "": {},
}

// TestRolesWithRealClients has every kind of client try what each account may
// and may not, at the supernode and at a host's mirror.
func TestRolesWithRealClients(t *testing.T) {
	two, err := runtimes.Containerd2()
	if err != nil {
		t.Skip("NOT RUN:", err)
	}
	h := build(t, plan{hosts: 3, pool: "web", commands: append([]string{"curl"}, engines...)})
	h.people()
	h.push("own/app", "v1", image.Spec{Line: "own", Layers: []int64{1 << 20}, Seed: 81})
	old, young, rest := h.agents[0], h.agents[1], h.agents[2]
	engines := map[*cluster.Agent]*runtimes.Containerd{}
	for a, bin := range map[*cluster.Agent]string{old: "", young: two} {
		c, err := runtimes.StartContainerdWithCRI(h.ctx, a.Host, bin)
		if err == nil {
			err = c.UseMirror(a.Mirror)
		}
		if err != nil {
			t.Fatal(err)
		}
		engines[a] = c
	}
	var wait sync.WaitGroup
	for _, c := range engines {
		wait.Go(func() { h.rolesByContainerd(c) })
	}
	wait.Go(func() {
		h.rolesByCurl(rest)
		h.rolesBySkopeo(rest)
		h.rolesByDocker(rest)
	})
	wait.Wait()

	// What a pool may, its hosts' runtimes may with no login at all, and those
	// whose login the runtime keeps from the mirror.
	client := &http.Client{Transport: withBasic{h.supernode.Host.Transport(), cluster.AdminUser, h.supernode.Password}}
	projects := shoalv1connect.NewProjectServiceClient(client, h.supernode.URL+"/api")
	if _, err := projects.GrantPool(h.ctx, connect.NewRequest(&shoalv1.GrantPoolRequest{Project: "own", Pool: "web"})); err != nil {
		t.Fatal(err)
	}
	for a, c := range engines {
		h.eventually(waitForRights, "a host of the pool needs no login", func() bool {
			status, err := a.Host.Run(h.ctx, "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", a.Mirror+"/v2/own/app/manifests/v1")
			return err == nil && status == "200"
		})
		ref := h.supernode.Ref("own/app", "v1")
		h.check("ctr on "+a.Host.Name, "pull by the pool's right", "", c.Pull(h.ctx, ref, ""), true)
		h.check("CRI on "+a.Host.Name, "pull by the pool's right", "", c.CRIPull(h.ctx, ref, nil), true)
		h.check("CRI on "+a.Host.Name, "pull by the pool's right", "guest", c.CRIPull(h.ctx, ref, h.addressed("guest")), true)
		// containerd shows a login only when asked for one, and here nobody asks.
		h.check("ctr on "+a.Host.Name, "pull by the pool's right", "outsider", c.Pull(h.ctx, ref, "outsider:"+passwordOf("outsider")), true)
	}
}

// people makes the accounts.
func (h *house) people() {
	h.t.Helper()
	client := &http.Client{Transport: withBasic{h.supernode.Host.Transport(), cluster.AdminUser, h.supernode.Password}}
	users := shoalv1connect.NewUserServiceClient(client, h.supernode.URL+"/api")
	projects := shoalv1connect.NewProjectServiceClient(client, h.supernode.URL+"/api")
	for _, project := range []string{"own", "other"} {
		if _, err := projects.CreateProject(h.ctx, connect.NewRequest(&shoalv1.CreateProjectRequest{Name: project})); err != nil {
			h.t.Fatal(err)
		}
	}
	for user, place := range map[string][2]string{
		"admin-of-it": {"own", "admin"}, "developer": {"own", "developer"}, "guest": {"own", "guest"}, "outsider": {"other", "developer"},
	} {
		_, err1 := users.CreateUser(h.ctx, connect.NewRequest(&shoalv1.CreateUserRequest{Name: user, Password: passwordOf(user)}))
		_, err2 := projects.SetMember(h.ctx, connect.NewRequest(&shoalv1.SetMemberRequest{Project: place[0], User: user, Role: place[1]}))
		if err := errors.Join(err1, err2); err != nil {
			h.t.Fatal(err)
		}
	}
}

// withBasic logs each request in.
type withBasic struct {
	http.RoundTripper
	user, password string
}

func (b withBasic) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(b.user, b.password)
	return b.RoundTripper.RoundTrip(r)
}

// check compares what came out with what an account may.
func (h *house) check(client, what, user string, err error, may bool) {
	h.t.Helper()
	if (err == nil) != may {
		h.t.Errorf("%s: %s by %q: %v, and it may: %v", client, what, user, err, may)
	}
}

// addressed is a login as some kubelets give it: with the registry's address,
// which makes containerd show it to the registry alone and not to a mirror.
func (h *house) addressed(user string) *cri.AuthConfig {
	return &cri.AuthConfig{Username: user, Password: passwordOf(user), ServerAddress: h.supernode.URL}
}

func (h *house) rolesByContainerd(c *runtimes.Containerd) {
	ref, on := h.supernode.Ref("own/app", "v1"), " on "+c.Host.Name
	for user, may := range rights {
		if user == "" {
			h.check("ctr"+on, "pull", user, c.Pull(h.ctx, ref, ""), may.pull)
			h.check("CRI"+on, "pull", user, c.CRIPull(h.ctx, ref, nil), may.pull)
			continue
		}
		h.check("ctr"+on, "pull", user, c.Pull(h.ctx, ref, user+":"+passwordOf(user)), may.pull)
		h.check("CRI"+on, "pull", user, c.CRIPull(h.ctx, ref, &cri.AuthConfig{Username: user, Password: passwordOf(user)}), may.pull)
		// The registry's certificate is not known here, so this pull can only
		// come from the mirror, and there nobody is logged in.
		h.check("CRI"+on, "pull with the registry's address", user, c.CRIPull(h.ctx, ref, h.addressed(user)), false)
	}
}

func (h *house) rolesByCurl(a *cluster.Agent) {
	for user, may := range rights {
		args := []string{"curl", "--silent", "--insecure", "--output", "/dev/null", "--write-out", "%{http_code}"}
		if user != "" {
			args = append(args, "--user", user+":"+passwordOf(user))
		}
		status, err := a.Host.Run(h.ctx, append(args, h.supernode.URL+"/v2/own/app/manifests/v1")...)
		if err != nil || (status == "200") != may.pull {
			h.t.Errorf("curl: pull by %q: %s, %v", user, status, err)
		}
	}
}

func (h *house) rolesBySkopeo(a *cluster.Agent) {
	layout := filepath.Join(h.dir, "to-push")
	index, err := image.Index(h.ctx, image.Spec{Line: "pushed", Layers: []int64{1 << 16}, Seed: 82}, "amd64")
	if err == nil {
		err = image.WriteIndexLayout(layout, "v1", index)
	}
	if err != nil {
		h.t.Error(err)
		return
	}
	for user, may := range rights {
		from, to := "--src-no-creds", "--dest-no-creds"
		if user != "" {
			from, to = "--src-creds="+user+":"+passwordOf(user), "--dest-creds="+user+":"+passwordOf(user)
		}
		copyTo := filepath.Join(h.dir, "skopeo-"+user)
		for _, at := range []string{h.supernode.Addr, strings.TrimPrefix(a.Mirror, "http://")} {
			_, err := a.Host.Run(h.ctx, "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", from, "docker://"+at+"/own/app:v1", "dir:"+copyTo)
			h.check("skopeo at "+at, "pull", user, err, may.pull)
		}
		_, err := a.Host.Run(h.ctx, "skopeo", "copy", "--all", "--insecure-policy", "--dest-tls-verify=false", to,
			"oci:"+layout+":v1", "docker://"+h.supernode.Ref("own/by-skopeo", fmt.Sprint("v", len(user))))
		h.check("skopeo", "push", user, err, may.push)
	}
}

func (h *house) rolesByDocker(a *cluster.Agent) {
	d, err := runtimes.StartDocker(h.ctx, a.Host)
	if err != nil {
		h.t.Error(err)
		return
	}
	archive, mirror := filepath.Join(h.dir, "docker.tar"), strings.TrimPrefix(a.Mirror, "http://")
	pushed := h.supernode.Ref("own/by-docker", "v1")
	if err := image.WriteArchive(archive, pushed, makeImage(h.t, image.Spec{Line: "docker", Layers: []int64{1 << 16}, Seed: 83})); err != nil {
		h.t.Error(err)
		return
	}
	if _, err := d.Run(h.ctx, "load", "--input", archive); err != nil {
		h.t.Error(err)
		return
	}
	for user, may := range rights {
		for _, registry := range []string{mirror, h.supernode.Addr} {
			if user == "" {
				_, err = d.Run(h.ctx, "logout", registry)
			} else {
				err = d.Login(h.ctx, registry, user, passwordOf(user))
			}
			if err != nil {
				h.t.Error(err)
			}
		}
		_, err := d.Run(h.ctx, "pull", mirror+"/own/app:v1")
		h.check("docker at the mirror", "pull", user, err, may.pull)
		_, err = d.Run(h.ctx, "push", pushed)
		h.check("docker", "push", user, err, may.push)
	}
}
