package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/pull"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// account is somebody who logs in, and what is expected of the login.
type account struct {
	name, password string
	pull, push     bool
}

// roles shows who may pull and push: the administrator, a guest of the
// project, and somebody who is logged in and no member.
func (h *house) roles(ctx context.Context) error {
	accounts := []account{
		{cluster.AdminUser, h.supernode.Password, true, true},
		{"guest", rand.Text(), true, false},
		{"stranger", rand.Text(), false, false},
	}
	if err := h.enter(ctx, accounts[1:]); err != nil {
		return fmt.Errorf("make the accounts: %w", err)
	}
	step("Who may what in the project demo; the mirror asks as well, though it holds the image")
	fmt.Printf("\n  %-9s %22s  %14s\n", "account", "pull through agent-1", "push")
	for _, a := range accounts {
		_, pulled := pull.Pull(ctx, pull.Image{
			Base: h.agents[0].Mirror, Repository: repository, Reference: "v1", User: a.name, Password: a.password, Verify: true,
		})
		pushed := h.pushAs(ctx, a)
		fmt.Printf("  %-9s %22s  %14s\n", a.name, verdict(pulled), verdict(pushed))
		if verdict(pulled) != want(a.pull) || verdict(pushed) != want(a.push) {
			return fmt.Errorf("%s may pull: %v, and push: %v: %w", a.name, a.pull, a.push, errors.Join(pulled, pushed, errors.New("that is not what came out")))
		}
	}
	fmt.Println()
	return nil
}

// enter makes users, the first of them a guest of the demo's project.
func (h *house) enter(ctx context.Context, accounts []account) error {
	admin := &http.Client{Transport: asAdmin{h.supernode.Password}}
	users := shoalv1connect.NewUserServiceClient(admin, h.supernode.URL+"/api")
	for _, a := range accounts {
		if _, err := users.CreateUser(ctx, connect.NewRequest(&shoalv1.CreateUserRequest{Name: a.name, Password: a.password})); err != nil {
			return err
		}
	}
	_, err := shoalv1connect.NewProjectServiceClient(admin, h.supernode.URL+"/api").SetMember(ctx,
		connect.NewRequest(&shoalv1.SetMemberRequest{Project: "demo", User: accounts[0].name, Role: "guest"}))
	return err
}

type asAdmin struct{ password string }

func (a asAdmin) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(cluster.AdminUser, a.password)
	return http.DefaultTransport.RoundTrip(r)
}

// pushAs pushes a small image as somebody.
func (h *house) pushAs(ctx context.Context, a account) error {
	img, err := image.Build(ctx, image.Spec{Layers: []int64{4096}, Seed: uint64(len(a.name)), NoProgram: true})
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(h.supernode.Ref("demo/by-"+a.name, "v1"), name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: a.name, Password: a.password}))
}

func want(may bool) string {
	if may {
		return "yes"
	}
	return "refused"
}

// verdict tells a refusal from other trouble.
func verdict(err error) string {
	if err == nil {
		return "yes"
	}
	for _, word := range []string{"401", "403", "UNAUTHORIZED", "DENIED"} {
		if strings.Contains(err.Error(), word) {
			return "refused"
		}
	}
	return "trouble"
}
