package registry_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/shoalproject/shoal/supernode/registry"
)

// undecided answers every question about a right with one error.
type undecided struct{ err error }

func (u undecided) Authorize(*http.Request, string, ...string) (string, error) { return "", u.err }

func (u undecided) Readable(context.Context, string) (func(string) (bool, error), error) {
	return nil, u.err
}

// listsNothing knows everybody and fails when it is asked what they may read.
type listsNothing struct{ undecided }

func (listsNothing) Authorize(*http.Request, string, ...string) (string, error) { return "ann", nil }

type wait struct{ status, seconds int }

func (wait) Error() string       { return "not now" }
func (w wait) Later() (int, int) { return w.status, w.seconds }

// TestRightsThatAreNotDecided tells a refusal from a limit and both from a
// fault, whose words stay inside.
func TestRightsThatAreNotDecided(t *testing.T) {
	tests := map[string]struct {
		err    error
		status int
		code   string
		header string // "Key: value" that must be there
	}{
		"unknown": {challenge{}, http.StatusUnauthorized, "UNAUTHORIZED", "Www-Authenticate: " + challenge{}.Challenge()},
		"refused": {refusal{errors.New("no")}, http.StatusForbidden, "DENIED", ""},
		"limited": {wait{http.StatusTooManyRequests, 7}, http.StatusTooManyRequests, "TOOMANYREQUESTS", "Retry-After: 7"},
		"busy":    {wait{http.StatusServiceUnavailable, 5}, http.StatusServiceUnavailable, "TOOMANYREQUESTS", "Retry-After: 5"},
		"fault":   {errors.New("secret of the store"), http.StatusInternalServerError, "UNKNOWN", ""},
	}
	for name, test := range tests {
		for _, gate := range []registry.Authorizer{undecided{test.err}, listsNothing{undecided{test.err}}} {
			f := newFixture(t, func(c *registry.Config) { c.Auth = gate })
			targets := []string{"/v2/", "/v2/a/tags/list", "/v2/UPPER/tags/list", "/v2/_catalog", "/v2/a/manifests/v1?ns=docker.io"}
			if _, known := gate.(listsNothing); known {
				targets = []string{"/v2/_catalog"}
			}
			for _, target := range targets {
				t.Run(name+" "+target, func(t *testing.T) {
					f.t = t
					a := f.do("GET", target, nil)
					a.fails(test.status, test.code)
					if key, value, _ := strings.Cut(test.header, ": "); a.Header().Get(key) != value {
						t.Errorf("headers %v; want %s", a.Header(), test.header)
					}
					if strings.Contains(a.Body.String(), "secret") {
						t.Errorf("the answer tells of the inside: %s", a.Body)
					}
				})
			}
		}
	}
}
