package cmd

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// rotate pulls through an agent all the while the supernode begins to sign with
// a new key: with a token of before, and with one that was made a moment ago.
// It ends when one of the new key was taken.
func rotate(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "rotate AGENT REPOSITORY TAG")
	registry, mirror := "http://"+ts.Getenv("REGISTRY"), "http://"+ts.Getenv(args[0]+"_MIRROR")
	before := tokenFor(ts, registry, args[1])
	// Agents renew within half a minute of being told.
	ts.Check(ts.Exec("supernode", "rotate-keys", "--data", "sn", "--after", "40s"))
	next := strings.Fields(ts.ReadFile("stdout"))[2]
	if keys := get(ts, registry+"/.well-known/jwks.json", nil); !strings.Contains(keys, next) || !strings.Contains(keys, kidOf(ts, before)) {
		ts.Fatalf("the keys that are served are %s", keys)
	}
	deadline, tick := time.After(2*patience), time.NewTicker(time.Second)
	defer tick.Stop()
	for tries := 0; ; tries++ {
		fresh := tokenFor(ts, registry, args[1])
		for _, token := range []string{before, fresh} {
			get(ts, mirror+"/v2/"+args[1]+"/manifests/"+args[2], func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		}
		if kidOf(ts, fresh) == next {
			if tries < 10 {
				ts.Fatalf("the new key signs after %d s", tries)
			}
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("the new key does not sign")
		}
	}
}

// get fails the script on any other answer than 200.
func get(ts *testscript.TestScript, url string, with func(*http.Request)) string {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	ts.Check(err)
	if with != nil {
		with(r)
	}
	response, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	if response.StatusCode != http.StatusOK {
		ts.Fatalf("GET %s: %s %s", url, response.Status, body)
	}
	return string(body)
}

func tokenFor(ts *testscript.TestScript, registry, repository string) string {
	var answer struct{ Token string }
	body := get(ts, registry+"/token?scope=repository:"+repository+":pull", func(r *http.Request) { r.SetBasicAuth("admin", password) })
	ts.Check(json.Unmarshal([]byte(body), &answer))
	return answer.Token
}

// kidOf is the name of the key that signed a token.
func kidOf(ts *testscript.TestScript, token string) string {
	head, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	ts.Check(err)
	var header struct{ Kid string }
	if err := json.Unmarshal(raw, &header); err != nil || header.Kid == "" {
		ts.Check(fmt.Errorf("the token's header %s names no key: %w", raw, err))
	}
	return header.Kid
}
