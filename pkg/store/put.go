package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/shoalproject/shoal/pkg/blob"
)

// slot is a piece that is being written. The first writer, its owner, writes
// in place. Others (a hedge against a slow peer) write aside, and who has the
// whole piece first wins: it takes the place over, and what the former owner
// still brings goes nowhere. So a slow writer holds nobody up, and nobody
// ever writes over a piece that is marked.
type slot struct {
	writers int // guarded by content.mu

	mu    sync.Mutex // held for each write to the place
	owner *put       // guarded by mu
}

// put is one PutPiece that writes.
type put struct {
	c     *content
	i     int
	at    blob.Range
	slot  *slot
	aside pieceFile // nil when it began as the owner
}

// PutPiece streams piece i from r into place and hashes it on the way. It
// takes exactly the piece's length; a shorter r is io.ErrUnexpectedEOF. want
// nil means bytes of an origin, whose hash is only computed and kept, unless a
// signed hash is known already. Bytes that don't match want, or the signed
// hash, are not marked: ErrPieceMismatch. A full disk is ErrFull. For a piece
// that is there already it returns its hash and leaves r alone; should it get
// there by another writer meanwhile, r may be left half read.
func (b *Blob) PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error) {
	h, err := b.putPiece(i, r, want)
	if err != nil {
		return blob.PieceHash{}, fmt.Errorf("put piece %d of %s: %w", i, b.c.digest, err)
	}
	return h, nil
}

func (b *Blob) putPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error) {
	c := b.c
	if i < 0 || i >= c.n {
		return blob.PieceHash{}, fmt.Errorf("there are %d pieces", c.n)
	}
	held, err := b.hold()
	if err != nil {
		return blob.PieceHash{}, err
	}
	defer held.Close()
	if err := c.examine(i); err != nil {
		return blob.PieceHash{}, err
	}
	if h, ok, err := c.present(i); ok || err != nil {
		return h, err
	}
	p, err := c.enter(i)
	if err != nil {
		return blob.PieceHash{}, err
	}
	defer p.leave()
	h, err := p.stream(r)
	if err == nil {
		err = p.finish(h, want)
	}
	if errors.Is(err, errPresent) {
		h, _, err = c.present(i)
		return h, err
	}
	if err != nil {
		return blob.PieceHash{}, err
	}
	c.store.changed(c, 1)
	c.follow()
	return h, nil
}

// errPresent ends a put whose piece somebody else completed.
var errPresent = errors.New("the piece is there")

// present reports a piece that is there, and its hash. The hash of a blob
// that was complete before may be unknown; then it is made from the bytes.
func (c *content) present(i int) (h blob.PieceHash, ok bool, err error) {
	c.mu.Lock()
	if c.gone != nil {
		defer c.mu.Unlock()
		return h, false, c.gone
	}
	c.loadProof()
	ok = c.complete || c.written.Has(i)
	known := c.hashes != nil
	if ok && known {
		h = c.hashes[i]
	}
	c.mu.Unlock()
	if ok && !known {
		h, err = c.hashPiece(i)
	}
	return h, ok, err
}

func (c *content) enter(i int) (*put, error) {
	c.mu.Lock()
	s := c.slots[i]
	if s == nil {
		s = &slot{}
		c.slots[i] = s
	}
	s.writers++
	c.mu.Unlock()
	p := &put{c: c, i: i, at: blob.PieceRange(c.size, i), slot: s}
	s.mu.Lock()
	owned := s.owner == nil
	if owned {
		s.owner = p
	}
	s.mu.Unlock()
	if owned {
		return p, nil
	}
	f, err := c.store.aside()
	if err != nil {
		p.leave()
		return nil, err
	}
	p.aside = f
	return p, nil
}

