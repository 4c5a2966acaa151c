package auth

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalproject/shoal/pkg/token"
	"github.com/shoalproject/shoal/supernode/meta"
)

// keyed is a gate on the bubble's clock whose keys are kept.
type keyed struct {
	*Auth
	t    *testing.T
	kept []token.SigningKey
	fail error // of the next keeping
	told int   // by OnKeys
}

func newKeyed(t *testing.T) *keyed {
	t.Helper()
	k := &keyed{t: t}
	ring := newRing(t)
	k.kept = ring.Keys()
	k.open(ring)
	return k
}

func (k *keyed) open(ring *token.Ring) {
	k.t.Helper()
	var err error
	k.Auth, err = New(k.t.Context(), Config{
		Meta: meta.NewMemory(), TokenKeys: ring, MemberKey: newKey(k.t), IDC: "fra1", Issuer: "shoal fra1", Service: "shoal",
		ExternalURL: "https://shoal.example.com:8001", Now: time.Now, Log: slog.New(slog.DiscardHandler),
		OnKeys: func() { k.told++ },
		KeepKeys: func(keys []token.SigningKey) error {
			if k.fail != nil {
				return k.fail
			}
			if len(keys) > len(k.kept) && strings.Contains(string(k.JWKS()), keys[len(keys)-1].ID()) {
				k.t.Error("a key is published before it is kept")
			}
			k.kept = keys
			return nil
		},
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *keyed) issue(life time.Duration) string {
	k.t.Helper()
	raw, err := k.registry.Issue("ann", nil, life)
	if err != nil {
		k.t.Fatal(err)
	}
	return raw
}

func (k *keyed) agent() *token.Verifier {
	k.t.Helper()
	v, err := token.NewVerifier(k.JWKS(), "shoal fra1", "shoal", time.Now)
	if err != nil {
		k.t.Fatal(err)
	}
	return v
}

// Agents hear of new keys late, each in its own time, and refuse no good token
// all the while; when all is over, one key is left.
func TestRotationRefusesNoGoodToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				<-time.After(time.Minute)
				if err := k.Sweep(context.Background()); err != nil {
					t.Error(err)
				}
			}
		}()
		agents := make([]*token.Verifier, 5)
		behind := make([]time.Duration, len(agents)) // how late each of them hears
		heard := make([]string, len(agents))
		for i := range agents {
			agents[i], behind[i] = k.agent(), time.Duration(i)*(SignAfter-time.Second)/time.Duration(len(agents)-1)
		}
		type out struct {
			raw  string
			ends time.Time
		}
		var tokens []out
		seed := rand.New(rand.NewPCG(1, 2))
		begin := time.Now()
		for time.Since(begin) < 3*time.Hour {
			if at := time.Since(begin); at == 10*time.Minute || at == 20*time.Minute || at == time.Hour {
				if _, err := k.RotateKeys(t.Context(), SignAfter); err != nil {
					t.Fatal(err)
				}
			}
			life := token.Life
			if seed.IntN(4) == 0 {
				life = token.MaxLife
			}
			tokens = append(tokens, out{k.issue(life), time.Now().Truncate(time.Second).Add(life)})
			for i := range agents {
				if now := string(k.JWKS()); now != heard[i] {
					heard[i] = now
					time.AfterFunc(behind[i], func() {
						if err := agents[i].Update([]byte(now)); err != nil {
							t.Error(err)
						}
					})
				}
			}
			rest := tokens[:0]
			for _, o := range tokens {
				if !time.Now().Before(o.ends) {
					continue
				}
				rest = append(rest, o)
				if _, err := k.registryVerifier.Verify(o.raw); err != nil {
					t.Fatalf("after %v the supernode refuses a token: %v", time.Since(begin), err)
				}
				for i, a := range agents {
					if _, err := a.Verify(o.raw); err != nil {
						t.Fatalf("after %v an agent that is %v behind refuses a token: %v", time.Since(begin), behind[i], err)
					}
				}
			}
			tokens = rest
			<-time.After(30 * time.Second)
		}
		if n := len(k.cfg.TokenKeys.Keys()); n != 1 || len(k.kept) != 1 || k.told < 3 {
			t.Errorf("%d keys are left, %d kept; told %d times", n, len(k.kept), k.told)
		}
		stop()
		<-done
	})
}

func TestRotateKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t)
		before := string(k.JWKS())
		k.fail = errors.New("the disk is full")
		if _, err := k.RotateKeys(t.Context(), SignAfter); !errors.Is(err, k.fail) || string(k.JWKS()) != before || k.told > 0 {
			t.Fatalf("keys that could not be kept are used: %v", err)
		}
		k.fail = nil
		if _, err := k.RotateKeys(t.Context(), -time.Second); !errors.Is(err, ErrInvalid) {
			t.Errorf("a negative delay: %v", err)
		}
		r, err := k.RotateKeys(t.Context(), SignAfter)
		if err != nil || !r.SignsFrom.Equal(time.Now().Add(SignAfter)) || k.told != 1 {
			t.Fatalf("%+v, %v, told %d times", r, err, k.told)
		}
		if _, err := k.RotateKeys(t.Context(), SignAfter); !errors.Is(err, ErrRotating) {
			t.Errorf("while the last one waits: %v", err)
		}
		w := httptest.NewRecorder()
		k.ServeJWKS(w, httptest.NewRequestWithContext(t.Context(), "GET", "/.well-known/jwks.json", nil))
		if strings.Count(w.Body.String(), `"kid"`) != 2 || !strings.Contains(w.Body.String(), r.KeyID) || strings.Contains(w.Body.String(), `"d"`) {
			t.Errorf("served: %s", w.Body)
		}
		// While it waits, agents are reminded; a restart knows both keys and when.
		if err := k.Sweep(t.Context()); err != nil || k.told != 2 {
			t.Errorf("told %d times, %v", k.told, err)
		}
		old := k.issue(token.Life)
		ring, err := token.NewRing(k.kept...)
		if err != nil {
			t.Fatal(err)
		}
		k.open(ring)
		if _, err := k.registryVerifier.Verify(old); err != nil {
			t.Errorf("after a restart: %v", err)
		}
		<-time.After(SignAfter)
		fresh := k.issue(token.Life)
		if err := k.Sweep(t.Context()); err != nil || k.told != 2 {
			t.Errorf("told %d times, %v", k.told, err)
		}
		alone, err := token.NewRing(k.kept[1])
		if err != nil {
			t.Fatal(err)
		}
		v, err := token.NewVerifier(alone.JWKS(), "shoal fra1", "shoal", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(fresh); err != nil {
			t.Errorf("the new key does not sign: %v", err)
		}
	})
}
