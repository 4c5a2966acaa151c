package fetch_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/fetch/fetchtest"

	_ "crypto/sha256" // go-digest looks its algorithms up

	"github.com/opencontainers/go-digest"
)

const manifestBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`

var (
	manifestDigest = digest.FromString(manifestBody)
	manifestDesc   = blob.Descriptor{
		MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: manifestDigest, Size: int64(len(manifestBody)),
	}
	own = blob.Ref{Repository: "project/app"}
)

// tagMemory is a TagStore, and neighbours who have records.
type tagMemory struct {
	kept *blob.TagRecord
	near []*blob.TagRecord
}

func (m *tagMemory) PutTag(r *blob.TagRecord) error                { m.kept = r; return nil }
func (m *tagMemory) Tag(blob.Ref, string) (*blob.TagRecord, error) { return m.kept, nil }

// finder makes the neighbours' records a TagFinder.
type finder struct{ *tagMemory }

func (f finder) FindTags(context.Context, blob.Ref, string) ([]*blob.TagRecord, error) {
	return f.near, nil
}

// record makes a signed record of the test manifest.
func record(ref blob.Ref, at time.Time, change func(*blob.TagRecord)) *blob.TagRecord {
	r := &blob.TagRecord{
		Ref: ref, Tag: "latest", Digest: manifestDigest, MediaType: manifestDesc.MediaType, Size: manifestDesc.Size, Time: at,
	}
	if err := r.Sign(fetchtest.Sign("seed")); err != nil {
		panic(err)
	}
	if change != nil {
		change(r)
	}
	return r
}

// withGateway gives the world a supernode that knows the test manifest, and
// an hour of offline grace.
func withGateway(tags *tagMemory) func(*world, *fetch.Config) {
	return func(w *world, cfg *fetch.Config) {
		m := fetchtest.Manifest{Descriptor: manifestDesc, Body: []byte(manifestBody)}
		w.gateway.PutManifest(manifestDigest.String(), m)
		m.Record = record(own, time.Now(), nil)
		w.gateway.PutManifest("latest", m)
		cfg.Gateway = fetchtest.Gateway{Origin: w.gateway}
		cfg.Tags, cfg.OfflineGrace = tags, time.Hour
		cfg.Sign = fetchtest.Sign("me")
	}
}

func TestManifestByTagFromTheSupernode(t *testing.T) {
	tags := &tagMemory{}
	inWorld(t, withGateway(tags), func(w *world) {
		m, err := w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{})
		if err != nil || string(m.Body) != manifestBody || m.Source != fetch.FromSupernode || m.Age != 0 {
			t.Fatalf("%+v, %v", m, err)
		}
		if tags.kept == nil || tags.kept.Digest != manifestDigest {
			t.Errorf("record %+v is kept", tags.kept)
		}
		b := w.store.Blob(manifestDigest)
		if b == nil || !b.Complete() {
			t.Fatal("the manifest is not kept for neighbours")
		}
		if proof, _, _ := b.Proof(); proof == nil || proof.Check(fetchtest.Verify) != nil {
			t.Errorf("neighbours get no proof of it: %+v", proof)
		}
		w.gateway.Fail(errors.New("connection refused"), -1)
		<-time.After(30 * time.Minute)
		m, err = w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{})
		if err != nil || string(m.Body) != manifestBody || m.Age != 30*time.Minute {
			t.Errorf("without the supernode: age %s, %v", m.Age, err)
		}
		<-time.After(31 * time.Minute)
		if _, err = w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{}); !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("past the grace: %v", err)
		}
	})
}

func TestGatewayRefusalIsFinal(t *testing.T) {
	for status, want := range map[int]error{401: fetch.ErrDenied, 404: fetch.ErrNotFound} {
		tags := &tagMemory{}
		inWorld(t, withGateway(tags), func(w *world) {
			if _, err := w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{}); err != nil {
				t.Fatal(err)
			}
			w.gateway.Fail(fetchtest.Status(status), -1)
			if _, err := w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{}); !errors.Is(err, want) {
				t.Errorf("status %d: %v", status, err)
			}
		})
	}
}

func TestForgedRecordsAreNotBelieved(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when bubbles begin
	for name, r := range map[string]*blob.TagRecord{
		"another digest":     record(own, now, func(r *blob.TagRecord) { r.Digest = digest.FromString("x") }),
		"another repository": record(blob.Ref{Repository: "other"}, now, nil),
		"a later time":       record(own, now.Add(-2*time.Hour), func(r *blob.TagRecord) { r.Time = now }),
		"too old":            record(own, now.Add(-2*time.Hour), nil),
	} {
		t.Run(name, func(t *testing.T) {
			tags := &tagMemory{kept: r}
			inWorld(t, withGateway(tags), func(w *world) {
				w.gateway.Fail(errors.New("connection refused"), -1)
				if m, err := w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{}); err == nil {
					t.Errorf("believed: %+v", m)
				}
			})
		})
	}
}

func TestManifestFromNeighboursAlone(t *testing.T) {
	near := &tagMemory{}
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		withGateway(&tagMemory{})(w, cfg)
		w.gateway.Fail(errors.New("connection refused"), -1)
		w.tracker.Die()
		w.swarm.Put(manifestDigest, []byte(manifestBody))
		near.near = []*blob.TagRecord{record(own, time.Now().Add(-10*time.Minute), nil), record(own, time.Now().Add(-5*time.Minute), nil)}
		cfg.TagsNear = finder{near}
	}, func(w *world) {
		m, err := w.fetcher.Manifest(w.t.Context(), own, "latest", fetch.Cred{})
		if err != nil || string(m.Body) != manifestBody || m.Age < 5*time.Minute || m.Age > 6*time.Minute {
			t.Fatalf("%+v, %v", m, err)
		}
		if took := time.Since(w.started); took > 2*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestManifestFromUpstream(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		withGateway(&tagMemory{})(w, cfg)
		w.gateway.Fail(errors.New("connection refused"), -1)
		w.tracker.Die()
		w.dht.Answer = blob.Neighbours{}
		m := fetchtest.Manifest{Descriptor: manifestDesc, Body: []byte(manifestBody)}
		w.origin.PutManifest(manifestDigest.String(), m)
		w.origin.PutManifest("latest", m)
	}, func(w *world) {
		for _, reference := range []string{manifestDigest.String(), "latest"} {
			m, err := w.fetcher.Manifest(w.t.Context(), outside, reference, fetch.Cred{})
			if err != nil || string(m.Body) != manifestBody {
				t.Errorf("%s: %+v, %v", reference, m, err)
			}
		}
		if took := time.Since(w.started); took > 2*time.Second {
			t.Errorf("took %s", took)
		}
		w.origin.Fail(fetchtest.Status(401), -1)
		if _, err := w.fetcher.Manifest(w.t.Context(), outside, "latest", fetch.Cred{}); !errors.Is(err, fetch.ErrDenied) {
			t.Errorf("upstream wants a login: %v", err)
		}
	})
}

func TestAManifestThatIsNotItsDigest(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) {
		w.origin.PutManifest(manifestDigest.String(), fetchtest.Manifest{Descriptor: manifestDesc, Body: []byte(manifestBody + " ")})
		w.origin.PutManifest("latest", fetchtest.Manifest{Descriptor: manifestDesc, Body: []byte(manifestBody + " ")})
		w.origin.PutManifest("huge", fetchtest.Manifest{Descriptor: manifestDesc, Body: make([]byte, 4<<20+1)})
	}, func(w *world) {
		for _, reference := range []string{manifestDigest.String(), "latest", "huge", "sha256:zz", "sha256:../../etc"} {
			if m, err := w.fetcher.Manifest(w.t.Context(), outside, reference, fetch.Cred{}); err == nil {
				t.Errorf("%s: taken: %d bytes", reference, len(m.Body))
			}
		}
	})
}

func TestABlobIsNoManifest(t *testing.T) {
	bodies := []string{"\x1f\x8b a layer", `{"architecture":"amd64","config":{},"rootfs":{"type":"layers"}}`, `[]`, ""}
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		withGateway(&tagMemory{})(w, cfg)
		w.gateway.Fail(errors.New("connection refused"), -1)
		for _, body := range bodies {
			w.swarm.Put(digest.FromString(body), []byte(body))
		}
	}, func(w *world) {
		for _, body := range bodies {
			if m, err := w.fetcher.Manifest(w.t.Context(), own, string(digest.FromString(body)), fetch.Cred{}); err == nil {
				t.Errorf("%q was taken for a %s", body, m.Descriptor.MediaType)
			}
		}
	})
}
