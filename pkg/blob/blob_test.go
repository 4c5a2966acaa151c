package blob

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestParseDigest(t *testing.T) {
	hex64 := strings.Repeat("0a", 32)
	for _, ok := range []string{"sha256:" + hex64, "sha512:" + hex64 + hex64} {
		if d, err := ParseDigest(ok); err != nil || string(d) != ok {
			t.Errorf("ParseDigest(%q) = %q, %v", ok, d, err)
		}
	}
	for _, bad := range []string{
		"", ":", "sha256", "sha256:", hex64, "sha256:" + hex64[1:], "sha256:" + hex64 + "0",
		"sha256:" + strings.ToUpper(hex64), "SHA256:" + hex64, "md5:" + hex64[:32], "sha512:" + hex64,
		"sha256:" + strings.Repeat("../", 21) + "a", "sha256+b64:" + hex64, " sha256:" + hex64, "sha256:" + hex64 + "\n",
		"sha256:" + strings.Repeat("é", 32),
	} {
		if d, err := ParseDigest(bad); !errors.Is(err, ErrInvalidDigest) {
			t.Errorf("ParseDigest(%q) = %q, %v; want ErrInvalidDigest", bad, d, err)
		}
	}
}

func TestPieceLength(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct{ size, length, count int64 }{
		{0, 256 << 10, 0},
		{1, 256 << 10, 1},
		{256 << 10, 256 << 10, 1},
		{256<<10 + 1, 256 << 10, 2},
		{32 * mib, 256 << 10, 128},
		{128 * mib, 256 << 10, 512},
		{128*mib + 1, 512 << 10, 257},
		{1024 * mib, 2 * mib, 512},
		{1 << 40, 64 * mib, 1 << 14},
	} {
		if got := PieceLength(c.size); got != c.length {
			t.Errorf("PieceLength(%d) = %d, want %d", c.size, got, c.length)
		}
		if got := PieceCount(c.size); int64(got) != c.count {
			t.Errorf("PieceCount(%d) = %d, want %d", c.size, got, c.count)
		}
		var sum int64
		for i := range PieceCount(c.size) {
			r := PieceRange(c.size, i)
			if r.Start != sum || r.Check(c.size) != nil || PieceAt(c.size, r.End-1) != i {
				t.Fatalf("piece %d of %d is %+v after %d bytes", i, c.size, r, sum)
			}
			sum = r.End
		}
		if sum != c.size {
			t.Errorf("the pieces of %d bytes hold %d", c.size, sum)
		}
	}
}

func TestRangeCheck(t *testing.T) {
	for _, r := range []Range{{-1, 2}, {2, 1}, {0, 11}, {1 << 62, -1 << 62}} {
		if r.Check(10) == nil {
			t.Errorf("%+v passes for 10 bytes", r)
		}
	}
	if err := (Range{0, 10}).Check(10); err != nil {
		t.Error(err)
	}
}

// merkleRoot is BEP 52 written down a second time, as plainly as can be.
func merkleRoot(leaves [][32]byte, pad [32]byte) [32]byte {
	width := 1
	for width < len(leaves) {
		width *= 2
	}
	for len(leaves) < width {
		leaves = append(leaves, pad)
	}
	for len(leaves) > 1 {
		var next [][32]byte
		for i := 0; i < len(leaves); i += 2 {
			next = append(next, sha256.Sum256(append(leaves[i][:], leaves[i+1][:]...)))
		}
		leaves = next
	}
	return leaves[0]
}

func blockHashes(data []byte, pieceLength int) [][32]byte {
	var out [][32]byte
	for len(data) > 0 {
		n := min(len(data), 16<<10)
		out = append(out, sha256.Sum256(data[:n]))
		data = data[n:]
	}
	for pieceLength > 0 && len(out) < pieceLength/(16<<10) {
		out = append(out, [32]byte{})
	}
	return out
}

