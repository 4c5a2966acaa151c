package auth

import (
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestRobots(t *testing.T) {
	g := newGate(t)
	robot, secret, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"push", "pull"}, time.Hour)
	must(t, err)
	login := robot.Login()
	if login != "robot$shop+ci" || len(secret) < 43 {
		t.Fatalf("%q %q", login, secret)
	}
	if !g.grants(login, secret, "shop/app", "pull") || !g.grants(login, secret, "shop/app", "push") || g.grants(login, secret, "shop/app", "delete") {
		t.Error("in the own project")
	}
	if g.grants(login, secret, "a/app", "pull") || g.grants(login, secret, "nowhere/app", "pull") {
		t.Error("in another project")
	}
	_, answer := g.get(login, secret, url.Values{"scope": {"repository:shop/app:pull"}, "offline_token": {"true"}})
	if answer.RefreshToken != "" {
		t.Error("a robot got a refresh token")
	}
	// Ended in each way, its tokens end with it, at once.
	ended := func(name string) {
		t.Helper()
		if g.grants(login, secret, "shop/app", "pull") {
			t.Errorf("%s: it logs in", name)
		}
		if _, err := g.Authorize(g.bearing(answer.Token), "shop/app", "pull"); challengeOf(err) == "" {
			t.Errorf("%s: its token is taken: %v", name, err)
		}
	}
	must(t, g.SetRobotDisabled(t.Context(), root, "shop", "ci", true))
	ended("disabled")
	must(t, g.SetRobotDisabled(t.Context(), root, "shop", "ci", false))
	if !g.grants(login, secret, "shop/app", "pull") {
		t.Error("let in again")
	}
	must(t, g.RemoveRobot(t.Context(), root, "shop", "ci"))
	ended("removed")
	g.advance(time.Second)
	_, again, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"pull"}, time.Minute)
	must(t, err)
	ended("a namesake")
	if again == secret {
		t.Error("two robots have one secret")
	}
	secret = again
	_, answer = g.get(login, secret, url.Values{"scope": {"repository:shop/app:pull"}})
	g.advance(time.Minute - time.Second)
	if !g.grants(login, secret, "shop/app", "pull") {
		t.Error("a second before its end")
	}
	g.advance(time.Second)
	ended("expired")
}

func TestRobotsAreChecked(t *testing.T) {
	g := newGate(t)
	for name, c := range map[string]struct {
		name string
		may  []string
		life time.Duration
	}{
		"no name": {"", []string{"pull"}, time.Hour}, "a plus": {"a+b", []string{"pull"}, time.Hour}, "a path": {"../x", []string{"pull"}, time.Hour},
		"no right": {"r", nil, time.Hour}, "every right": {"r", []string{"*"}, time.Hour}, "a right too many": {"r", []string{"pull", "admin"}, time.Hour},
		"no life": {"r", []string{"pull"}, 0}, "for ever": {"r", []string{"pull"}, longestRobot + 1},
	} {
		if _, _, err := g.CreateRobot(t.Context(), root, "shop", c.name, c.may, c.life); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"pull"}, time.Hour)
	must(t, err)
	if _, _, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"pull"}, time.Hour); !errors.Is(err, ErrRobotExists) {
		t.Errorf("a second one: %v", err)
	}
	if err := g.createUser(t.Context(), "robot$shop+ci", "a long password", false, false); err == nil {
		t.Error("a user has a robot's name")
	}
	for _, login := range []string{"robot$", "robot$shop", "robot$shop+", "robot$shop+nobody", "robot$nowhere+ci", "robot$shop+ci+ci", "robot$../shop+ci", "robot$shop+" + strings.Repeat("x", 300)} {
		for _, secret := range []string{"", "x"} {
			if _, err := g.Authorize(g.as(login, secret), "", "catalog"); challengeOf(err) == "" || strings.Contains(err.Error(), "robot") {
				t.Errorf("%q with %q: %v", login, secret, err)
			}
		}
	}
}

// Threat 19: what opens the registry for a robot opens nothing else.
func TestThreat19RobotsStayOutOfTheAPI(t *testing.T) {
	g := newGate(t)
	robot, secret, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"pull", "push", "delete"}, time.Hour)
	must(t, err)
	if u, err := g.AuthorizeAPI(g.as(robot.Login(), secret)); challengeOf(err) == "" {
		t.Errorf("by secret: %+v, %v", u, err)
	}
	w, answer := g.get(robot.Login(), secret, url.Values{"service": {APIService}})
	if w.Code != 403 || answer.Token != "" {
		t.Errorf("a token for the API: %d %+v", w.Code, answer)
	}
	if _, err := g.LoginSession(httptest.NewRecorder(), g.request("POST", "https://x/login", nil), robot.Login(), secret); err == nil {
		t.Error("a robot has a session of the console")
	}
	if strings.Contains(g.log.String(), secret) {
		t.Error("the secret is in the log")
	}
	list, err := g.store.List(t.Context(), "", "", 0)
	must(t, err)
	for _, v := range list {
		if strings.Contains(v.Key+string(v.Data), secret) {
			t.Errorf("the secret is stored under %s", v.Key)
		}
	}
}
