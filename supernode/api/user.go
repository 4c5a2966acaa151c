package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
)

// userService is the system administrators', but for what concerns the caller
// alone.
type userService struct{ Config }

// administrator refuses whoever is none.
func (s userService) administrator(ctx context.Context) error {
	if by := userOf(ctx).User; !by.Admin {
		return coded(fmt.Errorf("%w: only system administrators decide about users", auth.ErrDenied))
	}
	return nil
}

func (s userService) CreateUser(ctx context.Context, req *connect.Request[shoalv1.CreateUserRequest]) (*connect.Response[shoalv1.CreateUserResponse], error) {
	if err := s.administrator(ctx); err != nil {
		return nil, err
	}
	if err := s.Auth.CreateUser(ctx, req.Msg.Name, req.Msg.Password, req.Msg.Admin); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CreateUserResponse{}), nil
}

func (s userService) ListUsers(ctx context.Context, _ *connect.Request[shoalv1.ListUsersRequest]) (*connect.Response[shoalv1.ListUsersResponse], error) {
	if err := s.administrator(ctx); err != nil {
		return nil, err
	}
	list, err := s.Auth.Users(ctx)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListUsersResponse{}
	for _, u := range list {
		out.Users = append(out.Users, userMessage(u))
	}
	return connect.NewResponse(out), nil
}

func (s userService) RemoveUser(ctx context.Context, req *connect.Request[shoalv1.RemoveUserRequest]) (*connect.Response[shoalv1.RemoveUserResponse], error) {
	if err := s.administrator(ctx); err != nil {
		return nil, err
	}
	if err := s.Auth.RemoveUser(ctx, req.Msg.Name); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemoveUserResponse{}), nil
}

func (s userService) SetPassword(ctx context.Context, req *connect.Request[shoalv1.SetPasswordRequest]) (*connect.Response[shoalv1.SetPasswordResponse], error) {
	if err := s.administrator(ctx); err != nil {
		return nil, err
	}
	if err := s.Auth.SetPassword(ctx, req.Msg.Name, req.Msg.Password); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetPasswordResponse{}), nil
}

func (s userService) ChangePassword(ctx context.Context, req *connect.Request[shoalv1.ChangePasswordRequest]) (*connect.Response[shoalv1.ChangePasswordResponse], error) {
	by := userOf(ctx)
	if err := s.Auth.ChangePassword(by.request, by.Name, req.Msg.OldPassword, req.Msg.NewPassword); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.ChangePasswordResponse{}), nil
}

func (s userService) WhoAmI(ctx context.Context, _ *connect.Request[shoalv1.WhoAmIRequest]) (*connect.Response[shoalv1.WhoAmIResponse], error) {
	return connect.NewResponse(&shoalv1.WhoAmIResponse{User: userMessage(userOf(ctx).User)}), nil
}

func userMessage(u auth.User) *shoalv1.User {
	login := "password"
	if u.OpenID {
		login = "oidc"
	}
	return &shoalv1.User{Name: u.Name, Admin: u.Admin, MustChangePassword: u.MustChange, Created: timestamppb.New(u.Created), Login: login}
}
