package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// TestCrowd has many goroutines do everything at once in a store that is too
// small for them; no reader may see a wrong byte and nothing may hang.
func TestCrowd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := openStore(t, t.TempDir(), Options{MaxBytes: 8 * plen})
	var samples []sample
	for i := range 5 {
		samples = append(samples, newSample((i+1)*plen-i*7, uint64(i)))
	}
	var work sync.WaitGroup
	for g := range 8 {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 9))
			for range 60 {
				if err := crowdStep(ctx, s, rnd, samples[rnd.IntN(len(samples))], t); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	if st := s.Stats(); st.Bytes > st.MaxBytes {
		t.Errorf("stats %+v", st)
	}
	for _, info := range s.List() {
		if s.inUseNow(info.Digest) {
			t.Errorf("%s is still in use", info.Digest)
		}
	}
}

func (s *Store) inUseNow(d blob.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inUse(d)
}

// crowdStep does one thing. What others may cause is no error.
func crowdStep(ctx context.Context, s *Store, rnd *rand.Rand, x sample, t *testing.T) error {
	caused := func(err error) error {
		for _, ok := range []error{nil, ErrFull, ErrRemoved, ErrNotFound, ErrIncomplete, errOvertaken, blob.ErrNotHeld} {
			if errors.Is(err, ok) {
				return nil
			}
		}
		return err
	}
	if rnd.IntN(12) == 0 {
		return caused(s.Delete(x.digest))
	}
	b, err := s.Create(x.digest, x.size())
	if err != nil {
		return caused(err)
	}
	defer b.Close()
	switch rnd.IntN(4) {
	case 0:
		if err := b.AddProof(x.signedMap(t), nil); err != nil {
			return caused(err)
		}
	case 1:
		ctx, cancel := context.WithTimeout(ctx, time.Duration(rnd.IntN(5))*time.Millisecond)
		defer cancel()
		r := b.NewReader(ctx, blob.Range{End: x.size()})
		defer r.Close()
		got, err := io.ReadAll(r)
		if !bytes.HasPrefix(x.data, got) {
			return errors.New("a reader saw wrong bytes")
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		return caused(err)
	case 2:
		have, _ := b.Progress()
		for i := range have.All() {
			got := make([]byte, len(x.piece(i)))
			if _, err := b.ReadAt(got, blob.PieceRange(x.size(), i).Start); err == nil && !bytes.Equal(got, x.piece(i)) {
				return errors.New("a wrong piece was served")
			}
		}
		return nil
	}
	for _, i := range rnd.Perm(len(x.hashes)) {
		if _, err := b.PutPiece(i, &trickle{x.piece(i)}, nil); err != nil {
			return caused(err)
		}
	}
	return caused(b.Commit(ctx))
}