func TestMapWriterAgainstPlainBEP52(t *testing.T) {
	source := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{0, 1, 16 << 10, 16<<10 + 1, 256 << 10, 256<<10 + 1, 700_000, 1 << 20, 5<<20 + 3} {
		data := make([]byte, size)
		source.Read(data)
		w := NewMapWriter(int64(size))
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 70_001)
			w.Write(rest[:n])
			rest = rest[n:]
		}
		hashes := w.Hashes()
		count := PieceCount(int64(size))
		if len(hashes) != count {
			t.Fatalf("%d bytes: %d hashes, want %d", size, len(hashes), count)
		}
		var layer [][32]byte
		for i := range count {
			r := PieceRange(int64(size), i)
			pad := int(PieceLength(int64(size)))
			if count == 1 {
				pad = 0
			}
			want := merkleRoot(blockHashes(data[r.Start:r.End], pad), [32]byte{})
			if hashes[i] != want {
				t.Errorf("%d bytes, piece %d: wrong hash", size, i)
			}
			layer = append(layer, want)
		}
		if count == 0 {
			continue
		}
		pad := merkleRoot(make([][32]byte, PieceLength(int64(size))/(16<<10)), [32]byte{})
		if got := piecesRoot(int64(size), hashes); got != merkleRoot(layer, pad) {
			t.Errorf("%d bytes: wrong root", size)
		}
	}
}

func TestBitmapWire(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 7, 8, 63, 64, 65, 512, 513} {
		b := NewBitmap(n)
		want := map[int]bool{}
		for range n / 2 {
			i := r.IntN(n)
			b.Set(i)
			want[i] = true
		}
		back, err := BitmapFromBytes(n, b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for i := range back.All() {
			if !want[i] {
				t.Errorf("bit %d of %d came on", i, n)
			}
			count++
		}
		if count != len(want) || back.Count() != count {
			t.Errorf("%d bits of %d, want %d", count, n, len(want))
		}
		full := NewBitmap(n)
		full.Fill()
		if !full.Full() || full.Minus(b).Count() != n-count {
			t.Errorf("Fill or Minus of %d bits", n)
		}
		if _, err := BitmapFromBytes(n, full.Bytes()); err != nil {
			t.Errorf("full bitmap of %d: %v", n, err)
		}
	}
	if _, err := BitmapFromBytes(7, []byte{0xff}); err == nil {
		t.Error("a spare bit was taken")
	}
	if _, err := BitmapFromBytes(9, []byte{0xff}); err == nil {
		t.Error("a short bitmap was taken")
	}
	if NewBitmap(3).Has(3) || NewBitmap(3).Has(-1) {
		t.Error("a bit outside is on")
	}
}

func testKeys(t testing.TB) (SignFunc, VerifyFunc) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	sign := func(m []byte) (string, []byte, error) { return "peer", ed25519.Sign(key, m), nil }
	verify := func(signer string, m, sig []byte) error {
		if signer != "peer" || !ed25519.Verify(key.Public().(ed25519.PublicKey), m, sig) {
			return errors.New("not signed by peer")
		}
		return nil
	}
	return sign, verify
}

const testDigest = Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

