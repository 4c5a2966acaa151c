package seed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/fetch/fetchtest"
	"github.com/shoalproject/shoal/pkg/upstream"
	"github.com/shoalproject/shoal/supernode/seed"
)

const piece = blob.MinPieceLength

var (
	ref    = blob.Ref{Registry: "registry.example.com", Repository: "library/app"}
	member = seed.Reader{Subject: "member"}
)

// outside is a registry: fetchtest's, with rights.
type outside struct {
	*fetchtest.Origin

	mu      sync.Mutex // guards what follows
	slow    time.Duration
	readers map[string]bool // tokens that may read; nil: everybody
	down    bool
	login   bool // the operator's
	tags    map[string]blob.Descriptor
	heads   int
	asked   int
}

func (o *outside) set(change func(*outside)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

// Blob speaks pkg/upstream's errors.
func (o *outside) Blob(ctx context.Context, ref blob.Ref, d blob.Digest, r blob.Range, token string) (io.ReadCloser, int64, error) {
	rc, size, err := o.Origin.Blob(ctx, ref, d, r, token)
	switch err {
	case fetchtest.Status(401):
		err = upstream.ErrUnauthorized
	case fetchtest.Status(404):
		err = upstream.ErrNotFound
	}
	return rc, size, err
}

func (o *outside) Known(registry string) bool { return registry == ref.Registry }

func (o *outside) Credentials(string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.login
}

func (o *outside) Readable(ctx context.Context, _ blob.Ref, _ string, _ bool, token string) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.down {
		return false, upstream.ErrUnavailable
	}
	if o.slow > 0 {
		o.mu.Unlock()
		select {
		case <-time.After(o.slow):
		case <-ctx.Done():
		}
		o.mu.Lock()
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return o.readers == nil || o.readers[token], nil
}

func (o *outside) Head(_ context.Context, _ blob.Ref, reference, _ string, _ []string) (blob.Descriptor, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heads++
	switch d, ok := o.tags[reference]; {
	case o.down:
		return d, fmt.Errorf("dial: %w", upstream.ErrUnavailable)
	case !ok:
		return d, upstream.ErrNotFound
	default:
		return d, nil
	}
}

type tagStore struct{ rec *blob.TagRecord }

func (t *tagStore) PutTag(r *blob.TagRecord) error                { t.rec = r; return nil }
func (t *tagStore) Tag(blob.Ref, string) (*blob.TagRecord, error) { return t.rec, nil }

// ground is a seed and what surrounds it.
type ground struct {
	t      *testing.T
	seed   *seed.Seed
	store  *fetchtest.Store
	out    *outside
	data   []byte
	digest blob.Digest
}

func onGround(t *testing.T, change func(*ground, *seed.Config), run func(g *ground)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := &ground{t: t, store: fetchtest.NewStore(dir), out: &outside{Origin: fetchtest.NewOrigin(), tags: map[string]blob.Descriptor{}}}
		g.data, g.digest = fetchtest.Bytes(1, 30*piece-5)
		g.out.Put(g.digest, g.data)
		g.out.Chunk, g.out.Pace = piece, 20*time.Millisecond
		cfg := seed.Config{Store: g.store, Upstream: g.out, Sign: fetchtest.Sign("seed"), StaleTags: time.Hour}
		if change != nil {
			change(g, &cfg)
		}
		g.seed = seed.New(cfg)
		defer g.seed.Close()
		run(g)
	})
}

func (g *ground) want(token string) seed.Want {
	return seed.Want{Digest: g.digest, Size: int64(len(g.data)), Ref: ref, Token: token}
}

func (g *ground) ensure(token string) seed.Status { return g.seed.Ensure(g.t.Context(), g.want(token)) }

// pieces are those that may be served now.
func (g *ground) pieces() int {
	c, err := g.seed.Content(g.t.Context(), g.digest)
	if err != nil {
		return 0
	}
	defer c.Close()
	have, _ := c.Progress()
	return have.Count()
}

