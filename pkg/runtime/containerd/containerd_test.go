package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime"
	"github.com/shoalproject/shoal/pkg/runtime/runtimetest"
)

// binaries are the containerds to test with: the installed one, and those that
// SHOAL_TEST_CONTAINERD lists, separated by colons.
func binaries(t *testing.T) []string {
	t.Helper()
	return append([]string{runtimetest.Need(t, "containerd")}, filepath.SplitList(os.Getenv("SHOAL_TEST_CONTAINERD"))...)
}

// each runs a test with each of them.
func each(t *testing.T, test func(t *testing.T, binary string)) {
	for _, binary := range binaries(t) {
		t.Run(strings.ReplaceAll(strings.TrimPrefix(binary, "/"), "/", "_"), func(t *testing.T) { test(t, binary) })
	}
}

func probe(ctx context.Context, socket string) error {
	client, err := containerd.New(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Version(ctx)
	return err
}

// subject is a Runtime and a client that works on the same containerd.
type subject struct {
	*Runtime
	daemon *runtimetest.Daemon
	hands  *containerd.Client
	ctx    context.Context
}

func start(t *testing.T, binary string, change func(*Options)) subject {
	t.Helper()
	daemon := runtimetest.StartContainerd(t, binary, probe)
	opts := Options{Address: daemon.Socket}
	if change != nil {
		change(&opts)
	}
	r, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	hands, err := containerd.New(daemon.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hands.Close() })
	return subject{Runtime: r, daemon: daemon, hands: hands, ctx: namespaces.WithNamespace(t.Context(), DefaultNamespace)}
}

// image is a small one for this host's platform.
func image(t *testing.T, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(64<<10, layers)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = goruntime.GOOS, goruntime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// blobsOf are config and layers of an image with their bytes.
func blobsOf(t *testing.T, img v1.Image) map[blob.Digest][]byte {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	out := map[blob.Digest][]byte{blob.Digest(id.String()): config}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		d, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[blob.Digest(d.String())] = data
	}
	return out
}

// load imports a new image and returns its blobs.
func (s subject) load(t *testing.T) map[blob.Digest][]byte {
	t.Helper()
	img := image(t, 1)
	tag, err := name.NewTag("example.com/small:v1")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, img, &archive); err != nil {
		t.Fatal(err)
	}
	if _, err := s.hands.Import(s.ctx, &archive); err != nil {
		t.Fatal(err)
	}
	return blobsOf(t, img)
}

// clear removes all images, and the leases that Import left, and collects.
func (s subject) clear(t *testing.T) {
	t.Helper()
	list, err := s.hands.ImageService().List(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range list {
		if err := s.hands.ImageService().Delete(s.ctx, img.Name, images.SynchronousDelete()); err != nil {
			t.Fatal(err)
		}
	}
	// Deleting any lease synchronously waits for the collector.
	lease, err := s.hands.LeasesService().Create(s.ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.hands.LeasesService().Delete(s.ctx, lease, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
}

func TestContainerdPassesTheSuite(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
			s := start(t, binary, nil)
			return runtimetest.Subject{Content: s.Runtime, Add: s.load, Clear: s.clear}
		})
	})
}

func TestContentOfOtherNamespacesIsNotServed(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		s := start(t, binary, func(o *Options) { o.Namespaces = []string{"elsewhere"} })
		for d := range s.load(t) {
			if f, err := s.OpenLocal(d); !errors.Is(err, blob.ErrNotHeld) {
				t.Errorf("opened %v, %v of a namespace that is not watched", f, err)
			}
		}
	})
}

