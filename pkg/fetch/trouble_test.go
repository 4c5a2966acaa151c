package fetch_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
	"github.com/shoalproject/shoal/pkg/fetch/fetchtest"
)

func TestDiskFullStreamsThrough(t *testing.T) {
	for name, when := range map[string]int64{"from the start": 0, "in the middle": 5 * piece} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(*world, *fetch.Config) {}, func(w *world) {
				w.store.SetFull(when == 0)
				rd := w.open(w.request(), blob.Range{End: -1})
				got := make([]byte, when)
				if _, err := io.ReadFull(rd, got); err != nil {
					t.Fatal(err)
				}
				w.store.SetFull(true)
				rest, err := io.ReadAll(rd)
				if err != nil || !bytes.Equal(append(got, rest...), w.data) {
					t.Fatalf("%d bytes, %v", len(rest), err)
				}
				rd.Close()
				w.mustRead()
				if n := bytes.Count(w.log.Bytes(), []byte("no room for blobs")); n != 1 {
					t.Errorf("the log says %d times that there is no room:\n%s", n, w.log)
				}
				if !w.fetcher.Full() {
					t.Error("the status does not say that there is no room")
				}
				w.store.SetFull(false)
				<-time.After(time.Minute)
				w.mustRead()
				if b := w.store.Blob(w.digest); b == nil || !b.Complete() {
					t.Error("it is not kept although there is room again")
				}
				synctest.Wait() // the flight lands after its reader has read
				if w.fetcher.Full() {
					t.Error("the status still says that there is no room")
				}
			})
		})
	}
}

func TestDiskFullVerifiesWhatPasses(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) {
		w.store.SetFull(true)
		bad := slices.Clone(w.data)
		bad[3] ^= 1
		w.origin.Put(w.digest, bad)
	}, func(w *world) {
		rd := w.open(w.request(), blob.Range{End: -1})
		defer rd.Close()
		got, err := io.ReadAll(rd)
		if !errors.Is(err, fetch.ErrBadDigest) || len(got) >= len(w.data) {
			t.Errorf("%d of %d bytes, %v", len(got), len(w.data), err)
		}
	})
}

func TestLyingUpstream(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) {
		bad := slices.Clone(w.data)
		bad[len(bad)-1] ^= 1
		w.origin.Put(w.digest, bad)
	}, func(w *world) {
		err := w.read(w.request(), blob.Range{End: -1})
		if !errors.Is(err, fetch.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if w.store.Blob(w.digest) != nil {
			t.Error("something was kept")
		}
		requests, _, _ := w.origin.Served()
		<-time.After(50 * time.Second)
		if err := w.read(w.request(), blob.Range{End: -1}); !errors.Is(err, fetch.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if again, _, _ := w.origin.Served(); again != requests {
			t.Error("upstream was asked again within the minute")
		}
		<-time.After(15 * time.Second)
		w.origin.Put(w.digest, w.data)
		w.mustRead()
	})
}

func TestSignerOfWrongHashesIsNamed(t *testing.T) {
	var blamed []string
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		bad := slices.Clone(w.data)
		bad[len(bad)-1] ^= 1
		w.swarm.Put(w.digest, bad)
		w.swarm.Signer = "liar"
		cfg.Blame = func(signer string, _ blob.Digest) { blamed = append(blamed, signer) }
	}, func(w *world) {
		err := w.read(w.request(), blob.Range{End: -1})
		var blame *fetch.BlameError
		if !errors.As(err, &blame) || blame.Signer != "liar" || !slices.Equal(blamed, []string{"liar"}) {
			t.Errorf("got %v, blamed %v", err, blamed)
		}
		if errors.Is(err, fetch.ErrNotFound) {
			t.Error("a lying neighbour makes the blob be called not found")
		}
	})
}

func TestUpstreamDenies(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) { w.origin.Need("good") }, func(w *world) {
		if err := w.read(w.request(), blob.Range{End: -1}); !errors.Is(err, fetch.ErrDenied) || errors.Is(err, fetch.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		req := w.request()
		req.OriginToken = "good"
		if err := w.read(req, blob.Range{End: -1}); err != nil {
			t.Errorf("another reader with a token: %v", err)
		}
	})
}

func TestMissingUpstreamIsRememberedShortly(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) { w.origin.Fail(fetchtest.Status(404), 1) }, func(w *world) {
		for range 3 {
			if err := w.read(w.request(), blob.Range{End: -1}); !errors.Is(err, fetch.ErrNotFound) {
				t.Fatalf("got %v", err)
			}
		}
		if requests, _, _ := w.origin.Served(); requests != 1 {
			t.Errorf("upstream was asked %d times", requests)
		}
		<-time.After(11 * time.Second)
		w.mustRead()
	})
}

