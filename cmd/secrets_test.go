package cmd

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// keep remembers secrets of a script. Of a login USER:PASSWORD it is the
// password, of a join token its own secret as well.
func (s *stage) keep(text string) {
	own := text
	if _, password, found := strings.Cut(text, ":"); found {
		own = password
		s.secrets = append(s.secrets, base64.StdEncoding.EncodeToString([]byte(text)))
	}
	s.secrets = append(s.secrets, own, url.QueryEscape(own), base64.StdEncoding.EncodeToString([]byte(own)))
	if parts := strings.Split(own, "."); parts[0] == "shoal-join" {
		s.secrets = append(s.secrets, parts[2])
	}
}

func secret(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "secret TEXT|USER:PASSWORD")
	of(ts).keep(args[0])
}

// secretField remembers a field of the JSON that was printed last.
func secretField(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "secretfield NAME")
	var fields map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &fields))
	text, _ := fields[args[0]].(string)
	if text == "" {
		ts.Fatalf("no field %s in %v", args[0], fields)
	}
	of(ts).keep(text)
}

// token gets a token, and a refresh token with it where there is one; both are
// secrets.
func getToken(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 4, "token VARIABLE USER:PASSWORD SERVICE SCOPE")
	query := url.Values{"service": {args[2]}, "scope": {args[3]}, "offline_token": {"true"}}
	raw := request(ts, http.StatusOK, "http://"+ts.Getenv("REGISTRY")+"/token?"+query.Encode(), args[1])
	var answer struct {
		Token        string `json:"token"`
		RefreshToken string `json:"refresh_token"`
	}
	ts.Check(json.Unmarshal(raw, &answer))
	ts.Setenv(args[0], answer.Token)
	of(ts).keep(answer.Token)
	if answer.RefreshToken != "" {
		of(ts).keep(answer.RefreshToken)
	}
}

func ask(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "ask STATUS URL [USER:PASSWORD|'Bearer 'TOKEN]")
	var want int
	_, err := fmt.Sscan(args[0], &want)
	ts.Check(err)
	request(ts, want, args[1], append(args, "")[2])
}

func request(ts *testscript.TestScript, want int, address, login string) []byte {
	r, err := http.NewRequest(http.MethodGet, address, nil)
	ts.Check(err)
	user, password, found := strings.Cut(login, ":")
	switch {
	case strings.HasPrefix(login, "Bearer "):
		r.Header.Set("Authorization", login)
	case found:
		r.SetBasicAuth(user, password)
	}
	response, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	ts.Check(err)
	if response.StatusCode != want {
		ts.Fatalf("%s: %s, want %d\n%s", address, response.Status, want, raw)
	}
	return raw
}

// console tries to log in as a browser does; a session's cookie is a secret.
func consoleLogin(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "console USER:PASSWORD")
	user, password, _ := strings.Cut(args[0], ":")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.PostForm("http://"+ts.Getenv("REGISTRY")+"/login", url.Values{"user": {user}, "password": {password}})
	ts.Check(err)
	response.Body.Close()
	for _, c := range response.Cookies() {
		of(ts).keep(c.Value)
	}
}

func page(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "page FILE URL")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), request(ts, http.StatusOK, args[1], ""), 0o600))
}

// unsaid checks that no file below the paths holds a secret of the script.
func unsaid(ts *testscript.TestScript, neg bool, args []string) {
	if len(of(ts).secrets) == 0 || len(args) == 0 {
		ts.Fatalf("usage: unsaid PATH…, after some secrets")
	}
	var found []string
	for _, path := range args {
		files := 0
		ts.Check(filepath.WalkDir(ts.MkAbs(path), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			files++
			content, err := os.ReadFile(path)
			for _, one := range of(ts).secrets {
				if bytes.Contains(content, []byte(one)) {
					found = append(found, fmt.Sprintf("%s holds %q", path, one))
				}
			}
			return err
		}))
		if files == 0 {
			ts.Fatalf("there is nothing in %s", path)
		}
	}
	if neg != (len(found) > 0) {
		ts.Fatalf("secrets found: %s", strings.Join(found, "\n"))
	}
}