func TestFileThatIsNotWhatContainerdListsIsNotServed(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		s := start(t, binary, nil)
		var d blob.Digest
		for d = range s.load(t) {
			break
		}
		path := filepath.Join(s.daemon.Root, contentPlugin, "blobs", "sha256", d.Encoded())
		secret := filepath.Join(t.TempDir(), "secret")
		for name, spoil := range map[string]func() error{
			"cut short": func() error { return os.WriteFile(path, []byte("x"), 0o600) },
			"missing":   func() error { return nil },
			"a pipe":    func() error { return syscall.Mkfifo(path, 0o600) },
			"a link out": func() error {
				return errors.Join(os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(secret, path))
			},
		} {
			if err := errors.Join(os.RemoveAll(path), spoil()); err != nil {
				t.Fatal(err)
			}
			if f, err := s.OpenLocal(d); !errors.Is(err, blob.ErrNotHeld) {
				t.Errorf("%s: opened %v, %v; want %v", name, f, err, blob.ErrNotHeld)
			}
		}
	})
}

func TestWatchSurvivesARestart(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		s := start(t, binary, nil)
		events := s.Watch(t.Context())
		first := s.load(t)
		awaitAll(t, events, first)
		s.daemon.Stop()
		for d := range first {
			if f, err := s.OpenLocal(d); err == nil {
				t.Errorf("opened %s while containerd is away", f.Name())
			}
		}
		s.daemon.Start()
		awaitAll(t, events, s.load(t))
	})
}

// awaitAll fails when an event tells again of what was told.
func awaitAll(t *testing.T, events <-chan runtime.Event, want map[blob.Digest][]byte) {
	t.Helper()
	want = maps.Clone(want)
	deadline := time.After(time.Minute)
	for len(want) > 0 {
		select {
		case e := <-events:
			delete(want, e.Digest)
		case <-deadline:
			t.Fatalf("was not told of %v", slices.Collect(maps.Keys(want)))
		}
	}
}

// mirror is a registry that wants to be asked as a mirror is.
type mirror struct {
	*httptest.Server
	mu      sync.Mutex
	wrong   []string // guarded by mu: requests without the right ns
	user    string   // wanted by Basic auth; empty: nobody is asked
	request int      // guarded by mu
}

func newMirror(t *testing.T, user string) *mirror {
	t.Helper()
	store := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	m := &mirror{user: user}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") == "setup" {
			store.ServeHTTP(w, r)
			return
		}
		m.mu.Lock()
		m.request++
		if r.URL.Query().Get("ns") != "registry.example.com" {
			m.wrong = append(m.wrong, r.URL.String())
		}
		m.mu.Unlock()
		if name, password, _ := r.BasicAuth(); m.user != "" && (name != m.user || password != "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) addr() string { return strings.TrimPrefix(m.URL, "http://") }

type setupTransport struct{}

func (setupTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", "setup")
	return http.DefaultTransport.RoundTrip(r)
}

func (m *mirror) push(t *testing.T, repository string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(m.addr() + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(setupTransport{})); err != nil {
		t.Fatal(err)
	}
}

func TestPullThroughTheMirror(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		m := newMirror(t, "ada")
		s := start(t, binary, func(o *Options) { o.Mirror, o.Snapshotter = m.addr(), "native" })
		img := image(t, 3)
		m.push(t, "team/app:v1", img)
		var done, total int64
		pull := runtime.Pull{
			Image:      "registry.example.com/team/app:v1",
			Credential: &runtime.Credential{Username: "ada", Secret: "secret"},
			Unpack:     true,
			Progress:   func(d, n int64) { done, total = d, n },
		}
		got, err := s.Pull(t.Context(), pull)
		if err != nil {
			t.Fatal(err)
		}
		want, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want.String() {
			t.Errorf("pulled %s, want %s", got, want)
		}
		if done != total || total < 3*64<<10 {
			t.Errorf("progress ended at %d of %d bytes", done, total)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.wrong) > 0 {
			t.Errorf("requests that are not a mirror's: %v", m.wrong)
		}
		pulled, err := s.hands.GetImage(s.ctx, pull.Image)
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := pulled.IsUnpacked(s.ctx, "native"); err != nil || !unpacked {
			t.Errorf("unpacked: %v, %v", unpacked, err)
		}
		for d := range blobsOf(t, img) {
			if held, err := s.Has(t.Context(), d); err != nil || !held {
				t.Errorf("Has(%s) = %v, %v after the pull", d, held, err)
			}
		}
		for range 2 { // a new name, and one that stands for something already
			if err := s.Tag(t.Context(), pull.Image, "registry.example.com/team/app:stable"); err != nil {
				t.Fatal(err)
			}
		}
		tagged, err := s.hands.GetImage(s.ctx, "registry.example.com/team/app:stable")
		if err != nil || tagged.Target().Digest != got {
			t.Errorf("the new name stands for %v, %v", tagged, err)
		}
		if err := s.Tag(t.Context(), "registry.example.com/team/none:v1", pull.Image); err == nil {
			t.Error("a name was given to nothing")
		}
	})
}

