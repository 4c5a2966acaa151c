package seed

import (
	"cmp"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/fetch"
)

const (
	// batchPieces is how many pieces are signed together, and batchWithin how
	// long the first of them waits for the others.
	batchPieces = 8
	batchWithin = 50 * time.Millisecond
)

// signer signs the hashes of pieces as they land, a few at a time.
type signer struct {
	sign blob.SignFunc
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	closed  bool
	pending map[blob.Digest]*pendingBatch
}

// pendingBatch is what landed and was not signed yet. The blob stays open for
// longer than a batch waits: its flight holds it.
type pendingBatch struct {
	blob   fetch.Blob
	flight string
	pieces []landedPiece
	timer  *time.Timer
}

type landedPiece struct {
	i    int
	hash blob.PieceHash
}

func newSigner(sign blob.SignFunc, log *slog.Logger) *signer {
	return &signer{sign: sign, log: log, pending: map[blob.Digest]*pendingBatch{}}
}

// landed is told of each piece that was written.
func (s *signer) landed(b fetch.Blob, i int, h blob.PieceHash) {
	if s.sign == nil {
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	d := b.Digest()
	p := s.pending[d]
	if p == nil {
		p = &pendingBatch{blob: b, flight: rand.Text()}
		p.timer = time.AfterFunc(batchWithin, func() { s.flush(d) })
		s.pending[d] = p
	}
	p.pieces = append(p.pieces, landedPiece{i, h})
	due := len(p.pieces) >= batchPieces
	s.mu.Unlock()
	if due {
		s.flush(d)
	}
}

// flush signs what is pending of a digest.
func (s *signer) flush(d blob.Digest) {
	s.mu.Lock()
	p := s.pending[d]
	delete(s.pending, d)
	s.mu.Unlock()
	if p == nil {
		return
	}
	p.timer.Stop()
	for _, run := range runs(p.pieces) {
		hashes := make([]blob.PieceHash, len(run))
		for i, piece := range run {
			hashes[i] = piece.hash
		}
		batch, err := blob.NewBatch(p.flight, d, p.blob.Size(), run[0].i, hashes, s.sign)
		if err == nil {
			err = p.blob.AddProof(nil, batch)
		}
		if err != nil {
			s.log.Debug("provisional hashes are not passed on", "digest", d, "err", err)
		}
	}
}

func (s *signer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, p := range s.pending {
		p.timer.Stop()
	}
	clear(s.pending)
}

// runs sorts pieces and splits them where an index is left out.
func runs(pieces []landedPiece) [][]landedPiece {
	slices.SortFunc(pieces, func(a, b landedPiece) int { return cmp.Compare(a.i, b.i) })
	var out [][]landedPiece
	for i, p := range pieces {
		if i == 0 || p.i != pieces[i-1].i+1 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], p)
	}
	return out
}
