package differential

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // by its name in the configuration
	"github.com/sirupsen/logrus"

	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
	"github.com/shoalproject/shoal/supernode/registry"
)

// anyone lets everybody do everything: rights are not what is compared.
type anyone struct{}

func (anyone) Authorize(*http.Request, string, ...string) (string, error) { return "anyone", nil }

func (anyone) Readable(context.Context, string) (func(string) (bool, error), error) {
	return func(string) (bool, error) { return true, nil }, nil
}

// stores are what our registry stands on.
func stores(t *testing.T, onDisk bool) (meta.Store, objects.Store) {
	t.Helper()
	if !onDisk {
		return meta.NewMemory(), objects.NewMemory()
	}
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
	return store, files
}

func ours(t *testing.T, onDisk bool) http.Handler {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	metadata, bytes := stores(t, onDisk)
	g, err := registry.New(t.Context(), registry.Config{Meta: metadata, Objects: bytes, Auth: anyone{}, Origin: "here",
		Sign: func(message []byte) (string, []byte, error) { return "signer", ed25519.Sign(key, message), nil }})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// theirs is the oracle, set up so that it differs as little as it can: deletes
// on, indexes with absent platforms and layers that lie elsewhere taken.
func theirs(t *testing.T) *side {
	t.Helper()
	logrus.SetOutput(io.Discard)
	config := &configuration.Configuration{}
	config.Storage = configuration.Storage{
		"inmemory": {},
		"delete":   {"enabled": true},
		"maintenance": {"uploadpurging": map[any]any{
			"enabled": false, "age": "168h", "interval": "24h", "dryrun": false}},
	}
	config.Catalog.MaxEntries = 1000
	config.HTTP.Secret = "the same in each run"
	config.HTTP.RelativeURLs = true
	config.Validation.Manifests.Indexes.Platforms = "none"
	config.Validation.Manifests.URLs.Allow = []string{"."}
	config.Log.AccessLog.Disabled = true
	app := handlers.NewApp(t.Context(), config)
	t.Cleanup(func() {
		if err := app.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return serve(t, "theirs", app)
}

func serve(t *testing.T, name string, h http.Handler) *side {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	return newSide(name, server.URL)
}

// pair is the two, and how many plays they have seen. The name of a play is
// greater than those before it, so that a catalogue read from it on shows
// this play alone.
type pair struct {
	ours, theirs *side
	plays        int
}

func newPair(t *testing.T, onDisk bool) *pair {
	t.Helper()
	return &pair{ours: serve(t, "ours", ours(t, onDisk)), theirs: theirs(t)}
}

// finding is where two answers differ and nothing says that they may.
type finding struct {
	at      int // of the request
	request request
	unknown []difference
}

func (f finding) signature() string {
	return fmt.Sprint(f.request.kind, f.request.flaw, f.unknown)
}

// parted reports whether the two hold different things from here on, or hold
// the same under different names: what follows can't be compared.
func parted(r request, ours, theirs answer) bool {
	const name = "Docker-Content-Digest"
	return r.kind.modifies() && (ours.status < 400 || theirs.status < 400) &&
		(ours.status != theirs.status || ours.header.Get(name) != theirs.header.Get(name))
}

// play sends requests to both until they differ in a way that is not known,
// or hold different things. Differences that are known are counted in seen.
func (p *pair) play(ctx context.Context, requests []request, seen map[string]int) (*finding, error) {
	p.plays++
	name := fmt.Sprintf("p%09d", p.plays)
	clear(p.ours.uploads)
	clear(p.theirs.uploads)
	for i, r := range requests {
		mine, err := p.ours.ask(ctx, r, name)
		other, err2 := p.theirs.ask(ctx, r, name)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
		var unknown []difference
		for _, d := range compare(r, name, mine, other) {
			if entry := intendedFor(r, d); entry != nil {
				seen[entry.name]++
			} else {
				unknown = append(unknown, d)
			}
		}
		if len(unknown) > 0 {
			return &finding{i, r, unknown}, nil
		}
		if parted(r, mine, other) {
			return nil, nil
		}
	}
	return nil, nil
}

// shrink leaves requests out for as long as the play still ends in the same
// finding.
func (p *pair) shrink(ctx context.Context, requests []request, found *finding) ([]request, error) {
	requests = requests[:found.at+1]
	for size := len(requests) / 2; size > 0; size /= 2 {
		for from := 0; from+size < len(requests); {
			fewer := append(append([]request{}, requests[:from]...), requests[from+size:]...)
			again, err := p.play(ctx, fewer, map[string]int{})
			if err != nil {
				return nil, err
			}
			if again != nil && again.signature() == found.signature() {
				requests = fewer[:again.at+1]
			} else {
				from += size
			}
		}
	}
	return requests, nil
}
