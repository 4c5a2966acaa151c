package policy

import (
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Emitter is what a seed remembers about one blob: which pieces have left it.
// Each leaves once, lowest index first, before any is sent again; a thousand
// hosts then hold different pieces and give them to each other. A host that
// keeps what it got for itself, because it died or went silent, is no loss for
// long: those who miss the pieces ask for them again.
type Emitter struct {
	left blob.Bitmap // sent to somebody, completely
	out  blob.Bitmap // being sent
	at   []time.Time // when each left last
}

// NewEmitter makes the memory for a blob of so many pieces.
func NewEmitter(pieces int) *Emitter {
	return &Emitter{left: blob.NewBitmap(pieces), out: blob.NewBitmap(pieces), at: make([]time.Time, pieces)}
}

// Next chooses the lowest wanted piece that is held and has not left, and
// counts it as being sent. Sent or Returned must follow.
func (e *Emitter) Next(want, have blob.Bitmap) (piece int, ok bool) {
	for i := range want.All() {
		if have.Has(i) && !e.left.Has(i) && !e.out.Has(i) {
			e.out.Set(i)
			return i, true
		}
	}
	return 0, false
}

// Again chooses, among pieces that the asker's neighbours lack, the one that
// left longest ago, and counts it as being sent. Sent or Returned must follow.
// What left within the last wait is on its way from host to host and is not
// sent again.
func (e *Emitter) Again(now time.Time, wait time.Duration, want, have blob.Bitmap) (piece int, ok bool) {
	for i := range want.All() {
		if !have.Has(i) || !e.left.Has(i) || e.out.Has(i) || now.Sub(e.at[i]) < wait {
			continue
		}
		if !ok || e.at[i].Before(e.at[piece]) {
			piece, ok = i, true
		}
	}
	if ok {
		e.out.Set(piece)
	}
	return piece, ok
}

// Begin counts a piece that was asked for by its index as being sent, if it
// has not left yet. It reports whether it had not; Sent or Returned must then
// follow.
func (e *Emitter) Begin(piece int) bool {
	if e.left.Has(piece) || e.out.Has(piece) {
		return false
	}
	e.out.Set(piece)
	return true
}

// Fresh reports whether a piece neither left nor is being sent.
func (e *Emitter) Fresh(piece int) bool { return !e.left.Has(piece) && !e.out.Has(piece) }

// Sent says that a piece left completely.
func (e *Emitter) Sent(now time.Time, piece int) {
	e.out.Clear(piece)
	e.left.Set(piece)
	e.at[piece] = now
}

// Returned says that sending a piece was broken off.
func (e *Emitter) Returned(piece int) { e.out.Clear(piece) }

// Exhausted reports whether every wanted piece has left.
func (e *Emitter) Exhausted(want blob.Bitmap) bool {
	for i := range want.All() {
		if !e.left.Has(i) {
			return false
		}
	}
	return true
}

// Copies is how many of the pieces have left.
func (e *Emitter) Copies() (left, pieces int) { return e.left.Count(), e.left.Len() }
