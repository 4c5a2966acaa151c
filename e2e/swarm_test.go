package e2e

import (
	"testing"

	"github.com/shoalproject/shoal/e2e/image"
)

// TestUpstreamOnce: however many hosts pull a cold image at once, the registry
// outside gives it once.
func TestUpstreamOnce(t *testing.T) {
	img := makeImage(t, image.Spec{Layers: []int64{24 << 20, 8 << 20}, Seed: 11, NoProgram: true})
	h := build(t, plan{hosts: 8, upstream: img})
	size := float64(sizeOf(t, img))
	before := h.traffic()["upstream"].Sent
	if _, err := h.pullAll(h.agents, order{repository: "library/app", reference: "v1", upstream: true}); err != nil {
		t.Fatal(err)
	}
	copies := float64(h.traffic()["upstream"].Sent-before) / size
	t.Logf("upstream gave %.3f copies to 8 hosts", copies)
	if copies > 1.05 {
		t.Errorf("upstream gave %.3f copies of the image, want at most 1.05", copies)
	}
}

// TestSeedCopies: on shaped links the supernode sends at most two copies to
// eight hosts, every host gets at least half of its bytes from other agents,
// and pulling again moves nothing.
func TestSeedCopies(t *testing.T) {
	h := build(t, plan{hosts: 8, mbit: 80})
	img := h.push("demo/app", "v1", image.Spec{Layers: []int64{16 << 20, 16 << 20}, Seed: 12, NoProgram: true})
	size := float64(sizeOf(t, img))
	app := order{repository: "demo/app", reference: "v1"}
	before := h.traffic()["seed"].Sent
	if _, err := h.pullAll(h.agents, app); err != nil {
		t.Fatal(err)
	}
	copies := float64(h.traffic()["seed"].Sent-before) / size
	t.Logf("the seed sent %.2f copies", copies)
	if copies > 2 {
		t.Errorf("the seed sent %.2f copies to 8 hosts, want at most 2.0", copies)
	}
	for _, a := range h.agents {
		peers, supernode, upstream := h.bytesBySource(a)
		if peers < size/2 {
			t.Errorf("%s: %.0f %% from other agents (supernode %.0f, upstream %.0f bytes), want at least half",
				a.Host.Name, 100*peers/size, supernode, upstream)
		}
	}

	again := h.traffic()
	if _, err := h.pullAll(h.agents, app); err != nil {
		t.Fatal(err)
	}
	for name, now := range h.traffic() {
		if moved := now.Received - again[name].Received; name != "seed" && float64(moved) > size/100 {
			t.Errorf("%s received %d bytes for an image that it has", name, moved)
		}
	}
}
