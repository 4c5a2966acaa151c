package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

func randomBytes(n int) []byte {
	out := make([]byte, n)
	src := rand.NewChaCha8([32]byte{1})
	src.Read(out)
	return out
}

// cutting serves data and cuts each connection after every bytes.
func cutting(t *testing.T, data []byte, every int, ranges bool, requests *atomic.Int32) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, start := data, 0
		if rng := r.Header.Get("Range"); rng != "" && ranges {
			first, last, _ := strings.Cut(strings.TrimPrefix(rng, "bytes="), "-")
			start, _ = strconv.Atoi(first)
			end := len(data)
			if n, err := strconv.Atoi(last); err == nil {
				end = n + 1
			}
			body = data[start:end]
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, len(data)))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if start > 0 || len(body) != len(data) {
			w.WriteHeader(http.StatusPartialContent)
		}
		n := min(every, len(body))
		w.Write(body[:n])
		if n < len(body) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}).URL
}

func TestBlobResumes(t *testing.T) {
	data := randomBytes(300 << 10)
	d := digest.FromBytes(data)
	for _, c := range []struct {
		name   string
		every  int
		ranges bool
		rng    blob.Range
	}{
		{"whole", 1 << 30, true, blob.Range{End: -1}},
		{"whole, cut", 64 << 10, true, blob.Range{End: -1}},
		{"open range, cut", 64 << 10, true, blob.Range{Start: 1000, End: -1}},
		{"closed range, cut", 64 << 10, true, blob.Range{Start: 1000, End: 200_001}},
		{"closed range, ranges ignored", 1 << 30, false, blob.Range{Start: 1000, End: 200_001}},
		{"open range, ranges ignored", 1 << 30, false, blob.Range{Start: 1000, End: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests atomic.Int32
			cl := client(t, Registry{URL: cutting(t, data, c.every, c.ranges, &requests)})
			rc, size, err := cl.Blob(t.Context(), ref, d, c.rng, "")
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			if size != int64(len(data)) {
				t.Errorf("size %d", size)
			}
			want := data[c.rng.Start:]
			if c.rng.End >= 0 {
				want = data[c.rng.Start:c.rng.End]
			}
			got, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
}

func TestBlobGivesUpWithoutProgress(t *testing.T) {
	data := randomBytes(1000)
	var requests atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			w.Header().Set("Content-Length", "1000")
			w.Write(data[:10])
		} else {
			w.Header().Set("Content-Range", "bytes 10-999/1000")
			w.Header().Set("Content-Length", "990")
			w.WriteHeader(http.StatusPartialContent)
		}
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	rc, _, err := client(t, Registry{URL: s.URL}).Blob(t.Context(), ref, digest.FromBytes(data), blob.Range{End: -1}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	wantErr(t, err, ErrUnavailable)
	if len(got) != 10 {
		t.Errorf("%d bytes", len(got))
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests, want the first and two without fruit", n)
	}
}

func TestBlobIdle(t *testing.T) {
	done := make(chan struct{})
	var requests atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			w.Header().Set("Content-Range", "bytes 4-7/8")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "rest")
			return
		}
		w.Header().Set("Content-Length", "8")
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		<-done
	})
	defer close(done)
	c, err := New(Config{Registries: map[string]Registry{"reg": {URL: s.URL}}, IdleTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rc, _, err := c.Blob(t.Context(), ref, digest.FromString("x"), blob.Range{End: -1}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); string(got) != "somerest" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBlobLies(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header map[string]string
		rng    blob.Range
		want   error
	}{
		"another start":        {206, map[string]string{"Content-Range": "bytes 5-9/10"}, blob.Range{Start: 4, End: -1}, ErrMalformed},
		"no content range":     {206, nil, blob.Range{Start: 4, End: -1}, ErrMalformed},
		"range beyond size":    {206, map[string]string{"Content-Range": "bytes 4-9/5"}, blob.Range{Start: 4, End: -1}, ErrMalformed},
		"overflow":             {206, map[string]string{"Content-Range": "bytes 4-99999999999999999999/5"}, blob.Range{Start: 4, End: -1}, ErrMalformed},
		"shorter than wanted":  {206, map[string]string{"Content-Range": "bytes 4-5/6"}, blob.Range{Start: 4, End: 100}, ErrSizeMismatch},
		"no content":           {204, nil, blob.Range{End: -1}, ErrMalformed},
		"too much to skip":     {200, map[string]string{"Content-Length": "200000000"}, blob.Range{Start: 100_000_000, End: -1}, ErrMalformed},
		"range not satisfying": {416, nil, blob.Range{Start: 10, End: -1}, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				for k, v := range c.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(c.status)
			})
			_, _, err := client(t, Registry{URL: s.URL}).Blob(t.Context(), ref, digest.FromString("x"), c.rng, "")
			wantErr(t, err, c.want)
		})
	}
}