func TestOneFetchForEverybodyAndPiecesOnTheWay(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		for range 1000 {
			if st := g.ensure(""); st.State != seed.Has {
				t.Fatalf("status %+v", st)
			}
		}
		<-time.After(300 * time.Millisecond)
		synctest.Wait()
		if n := g.pieces(); n < 8 || n > 20 {
			t.Errorf("%d pieces may be served half way", n)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if _, n, _ := g.out.Served(); n != int64(len(g.data)) {
			t.Errorf("upstream gave %d bytes of %d", n, len(g.data))
		}
		m, batches, _ := g.store.Blob(g.digest).Proof()
		if m == nil || m.Check(fetchtest.Verify) != nil || m.Signer != "seed" {
			t.Errorf("final map %+v", m)
		}
		signed := blob.NewBitmap(30)
		for _, b := range batches {
			if err := b.Check(fetchtest.Verify); err != nil {
				t.Error(err)
			}
			for i := range b.Hashes {
				signed.Set(b.First + i)
			}
		}
		if !signed.Full() || len(batches) > 12 {
			t.Errorf("%d pieces in %d batches", signed.Count(), len(batches))
		}
	})
}

func TestRefusals(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		g.out.Need("good")
		g.out.set(func(o *outside) { o.readers = map[string]bool{"good": true} })
		if st := g.ensure(""); st.State != seed.Refused || st.RefusedStatus != 401 {
			t.Errorf("without a token: %+v", st)
		}
		if st := g.ensure("good"); st.State != seed.Has {
			t.Errorf("with a token: %+v", st)
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if g.pieces() != 30 {
			t.Error("one reader's refusal stopped the other's flight")
		}
		if st := g.ensure("bad"); st.State != seed.Refused || st.RefusedStatus != 401 {
			t.Errorf("a cached blob, another token: %+v", st)
		}
		if _, err := g.seed.Blob(g.t.Context(), seed.Reader{Token: "bad"}, ref, g.digest, blob.Range{End: -1}); !errors.Is(err, fetch.ErrDenied) {
			t.Errorf("a cached blob read through with another token: %v", err)
		}
		g.out.set(func(o *outside) { o.down = true })
		if _, err := g.seed.Stat(g.t.Context(), seed.Reader{Token: "good"}, ref, g.digest); err != nil {
			t.Errorf("a known reader while the registry is down: %v", err)
		}
		if _, err := g.seed.Stat(g.t.Context(), seed.Reader{Token: "new"}, ref, g.digest); !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("a new reader while the registry is down: %v", err)
		}
	})
}

func TestMissingAndFailing(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		_, other := fetchtest.Bytes(9, 10)
		want := seed.Want{Digest: other, Size: 10, Ref: ref}
		g.seed.Ensure(g.t.Context(), want)
		synctest.Wait()
		if st := g.seed.Ensure(g.t.Context(), want); st.State != seed.Refused || st.RefusedStatus != 404 {
			t.Errorf("missing upstream: %+v", st)
		}
		g.out.Fail(&upstream.RetryError{Status: 429, After: 10 * time.Minute}, 1)
		g.ensure("")
		<-time.After(time.Second)
		synctest.Wait()
		if st := g.ensure(""); st.State != seed.Failed {
			t.Errorf("upstream asks for a pause: %+v", st)
		}
		requests, _, _ := g.out.Served()
		<-time.After(5 * time.Minute)
		g.ensure("")
		if again, _, _ := g.out.Served(); again != requests {
			t.Error("upstream is asked before the pause that it named is over")
		}
		<-time.After(6 * time.Minute)
		g.ensure("")
		<-time.After(2 * time.Second)
		synctest.Wait()
		if g.pieces() != 30 {
			t.Error("upstream is not asked again after its pause")
		}
	})
}

func TestLyingUpstreamIsRefutedForEverybody(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		bad := slices.Clone(g.data)
		bad[0] ^= 1
		g.out.Put(g.digest, bad)
		g.ensure("")
		<-time.After(2 * time.Second)
		synctest.Wait()
		if st := g.ensure("other"); st.State != seed.Refused || st.RefusedStatus != 404 {
			t.Errorf("status %+v", st)
		}
		if g.pieces() != 0 {
			t.Error("bytes of a lie may still be served")
		}
	})
}

