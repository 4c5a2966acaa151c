package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// askFrom asks for a token from an address, with a form or a password.
func (g *gate) askFrom(from, user, password string, form url.Values) (int, tokenAnswer) {
	g.t.Helper()
	r := g.request(http.MethodGet, "/token?"+form.Encode(), nil)
	if form.Has("grant_type") {
		r = g.request(http.MethodPost, "/token", form)
	} else {
		r.SetBasicAuth(user, password)
	}
	r.RemoteAddr = from + ":4321"
	w, answer := g.ask(r)
	return w.Code, answer
}

// Threat 21: whoever floods the gate with wrong passwords for ann slows down
// themselves and new logins as ann, and neither what ann and her hosts hold
// already nor anybody else: at other addresses, nor at the very same one.
func TestThreat21AFloodStopsNobodyElse(t *testing.T) {
	g := newGate(t)
	const home, office, agent, attacker = "192.0.2.1", "192.0.2.2", "192.0.2.3", "203.0.113.66"
	pull := url.Values{"scope": {"repository:shop/app:pull"}}
	offline := url.Values{"scope": pull["scope"], "offline_token": {"true"}}
	_, before := g.askFrom(home, "ann", annPassword, offline)
	if before.RefreshToken == "" {
		t.Fatal("no refresh token")
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {before.RefreshToken}, "scope": pull["scope"], "service": {"shoal"}}
	robot, secret, err := g.CreateRobot(t.Context(), root, "shop", "ci", []string{"pull"}, time.Hour)
	must(t, err)
	for _, from := range []string{office, attacker, agent} { // root works at all of them
		if status, _ := g.askFrom(from, "root", rootPassword, pull); status != http.StatusOK {
			t.Fatalf("root at %s: %d", from, status)
		}
	}
	refused := map[int]int{}
	for i := range 1000 {
		g.advance(100 * time.Millisecond)
		status, _ := g.askFrom([]string{attacker, agent}[i%2], "ann", fmt.Sprint("guess", i), pull)
		refused[status]++
		if i%100 != 99 {
			continue
		}
		if _, err := g.Authorize(g.bearing(before.Token), "shop/app", "pull"); err != nil {
			t.Errorf("after %d guesses, ann's token: %v", i, err)
		}
		for what, try := range map[string]func() (int, tokenAnswer){
			"ann's refresh token at home":               func() (int, tokenAnswer) { return g.askFrom(home, "", "", refresh) },
			"ann's refresh token through the agent":     func() (int, tokenAnswer) { return g.askFrom(agent, "", "", refresh) },
			"ann's password at home":                    func() (int, tokenAnswer) { return g.askFrom(home, "ann", annPassword, pull) },
			"root at another address":                   func() (int, tokenAnswer) { return g.askFrom(office, "root", rootPassword, pull) },
			"root behind the attacker's address":        func() (int, tokenAnswer) { return g.askFrom(attacker, "root", rootPassword, pull) },
			"root through the agent that is misused":    func() (int, tokenAnswer) { return g.askFrom(agent, "root", rootPassword, pull) },
			"a robot through the agent that is misused": func() (int, tokenAnswer) { return g.askFrom(agent, robot.Login(), secret, pull) },
		} {
			if status, answer := try(); status != http.StatusOK || answer.Token == "" {
				t.Errorf("after %d guesses, %s: %d", i, what, status)
			}
		}
	}
	if refused[http.StatusOK] > 0 || refused[http.StatusTooManyRequests] < 900 {
		t.Errorf("the flood itself was answered %v", refused)
	}
}

// At an address from which a user logged in, guesses at that user's password
// are limited too.
func TestLimitsAtHome(t *testing.T) {
	l := newLimits()
	l.succeed("ann", "home", l.begin("ann", "home", noon), noon)
	for i := range userFree {
		if l.begin("ann", "home", noon); l.wait("ann", "home", noon) > 0 {
			t.Fatalf("after %d guesses ann waits", i+1)
		}
	}
	if l.begin("ann", "home", noon); l.wait("ann", "home", noon) != firstWait {
		t.Errorf("ann waits %v", l.wait("ann", "home", noon))
	}
	for range 1000 {
		l.begin("ann", "home", noon)
	}
	if got := l.wait("ann", "home", noon); got != userLongest {
		t.Errorf("then ann waits %v", got)
	}
	// Somebody else at home has to wait as anybody at an address that guesses.
	if l.wait("bob", "home", noon) != addrLongest {
		t.Errorf("bob waits %v", l.wait("bob", "home", noon))
	}
	l.succeed("ann", "home", l.begin("ann", "home", noon), noon)
	if l.wait("ann", "home", noon) > 0 {
		t.Error("a success does not end the wait")
	}
	for i := range 2 * maxTracked {
		name := fmt.Sprint(i)
		l.succeed(name, name, l.begin(name, name, noon), noon)
		l.begin(name, name, noon)
	}
	if len(l.homes) > maxTracked {
		t.Errorf("%d homes are tracked", len(l.homes))
	}
}

// Whoever sends many passwords at once from one address fills their own part
// of the line, not the whole.
func TestOneAddressDoesNotFillTheLine(t *testing.T) {
	p := newPasswords(cost{memory: 8, time: 1, threads: 1})
	ctx, cancel := context.WithCancel(t.Context())
	for range hashesAtOnce {
		release, err := p.slot(t.Context())
		must(t, err)
		defer release()
	}
	ended := make(chan error, waitingEach)
	for range waitingEach {
		go func() { _, err := p.slotFor(ctx, "attacker"); ended <- err }()
	}
	for p.waiting.Load() < waitingEach {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := p.slotFor(ctx, "attacker"); !errors.Is(err, errBusy) {
		t.Errorf("one more: %v", err)
	}
	other, stop := context.WithCancel(t.Context())
	stop()
	if _, err := p.slotFor(other, "somebody"); !errors.Is(err, context.Canceled) {
		t.Errorf("somebody else does not get in line: %v", err)
	}
	cancel()
	for range waitingEach {
		<-ended
	}
	if len(p.inLine) > 0 {
		t.Errorf("left in line: %v", p.inLine)
	}
}