func TestUpstreamThatCutsIsResumed(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) {
		w.origin.Fail(errors.New("connection reset"), 2)
		w.origin.CutAfter(4*piece + 100)
	}, func(w *world) {
		w.mustRead()
		if _, n, _ := w.origin.Served(); n > int64(len(w.data))+6*piece {
			t.Errorf("upstream gave %d bytes for a blob of %d", n, len(w.data))
		}
	})
}

func TestUpstreamDownFailsSoon(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) { w.origin.Fail(errors.New("connection refused"), -1) }, func(w *world) {
		if err := w.read(w.request(), blob.Range{End: -1}); !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(w.started); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestOwnImageWithoutAnybody(t *testing.T) {
	inWorld(t, func(w *world, cfg *fetch.Config) {
		crowd(w, cfg)
		w.tracker.Die()
		w.dht.Answer = blob.Neighbours{}
	}, func(w *world) {
		req := w.request()
		req.Ref = blob.Ref{Repository: "project/app"}
		if err := w.read(req, blob.Range{End: -1}); !errors.Is(err, fetch.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(w.started); took > 11*time.Second {
			t.Errorf("gave up after %s", took)
		}
	})
}

func TestOwnImageIsRelayedWhenPiecePortsAreBlocked(t *testing.T) {
	for name, blocked := range map[string]bool{"blocked": true, "a long queue": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world, cfg *fetch.Config) {
				crowd(w, cfg)
				w.swarm.Pace = 5 * time.Second // for the first piece and each other
				if blocked {
					w.swarm.Block()
				}
				w.gateway.Put(w.digest, w.data)
				cfg.Gateway = fetchtest.Gateway{Origin: w.gateway}
			}, func(w *world) {
				req := w.request()
				req.Ref = blob.Ref{Repository: "project/app"}
				if err := w.read(req, blob.Range{End: -1}); err != nil {
					t.Fatal(err)
				}
				requests, _, first := w.gateway.Served()
				if !blocked && requests > 0 {
					t.Errorf("relayed after %s although the seed can be reached", first.Sub(w.started))
				}
				if blocked && first.Sub(w.started) > 2300*time.Millisecond {
					t.Errorf("relayed after %s", first.Sub(w.started))
				}
			})
		})
	}
}

func TestASizeThatIsWrongIsNotBelievedAgain(t *testing.T) {
	inWorld(t, func(*world, *fetch.Config) {}, func(w *world) {
		w.fetcher.BeginPull("liar/image", []blob.Descriptor{{Digest: w.digest, Size: 12345}})
		req := w.request()
		req.Size = -1
		if err := w.read(req, blob.Range{End: -1}); !errors.Is(err, fetch.ErrSize) {
			t.Errorf("got %v", err)
		}
		if err := w.read(req, blob.Range{End: -1}); err != nil {
			t.Errorf("after the lie: %v", err)
		}
	})
}

// A reader that comes while its flight fails hears of it too.
func TestAReaderThatComesAsTheFlightFails(t *testing.T) {
	inWorld(t, func(w *world, _ *fetch.Config) {
		w.store.OnReader = func() { <-time.After(time.Minute) }
		w.origin.Put(w.digest, make([]byte, len(w.data)))
	}, func(w *world) {
		if err := w.read(w.request(), blob.Range{End: -1}); !errors.Is(err, fetch.ErrBadDigest) {
			t.Errorf("got %v", err)
		}
	})
}

// What the tracker says is not to be had outside is not begun again for a
// while; of the own registry it is asked each time, since somebody may push.
func TestTheTrackersNoIsRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		ref    blob.Ref
		asked2 bool // the second reader's question goes to the tracker again
	}{
		"of a registry outside": {outside, false},
		"of the own registry":   {blob.Ref{Repository: "demo/app"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world, cfg *fetch.Config) {
				crowd(w, cfg)
				cfg.Swarm = nil
				w.tracker.Answer = blob.Neighbours{RefusedStatus: 404, RefusedReason: "other bytes"}
			}, func(w *world) {
				req := w.request()
				req.Ref = c.ref
				for range 2 {
					if err := w.read(req, blob.Range{End: -1}); !errors.Is(err, fetch.ErrNotFound) {
						t.Fatalf("got %v", err)
					}
					synctest.Wait()
				}
				if again := w.tracker.Asked() > 1; again != c.asked2 {
					t.Errorf("the tracker was asked %d times", w.tracker.Asked())
				}
				<-time.After(time.Minute)
				if err := w.read(req, blob.Range{End: -1}); !errors.Is(err, fetch.ErrNotFound) || w.tracker.Asked() < 2 {
					t.Errorf("after a minute: %v, asked %d times", err, w.tracker.Asked())
				}
			})
		})
	}
}
