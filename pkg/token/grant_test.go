package token

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const grantDigest = blob.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

func grantKeys(seed byte) (blob.SignFunc, blob.VerifyFunc) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	sign := func(m []byte) (string, []byte, error) { return "supernode", ed25519.Sign(key, m), nil }
	verify := func(signer string, m, sig []byte) error {
		if signer != "supernode" || !ed25519.Verify(key.Public().(ed25519.PublicKey), m, sig) {
			return errors.New("not signed by a supernode")
		}
		return nil
	}
	return sign, verify
}

func TestGrantIsBoundToPeerDigestAndTime(t *testing.T) {
	sign, verify := grantKeys(1)
	forger, _ := grantKeys(2)
	now := time.Unix(1_800_000_000, 0)
	clock := now
	g := NewGrants(verify, func() time.Time { return clock })
	good, err := NewGrant("alice", grantDigest, now.Add(time.Minute), sign)
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := NewGrant("alice", grantDigest, now.Add(time.Minute), forger)
	old, _ := NewGrant("alice", grantDigest, now, sign)
	other := blob.Digest("sha256:" + strings.Repeat("0", 64))
	for range 2 { // the second round meets what the first one remembered
		if err := g.Check(good, "alice", grantDigest); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			raw  []byte
			peer string
			d    blob.Digest
		}{
			"another peer":   {good, "mallory", grantDigest},
			"another digest": {good, "alice", other},
			"another signer": {forged, "alice", grantDigest},
			"run out":        {old, "alice", grantDigest},
			"none":           {nil, "alice", grantDigest},
			"cut short":      {good[:len(good)-1], "alice", grantDigest},
			"too long":       {append(bytes.Clone(good), 0), "alice", grantDigest},
			"huge":           {make([]byte, maxGrant+1), "alice", grantDigest},
		} {
			if err := g.Check(c.raw, c.peer, c.d); !errors.Is(err, ErrGrant) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for i := range good {
		bent := bytes.Clone(good)
		bent[i] ^= 1
		if g.Check(bent, "alice", grantDigest) == nil {
			t.Errorf("a grant with byte %d changed passes", i)
		}
	}
	clock = now.Add(time.Minute)
	if err := g.Check(good, "alice", grantDigest); !errors.Is(err, ErrGrant) {
		t.Errorf("a remembered grant outlives its time: %v", err)
	}
}

func TestForgottenGrantsAreVerifiedAgain(t *testing.T) {
	sign, verify := grantKeys(1)
	believed := true
	g := NewGrants(func(signer string, m, sig []byte) error {
		if !believed {
			return errors.New("not believed any more")
		}
		return verify(signer, m, sig)
	}, time.Now)
	raw, _ := NewGrant("alice", grantDigest, time.Now().Add(time.Minute), sign)
	if err := g.Check(raw, "alice", grantDigest); err != nil {
		t.Fatal(err)
	}
	believed = false
	g.Forget()
	if g.Check(raw, "alice", grantDigest) == nil {
		t.Error("it passes without its signer")
	}
}

func FuzzGrant(f *testing.F) {
	sign, verify := grantKeys(1)
	raw, _ := NewGrant("alice", grantDigest, time.Now().Add(time.Hour), sign)
	f.Add(raw)
	g := NewGrants(verify, time.Now)
	f.Fuzz(func(t *testing.T, b []byte) {
		if g.Check(b, "alice", grantDigest) == nil && !bytes.Equal(b, raw) {
			t.Errorf("%x passes", b)
		}
	})
}

func BenchmarkGrant(b *testing.B) {
	sign, verify := grantKeys(1)
	raw, _ := NewGrant("alice", grantDigest, time.Now().Add(time.Hour), sign)
	b.Run("first", func(b *testing.B) {
		g := NewGrants(verify, time.Now)
		for b.Loop() {
			g.Forget()
			if err := g.Check(raw, "alice", grantDigest); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("warm", func(b *testing.B) {
		g := NewGrants(verify, time.Now)
		for b.Loop() {
			if err := g.Check(raw, "alice", grantDigest); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestAFullMemoryOfGrantsDropsOnlyTheOldest keeps a rush of new grants from
// making every known one be verified again at the same moment.
func TestAFullMemoryOfGrantsDropsOnlyTheOldest(t *testing.T) {
	verified := 0
	checker := NewGrants(func(string, []byte, []byte) error { verified++; return nil }, time.Now)
	grant := func(i int) []byte {
		raw, err := NewGrant("peer", grantDigest, time.Now().Add(time.Hour), func([]byte) (string, []byte, error) {
			return "supernode", binary.BigEndian.AppendUint64(nil, uint64(i)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	kept := grant(1)
	for i := range maxChecked + 1 {
		if err := checker.Check(grant(i), "peer", grantDigest); err != nil {
			t.Fatal(err)
		}
	}
	before := verified
	if err := checker.Check(kept, "peer", grantDigest); err != nil || verified != before {
		t.Errorf("a grant that still had room is verified again: %v", err)
	}
}
