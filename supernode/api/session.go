package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/auth/openid"
)

// loginService is the door for people whose terminal has no browser.
type loginService struct{ Config }

// requestKey carries the HTTP request of a call that nobody is logged in for.
type requestKey struct{}

// strangers lets everybody in, and hands on where they come from.
func (c Config) strangers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestKey{}, r)))
	})
}

func requestOf(ctx context.Context) *http.Request {
	r, _ := ctx.Value(requestKey{}).(*http.Request)
	return r
}

func (s loginService) StartLogin(ctx context.Context, _ *connect.Request[shoalv1.StartLoginRequest]) (*connect.Response[shoalv1.StartLoginResponse], error) {
	login, err := s.Auth.StartDevice(requestOf(ctx))
	if err != nil {
		return nil, s.openIDError(err)
	}
	return connect.NewResponse(&shoalv1.StartLoginResponse{
		Handle: login.Handle, UserCode: login.UserCode, VerificationUrl: login.URL, CompleteUrl: login.CompleteURL,
		ExpiresInSeconds: int64(login.Life / time.Second), IntervalSeconds: int64(login.Interval / time.Second),
	}), nil
}

func (s loginService) FinishLogin(ctx context.Context, req *connect.Request[shoalv1.FinishLoginRequest]) (*connect.Response[shoalv1.FinishLoginResponse], error) {
	user, refresh, err := s.Auth.FinishDevice(requestOf(ctx), req.Msg.Handle)
	if errors.Is(err, openid.ErrPending) {
		return connect.NewResponse(&shoalv1.FinishLoginResponse{Pending: true}), nil
	}
	if err != nil {
		return nil, s.openIDError(err)
	}
	return connect.NewResponse(&shoalv1.FinishLoginResponse{User: user.Name, RefreshToken: refresh}), nil
}

// openIDError puts what happened into the log, and tells a stranger of it what
// they may know.
func (s loginService) openIDError(err error) error {
	told := s.logOpenID(err)
	switch {
	case errors.Is(err, auth.ErrNoOpenID), errors.Is(err, openid.ErrNoDevice):
		return connect.NewError(connect.CodeUnimplemented, told)
	case errors.Is(err, openid.ErrUnavailable):
		return connect.NewError(connect.CodeUnavailable, told)
	case errors.Is(err, auth.ErrDeviceEnded):
		return connect.NewError(connect.CodeNotFound, told)
	case errors.Is(err, openid.ErrRefused), errors.Is(err, openid.ErrUntrue), errors.Is(err, auth.ErrNameTaken), errors.Is(err, auth.ErrInvalid):
		return connect.NewError(connect.CodePermissionDenied, told)
	}
	return coded(told)
}

// logOpenID logs a login at the provider that failed, and returns what the
// person is told.
func (c Config) logOpenID(err error) error {
	c.Log.Warn("a login at the login provider failed", "error", err)
	return openid.Told(err)
}

// sessionService is everybody's, for their own sessions.
type sessionService struct{ Config }

func (s sessionService) ListSessions(ctx context.Context, req *connect.Request[shoalv1.ListSessionsRequest]) (*connect.Response[shoalv1.ListSessionsResponse], error) {
	by, of := userOf(ctx).User, req.Msg.User
	if of == "" && !req.Msg.Everybody {
		of = by.Name
	}
	if (req.Msg.Everybody || of != by.Name) && !by.Admin {
		return nil, coded(fmt.Errorf("%w: only system administrators see the sessions of others", auth.ErrDenied))
	}
	if req.Msg.Everybody {
		of = ""
	}
	list, err := s.Auth.Sessions(ctx, by, of)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListSessionsResponse{}
	for _, one := range list {
		m := &shoalv1.Session{
			Id: one.ID, User: one.User, Kind: one.Kind, Service: one.Service, Expires: timestamppb.New(one.Expires),
			By: one.Begun.By, From: one.Begun.From, Client: one.Begun.Client, Current: one.Current,
		}
		if !one.Begun.At.IsZero() {
			m.Begun = timestamppb.New(one.Begun.At)
		}
		out.Sessions = append(out.Sessions, m)
	}
	return connect.NewResponse(out), nil
}

func (s sessionService) RevokeSession(ctx context.Context, req *connect.Request[shoalv1.RevokeSessionRequest]) (*connect.Response[shoalv1.RevokeSessionResponse], error) {
	by, of := userOf(ctx), req.Msg.User
	if of == "" {
		of = by.Name
	}
	var err error
	switch {
	case req.Msg.All && req.Msg.Id != "":
		err = fmt.Errorf("end sessions: the request is %w: it names one session, and asks for all", auth.ErrInvalid)
	case req.Msg.All:
		err = s.Auth.RevokeSessions(by.request, by.User, of)
	default:
		err = s.Auth.RevokeSession(by.request, by.User, req.Msg.Id)
	}
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RevokeSessionResponse{}), nil
}