func testMap(t testing.TB, sign SignFunc) *PieceMap {
	t.Helper()
	w := NewMapWriter(600_000)
	w.Write(make([]byte, 600_000))
	m, err := NewPieceMap(testDigest, 600_000, w.Hashes(), sign)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPieceMapIsBoundToAllItSays(t *testing.T) {
	sign, verify := testKeys(t)
	m := testMap(t, sign)
	back, err := DecodePieceMap(m.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Check(verify); err != nil {
		t.Fatal(err)
	}
	other := Digest("sha256:" + strings.Repeat("00", 32))
	for name, change := range map[string]func(*PieceMap){
		"digest":    func(m *PieceMap) { m.Digest = other },
		"size":      func(m *PieceMap) { m.Size++ },
		"root":      func(m *PieceMap) { m.Root[0]++ },
		"hash":      func(m *PieceMap) { m.Hashes[1][0]++ },
		"count":     func(m *PieceMap) { m.Hashes = m.Hashes[:1] },
		"signer":    func(m *PieceMap) { m.Signer = "else" },
		"signature": func(m *PieceMap) { m.Signature[0]++ },
		"negative":  func(m *PieceMap) { m.Size = -1 },
	} {
		forged, _ := DecodePieceMap(m.Encode())
		change(forged)
		if forged.Check(verify) == nil {
			t.Errorf("a map with another %s passes", name)
		}
	}
}

func TestBatchIsBoundToAllItSays(t *testing.T) {
	sign, verify := testKeys(t)
	hashes := testMap(t, sign).Hashes
	b, err := NewBatch("flight", testDigest, 600_000, 1, hashes[1:], sign)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeBatch(b.Encode())
	if err != nil || back.Check(verify) != nil {
		t.Fatal(err, back.Check(verify))
	}
	for name, change := range map[string]func(*Batch){
		"flight": func(b *Batch) { b.Flight = "x" },
		"size":   func(b *Batch) { b.Size++ },
		"first":  func(b *Batch) { b.First = 0 },
		"hash":   func(b *Batch) { b.Hashes[0][0]++ },
		"range":  func(b *Batch) { b.First = 2 },
	} {
		forged, _ := DecodeBatch(b.Encode())
		change(forged)
		if forged.Check(verify) == nil {
			t.Errorf("a batch with another %s passes", name)
		}
	}
}

func TestTagRecordIsBoundToAllItSays(t *testing.T) {
	sign, verify := testKeys(t)
	record := TagRecord{
		Ref: Ref{Registry: "r.example", Repository: "p/app"}, Tag: "v1", Digest: testDigest,
		MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 7, Epoch: 3, Time: time.Unix(1_700_000_000, 0).UTC(),
	}
	if err := record.Sign(sign); err != nil {
		t.Fatal(err)
	}
	back, err := DecodeTagRecord(record.Encode())
	if err != nil || back.Check(verify) != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*TagRecord){
		"registry":   func(r *TagRecord) { r.Ref.Registry = "" },
		"repository": func(r *TagRecord) { r.Ref.Repository = "p/ap"; r.Tag = "pv1" },
		"tag":        func(r *TagRecord) { r.Tag = "v2" },
		"epoch":      func(r *TagRecord) { r.Epoch++ },
		"time":       func(r *TagRecord) { r.Time = r.Time.Add(time.Second) },
		"size":       func(r *TagRecord) { r.Size++ },
	} {
		forged := *back
		change(&forged)
		if forged.Check(verify) == nil {
			t.Errorf("a record with another %s passes", name)
		}
	}
}

func TestSignaturesDoNotCrossKinds(t *testing.T) {
	sign, verify := testKeys(t)
	m := testMap(t, sign)
	b := &Batch{Digest: m.Digest, Size: m.Size, Hashes: m.Hashes, Signer: m.Signer, Signature: m.Signature}
	if b.Check(verify) == nil {
		t.Error("a map's signature passes for a batch")
	}
}

func FuzzDecode(f *testing.F) {
	sign, _ := testKeys(f)
	m := testMap(f, sign)
	f.Add(m.Encode())
	b, _ := NewBatch("flight", testDigest, 600_000, 1, m.Hashes[1:], sign)
	f.Add(b.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m, err := DecodePieceMap(raw); err == nil && !bytes.Equal(m.Encode(), raw) {
			t.Error("a map does not come back as it was")
		}
		if b, err := DecodeBatch(raw); err == nil && !bytes.Equal(b.Encode(), raw) {
			t.Error("a batch does not come back as it was")
		}
		if r, err := DecodeTagRecord(raw); err == nil && !bytes.Equal(r.Encode(), raw) {
			t.Error("a tag record does not come back as it was")
		}
	})
}

func BenchmarkMapWriter(b *testing.B) {
	data := make([]byte, 8<<20)
	b.Run("pieces", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			NewMapWriter(int64(len(data))).Write(data)
		}
	})
	b.Run("flat-sha256", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			sha256.Sum256(data)
		}
	})
}
