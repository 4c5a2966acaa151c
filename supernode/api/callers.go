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
	request *http.Request // for the limits of logins
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
			c.refuse(w, r, err)
			return
		}
		c.Log.Info("a call", "user", user.Name, "call", strings.TrimPrefix(r.URL.Path, "/shoal.v1."), "from", r.RemoteAddr)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerUserKey{}, callerUser{user, r})))
	})
}

// asSession tells the console's pages whose they are; it refuses nobody.
func (c Config) asSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, err := c.Auth.SessionFrom(r); err == nil {
			r = r.WithContext(context.WithValue(r.Context(), callerUserKey{}, callerUser{s.User, r}))
		}
		next.ServeHTTP(w, r)
	})
}
