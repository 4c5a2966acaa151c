package dfget

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// origin serves one file; what it does wrong is set by the test.
type origin struct {
	body    []byte
	tag     string // ETag
	cuts    int    // how many answers end in the middle
	noRange bool   // it always begins again
	status  int    // instead of the file
	ranges  []string
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.ranges = append(o.ranges, r.Header.Get("Range"))
	if o.status != 0 {
		http.Error(w, "no", o.status)
		return
	}
	w.Header().Set("ETag", o.tag)
	from := 0
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !o.noRange {
		if same := r.Header.Get("If-Range"); same == "" || same == o.tag {
			from, _ = strconv.Atoi(strings.TrimSuffix(text, "-"))
		}
	}
	if from > len(o.body) {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	rest := o.body[from:]
	w.Header().Set("Content-Length", fmt.Sprint(len(rest)))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if o.cuts > 0 {
		o.cuts--
		w.Write(rest[:len(rest)/2])
		panic(http.ErrAbortHandler)
	}
	w.Write(rest)
}

func TestDirectDownload(t *testing.T) {
	body := make([]byte, 200_000)
	rand.Read(body)
	right := string(digest.FromBytes(body))
	wrong := string(digest.FromString("something else"))
	for _, c := range []struct {
		name   string
		origin origin
		part   []byte // left by an earlier run
		digest string
		status int
		says   string // in the error
		ranges string // that were asked for
	}{
		{name: "plain", ranges: "[]"},
		{name: "with the digest", digest: right, ranges: "[]"},
		{name: "cut, and resumed", origin: origin{cuts: 2, tag: `"1"`}, ranges: "[ bytes=100000- bytes=150000-]"},
		{name: "cut, resumed by the digest alone", origin: origin{cuts: 1}, digest: right, ranges: "[ bytes=100000-]"},
		{name: "cut, and begun again by the server", origin: origin{cuts: 1, noRange: true}, digest: right, ranges: "[ bytes=100000-]"},
		{name: "cut without a way to go on", origin: origin{cuts: 1}, status: exitFailed, says: "--digest", ranges: "[]"},
		{name: "cut, and the tag is a weak one", origin: origin{cuts: 1, tag: `W/"1"`}, status: exitFailed, says: "--digest", ranges: "[]"},
		{name: "goes on from an earlier run", part: body[:50_000], digest: right, ranges: "[bytes=50000-]"},
		{name: "an earlier run had it all", part: body, digest: right, ranges: "[bytes=200000-]"},
		{name: "an earlier run left nonsense", part: []byte("nonsense"), digest: right, status: exitFailed, says: "nothing was kept", ranges: "[bytes=8-]"},
		{name: "an earlier run left too much", part: make([]byte, 300_000), digest: right, status: exitFailed, says: "nothing was kept", ranges: "[bytes=300000-]"},
		{name: "without a digest an earlier run is not believed", part: []byte("nonsense"), ranges: "[]"},
		{name: "another digest", digest: wrong, status: exitFailed, says: "nothing was kept", ranges: "[]"},
		{name: "a garbage digest", digest: "sha256:12", status: exitUsage, says: "--digest"},
		{name: "not there", origin: origin{status: http.StatusNotFound}, status: exitNotFound, says: "404", ranges: "[]"},
		{name: "not for everybody", origin: origin{status: http.StatusForbidden}, status: exitDenied, says: "403", ranges: "[]"},
		{name: "broken", origin: origin{status: http.StatusBadGateway}, status: exitFailed, says: "502", ranges: "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			o := c.origin
			o.body = body
			server := httptest.NewServer(&o)
			defer server.Close()
			out := filepath.Join(t.TempDir(), "folder", "file")
			if c.part != nil {
				if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(out+".part", c.part, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var stdout, stderr bytes.Buffer
			args := []string{server.URL + "/file", "-O", out, "--digest", c.digest, "--agent", filepath.Join(t.TempDir(), "none")}
			status := Run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
			if status != c.status || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("exit status %d, want %d; it said %q, want %q in it", status, c.status, &stderr, c.says)
			}
			if ranges := fmt.Sprint(o.ranges); c.status != exitUsage && ranges != c.ranges {
				t.Errorf("asked for %s, want %s", ranges, c.ranges)
			}
			got, err := os.ReadFile(out)
			if c.status == exitDone && (err != nil || !bytes.Equal(got, body)) {
				t.Errorf("%d bytes came, %v", len(got), err)
			}
			if c.status != exitDone && err == nil {
				t.Error("a file was kept")
			}
			if strings.Contains(c.says, "nothing was kept") {
				if _, err := os.Stat(out + ".part"); err == nil {
					t.Error("a part was kept that is of no use")
				}
			}
		})
	}
}
