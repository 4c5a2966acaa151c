package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestDeedsAreTold(t *testing.T) {
	g := newGate(t)
	var told []string
	g.cfg.Audit = func(_ context.Context, d Deed) {
		told = append(told, fmt.Sprintf("%s %s %s %v %s", d.Subject, d.Action, d.Object, d.Allowed, d.From))
		for _, secret := range []string{rootPassword, annPassword, "a wrong one", "typed in the wrong field"} {
			if strings.Contains(fmt.Sprintf("%+v", d), secret) {
				t.Errorf("%+v tells a secret", d)
			}
		}
	}
	g.Login(g.as("", ""), "ann", annPassword)
	g.Login(g.as("", ""), "ann", annPassword) // remembered: no news
	g.Login(g.as("", ""), "ann", "a wrong one")
	g.Login(g.as("", ""), "typed in the wrong field", "a wrong one")
	w := httptest.NewRecorder()
	user, err := g.LoginSession(w, g.as("", ""), "root", rootPassword)
	if err != nil {
		t.Fatal(user, err)
	}
	r := g.as("", "")
	for _, c := range w.Result().Cookies() {
		r.AddCookie(c)
	}
	if err := errors.Join(g.EndSession(httptest.NewRecorder(), r), g.EndSession(httptest.NewRecorder(), r)); err != nil {
		t.Fatal(err)
	}
	g.get("ann", annPassword, url.Values{"offline_token": {"true"}, "service": {"shoal"}})
	g.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"a wrong one"}, "service": {"shoal"}})
	if err := g.ChangePassword(g.as("", ""), "ann", annPassword, "ann's other password"); err != nil {
		t.Fatal(err)
	}
	const from = "192.0.2.1"
	want := []string{
		"ann login  true " + from, "ann login  false " + from, "(unknown) login  false " + from,
		"root login  true " + from, "root session.begin  true " + from, "root session.end  true " + from,
		"ann refresh_token.create shoal true " + from, "(unknown) login  false " + from,
		"ann password.change user:ann true " + from,
	}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhoIsDeniedIsNamed(t *testing.T) {
	g := newGate(t)
	_, err := g.Authorize(g.as("ann", annPassword), "lib/app", "delete")
	var named interface{ Subject() string }
	if !errors.Is(err, ErrDenied) || !errors.As(err, &named) || named.Subject() != "ann" {
		t.Errorf("%v names nobody", err)
	}
}
