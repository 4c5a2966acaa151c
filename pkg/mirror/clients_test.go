package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
)

// shelf is a Fetcher over one image, for real clients.
type shelf struct {
	manifest Manifest
	layer    []byte
	cut      atomic.Int32 // bytes of the first reader; later ones are whole
	opened   atomic.Int32
}

func newShelf(size int) *shelf {
	data := bytes.Repeat([]byte("layer"), size/5)
	empty := []byte("{}")
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}`,
		digest.FromBytes(empty), len(empty), digest.FromBytes(data), len(data))
	return &shelf{layer: data, manifest: Manifest{Body: body, Descriptor: blob.Descriptor{
		MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digest.FromBytes(body), Size: int64(len(body))}}}
}

func (s *shelf) Manifest(context.Context, blob.Ref, string, Grant) (Manifest, error) {
	return s.manifest, nil
}

func (s *shelf) find(d blob.Digest) ([]byte, error) {
	for _, data := range [][]byte{s.layer, []byte("{}")} {
		if digest.FromBytes(data) == d {
			return data, nil
		}
	}
	return nil, ErrNotFound
}

func (s *shelf) Stat(_ context.Context, _ blob.Ref, d blob.Digest, _ Grant) (int64, error) {
	data, err := s.find(d)
	return int64(len(data)), err
}

func (s *shelf) Open(_ context.Context, _ blob.Ref, d blob.Digest, rng blob.Range, _ Grant) (Reader, error) {
	data, err := s.find(d)
	if err != nil {
		return nil, err
	}
	if rng.End < 0 {
		rng.End = int64(len(data))
	}
	var r io.Reader = bytes.NewReader(data[rng.Start:rng.End])
	if n := s.cut.Swap(0); n > 0 && len(data) > int(n) {
		r = io.MultiReader(io.LimitReader(r, int64(n)), failing{})
	}
	s.opened.Add(1)
	return &spyReader{Reader: r, size: int64(len(data))}, nil
}

// host serves a mirror with a real gate on loopback.
func host(t *testing.T, w *world, s *shelf) *httptest.Server {
	t.Helper()
	w.gate.cfg.Now = time.Now
	w.now = time.Now()
	server := httptest.NewUnstartedServer(nil)
	server.Config = NewServer(New(Config{Fetcher: s, Auth: w.gate, Token: w.gate, Service: "shoal",
		Own: w.gate.cfg.Own, Upstream: w.gate.cfg.Upstream}), w.gate.cfg.Log)
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// containerd makes containerd's own resolver with the mirror in its certs.d,
// and an origin that counts and refuses.
func containerd(t *testing.T, mirror, user, pass string, origin *atomic.Int32) remotes.Resolver {
	t.Helper()
	dir := t.TempDir()
	hosts := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n", mirror)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "_default"), 0o700),
		os.WriteFile(filepath.Join(dir, "_default", "hosts.toml"), []byte(hosts), 0o600)); err != nil {
		t.Fatal(err)
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(t.Context(), config.HostOptions{
		HostDir:     config.HostDirFromRoot(dir),
		Credentials: func(string) (string, string, error) { return user, pass, nil },
		UpdateClient: func(c *http.Client) error {
			inner := c.Transport
			c.Transport = transport(func(r *http.Request) (*http.Response, error) {
				if !strings.HasPrefix(mirror, "http://"+r.URL.Host) {
					origin.Add(1)
					return nil, fmt.Errorf("the origin %s was asked", r.URL.Host)
				}
				return inner.RoundTrip(r)
			})
			return nil
		},
	})})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pull resolves, fetches the manifest and the layer, as containerd does.
func pull(t *testing.T, resolver remotes.Resolver, image string, s *shelf) error {
	t.Helper()
	_, desc, err := resolver.Resolve(t.Context(), image)
	if err != nil {
		return err
	}
	if desc.Digest != s.manifest.Descriptor.Digest || desc.Size != s.manifest.Descriptor.Size || desc.MediaType != s.manifest.Descriptor.MediaType {
		t.Errorf("resolved to %+v", desc)
	}
	fetcher, err := resolver.Fetcher(t.Context(), image)
	if err != nil {
		return err
	}
	for _, want := range []blob.Descriptor{desc, {MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest.FromBytes(s.layer), Size: int64(len(s.layer))}} {
		rc, err := fetcher.Fetch(t.Context(), want)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(rc)
		rc.Close()
		if err != nil {
			return err
		}
		if digest.FromBytes(got) != want.Digest {
			t.Errorf("%d bytes of %s", len(got), want.Digest)
		}
	}
	return nil
}

func TestContainerdPulls(t *testing.T) {
	for _, c := range []struct {
		name, image, user, pass string
		prepare                 func(*world, *shelf)
		works                   bool
		opened                  int32
	}{
		{"public upstream image", "docker.io/library/app:latest", "", "", func(w *world, _ *shelf) {
			w.readable["docker.io|library/app|latest|"] = true
		}, true, 1},
		{"private upstream image with a pull secret", "docker.io/corp/app:latest", "bob", "secret", func(w *world, s *shelf) {
			for _, reference := range []string{"latest", s.manifest.Descriptor.Digest.String(), digest.FromBytes(s.layer).String()} {
				w.readable["docker.io|corp/app|"+reference+"|pull:corp/app"] = true
			}
		}, true, 1},
		{"private upstream image without", "docker.io/corp/app:latest", "", "", func(*world, *shelf) {}, false, 0},
		{"private upstream image with a wrong one", "docker.io/corp/app:latest", "bob", "wrong", func(*world, *shelf) {}, false, 0},
		{"unknown registry", "quay.io/a/b:latest", "", "", func(*world, *shelf) {}, false, 0},
		{"cut in the middle", "docker.io/library/app:latest", "", "", func(w *world, s *shelf) {
			w.readable["docker.io|library/app|latest|"] = true
			s.cut.Store(300_000)
		}, true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := newWorld(t), newShelf(1<<20)
			c.prepare(w, s)
			server := host(t, w, s)
			var origin atomic.Int32
			err := pull(t, containerd(t, server.URL, c.user, c.pass, &origin), c.image, s)
			if (err == nil) != c.works {
				t.Errorf("%v", err)
			}
			if fellBack := origin.Load() > 0; fellBack == c.works {
				t.Errorf("fell back to the origin: %v, %v", fellBack, err)
			}
			if n := s.opened.Load(); n != c.opened {
				t.Errorf("%d blob readers, want %d", n, c.opened)
			}
		})
	}
}

// TestGoContainerRegistryPulls is the way of docker pull 127.0.0.1:65001/…:
// ping, challenge, Basic at /token, Bearer.
func TestGoContainerRegistryPulls(t *testing.T) {
	w, s := newWorld(t), newShelf(1<<20)
	server := host(t, w, s)
	image, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/team/app:v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	for pass, works := range map[string]bool{"right": true, "wrong": false} {
		w.now = time.Now()
		got, err := remote.Image(image, remote.WithContext(t.Context()), remote.WithAuth(&authn.Basic{Username: "ann", Password: pass}))
		if (err == nil) != works {
			t.Errorf("password %s: %v", pass, err)
		}
		if err != nil {
			continue
		}
		layers, err := got.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%v, %v", layers, err)
		}
		rc, err := layers[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || !bytes.Equal(data, s.layer) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
	if _, err := remote.Image(image, remote.WithContext(t.Context())); err == nil {
		t.Error("nobody in particular may pull")
	}
}
