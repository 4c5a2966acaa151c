package store

import (
	"fmt"
	"maps"
	"slices"

	"github.com/shoalproject/shoal/pkg/blob"
)

// flight names one fetch of one supernode.
type flight struct{ signer, name string }

func flightOf(b *blob.Batch) flight { return flight{b.Signer, b.Flight} }

// Proof is the signed map, nil when unknown, and, while it is unknown, the
// signed batches. changed is closed at the next change.
func (b *Blob) Proof() (m *blob.PieceMap, batches []*blob.Batch, changed <-chan struct{}) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loadProof()
	return c.signed, slices.Clone(c.batches), c.proved.wait()
}

// WantHash is the signed hash of a piece, from the map or a batch.
func (b *Blob) WantHash(i int) (blob.PieceHash, bool) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loadProof()
	return c.signedHash(i)
}

// AddProof keeps a map, a batch or both (nil for none), whose signatures the
// caller has verified; neither may be changed afterwards. A written piece
// that contradicts them becomes missing. ErrForeignProof: it belongs to
// another blob. ErrConflict: it contradicts the bytes of a verified blob, the
// map that is known, or is of a flight that a later one refuted; nothing
// changes then.
func (b *Blob) AddProof(m *blob.PieceMap, bt *blob.Batch) error {
	c := b.c
	if err := c.checkProof(m, bt); err != nil {
		return err
	}
	held, err := b.hold()
	if err != nil {
		return err
	}
	defer held.Close()
	c.mu.Lock()
	changed := false
	err = c.gone
	if err == nil && m != nil {
		changed, err = c.addMap(m)
	}
	if err == nil && bt != nil {
		var more bool
		more, err = c.addBatch(bt)
		changed = changed || more
	}
	if changed {
		c.proved.fire()
		c.moved.fire()
	}
	c.mu.Unlock()
	if changed {
		c.store.changed(c, 0)
	}
	if err != nil {
		return fmt.Errorf("add proof of %s: %w", c.digest, err)
	}
	return nil
}

func (c *content) checkProof(m *blob.PieceMap, bt *blob.Batch) error {
	if m != nil && (m.Digest != c.digest || m.Size != c.size || len(m.Hashes) != c.n) {
		return fmt.Errorf("%w: map of %s, %d bytes, %d hashes, to %s, %d bytes",
			ErrForeignProof, m.Digest, m.Size, len(m.Hashes), c.digest, c.size)
	}
	if bt != nil && (bt.Digest != c.digest || bt.Size != c.size || bt.First < 0 || bt.First > c.n-len(bt.Hashes)) {
		return fmt.Errorf("%w: batch %d+%d of %s, %d bytes, to %s, %d bytes",
			ErrForeignProof, bt.First, len(bt.Hashes), bt.Digest, bt.Size, c.digest, c.size)
	}
	return nil
}

// addMap reports whether anything changed. c.mu is held.
func (c *content) addMap(m *blob.PieceMap) (bool, error) {
	c.loadProof()
	if c.signed != nil {
		if !slices.Equal(c.signed.Hashes, m.Hashes) {
			return false, fmt.Errorf("%w: map of %s against that of %s", ErrConflict, m.Signer, c.signed.Signer)
		}
		return false, nil
	}
	if (c.complete || c.sealed) && c.hashes != nil && !slices.Equal(c.hashes, m.Hashes) {
		return false, fmt.Errorf("%w: map of %s against the bytes", ErrConflict, m.Signer)
	}
	c.signed, c.proofDirty = m, true
	c.batches, c.provisional, c.promised, c.refuted = nil, nil, blob.Bitmap{}, nil
	if c.complete {
		c.hashes = m.Hashes
		return true, nil
	}
	c.dropConflicts()
	return true, nil
}

// addBatch reports whether anything changed. Of two flights that contradict
// each other the later stands, for a supernode fetches again when the first
// answer of its upstream was wrong; which of them is right the whole digest
// decides. c.mu is held.
func (c *content) addBatch(bt *blob.Batch) (bool, error) {
	c.loadProof()
	known := c.hashes
	if c.signed != nil {
		known = c.signed.Hashes
	}
	if c.signed != nil || c.complete || c.sealed {
		if known != nil && !slices.Equal(known[bt.First:bt.First+len(bt.Hashes)], bt.Hashes) {
			return false, fmt.Errorf("%w: batch of %s, flight %q", ErrConflict, bt.Signer, bt.Flight)
		}
		return false, nil
	}
	if c.refuted[flightOf(bt)] {
		return false, fmt.Errorf("%w: batch of %s, flight %q, which a later one refuted", ErrConflict, bt.Signer, bt.Flight)
	}
	news, against := c.compare(bt)
	if against {
		if err := c.refute(bt); err != nil {
			return false, err
		}
	}
	if !news && !against {
		return false, nil // nothing that isn't known: memory stays bounded
	}
	if c.provisional == nil {
		c.provisional, c.promised = make([]blob.PieceHash, c.n), blob.NewBitmap(c.n)
	}
	c.batches = append(c.batches, bt)
	c.promise(bt)
	c.dropConflicts()
	return true, nil
}

// compare says whether a batch has anything new, and anything that
// contradicts what is promised.
func (c *content) compare(bt *blob.Batch) (news, against bool) {
	for k, h := range bt.Hashes {
		i := bt.First + k
		if !c.promised.Has(i) {
			news = true
		} else if c.provisional[i] != h {
			against = true
		}
	}
	return news, against
}

// refute forgets the flights that a batch contradicts.
func (c *content) refute(bt *blob.Batch) error {
	refuted := make(map[flight]bool)
	for _, old := range c.batches {
		for k, h := range old.Hashes {
			at := old.First + k - bt.First
			if at >= 0 && at < len(bt.Hashes) && bt.Hashes[at] != h {
				refuted[flightOf(old)] = true
			}
		}
	}
	if refuted[flightOf(bt)] {
		return fmt.Errorf("%w: flight %q of %s contradicts itself", ErrConflict, bt.Flight, bt.Signer)
	}
	if c.refuted == nil {
		c.refuted = make(map[flight]bool)
	}
	maps.Copy(c.refuted, refuted)
	c.batches = slices.DeleteFunc(c.batches, func(old *blob.Batch) bool { return refuted[flightOf(old)] })
	c.promised = blob.NewBitmap(c.n)
	for _, old := range c.batches {
		c.promise(old)
	}
	return nil
}

func (c *content) promise(bt *blob.Batch) {
	for k, h := range bt.Hashes {
		c.provisional[bt.First+k] = h
		c.promised.Set(bt.First + k)
	}
}

// dropConflicts makes written pieces missing that contradict a signed hash.
func (c *content) dropConflicts() {
	for i := range c.written.Clone().All() {
		if h, ok := c.signedHash(i); ok && h != c.hashes[i] {
			c.unmark(i)
		}
	}
}
