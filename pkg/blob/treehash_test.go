package blob

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// pattern gives the bytes of a blob that is never held whole.
type pattern struct{ rng *rand.ChaCha8 }

func newPattern() pattern { return pattern{rand.NewChaCha8([32]byte{1})} }

func (p pattern) next(n int64) []byte {
	b := make([]byte, n)
	p.rng.Read(b)
	return b
}

func TestTreeHasherEqualsMapWriter(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	sizes := []int64{
		0, 1, 16*k - 1, 16 * k, 16*k + 1, 32 * k, 48 * k, 48*k + 1, 64 * k, 80 * k, 128 * k, 240 * k,
		256*k - 1, 256 * k, 256*k + 1, 272 * k, 512*k - 1, 512 * k, 512*k + 1, 768*k + 5, m + 100, 3*m + 16*k,
		128*m - 1, 128 * m, 128*m + 1, 128*m + 16*k, 128*m + 256*k, 128*m + 300*k, 129 * m, 256 * m, 256*m + 1,
	}
	for _, size := range sizes {
		if testing.Short() && size > 130*m {
			continue
		}
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want, got, source := NewMapWriter(size), NewTreeHasher(), newPattern()
			for left := size; left > 0; {
				part := source.next(min(left, m+7))
				want.Write(part)
				got.Write(part)
				left -= int64(len(part))
			}
			if got.Size() != size {
				t.Errorf("size %d; want %d", got.Size(), size)
			}
			checkHashes(t, got.Hashes(), want.Hashes())
			checkHashes(t, got.Hashes(), want.Hashes()) // asking changes nothing
		})
	}
}

func checkHashes(t *testing.T, got, want []PieceHash) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%d hashes differ from the %d of a MapWriter", len(got), len(want))
	}
}

// TestTreeHasherTakenUp saves and restores the state between random writes,
// and looks at the hashes after each.
func TestTreeHasherTakenUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	hasher, source := NewTreeHasher(), newPattern()
	var all []byte
	for range 60 {
		part := source.next(rng.Int64N([]int64{4, 20 << 10, 400 << 10}[rng.IntN(3)]))
		all = append(all, part...)
		hasher.Write(part)
		state, err := hasher.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		hasher = NewTreeHasher()
		if err := hasher.UnmarshalBinary(state); err != nil {
			t.Fatalf("at %d bytes: %v", len(all), err)
		}
		want := NewMapWriter(int64(len(all)))
		want.Write(all)
		checkHashes(t, hasher.Hashes(), want.Hashes())
	}
}

func FuzzTreeHasherState(f *testing.F) {
	for _, size := range []int64{0, 1, 16 << 10, 300 << 10} {
		hasher := NewTreeHasher()
		hasher.Write(newPattern().next(size))
		state, err := hasher.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(state)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		hasher := NewTreeHasher()
		if err := hasher.UnmarshalBinary(raw); err != nil {
			if !errors.Is(err, ErrBadMap) {
				t.Fatalf("an error that is no ErrBadMap: %v", err)
			}
			return
		}
		hasher.Write(make([]byte, 40<<10))
		if got, want := len(hasher.Hashes()), PieceCount(hasher.Size()); got != want {
			t.Fatalf("%d hashes for %d pieces", got, want)
		}
	})
}
