package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoalproject/shoal/e2e/image"
)

var fromUpstream = order{repository: "library/app", reference: "v1", upstream: true}

// TestUpstreamIsBusy: 429 with Retry-After and a connection that is cut half
// way are waited for and resumed; the client sees neither.
func TestUpstreamIsBusy(t *testing.T) {
	img := makeImage(t, image.Spec{Layers: []int64{4 << 20}, Seed: 51, NoProgram: true})
	h := build(t, plan{hosts: 2, upstream: img})
	var refused, cut atomic.Int32
	h.origin.Misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") && refused.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == "" && cut.Add(1) == 2 {
			w.Header().Set("Content-Length", "4000000")
			w.WriteHeader(http.StatusOK)
			panic(http.ErrAbortHandler)
		}
		return false
	}
	if _, err := h.pullAll(h.agents, fromUpstream); err != nil {
		t.Fatal(err)
	}
	if refused.Load() == 0 || cut.Load() < 2 {
		t.Errorf("upstream misbehaved %d and %d times: the test tested nothing", refused.Load(), cut.Load())
	}
}

// TestUpstreamLies: bytes that do not have the digest are given to nobody to
// the end and cached nowhere; with the truth upstream, the same pull passes.
func TestUpstreamLies(t *testing.T) {
	img := makeImage(t, image.Spec{Layers: []int64{2 << 20}, Seed: 52, NoProgram: true})
	h := build(t, plan{hosts: 2, upstream: img})
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := m.Layers[0].Digest.String()
	var lies atomic.Int32
	h.origin.Misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, layer) || lies.Load() < 0 {
			return false
		}
		lies.Add(1)
		honest := httptest.NewRecorder()
		h.origin.Serve(honest, r)
		body, _ := io.ReadAll(honest.Body)
		for i := range body {
			if i%100_000 == 99_999 {
				body[i] ^= 1
			}
		}
		for k, v := range honest.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(honest.Code)
		w.Write(body)
		return true
	}
	if _, err := h.pull(h.ctx, h.agents[0], fromUpstream); err == nil {
		t.Fatal("a client took a layer whose bytes are wrong")
	}
	if lies.Load() == 0 {
		t.Fatal("nobody asked for the layer: the test tested nothing")
	}
	lies.Store(-1 << 20)
	// A refuted digest is refused for a minute, by design; another agent that
	// asks after that gets the truth. What must not be is a cached lie.
	r, err := h.pull(h.ctx, h.agents[1], fromUpstream)
	t.Logf("with the truth upstream: %d bytes, %v", r.Bytes, err)
	if err != nil && strings.Contains(err.Error(), "wrong bytes") {
		t.Error("a lie was cached")
	}
	// That host may have begun to answer, since it knew the size; who asks
	// again is told at once.
	if _, err := h.pull(h.ctx, h.agents[1], fromUpstream); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("asked again within the minute: %v, want a 404", err)
	}
}

// TestUpstreamIsPrivate: what upstream refuses to anonymous readers is
// refused here as well, with a 401 or 403 and not as "not found".
func TestUpstreamIsPrivate(t *testing.T) {
	img := makeImage(t, image.Spec{Layers: []int64{1 << 20}, Seed: 53, NoProgram: true})
	h := build(t, plan{hosts: 1, upstream: img})
	h.origin.Misbehave = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	_, err := h.pull(h.ctx, h.agents[0], fromUpstream)
	if err == nil {
		t.Fatal("pulled from a registry that lets nobody in")
	}
	if !strings.Contains(err.Error(), "401") && !strings.Contains(err.Error(), "403") {
		t.Errorf("%v: want a 401 or 403", err)
	}
}

// TestUnknownRegistry: ns= names what is configured and nothing else.
func TestUnknownRegistry(t *testing.T) {
	h := build(t, plan{hosts: 1})
	client := h.agents[0].Host.HTTP()
	for _, ns := range []string{"169.254.169.254", "[::1]:80", "2130706433", "admin@docker.io", "example.org", "127.0.0.1:9091"} {
		req, err := http.NewRequestWithContext(h.ctx, http.MethodGet, h.agents[0].Mirror+"/v2/library/x/manifests/v1?ns="+ns, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("ns=%s: %s, want a refusal", ns, resp.Status)
		}
	}
}
