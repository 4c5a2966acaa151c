package policy

import "github.com/shoalproject/shoal/pkg/blob"

// Emitter is what a seed remembers about one blob: which pieces have left it.
// Each leaves once, lowest index first, before any is sent again; a thousand
// hosts then hold different pieces and give them to each other.
type Emitter struct {
	left blob.Bitmap // sent to somebody, completely
	out  blob.Bitmap // being sent
}

// NewEmitter makes the memory for a blob of so many pieces.
func NewEmitter(pieces int) *Emitter {
	return &Emitter{left: blob.NewBitmap(pieces), out: blob.NewBitmap(pieces)}
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
func (e *Emitter) Sent(piece int) {
	e.out.Clear(piece)
	e.left.Set(piece)
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
