package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalproject/shoal/pkg/blob"
)

// A Key signs and a Trust verifies what package blob wants signed.
var (
	_ blob.SignFunc   = (*Key)(nil).Sign
	_ blob.VerifyFunc = (*Trust)(nil).Verify
	_ blob.VerifyFunc = VerifyAny
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newMemberKey(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func membershipOf(k *Key) Membership {
	return Membership{
		PeerID: k.PeerID().String(), Role: RoleAgent, IDC: "fra1", Pool: "core",
		Projects: []string{"base", "shop"}, NotBefore: noon, NotAfter: noon.Add(MembershipLife), Epoch: 7,
	}
}

func TestKeySurvivesOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "node.key")
	k, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if k.PeerID() != again.PeerID() || !k.Private().Equal(again.Private()) {
		t.Fatal("the key changed between two loads")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	fromLib, err := peer.IDFromPrivateKey(k.Libp2p())
	if err != nil || fromLib != k.PeerID() {
		t.Fatalf("libp2p says %s, %v", fromLib, err)
	}
	public, err := PublicKeyOf(k.PeerID().String())
	if err != nil || !public.Equal(k.Public()) {
		t.Fatalf("the peer ID does not hold the key: %v", err)
	}
	id, err := PeerIDOf(k.Public())
	if err != nil || id != k.PeerID().String() {
		t.Fatalf("PeerIDOf = %s, %v", id, err)
	}
}

// Threat 20: no default secret; two installs differ.
func TestThreat20TwoInstallsDiffer(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	k1, err1 := LoadOrCreateMemberKey(one)
	k2, err2 := LoadOrCreateMemberKey(two)
	t1, err3 := LoadOrCreateTokenKeys(one)
	ca1, err4 := LoadOrCreateCA(one)
	ca2, err5 := LoadOrCreateCA(two)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	if k1.Equal(k2) || k1.Equal(t1[0].Private) || ca1.Fingerprint() == ca2.Fingerprint() {
		t.Fatal("two installs, or two uses, share a secret")
	}
}

func TestKeyFileRefused(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if _, err := LoadOrCreateKey(good); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		mode os.FileMode
		want string
	}{
		"readable by others": {raw, 0o644, "chmod 600"},
		"cut":                {raw[:len(raw)/2], 0o600, "not a PEM"},
		"empty":              {nil, 0o600, "not a PEM"},
		"huge":               {make([]byte, maxKeyFile+1), 0o600, "not a key file"},
		"garbage inside":     {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600, "PKCS #8"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "k")
			if err := os.WriteFile(path, c.data, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateKey(path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); !slices.Equal(after, c.data) {
				t.Fatal("a bad key file was overwritten")
			}
		})
	}
}

// Threat 35: logs hold no secret.
func TestThreat35KeyPrintsNoSecret(t *testing.T) {
	k := newKey(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		text := fmt.Sprintf(format, k)
		if !strings.Contains(text, k.PeerID().String()) || len(text) > 100 {
			t.Errorf("%s prints %q", format, text)
		}
	}
}

func TestMembershipRoundTrip(t *testing.T) {
	public, private := newMemberKey(t)
	m := membershipOf(newKey(t))
	shuffled := m
	shuffled.Projects = []string{"shop", "base", "shop"}
	raw, err := SignMembership(m, private)
	if err != nil {
		t.Fatal(err)
	}
	same, err := SignMembership(shuffled, private)
	if err != nil || !slices.Equal(raw, same) {
		t.Fatalf("the encoding depends on the order of projects: %v", err)
	}
	got, err := ParseMembership(raw, public, noon)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(m) {
		t.Fatalf("got %v, want %v", got, m)
	}
}

func TestMembershipForged(t *testing.T) {
	public, private := newMemberKey(t)
	other, otherPrivate := newMemberKey(t)
	raw, err := SignMembership(membershipOf(newKey(t)), private)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		forged := slices.Clone(raw)
		forged[i] ^= 1
		if _, err := ParseMembership(forged, public, noon); !errors.Is(err, ErrBadMembership) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := ParseMembership(raw[:i], public, noon); !errors.Is(err, ErrBadMembership) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := ParseMembership(append(slices.Clone(raw), 0), public, noon); !errors.Is(err, ErrBadMembership) {
		t.Fatalf("a byte more: %v", err)
	}
	if _, err := ParseMembership(raw, other, noon); !errors.Is(err, ErrBadMembership) {
		t.Fatalf("another member key: %v", err)
	}
	// Naming the trusted key while signing with another one.
	m := membershipOf(newKey(t))
	statement := m.encode(public)
	forged := append(statement, ed25519.Sign(otherPrivate, statement)...)
	if _, err := ParseMembership(forged, public, noon); !errors.Is(err, ErrBadMembership) {
		t.Fatalf("signed with another key: %v", err)
	}
}