func TestTidyLeavesWhatIsNewOrWanted(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		m := newMirror(t, "")
		s := start(t, binary, func(o *Options) { o.Mirror = m.addr() })
		var names []string
		for i := range 5 {
			img := image(t, 1)
			m.push(t, "team/app:v"+strconv.Itoa(i), img)
			d, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			name := "registry.example.com/team/app@" + d.String()
			names = append(names, name)
			if i == 0 { // somebody else brought this one
				_, err = s.hands.ImageService().Create(s.ctx, images.Image{Name: name, Target: ocispec.Descriptor{Digest: blob.Digest(d.String()), Size: 1, MediaType: "x"}})
			}
			if err == nil {
				_, err = s.Pull(t.Context(), runtime.Pull{Image: name})
			}
			if err == nil {
				err = s.Tag(t.Context(), name, "registry.example.com/team/app:v"+strconv.Itoa(i))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		wanted := func(d blob.Digest) bool { return strings.HasSuffix(names[1], string(d)) }
		if err := s.Tidy(t.Context(), 2, wanted); err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			_, err := s.hands.ImageService().Get(s.ctx, name)
			if kept := err == nil; kept != (i != 2) {
				t.Errorf("version %d of five is kept: %v; the first is another's, the second is wanted", i, kept)
			}
			if _, err := s.hands.ImageService().Get(s.ctx, "registry.example.com/team/app:v"+strconv.Itoa(i)); err != nil {
				t.Errorf("the tag of version %d: %v", i, err)
			}
		}
	})
}

func TestPullFails(t *testing.T) {
	each(t, func(t *testing.T, binary string) {
		m := newMirror(t, "ada")
		s := start(t, binary, func(o *Options) { o.Mirror = m.addr() })
		for _, pull := range []runtime.Pull{
			{Image: "registry.example.com/team/none:v1", Credential: &runtime.Credential{Username: "ada", Secret: "secret"}},
			{Image: "registry.example.com/team/none:v1"},
			{Image: "NOT A NAME"},
		} {
			if d, err := s.Pull(t.Context(), pull); err == nil {
				t.Errorf("pull of %q brought %s", pull.Image, d)
			}
		}
	})
}

func TestContainerdThatIsNotThere(t *testing.T) {
	r, err := Open(t.Context(), Options{Address: filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("Version: %v, want an error that names the socket", err)
	}
	if _, err := r.List(t.Context()); err == nil {
		t.Error("List says nothing of it")
	}
	asked := time.Now()
	if f, err := r.OpenLocal(blob.Digest("sha256:" + strings.Repeat("0", 64))); err == nil || errors.Is(err, blob.ErrNotHeld) {
		t.Errorf("OpenLocal = %v, %v, want an error that does not say that nothing is held", f, err)
	}
	if took := time.Since(asked); took > callTimeout/2 {
		t.Errorf("OpenLocal kept its reader waiting for %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := r.Watch(ctx)
	cancel()
	for range events {
		t.Error("an event came from nowhere")
	}
}
