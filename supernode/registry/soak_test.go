package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

// soakLength is how long a loop runs: SHOAL_SOAK says it, as in 30m; else two
// minutes in CI and two seconds where somebody waits.
func soakLength(t *testing.T) time.Duration {
	t.Helper()
	raw := os.Getenv("SHOAL_SOAK")
	switch {
	case raw == "" && os.Getenv("CI") == "true":
		return 2 * time.Minute
	case raw == "":
		return 2 * time.Second
	}
	length, err := time.ParseDuration(raw)
	if err != nil {
		t.Fatalf("SHOAL_SOAK: %v", err)
	}
	return length
}

// TestSoakGC pushes, pulls and deletes against a collection that never rests:
// nothing that a tag leads to may ever be missing. The clock jumps between the
// rounds, so that leases run out all the time but never within a push, however
// slow the machine is. Half of the time is for the stores that programs use.
func TestSoakGC(t *testing.T) {
	length := soakLength(t) / 2
	t.Run("in memory", func(t *testing.T) {
		soakGC(t, length, func(*registry.Config) {})
	})
	t.Run("on disk", func(t *testing.T) {
		dir := t.TempDir()
		store, err := meta.OpenBolt(filepath.Join(dir, "meta.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		files, err := objects.OpenFiles(filepath.Join(dir, "objects"))
		if err != nil {
			t.Fatal(err)
		}
		soakGC(t, length, func(c *registry.Config) { c.Meta, c.Objects = store, files })
	})
}

func soakGC(t *testing.T, length time.Duration, stores func(*registry.Config)) {
	f := newFixture(t, func(c *registry.Config) {
		c.UntaggedTTL = 3 * 24 * time.Hour
		c.UploadTTL = 100 * 365 * 24 * time.Hour // the object store's clock does not jump
		stores(c)
	})
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	var round sync.RWMutex // held for writing while the clock jumps
	var rounds, blobs atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			for ctx.Err() == nil && !t.Failed() {
				round.RLock()
				f.loopRound(rng, fmt.Sprintf("t%d", i))
				round.RUnlock()
				rounds.Add(1)
				if rng.IntN(4) == 0 {
					round.Lock()
					f.pass(rand.N(30 * time.Hour))
					round.Unlock()
				}
			}
		})
	}
	collections := 0
	for ctx.Err() == nil {
		report, err := f.GC(context.WithoutCancel(ctx))
		if err != nil {
			t.Error(err)
			break
		}
		collections++
		blobs.Add(int64(report.Blobs))
	}
	wg.Wait()
	t.Logf("%d rounds, %d collections, %d blobs collected", rounds.Load(), collections, blobs.Load())
	if blobs.Load() == 0 || rounds.Load() == 0 {
		t.Error("nothing was put to the test")
	}
	f.verifyMaybeEmpty()
}

// loopRound pushes an image of layers that others push too, as a client does,
// pulls it, and often deletes something.
func (f *fixture) loopRound(rng *rand.Rand, tag string) {
	repo := []string{"a", "b"}[rng.IntN(2)]
	contents := [][]byte{[]byte("{}"), fmt.Append(nil, "shared ", rng.IntN(20)), fmt.Append(nil, "own ", tag, rng.IntN(50))}
	var parts []blob.Descriptor
	for _, content := range contents {
		parts = append(parts, f.loopBlob(repo, content))
	}
	a, image := f.putManifest(repo, tag, imageOf(parts[0], parts[1:]...))
	if a.Code != http.StatusCreated {
		f.t.Errorf("push: %d %s", a.Code, a.Body)
		return
	}
	for range 1 + rng.IntN(3) {
		f.loopPull(repo, tag, parts)
	}
	switch rng.IntN(3) {
	case 0:
		f.do("DELETE", "/v2/"+repo+"/manifests/"+string(image.Digest), nil)
	case 1:
		f.do("DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
	}
}

// loopBlob asks for a blob, tries to mount it, pushes it.
func (f *fixture) loopBlob(repo string, content []byte) blob.Descriptor {
	desc := blob.Descriptor{MediaType: "x/y", Digest: digest.FromBytes(content), Size: int64(len(content))}
	address := "/v2/" + repo + "/blobs/"
	if f.do("HEAD", address+string(desc.Digest), nil).Code == http.StatusOK {
		return desc
	}
	a := f.do("POST", address+"uploads/?mount="+string(desc.Digest), nil)
	if a.Code == http.StatusAccepted {
		a = f.do("PUT", withDigest(a.location(), desc.Digest), bytes.NewReader(content))
	}
	if a.Code != http.StatusCreated {
		f.t.Errorf("push blob: %d %s", a.Code, a.Body)
	}
	return desc
}

// loopPull reads the manifest by its tag and every blob of it.
func (f *fixture) loopPull(repo, tag string, parts []blob.Descriptor) {
	a := f.do("GET", "/v2/"+repo+"/manifests/"+tag, nil)
	if a.Code != http.StatusOK {
		f.t.Errorf("pull manifest: %d %s", a.Code, a.Body)
	}
	for _, part := range parts {
		a := f.do("GET", "/v2/"+repo+"/blobs/"+string(part.Digest), nil)
		if a.Code != http.StatusOK || digest.FromBytes(a.Body.Bytes()) != part.Digest {
			f.t.Errorf("a blob of %s:%s is missing: %d %s", repo, tag, a.Code, a.Body)
		}
	}
}