func TestMembershipTimes(t *testing.T) {
	public, private := newMemberKey(t)
	raw, err := SignMembership(membershipOf(newKey(t)), private)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   time.Duration
		good bool
	}{
		{-MaxSkew - time.Second, false},
		{-MaxSkew, true},
		{-10 * time.Minute, true}, // a clock ten minutes behind
		{0, true},
		{MembershipLife - time.Second, true},
		{MembershipLife, false},
		{MembershipLife + time.Hour, false},
	} {
		_, err := ParseMembership(raw, public, noon.Add(c.at))
		if c.good != (err == nil) || err != nil && !errors.Is(err, ErrExpired) {
			t.Errorf("at %v: %v", c.at, err)
		}
	}
}

func TestMembershipNotSigned(t *testing.T) {
	_, private := newMemberKey(t)
	k := newKey(t)
	for name, change := range map[string]func(*Membership){
		"no peer":        func(m *Membership) { m.PeerID = "" },
		"bad peer":       func(m *Membership) { m.PeerID = "12D3KooWnonsense" },
		"peer as CID":    func(m *Membership) { m.PeerID = peer.ToCid(k.PeerID()).String() },
		"role":           func(m *Membership) { m.Role = "root" },
		"no IDC":         func(m *Membership) { m.IDC = "" },
		"long IDC":       func(m *Membership) { m.IDC = strings.Repeat("x", maxName+1) },
		"long pool":      func(m *Membership) { m.Pool = strings.Repeat("x", maxName+1) },
		"empty project":  func(m *Membership) { m.Projects = []string{""} },
		"many projects":  func(m *Membership) { m.Projects = manyNames(MaxProjects + 1) },
		"two days":       func(m *Membership) { m.NotAfter = m.NotBefore.Add(48 * time.Hour) },
		"ends at start":  func(m *Membership) { m.NotAfter = m.NotBefore },
		"ends before it": func(m *Membership) { m.NotAfter = m.NotBefore.Add(-time.Hour) },
	} {
		m := membershipOf(k)
		change(&m)
		if _, err := SignMembership(m, private); !errors.Is(err, ErrBadMembership) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyNames(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("p%d", i)
	}
	return out
}

func TestTrust(t *testing.T) {
	k, stranger := newKey(t), newKey(t)
	trust := NewTrust(k.PeerID().String(), "nonsense")
	signer, sig, err := k.Sign([]byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.Verify(signer, []byte("m"), sig); err != nil {
		t.Fatal(err)
	}
	if err := trust.Verify(signer, []byte("n"), sig); !errors.Is(err, ErrBadSignature) {
		t.Fatalf("another message: %v", err)
	}
	who, theirs, _ := stranger.Sign([]byte("m"))
	if err := trust.Verify(who, []byte("m"), theirs); !errors.Is(err, ErrUntrusted) {
		t.Fatalf("a stranger: %v", err)
	}
	if err := trust.Verify(signer, []byte("m"), theirs); !errors.Is(err, ErrBadSignature) {
		t.Fatalf("a stranger in a trusted name: %v", err)
	}
	if err := VerifyAny(who, []byte("m"), theirs); err != nil {
		t.Fatalf("VerifyAny: %v", err)
	}
	if err := VerifyAny(signer, []byte("m"), theirs); !errors.Is(err, ErrBadSignature) {
		t.Fatalf("VerifyAny in another name: %v", err)
	}
	if err := VerifyAny("nonsense", nil, nil); !errors.Is(err, ErrBadSignature) {
		t.Fatalf("VerifyAny of nobody: %v", err)
	}
	trust.Set(who)
	if err := trust.Verify(signer, []byte("m"), sig); !errors.Is(err, ErrUntrusted) {
		t.Fatalf("after Set: %v", err)
	}
}

// Threat 22: a certificate only for the key that was proven.
func TestThreat22JoinProof(t *testing.T) {
	k, other := newKey(t), newKey(t)
	proof := JoinProof(k, "shoal-join.a.b.c")
	if err := CheckJoinProof(k.Public(), "shoal-join.a.b.c", proof); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another key":   CheckJoinProof(other.Public(), "shoal-join.a.b.c", proof),
		"another token": CheckJoinProof(k.Public(), "shoal-join.a.b.d", proof),
		"no proof":      CheckJoinProof(k.Public(), "shoal-join.a.b.c", nil),
		"no key":        CheckJoinProof(nil, "shoal-join.a.b.c", proof),
	} {
		if !errors.Is(err, ErrBadProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzMembership(f *testing.F) {
	public, private := newMemberKey(f)
	raw, err := SignMembership(membershipOf(newKey(f)), private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:40])
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, issuer, err := decodeMembership(raw)
		if err != nil {
			if !errors.Is(err, ErrBadMembership) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if !slices.Equal(m.encode(issuer), raw[:len(raw)-ed25519.SignatureSize]) {
			t.Fatal("two encodings of one membership")
		}
		ParseMembership(raw, public, noon) // must not panic
	})
}
