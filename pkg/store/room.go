package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/shoalproject/shoal/pkg/blob"
)

// inUse reports whether somebody has a handle on the blob. s.mu is held.
func (s *Store) inUse(d blob.Digest) bool {
	c := s.open[d]
	return c != nil && c.handles.Load() > 0
}

// evictable are the blobs that may go, the one accessed longest ago first:
// neither leased nor in use. s.mu is held.
func (s *Store) evictable() []*entry {
	now := s.now()
	var out []*entry
	for _, e := range s.entries {
		if !e.lease.After(now) && !s.inUse(e.digest) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *entry) int { return a.access.Compare(b.access) })
	return out
}

// makeRoom evicts until need more bytes fit in, or, if they can't, evicts
// nothing and returns ErrFull. s.mu is held.
func (s *Store) makeRoom(need int64) error {
	over := s.used + need - s.max
	if s.max == 0 || over <= 0 {
		return nil
	}
	candidates := s.evictable()
	enough, sum := 0, int64(0)
	for enough < len(candidates) && sum < over {
		sum += candidates[enough].size
		enough++
	}
	if sum < over {
		return fmt.Errorf("%w: %d bytes wanted, %d of %d taken and %d of them in use or leased",
			ErrFull, need, s.used, s.max, s.used-sum)
	}
	for _, e := range candidates[:enough] {
		s.evict(e)
	}
	return nil
}

// spare evicts blobs of at least want bytes together because the disk is
// full. It reports whether anything went.
func (s *Store) spare(want int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	freed := int64(0)
	for _, e := range s.evictable() {
		if freed >= want {
			break
		}
		freed += e.size
		s.evict(e)
	}
	return freed > 0
}

func (s *Store) evict(e *entry) {
	s.evicted++
	s.log.Debug("evicted", "digest", e.digest, "size", e.size, "complete", e.complete)
	s.remove(e, ErrRemoved)
}

// remove takes a blob out: the file at once, its rows with the next flush. A
// crash between the two leaves rows without a file, which Open drops. The
// unlink happens under s.mu, so that a new blob of the same digest can't lose
// its file to it. s.mu is held.
func (s *Store) remove(e *entry, why error) {
	if c := s.open[e.digest]; c != nil {
		if !c.whole() {
			c.end(why)
		}
		delete(s.open, e.digest)
	}
	if c := s.dirty[e.digest]; c != nil {
		s.release(c)
	}
	delete(s.dirty, e.digest)
	delete(s.entries, e.digest)
	s.used -= e.size
	if err := s.root.Remove(e.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a blob's file could not be removed", "digest", e.digest, "error", err)
	}
	s.markDirty(e.digest, nil)
	s.tell(Event{Digest: e.digest, Size: e.size, Kind: Removed})
}
