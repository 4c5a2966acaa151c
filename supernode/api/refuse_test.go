package api

import (
	"net/http"
	"strings"
	"testing"
)

// ask sends a call to the API, a question to the registry and one to the
// token address, each as name with password.
func (f *front) ask(name, password string) map[string]*http.Response {
	f.t.Helper()
	out := map[string]*http.Response{}
	for path, method := range map[string]string{
		"/api/shoal.v1.AdminService/ListServers": "POST", "/api/shoal.v1.ProjectService/ListProjects": "POST", "/v2/": "GET", "/token": "GET",
	} {
		response, raw := f.do(method, path, strings.NewReader("{}"), func(r *http.Request) {
			r.SetBasicAuth(name, password)
			r.Header.Set("Content-Type", "application/json")
		})
		if strings.Contains(string(raw), "database not open") {
			f.t.Errorf("%s tells of the inside: %s", path, raw)
		}
		out[path] = response
	}
	return out
}

// Too many failed logins are a matter of waiting, on each address.
func TestALimitSaysWhenToTryAgain(t *testing.T) {
	f := newFront(t)
	for range 20 {
		response, _ := f.do("GET", "/v2/", nil, func(r *http.Request) { r.SetBasicAuth("nobody", "a wrong password") })
		if response.StatusCode == http.StatusTooManyRequests {
			break
		}
	}
	for path, response := range f.ask("nobody", "a wrong password") {
		if after := response.Header.Get("Retry-After"); response.StatusCode != http.StatusTooManyRequests || after == "" || after == "0" {
			t.Errorf("%s: %s, Retry-After %q", path, response.Status, after)
		}
	}
}

// A fault of the supernode is not taken for a wrong password or a missing
// right.
func TestAFaultIsNoRefusal(t *testing.T) {
	f := newFront(t)
	if err := f.meta.Close(); err != nil {
		t.Fatal(err)
	}
	for path, response := range f.ask("admin", f.password) {
		if response.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s: %s; want 500", path, response.Status)
		}
	}
}
