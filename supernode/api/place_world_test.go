package api

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/inventory"
	"github.com/shoalproject/shoal/supernode/placement"
	"github.com/shoalproject/shoal/supernode/tracker"
)

// digestOf is a digest of one digit.
func digestOf(c byte) blob.Digest {
	return blob.Digest("sha256:" + string(slices.Repeat([]byte{c}, 64)))
}

func TestWhatPlacingKnowsOfAnImage(t *testing.T) {
	list := fmt.Sprintf(`{"manifests":[
		{"digest":%q,"size":9,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
		{"digest":%q,"size":9,"platform":{"os":"linux","architecture":"amd64"}},
		{"digest":%q,"size":9,"platform":{"os":"windows","architecture":"amd64"}}]}`, digestOf('a'), digestOf('b'), digestOf('c'))
	manifest := func(layer byte) string {
		return fmt.Sprintf(`{"config":{"digest":%q,"size":10},"layers":[{"digest":%[2]q,"size":100},{"digest":%[2]q,"size":100}]}`, digestOf('e'), digestOf(layer))
	}
	w := World{Manifest: func(_ context.Context, ref blob.Ref, d blob.Digest) ([]byte, error) {
		raw := map[blob.Digest]string{
			digestOf('0'): list, digestOf('a'): manifest('1'), digestOf('b'): manifest('2'), digestOf('e'): `{"os":"linux","architecture":"amd64"}`,
		}[d]
		if raw == "" || ref.Registry != "" {
			return nil, fetch.ErrNotFound
		}
		return []byte(raw), nil
	}}
	for _, c := range []struct {
		name     string
		registry string
		digest   blob.Digest
		want     placement.Image
		fails    bool
	}{
		{"an index", "", digestOf('0'), placement.Image{Platforms: []string{"linux/arm64/v8", "linux/amd64"}, Parts: []placement.Part{{Digest: digestOf('2'), Size: 100}, {Digest: digestOf('e'), Size: 10}}}, false},
		{"one image", "", digestOf('a'), placement.Image{Platforms: []string{"linux/amd64"}, Parts: []placement.Part{{Digest: digestOf('1'), Size: 100}, {Digest: digestOf('e'), Size: 10}}}, false},
		{"one that is not there", "", digestOf('9'), placement.Image{}, true},
		{"another registry's, which does not say", "docker.io", digestOf('a'), placement.Image{}, false},
	} {
		got, err := w.Image(t.Context(), placement.Service{Image: blob.Image{Ref: blob.Ref{Registry: c.registry, Repository: "demo/app"}}, Digest: string(c.digest)})
		if (err != nil) != c.fails || !slices.Equal(got.Platforms, c.want.Platforms) || !slices.Equal(got.Parts, c.want.Parts) {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestWhatPlacingKnowsOfHosts(t *testing.T) {
	f := newFront(t)
	by := inventory.Caller{Name: "admin", Admin: true}
	_, err := f.Inventory.AddCluster(t.Context(), by, "here", "metal", "")
	f.must(err)
	_, err = f.Inventory.CreatePool(t.Context(), by, inventory.Pool{
		Name: "web", Cluster: "here", Tier: "light", HardwareClass: "12c", Taints: []string{"old"}, Quota: inventory.Quota{CPUMilli: 9000},
	})
	f.must(err)
	h1, _ := f.host("h1", "web"), f.host("h2", "other")
	_, err = f.Inventory.SetTaint(t.Context(), by, "h1", "flaky", false)
	f.must(err)
	f.must(f.Inventory.SetFacts(t.Context(), "peer-h1", &shoalv1.Facts{
		Hostname: "h1", Arch: "arm64", CpuMilli: 12000, MemoryBytes: 16 << 30, Engine: "docker", Rack: "r7", Zone: "z1", Images: []string{"sha256:unpacked"},
	}))
	layer := digestOf('1')
	f.Tracker.Announce(f.now(), tracker.Peer{ID: "peer-h1", Addr: "10.0.0.1:1"}, []tracker.Announcement{{Digest: layer, Size: 100, State: tracker.Complete}})
	w := World{Inventory: f.Inventory, Fleet: f.Fleet, Tracker: f.Tracker, Now: f.now}
	hosts, err := w.Hosts(t.Context(), "web", &placement.Image{Parts: []placement.Part{{Digest: layer, Size: 100}}}, &placement.Service{Digest: "sha256:unpacked"})
	if err != nil || len(hosts) != 1 {
		t.Fatalf("%+v, %v", hosts, err)
	}
	h := hosts[0]
	if h.Server != h1.ID || h.Name != "h1" || !h.Connected || h.Phase != "ready" || h.Tier != "light" || h.Class != "12c" || h.Platform != "linux/arm64" ||
		h.Engine != "docker" || h.Rack != "r7" || h.Zone != "z1" || h.CPU != 12000 || h.Memory != 16<<30 || !h.Unpacked || !h.Holds[layer] || !slices.Equal(h.Taints, []string{"old", "flaky"}) {
		t.Errorf("%+v", h)
	}
	if q, err := w.Quota(t.Context(), "web"); err != nil || q.CPU != 9000 || q.Memory != 0 {
		t.Errorf("%+v, %v", q, err)
	}
	// Nobody made this pool; hosts joined it.
	if hosts, err := w.Hosts(t.Context(), "other", nil, nil); err != nil || len(hosts) != 1 || hosts[0].Tier != "core" || hosts[0].Unpacked {
		t.Errorf("%+v, %v", hosts, err)
	}
	_, err = f.Inventory.Retire(t.Context(), by, "h1")
	f.must(err)
	if hosts, err := w.Hosts(t.Context(), "web", nil, nil); err != nil || len(hosts) != 0 {
		t.Errorf("a retired server is there: %+v, %v", hosts, err)
	}
}
