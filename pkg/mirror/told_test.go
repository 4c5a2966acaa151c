package mirror

import (
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
)

// Whoever keeps an audit hears of each decision: who asked, as far as that is
// known, for what, and whether they were refused.
func TestDecisionsAreTold(t *testing.T) {
	w := newWorld(t)
	var told []string
	s := newSpy()
	h := New(Config{
		Fetcher: s, Auth: w.gate, Own: w.gate.cfg.Own, Upstream: w.gate.cfg.Upstream, Log: slog.New(slog.DiscardHandler),
		Told: func(d Decision) {
			told = append(told, fmt.Sprintf("%s %s %s %s %v", d.Subject, d.Ref, d.Reference, d.From, d.Refused))
		},
	})
	w.tokens["anns"] = token.Claims{Subject: "ann", IssuedAt: w.now, ExpiresAt: w.now.Add(time.Minute), Access: []token.Access{
		{Type: "repository", Name: "team/app", Actions: []string{"pull"}},
	}}
	w.granted["free"] = true
	digest := s.manifest.Descriptor.Digest.String()
	w.readable["|team/app|"+d1.String()+"|"] = true
	ask := func(method, path, authorization string) {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, nil)
		r.RemoteAddr = "127.0.0.1:4711"
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		out := httptest.NewRecorder()
		h.ServeHTTP(out, r)
		io.Copy(io.Discard, out.Body)
	}
	ask("GET", "/v2/", "")
	ask("GET", "/v2/team/app/manifests/v1", "")
	ask("GET", "/v2/team/app/manifests/v1", "Bearer forged")
	ask("GET", "/v2/team/app/manifests/v1", "Bearer anns")
	ask("GET", "/v2/team/app/blobs/"+d1.String(), "Bearer anns")
	ask("GET", "/v2/team/app/blobs/"+d2.String(), "Bearer anns")
	ask("HEAD", "/v2/team/other/manifests/v1", "Bearer anns")
	ask("GET", "/v2/free/app/manifests/v1", "")
	ask("PUT", "/v2/team/app/manifests/v1", "Bearer anns")
	ask("GET", "/v2/team/app/manifests/v1?ns=nobody.example", "Bearer anns")
	w.down = true // nobody can decide
	ask("GET", "/v2/free/app/manifests/"+digest, "")
	want := []string{
		" team/app v1 127.0.0.1 true", " team/app v1 127.0.0.1 true", "ann team/app v1 127.0.0.1 false",
		"ann team/app  127.0.0.1 false", "ann team/app  127.0.0.1 true", "ann team/other v1 127.0.0.1 true",
		"node free/app v1 127.0.0.1 false",
	}
	// The manifest that was given out above is linked, so that one is allowed.
	want = append(want, "node free/app "+digest+" 127.0.0.1 false")
	if !slices.Equal(told, want) {
		t.Errorf("told\n%q\nwant\n%q", told, want)
	}
	told = nil
	w.now = w.now.Add(2 * time.Hour)
	ask("GET", "/v2/free/app/blobs/"+d2.String(), "")
	if told != nil {
		t.Errorf("nobody decided, and %q was told", told)
	}
}