func TestAWrongSizeOfANodeDoesNotStopOthers(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		w := g.want("")
		w.Size = 4711
		g.seed.Ensure(g.t.Context(), w)
		synctest.Wait()
		<-time.After(3 * time.Second)
		synctest.Wait()
		if st := g.ensure(""); st.State != seed.Has || g.pieces() != 30 {
			t.Errorf("status %+v, %d pieces", st, g.pieces())
		}
	})
}

func TestSlowRightsAreNotWaitedFor(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		g.out.set(func(o *outside) { o.slow = time.Minute })
		began := time.Now()
		if st := g.ensure(""); st.State != seed.Checking || time.Since(began) > 300*time.Millisecond {
			t.Errorf("status %+v after %s", st, time.Since(began))
		}
	})
}

func TestOwnAndUnknown(t *testing.T) {
	own, ownDigest := fetchtest.Bytes(3, 100)
	onGround(t, func(g *ground, cfg *seed.Config) {
		b, _ := g.store.Create(ownDigest, 100)
		b.PutPiece(0, bytes.NewReader(own), nil)
		cfg.Own = func(_ context.Context, d blob.Digest) (seed.Content, error) {
			if d != ownDigest {
				return nil, blob.ErrNotHeld
			}
			return b, nil
		}
	}, func(g *ground) {
		if st := g.seed.Ensure(g.t.Context(), seed.Want{Digest: ownDigest, Size: 100}); st.State != seed.Has {
			t.Errorf("own image: %+v", st)
		}
		if st := g.seed.Ensure(g.t.Context(), seed.Want{Digest: g.digest, Size: 100}); st.State != seed.Refused || st.RefusedStatus != 404 {
			t.Errorf("own registry without it: %+v", st)
		}
		w := g.want("")
		w.Ref.Registry = "169.254.169.254"
		if st := g.seed.Ensure(g.t.Context(), w); st.State != seed.Absent {
			t.Errorf("unknown registry: %+v", st)
		}
		if _, err := g.seed.Manifest(g.t.Context(), member, w.Ref, "latest"); !errors.Is(err, seed.ErrUnknownUpstream) {
			t.Errorf("unknown registry: %v", err)
		}
		if _, err := g.seed.Content(g.t.Context(), g.digest); !errors.Is(err, blob.ErrNotHeld) {
			t.Errorf("content of nobody: %v", err)
		}
	})
}

func (g *ground) tag(name, body string) blob.Descriptor {
	d := blob.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(body))}
	d.Digest = blob.Digest(digestOf(body))
	g.out.PutManifest(string(d.Digest), fetchtest.Manifest{Descriptor: d, Body: []byte(body)})
	g.out.set(func(o *outside) { o.tags[name] = d })
	return d
}

func digestOf(body string) string {
	return string(blob.Digest("sha256:x").Algorithm().FromString(body))
}