func (p *put) leave() {
	p.slot.mu.Lock()
	if p.slot.owner == p {
		p.slot.owner = nil
	}
	p.slot.mu.Unlock()
	if p.aside != nil {
		if err := p.aside.Close(); err != nil {
			p.c.store.log.Warn("closing a temporary file failed", "error", err)
		}
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.slot.writers--; p.slot.writers == 0 {
		delete(p.c.slots, p.i)
	}
}

// aside makes a temporary file that has no name, so nothing is left of it.
func (s *Store) aside() (pieceFile, error) {
	name := partialDir + "/aside-" + rand.Text()
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, explain(err)
	}
	if err := s.root.Remove(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s.wrap(f), nil
}

// stream writes the piece's bytes and returns their hash.
func (p *put) stream(r io.Reader) (blob.PieceHash, error) {
	buf := buffers.Get().(*[bufferLength]byte)
	defer buffers.Put(buf)
	hasher := p.c.hashers.Get().(*blob.PieceHasher)
	defer p.c.hashers.Put(hasher)
	hasher.Reset()
	for at := p.at.Start; at < p.at.End; {
		part := buf[:min(bufferLength, p.at.End-at)]
		if n, err := io.ReadFull(r, part); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return blob.PieceHash{}, fmt.Errorf("%d of %d bytes came: %w", at+int64(n)-p.at.Start, p.at.Len(), err)
		}
		hasher.Write(part) //nolint:errcheck // a hash takes every byte
		if err := p.write(part, at); err != nil {
			return blob.PieceHash{}, err
		}
		at += int64(len(part))
	}
	return hasher.Sum(), nil
}

// write puts bytes into place, or aside.
func (p *put) write(part []byte, at int64) error {
	if p.aside != nil {
		if err := p.open(); err != nil {
			return err
		}
		return p.c.writeAt(p.aside, part, at-p.at.Start)
	}
	p.slot.mu.Lock()
	defer p.slot.mu.Unlock()
	if err := p.open(); err != nil {
		return err
	}
	if p.slot.owner != p {
		return errOvertaken
	}
	return p.c.writeAt(p.c.file, part, at)
}

// open checks that the piece is still wanted.
func (p *put) open() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	switch {
	case p.c.gone != nil:
		return p.c.gone
	case p.c.complete || p.c.written.Has(p.i):
		return errPresent
	}
	return nil
}

// writeAt writes, and once more after making room when the disk is full.
func (c *content) writeAt(f pieceFile, part []byte, at int64) error {
	_, err := f.WriteAt(part, at)
	if noSpace(err) && c.store.spare(blob.PieceLength(c.size)) {
		_, err = f.WriteAt(part, at)
	}
	return explain(err)
}

// finish marks the piece, after bringing it into place if it lies aside.
func (p *put) finish(h blob.PieceHash, want *blob.PieceHash) error {
	if want != nil && h != *want {
		return fmt.Errorf("%w: got %x", ErrPieceMismatch, h[:8])
	}
	p.slot.mu.Lock()
	defer p.slot.mu.Unlock()
	if err := p.open(); err != nil {
		return err
	}
	if p.aside != nil {
		p.slot.owner = p
		if err := p.bringIn(); err != nil {
			return err
		}
	}
	if p.slot.owner != p {
		return errOvertaken
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.c.gone != nil {
		return p.c.gone
	}
	if signed, ok := p.c.signedHash(p.i); ok && h != signed {
		return fmt.Errorf("%w: got %x, signed is %x", ErrPieceMismatch, h[:8], signed[:8])
	}
	p.c.mark(p.i, h)
	return nil
}

// bringIn copies what lies aside into the place. slot.mu is held.
func (p *put) bringIn() error {
	buf := buffers.Get().(*[bufferLength]byte)
	defer buffers.Put(buf)
	for at := p.at.Start; at < p.at.End; {
		part := buf[:min(bufferLength, p.at.End-at)]
		if n, err := p.aside.ReadAt(part, at-p.at.Start); n < len(part) {
			return fmt.Errorf("read back: %w", err)
		}
		if err := p.c.writeAt(p.c.file, part, at); err != nil {
			return err
		}
		at += int64(len(part))
	}
	return nil
}
