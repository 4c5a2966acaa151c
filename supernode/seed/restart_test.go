package seed_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/fetch/fetchtest"
	"github.com/shoalproject/shoal/pkg/store"
	"github.com/shoalproject/shoal/pkg/upstream"
	"github.com/shoalproject/shoal/supernode/seed"
)

// breaking is a registry that answers so many requests and no more.
type breaking struct {
	*outside
	left atomic.Int32
}

func (b *breaking) Blob(ctx context.Context, ref blob.Ref, d blob.Digest, r blob.Range, token string) (io.ReadCloser, int64, error) {
	if b.left.Add(-1) < 0 {
		return nil, -1, &upstream.RetryError{Status: 503, After: 1 << 40}
	}
	return b.outside.Blob(ctx, ref, d, r, token)
}

// TestAFlightGoesOnAfterARestart runs on the store itself, not on its twin.
func TestAFlightGoesOnAfterARestart(t *testing.T) {
	const have, all = 10, 30
	dir := t.TempDir()
	data, digest := fetchtest.Bytes(7, all*piece-5)
	out := &breaking{outside: &outside{Origin: fetchtest.NewOrigin()}}
	out.Put(digest, data)
	req := fetch.Request{Digest: digest, Size: int64(len(data)), Ref: ref}
	life := func(run func(s *seed.Seed)) {
		t.Helper()
		files, err := store.Open(dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := seed.New(seed.Config{Store: fetch.StoreOf(files.Get, files.Create), Upstream: out, Sign: fetchtest.Sign("seed")})
		run(s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	}

	out.left.Store(1)
	out.CutAfter(have*piece + 100)
	life(func(s *seed.Seed) {
		if err := s.Fetcher().Prefetch(t.Context(), req, nil); err == nil {
			t.Error("a broken registry gave everything")
		}
	})
	_, before, _ := out.Served()

	out.left.Store(1000)
	out.CutAfter(0)
	life(func(s *seed.Seed) {
		if err := s.Fetcher().Prefetch(t.Context(), req, nil); err != nil {
			t.Fatal(err)
		}
		_, after, _ := out.Served()
		if want := int64(len(data) - have*piece); after-before != want {
			t.Errorf("%d bytes were fetched after the restart, %d were missing", after-before, want)
		}
		c, err := s.Content(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if m, _, _ := c.Proof(); m == nil || m.Check(fetchtest.Verify) != nil {
			t.Errorf("map %+v", m)
		}
		if have, _ := c.Progress(); !have.Full() {
			t.Errorf("%d of %d pieces may be served", have.Count(), all)
		}
	})

	life(func(s *seed.Seed) {
		requests, _, _ := out.Served()
		r, err := s.Blob(t.Context(), member, ref, digest, blob.Range{Start: 1, End: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || string(got) != string(data[1:]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if again, _, _ := out.Served(); again != requests {
			t.Error("a complete blob was asked for again")
		}
	})
}
