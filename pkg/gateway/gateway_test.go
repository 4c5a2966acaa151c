package gateway

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const body1 = `{"schemaVersion":2}`

var digest1 = blob.Digest("sha256:").Algorithm().FromString(body1)

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func client(bases ...string) *Client {
	return New(http.DefaultClient, func() []string { return bases })
}

func TestManifestCarriesItsRecordAndAge(t *testing.T) {
	record := &blob.TagRecord{Ref: blob.Ref{Repository: "p/app"}, Tag: "v1", Digest: digest1, Time: time.Unix(1, 0).UTC()}
	if err := record.Sign(func([]byte) (string, []byte, error) { return "peer", []byte("sig"), nil }); err != nil {
		t.Fatal(err)
	}
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/p/app/manifests/v1" || r.Header.Get("Authorization") != "Bearer tok" ||
			r.Header.Get("Accept") != "a/b" || r.URL.RawQuery != "" || r.Header.Get(HeaderUpstreamToken) != "" {
			t.Errorf("asked %s %v", r.URL, r.Header)
		}
		w.Header().Set("Docker-Content-Digest", string(digest1))
		w.Header().Set("Content-Type", "a/b")
		w.Header().Set("Age", "90")
		w.Header().Add(HeaderRecord, "nonsense")
		w.Header().Add(HeaderRecord, base64.StdEncoding.EncodeToString(record.Encode()))
		io.WriteString(w, body1)
	})
	m, err := client(base).Manifest(t.Context(), blob.Ref{Repository: "p/app"}, "v1", "tok", []string{"a/b"})
	if err != nil || string(m.Body) != body1 || m.Descriptor.Digest != digest1 || m.Descriptor.MediaType != "a/b" ||
		m.Age != 90*time.Second || len(m.Records) != 1 || m.Records[0].Tag != "v1" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestUpstreamTokenGoesApart(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get(HeaderUpstreamToken) != "tok" || r.URL.Query().Get("ns") != "r.example" {
			t.Errorf("asked %s %v", r.URL, r.Header)
		}
		http.Error(w, "bad credentials", http.StatusUnauthorized)
	})
	_, err := client(base).Manifest(t.Context(), blob.Ref{Registry: "r.example", Repository: "p/app"}, "v1", "tok", nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.HTTPStatus() != 401 || errors.Is(err, ErrUnreachable) {
		t.Errorf("a 401 came out as %v", err)
	}
}

func TestAnotherManifestIsRefused(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", string(digest1))
		io.WriteString(w, body1+" ")
	})
	for _, reference := range []string{"v1", string(digest1)} {
		_, err := client(base).Manifest(t.Context(), blob.Ref{Repository: "p/app"}, reference, "", nil)
		if !errors.Is(err, blob.ErrDigestMismatch) {
			t.Errorf("%s: %v", reference, err)
		}
	}
}

func TestAnEndlessManifestIsCutOff(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", string(digest1))
		io.Copy(w, strings.NewReader(strings.Repeat("x", maxManifest+9)))
	})
	_, err := client(base).Manifest(t.Context(), blob.Ref{Repository: "p/app"}, "v1", "", nil)
	if err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("%v", err)
	}
}

func TestTheNextSupernodeIsAskedWhenOneIsInTrouble(t *testing.T) {
	down := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "stopping", http.StatusServiceUnavailable) })
	up := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Range"); got != "bytes=5-9" {
			t.Errorf("range %q", got)
		}
		w.Header().Set("Content-Range", "bytes 5-9/19")
		w.WriteHeader(http.StatusPartialContent)
		io.WriteString(w, body1[5:10])
	})
	rc, size, err := client(down, "http://127.0.0.1:1", up).Blob(t.Context(), blob.Ref{Repository: "p/app"}, digest1, blob.Range{Start: 5, End: 10}, "")
	if err != nil || size != 19 {
		t.Fatal(size, err)
	}
	defer rc.Close()
	if got, _ := io.ReadAll(rc); string(got) != body1[5:10] {
		t.Errorf("got %q", got)
	}
	if _, _, err = client(down).Blob(t.Context(), blob.Ref{}, digest1, blob.Range{End: -1}, ""); !errors.Is(err, ErrUnreachable) {
		t.Errorf("only one in trouble: %v", err)
	}
	if _, err := client().Manifest(t.Context(), blob.Ref{}, "v1", "", nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no supernode at all: %v", err)
	}
}

func TestAnIgnoredRangeIsAnError(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body1) })
	if _, _, err := client(base).Blob(t.Context(), blob.Ref{Repository: "p/app"}, digest1, blob.Range{Start: 5, End: -1}, ""); err == nil {
		t.Error("the start of the blob passed for its middle")
	}
}

func TestReadable(t *testing.T) {
	for status, want := range map[int]bool{200: true, 401: false, 403: false, 404: false} {
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodHead || r.URL.Path != "/v2/p/app/blobs/"+string(digest1) {
				t.Errorf("asked %s %s", r.Method, r.URL)
			}
			w.WriteHeader(status)
		})
		got, err := client(base).Readable(t.Context(), blob.Ref{Repository: "p/app"}, string(digest1), false, "tok")
		if err != nil || got != want {
			t.Errorf("%d: %v, %v", status, got, err)
		}
	}
	down := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if _, err := client(down).Readable(t.Context(), blob.Ref{}, "v1", true, ""); err == nil {
		t.Error("a supernode in trouble gave a verdict")
	}
}

func TestLogin(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" || r.PostFormValue("scope") != "repository:a:pull repository:b:pull" {
			t.Errorf("asked %s %v", r.URL, r.PostForm)
		}
		switch r.PostFormValue("grant_type") {
		case "password":
			if r.PostFormValue("password") != "right" {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			io.WriteString(w, `{"access_token":"t","refresh_token":"r","expires_in":300}`)
		case "refresh_token":
			io.WriteString(w, `{}`)
		}
	})
	scopes := []string{"repository:a:pull", "repository:b:pull"}
	got, err := client(base).Token(t.Context(), Login{User: "u", Password: "right", Scopes: scopes, Offline: true})
	if err != nil || got != (Token{"t", "r", 5 * time.Minute}) {
		t.Errorf("%+v, %v", got, err)
	}
	var refused *Error
	if _, err = client(base).Token(t.Context(), Login{User: "u", Password: "wrong", Scopes: scopes}); !errors.As(err, &refused) || refused.Status != 401 {
		t.Errorf("wrong password: %v", err)
	}
	if _, err = client(base).Token(t.Context(), Login{RefreshToken: "r", Scopes: scopes}); err == nil {
		t.Error("an answer without a token passed")
	}
}