func TestTagsAreRevalidatedOrStale(t *testing.T) {
	tags := &tagStore{}
	onGround(t, func(_ *ground, cfg *seed.Config) { cfg.Tags = tags }, func(g *ground) {
		first := g.tag("latest", `{"schemaVersion":2}`)
		m, err := g.seed.Manifest(g.t.Context(), member, ref, "latest")
		if err != nil || m.Descriptor.Digest != first.Digest || m.Age != 0 {
			t.Fatalf("%+v, %v", m.Descriptor, err)
		}
		if m.Record == nil || m.Record.Digest != first.Digest || m.Record.Check(fetchtest.Verify) != nil {
			t.Errorf("record %+v", m.Record)
		}
		second := g.tag("latest", `{"schemaVersion":2,"annotations":{}}`)
		<-time.After(5 * time.Second)
		if m, _ = g.seed.Manifest(g.t.Context(), member, ref, "latest"); m.Descriptor.Digest != first.Digest || m.Age != 5*time.Second {
			t.Errorf("within the freshness: %s, age %s", m.Descriptor.Digest, m.Age)
		}
		<-time.After(10 * time.Second)
		if m, _ = g.seed.Manifest(g.t.Context(), member, ref, "latest"); m.Descriptor.Digest != second.Digest || m.Age != 0 {
			t.Errorf("after it: %s, age %s", m.Descriptor.Digest, m.Age)
		}
		g.out.set(func(o *outside) { o.down = true })
		<-time.After(30 * time.Minute)
		m, err = g.seed.Manifest(g.t.Context(), member, ref, "latest")
		if err != nil || m.Descriptor.Digest != second.Digest || m.Age != 30*time.Minute {
			t.Errorf("registry down: %s, age %s, %v", m.Descriptor.Digest, m.Age, err)
		}
		<-time.After(31 * time.Minute)
		if _, err = g.seed.Manifest(g.t.Context(), member, ref, "latest"); !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("past the policy: %v", err)
		}
		g.out.set(func(o *outside) { o.down = false; delete(o.tags, "latest") })
		if _, err = g.seed.Manifest(g.t.Context(), member, ref, "latest"); !errors.Is(err, fetch.ErrNotFound) {
			t.Errorf("a tag that is gone: %v", err)
		}
	})
}

func TestTheOperatorsLoginIsForThoseItIsMeantFor(t *testing.T) {
	onGround(t, func(_ *ground, cfg *seed.Config) {
		cfg.MayLogin = func(_ context.Context, registry, subject string) (bool, error) {
			if subject == "broken" {
				return false, errors.New("the store is broken")
			}
			return registry == ref.Registry && subject == "ann", nil
		}
	}, func(g *ground) {
		g.out.set(func(o *outside) { o.readers, o.login = map[string]bool{}, true })
		g.tag("latest", "{}")
		for who, want := range map[seed.Reader]error{
			{}:                                 fetch.ErrDenied,
			{Subject: "ann"}:                   nil,
			{Subject: "bob"}:                   fetch.ErrDenied,
			{Subject: "node:x"}:                fetch.ErrDenied,
			{Operator: true}:                   nil,
			{Subject: "ann", Token: "her own"}: fetch.ErrDenied, // supplied credentials decide alone
			{Subject: "robot$demo+ci"}:         fetch.ErrDenied,
		} {
			if _, err := g.seed.Manifest(g.t.Context(), who, ref, "latest"); !errors.Is(err, want) {
				t.Errorf("%+v: %v, want %v", who, err, want)
			}
		}
		if _, err := g.seed.Manifest(g.t.Context(), seed.Reader{Subject: "broken"}, ref, "latest"); err == nil || errors.Is(err, fetch.ErrDenied) {
			t.Errorf("a fault of our own: %v", err)
		}
		g.out.set(func(o *outside) { o.login = false })
		if _, err := g.seed.Manifest(g.t.Context(), seed.Reader{Operator: true}, ref, "latest"); !errors.Is(err, fetch.ErrDenied) {
			t.Errorf("without a login of the operator's: %v", err)
		}
	})
}

func TestReadThrough(t *testing.T) {
	onGround(t, nil, func(g *ground) {
		size, err := g.seed.Stat(g.t.Context(), member, ref, g.digest)
		if err != nil || size != int64(len(g.data)) {
			t.Fatalf("%d, %v", size, err)
		}
		errs := make(chan error)
		for i := range 20 {
			go func() {
				part := blob.Range{Start: int64(i * 1000), End: -1}
				r, err := g.seed.Blob(g.t.Context(), member, ref, g.digest, part)
				if err != nil {
					errs <- err
					return
				}
				defer r.Close()
				got, err := io.ReadAll(r)
				if err == nil && !bytes.Equal(got, g.data[part.Start:]) {
					err = errors.New("wrong bytes")
				}
				errs <- err
			}()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if _, n, _ := g.out.Served(); n > int64(len(g.data))+10 {
			t.Errorf("upstream gave %d bytes of %d", n, len(g.data))
		}
	})
}