func TestBlobSizeChangesOnResume(t *testing.T) {
	var requests atomic.Int32
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Range", "bytes 3-10/11")
		w.WriteHeader(http.StatusPartialContent)
	})
	rc, _, err := client(t, Registry{URL: s.URL}).Blob(t.Context(), ref, digest.FromString("x"), blob.Range{End: -1}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	_, err = io.ReadAll(rc)
	wantErr(t, err, ErrSizeMismatch)
}

func TestRetryAfterParsing(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, "99999999999": retryAfterCap,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:00:00 GMT": 0,
		"Fri, 02 Jan 2037 03:00:00 GMT": retryAfterCap,
		"":                              -1, "soon": -1, "-3": -1, "1.5": -1, "99999999999999999999999": -1,
	} {
		got, said := retryAfter(value, now)
		if said != (want >= 0) || said && got != want {
			t.Errorf("retryAfter(%q) = %v, %v", value, got, said)
		}
	}
}

// answers are canned responses for retry.
func answers(statuses ...int) (func() (*http.Response, error), *int) {
	n := 0
	return func() (*http.Response, error) {
		status := statuses[min(n, len(statuses)-1)]
		n++
		if status == 0 {
			return nil, errors.New("connection reset")
		}
		resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
		if status > 1000 {
			resp.StatusCode = 429
			resp.Header.Set("Retry-After", strconv.Itoa(status-1000))
		}
		return resp, nil
	}, &n
}

func TestRetry(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []int
		tries    int
		atLeast  time.Duration
		atMost   time.Duration
		want     error
	}{
		{"at once", []int{200}, 1, 0, 0, nil},
		{"not found is an answer", []int{404}, 1, 0, 0, nil},
		{"after a reset", []int{0, 200}, 2, 100 * time.Millisecond, 300 * time.Millisecond, nil},
		{"after 503s", []int{503, 503, 200}, 3, 300 * time.Millisecond, 900 * time.Millisecond, nil},
		{"as told", []int{1010, 200}, 2, 10 * time.Second, 12500 * time.Millisecond, nil},
		{"told to stay away", []int{1060, 200}, 1, 0, 0, ErrUnavailable},
		{"for good", []int{500}, 4, 700 * time.Millisecond, 2100 * time.Millisecond, ErrUnavailable},
		{"resets for good", []int{0}, 4, 700 * time.Millisecond, 2100 * time.Millisecond, ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl, err := New(Config{})
				if err != nil {
					t.Fatal(err)
				}
				try, tries := answers(c.statuses...)
				start := time.Now()
				_, err = cl.retry(t.Context(), func(context.Context) (*http.Response, error) { return try() })
				wantErr(t, err, c.want)
				took := time.Since(start)
				if *tries != c.tries || took < c.atLeast || took > c.atMost {
					t.Errorf("%d tries in %v, %v", *tries, took, err)
				}
				var re *RetryError
				if c.name == "told to stay away" && (!errors.As(err, &re) || re.After != time.Minute || re.Status != 429) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Add("bytes */10")
	f.Fuzz(func(t *testing.T, value string) {
		start, size, err := parseContentRange(value)
		if err == nil && (start < 0 || size >= 0 && start >= size) {
			t.Errorf("%q: from %d of %d", value, start, size)
		}
	})
}
