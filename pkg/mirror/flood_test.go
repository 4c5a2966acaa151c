package mirror

import (
	"net/http"
	"net/url"
	"testing"
)

// Guesses at ann's password, and wrong refresh tokens, stop neither the refresh
// tokens of this host nor anybody else on it.
func TestThreat21AFloodStopsNobodyElse(t *testing.T) {
	w := newWorld(t)
	refresh := func(token string) int {
		status, _ := w.login(http.MethodPost, "", url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {token}, "service": {"shoal"}, "scope": {"repository:team/app:pull"},
		}.Encode(), "", "")
		return status
	}
	for range 10 * freeFailures {
		w.basic("", "team/app", "ann", "guess")
		if status := refresh("wrong"); status != 401 {
			t.Fatalf("a wrong refresh token: %d", status)
		}
	}
	if status, _ := w.basic("", "team/app", "ann", "right"); status != 429 {
		t.Fatalf("the flood is not slowed down: %d", status)
	}
	if status := refresh("refresh"); status != 200 {
		t.Errorf("a good refresh token: %d", status)
	}
	if status, _ := w.basic("", "team/app", "eve", "guess"); status == 429 {
		t.Error("another user has to wait")
	}
	if status, _ := w.basic("", "team/app", "", ""); status == 429 {
		t.Error("who has no login has to wait")
	}
}
