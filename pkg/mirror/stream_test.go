package mirror

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

func TestHeadersDoNotWaitForBytes(t *testing.T) {
	s := newSpy()
	release := make(chan struct{})
	held := fetcherFunc{s, func(_ context.Context) Reader {
		return &spyReader{Reader: readerFunc(func(p []byte) (int, error) {
			<-release
			return copy(p, layer), io.EOF
		}), size: int64(len(layer))}
	}}
	server := start(t, s, func(cfg *Config) { cfg.Fetcher = held })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/app/blobs/"+digest.FromBytes(layer).String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req) // returns with the headers
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ContentLength != int64(len(layer)) {
		t.Errorf("Content-Length %d", resp.ContentLength)
	}
	close(release)
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type fetcherFunc struct {
	*spy
	open func(context.Context) Reader
}

func (f fetcherFunc) Open(ctx context.Context, _ blob.Ref, _ blob.Digest, _ blob.Range, _ Grant) (Reader, error) {
	return f.open(ctx), nil
}

func TestOpenIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpy()
		s.hold = func(ctx context.Context) { <-ctx.Done() }
		m := New(Config{Fetcher: s, Auth: s, Own: func(string) bool { return false }, Upstream: func(string) bool { return true }})
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/v2/app/blobs/"+digest.FromBytes(layer).String()+"?ns=x", nil)
		began := time.Now()
		m.ServeHTTP(w, r)
		if took := time.Since(began); w.Code != http.StatusBadGateway || took != 10*time.Second {
			t.Errorf("%d after %v", w.Code, took)
		}
	})
}

func TestReaderOutlivesTheOpenTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpy()
		f := fetcherFunc{s, func(ctx context.Context) Reader {
			return &spyReader{Reader: readerFunc(func(p []byte) (int, error) {
				select {
				case <-time.After(time.Minute): // a slow flight
				case <-ctx.Done():
					return 0, ctx.Err()
				}
				return copy(p, layer), io.EOF
			}), size: int64(len(layer))}
		}}
		m := New(Config{Fetcher: f, Auth: s, Own: func(string) bool { return true }, Upstream: func(string) bool { return true }})
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/v2/app/blobs/"+digest.FromBytes(layer).String(), nil))
		if w.Code != 200 || w.Body.Len() != len(layer) {
			t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
		}
	})
}

// fileReader writes itself, and notes whether the kernel may do it.
type fileReader struct {
	*os.File
	size     int64
	readFrom chan bool
}

func (f *fileReader) Size() int64 { return f.size }
func (f *fileReader) WriteTo(w io.Writer) (int64, error) {
	_, ok := w.(io.ReaderFrom)
	f.readFrom <- ok
	return io.Copy(w, f.File)
}

func TestWriterMayUseSendfile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, layer, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSpy()
	readFrom := make(chan bool, 1)
	server := start(t, s, func(cfg *Config) {
		cfg.Fetcher = fetcherFunc{s, func(context.Context) Reader {
			file, err := os.Open(path)
			if err != nil {
				t.Error(err)
			}
			return &fileReader{file, int64(len(layer)), readFrom}
		}}
	})
	_, body, err := send(t, "GET", server.URL+"/v2/app/blobs/"+digest.FromBytes(layer).String())
	if err != nil || !bytes.Equal(body, layer) || !<-readFrom {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

func TestAgeIsStated(t *testing.T) {
	s := newSpy()
	s.manifest.Age = 90 * time.Second
	resp, _, err := send(t, "HEAD", start(t, s, nil).URL+"/v2/app/manifests/latest")
	if err != nil || resp.Header.Get("Age") != "90" {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestRequestsAreCapped(t *testing.T) {
	s := newSpy()
	inside, release := make(chan struct{}), make(chan struct{})
	s.hold = func(context.Context) { close(inside); <-release }
	server := start(t, s, func(cfg *Config) { cfg.MaxRequests = 1 })
	done := make(chan error)
	go func() {
		_, _, err := send(t, "GET", server.URL+"/v2/app/blobs/"+digest.FromBytes(layer).String())
		done <- err
	}()
	<-inside
	resp, _, err := send(t, "GET", server.URL+"/v2/")
	if err != nil || resp.StatusCode != 503 {
		t.Errorf("%v, %v", resp, err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/v2/library/app/manifests/latest")
	f.Add("/v2/a/blobs/" + digest.FromString("x").String())
	f.Add("/v2/a/blobs/../../x")
	f.Fuzz(func(t *testing.T, path string) {
		r := parsePath(path)
		if r.kind != manifestPath && r.kind != blobPath {
			return
		}
		if blob.CheckRepository(r.repository) != nil || strings.ContainsAny(r.reference, "/ \"\\?#%") || r.kind == blobPath && r.digest == "" {
			t.Errorf("%q became %+v", path, r)
		}
	})
}

func FuzzRange(f *testing.F) {
	f.Add("bytes=0-1", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Add("bytes=9223372036854775807-9223372036854775807", int64(1)<<62)
	f.Fuzz(func(t *testing.T, header string, size int64) {
		s, ok := parseRange(header)
		if !ok || size < 0 {
			return
		}
		if r, ok := s.within(size); ok && (r.Check(size) != nil || r.Len() <= 0) {
			t.Errorf("%q of %d became %+v", header, size, r)
		}
	})
}
