package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// side is one of the two registries, with where the uploads of the running
// play lie there.
type side struct {
	name    string
	base    string // http://host:port
	client  *http.Client
	uploads map[int]string
}

func newSide(name, base string) *side {
	return &side{name: name, base: base, uploads: map[int]string{}, client: &http.Client{
		Timeout:       time.Minute,
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 4},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is what is compared of a response.
type answer struct {
	status int
	code   string // of the first error; "" when the body is no OCI error
	header http.Header
	body   []byte
}

// nowhere is where an upload lies that was never begun.
const nowhere = "/v2/" + home + "/a/blobs/uploads/0123456789abcdef0123456789abcdef"

// address is the path and query that a request goes to.
func (s *side) address(r request, play string) string {
	target := r.target
	if r.upload > 0 {
		at, known := s.uploads[r.upload]
		if !known {
			at = nowhere
		}
		if target != "" && strings.Contains(at, "?") {
			target = "&" + strings.TrimPrefix(target, "?")
		}
		target = at + target
	}
	return strings.ReplaceAll(target, home, play)
}

// unsized hides the length of a body from net/http.
type unsized struct{ io.Reader }

func (s *side) ask(ctx context.Context, r request, play string) (answer, error) {
	var body io.Reader = bytes.NewReader(r.body)
	if r.stream {
		body = unsized{body}
	}
	q, err := http.NewRequestWithContext(ctx, r.method, s.base+s.address(r, play), body)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", s.name, err)
	}
	for key, value := range r.header {
		q.Header.Set(key, value)
	}
	response, err := s.client.Do(q)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", s.name, err)
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode, header: response.Header}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		return answer{}, fmt.Errorf("%s: read the answer: %w", s.name, err)
	}
	a.code = codeOf(a)
	if r.begins > 0 && response.StatusCode == http.StatusAccepted {
		s.remember(r.begins, response.Header.Get("Location"))
	}
	return a, nil
}

func (s *side) remember(upload int, location string) {
	if u, err := url.Parse(location); err == nil && location != "" {
		s.uploads[upload] = u.RequestURI()
	}
}

func codeOf(a answer) string {
	var body struct {
		Errors []struct{ Code string }
	}
	if a.status < 400 || json.Unmarshal(a.body, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}
