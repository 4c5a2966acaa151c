package swarm

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const granted = blob.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

// grantOnly serves nothing, counts how often a blob is looked for, and takes
// one grant.
func grantOnly(t *testing.T, good string) (url string, looked *atomic.Int64) {
	t.Helper()
	looked = new(atomic.Int64)
	server := httptest.NewServer(NewServer(ServerConfig{
		Lookup: func(context.Context, blob.Digest) (Content, error) { looked.Add(1); return nil, blob.ErrNotHeld },
		Member: func(*http.Request) (string, error) { return "peer", nil },
		Allow: func(_ context.Context, peer string, d blob.Digest, grant []byte) error {
			if peer != "peer" || d != granted || string(grant) != good {
				return errors.New("not for you")
			}
			return nil
		},
	}))
	t.Cleanup(server.Close)
	return server.URL + pathPrefix, looked
}

func send(t *testing.T, method, url string, body io.Reader, grant string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if grant != "" {
		r.Header.Set(headerGrant, base64.StdEncoding.EncodeToString([]byte(grant)))
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// Without its grant a peer does not even learn whether the blob is there:
// nobody looks.
func TestGrantComesBeforeTheBlob(t *testing.T) {
	url, looked := grantOnly(t, "good")
	for _, path := range []string{"/piece/0", "/map", "/next"} {
		for grant, want := range map[string]int{"": http.StatusForbidden, "another's": http.StatusForbidden, "good": http.StatusNotFound} {
			looked.Store(0)
			if got := send(t, "GET", url+string(granted)+path, nil, grant).StatusCode; got != want {
				t.Errorf("%s with the grant %q: %d; want %d", path, grant, got, want)
			}
			if n := looked.Load(); (n > 0) != (grant == "good") {
				t.Errorf("%s with the grant %q: the blob was looked for %d times", path, grant, n)
			}
		}
	}
}

func TestGrantIsAskedOfFollowersToo(t *testing.T) {
	url, looked := grantOnly(t, "good")
	for id, grant := range []string{"", "another's", "good"} {
		looked.Store(0)
		in, out := io.Pipe()
		t.Cleanup(func() { out.Close() })
		go out.Write(appendTagged(nil, frameFollow, uint16(id), encodeFollow(granted, []byte(grant))))
		response := send(t, "POST", url+"have", in, "")
		kind, payload, err := readFrame(response.Body, 1, nil)
		if err != nil || kind != frameAbsent {
			t.Fatalf("with the grant %q: frame %d, %v; want that nothing is held", grant, kind, err)
		}
		if got, _, err := cutTag(payload); err != nil || int(got) != id {
			t.Errorf("an answer about blob %d, %v; want %d", got, err, id)
		}
		if n := looked.Load(); (n > 0) != (grant == "good") {
			t.Errorf("with the grant %q the blob was looked for %d times", grant, n)
		}
		out.Close()
	}
}
