package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/shoalproject/shoal/supernode/auth"
)

// callerUserKey marks who calls a service that is open to all who are logged
// in.
type callerUserKey struct{}

type callerUser struct {
	auth.User
	request *http.Request // for the limits of logins, and the address
}

func withCaller(r *http.Request, user auth.User) context.Context {
	return context.WithValue(r.Context(), callerUserKey{}, callerUser{user, r})
}

func userOf(ctx context.Context) callerUser {
	u, _ := ctx.Value(callerUserKey{}).(callerUser)
	return u
}

// usersOnly lets everybody in who is logged in. What they may do is decided by
// each call, about what that call names.
func (c Config) usersOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := c.Auth.AuthorizeAPI(r)
		if err != nil {
			c.refuse(w, r, user, err)
			return
		}
		c.Log.Info("a call", "user", user.Name, "call", strings.TrimPrefix(r.URL.Path, "/shoal.v1."), "from", r.RemoteAddr)
		next.ServeHTTP(w, r.WithContext(withCaller(r, user)))
	})
}

// asSession tells the console's pages whose they are; it refuses nobody.
func (c Config) asSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, err := c.Auth.SessionFrom(r); err == nil {
			r = r.WithContext(withCaller(r, s.User))
		}
		next.ServeHTTP(w, r)
	})
}
