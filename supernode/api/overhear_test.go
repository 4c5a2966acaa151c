package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/shoalproject/shoal/pkg/gateway"
)

// secretFields are the names under which forms, queries, answers and messages
// carry secrets.
var secretFields = []string{
	"password", "old_password", "new_password", "old", "new", "again", "token", "access_token", "refresh_token", "id_token",
	"secret", "handle", "code", "state", "csrf", "proof", "grant",
}

// shortest is how long a secret is that is looked for: a word of some letters
// stands anywhere.
const shortest = 8

// wiretap hears what passes a front in both directions, and in the end looks
// for every secret of it in all that the supernode wrote.
type wiretap struct {
	mu      sync.Mutex
	secrets map[string]bool // guarded by mu
	log     bytes.Buffer    // guarded by mu
}

// Write implements io.Writer for the log.
func (t *wiretap) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.log.Write(p)
}

func (t *wiretap) keep(secrets ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range secrets {
		if len(s) >= shortest {
			t.secrets[s] = true
		}
	}
}

// leaks are the secrets that stand in a text, in any spelling.
func (t *wiretap) leaks(text string) (out []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.secrets {
		for _, spelling := range []string{s, url.QueryEscape(s), base64.StdEncoding.EncodeToString([]byte(s))} {
			if strings.Contains(text, spelling) {
				out = append(out, s)
				break
			}
		}
	}
	return out
}

// check looks through the log and the files below a folder.
func (t *wiretap) check(tb testing.TB, folder string) {
	tb.Helper()
	t.mu.Lock()
	log := t.log.String()
	t.mu.Unlock()
	for _, s := range t.leaks(log) {
		tb.Errorf("the log holds the secret %q", s)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		tb.Error(err)
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			tb.Error(err)
		}
		for _, s := range t.leaks(string(content)) {
			tb.Errorf("%s holds the secret %q", path, s)
		}
	}
}

// overhear listens to a handler.
func (t *wiretap) overhear(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, ok := r.BasicAuth(); ok {
			t.keep(password)
		}
		if _, bearer, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
			t.keep(bearer)
		}
		t.keep(r.Header.Get(gateway.HeaderUpstreamToken), r.Header.Get("X-Shoal-Csrf"))
		for _, c := range r.Cookies() {
			t.keep(c.Value)
		}
		t.values(r.URL.Query())
		input, output := messagesOf(r.URL.Path)
		if body, ok := peek(r); ok {
			t.body(r.Header.Get("Content-Type"), body, input)
		}
		r.Header.Del("Accept-Encoding") // to be able to read the answer
		heard := &hearingWriter{ResponseWriter: w}
		next.ServeHTTP(heard, r)
		for _, c := range (&http.Response{Header: w.Header()}).Cookies() {
			t.keep(c.Value)
		}
		t.body(w.Header().Get("Content-Type"), heard.body.Bytes(), output)
	})
}

// peek reads a body that is short, and puts it back.
func peek(r *http.Request) ([]byte, bool) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if !slices.Contains([]string{"application/json", "application/proto", "application/x-www-form-urlencoded"}, kind) {
		return nil, false
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, err == nil
}

func (t *wiretap) values(v url.Values) {
	for _, name := range secretFields {
		t.keep(v[name]...)
	}
}

// body takes the secrets out of a form, of JSON or of a message.
func (t *wiretap) body(contentType string, body []byte, kind protoreflect.MessageType) {
	media, _, _ := mime.ParseMediaType(contentType)
	switch {
	case media == "application/x-www-form-urlencoded":
		if v, err := url.ParseQuery(string(body)); err == nil {
			t.values(v)
		}
	case kind != nil && media == "application/proto":
		if m := kind.New().Interface(); proto.Unmarshal(body, m) == nil {
			t.message(m.ProtoReflect())
		}
	case kind != nil && media == "application/json":
		if m := kind.New().Interface(); protojson.Unmarshal(body, m) == nil {
			t.message(m.ProtoReflect())
		}
	case media == "application/json":
		var fields map[string]any
		if json.Unmarshal(body, &fields) == nil {
			for _, name := range secretFields {
				if text, ok := fields[name].(string); ok {
					t.keep(text)
				}
			}
		}
	}
}

func (t *wiretap) message(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		secret := slices.Contains(secretFields, string(f.Name()))
		switch {
		case f.IsMap():
		case f.Message() != nil && f.IsList():
			for i := range v.List().Len() {
				t.message(v.List().Get(i).Message())
			}
		case f.Message() != nil:
			t.message(v.Message())
		case f.IsList() || !secret:
		case f.Kind() == protoreflect.StringKind:
			t.keep(v.String())
		case f.Kind() == protoreflect.BytesKind:
			t.keep(string(v.Bytes()))
		}
		return true
	})
}

// messagesOf are the messages of the call that a path names, or nil.
func messagesOf(path string) (input, output protoreflect.MessageType) {
	name := strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(path, "/api"), "/"), "/", ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	call, ok := d.(protoreflect.MethodDescriptor)
	if err != nil || !ok {
		return nil, nil
	}
	input, _ = protoregistry.GlobalTypes.FindMessageByName(call.Input().FullName())
	output, _ = protoregistry.GlobalTypes.FindMessageByName(call.Output().FullName())
	return input, output
}

// hearingWriter keeps the beginning of an answer.
type hearingWriter struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (h *hearingWriter) Write(p []byte) (int, error) {
	if h.body.Len() < 1<<20 {
		h.body.Write(p)
	}
	return h.ResponseWriter.Write(p)
}

// Flush is for answers that stream.
func (h *hearingWriter) Flush() {
	if f, ok := h.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

func (h *hearingWriter) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// The wiretap hears secrets of every kind, and finds them again: all other
// tests rest on it.
func TestTheWiretapHears(t *testing.T) {
	s := newScene(t, "developer")
	s.joinToken()
	s.token("shoal-registry", "repository:own/app:pull")
	s.do("POST", "/login", strings.NewReader("user=developer&password=a+password+of+developer"), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	})
	kinds := map[string]func(string) bool{
		"the admin's password": func(text string) bool { return text == s.password },
		"a form's password":    func(text string) bool { return text == s.who["developer"].password },
		"a join token":         func(text string) bool { return strings.HasPrefix(text, "shoal-join.") },
		"a bearer token":       func(text string) bool { return strings.Count(text, ".") == 2 && strings.HasPrefix(text, "ey") },
		"a session's cookie":   func(text string) bool { return len(text) == 43 },
	}
	s.tap.mu.Lock()
	defer s.tap.mu.Unlock()
	for what, is := range kinds {
		found := false
		for text := range s.tap.secrets {
			found = found || is(text)
		}
		if !found {
			t.Errorf("%s was not heard", what)
		}
	}
	other := &wiretap{secrets: map[string]bool{"a long secret": true}}
	for _, text := range []string{"x a long secret x", "x=a+long+secret&", "YSBsb25nIHNlY3JldA=="} {
		if len(other.leaks(text)) != 1 {
			t.Errorf("nothing was found in %q", text)
		}
	}
}
