package policy

import "slices"

// Share divides the download slots of a host among the blobs that are being
// fetched: a slot that comes free goes to the most urgent of those that wait,
// among equals to the one that has fewest.
type Share[K comparable] struct {
	limit   int
	used    int
	held    map[K]int
	class   map[K]Class
	waiting []K
}

// NewShare makes a share of limit slots.
func NewShare[K comparable](limit int) *Share[K] {
	return &Share[K]{limit: limit, held: map[K]int{}, class: map[K]Class{}}
}

// Join makes a taker known.
func (s *Share[K]) Join(k K, class Class) { s.class[k] = class }

// Acquire takes a slot, or notes that k waits for one.
func (s *Share[K]) Acquire(k K) bool {
	if s.used < s.limit {
		s.used++
		s.held[k]++
		return true
	}
	if !slices.Contains(s.waiting, k) {
		s.waiting = append(s.waiting, k)
	}
	return false
}

// Release gives a slot back and names the one that has it now, if any waits.
func (s *Share[K]) Release(k K) (next K, granted bool) {
	s.used--
	s.held[k]--
	return s.grant()
}

func (s *Share[K]) grant() (next K, granted bool) {
	if s.used >= s.limit || len(s.waiting) == 0 {
		return next, false
	}
	best := 0
	for i, k := range s.waiting {
		b := s.waiting[best]
		if s.class[k] < s.class[b] || s.class[k] == s.class[b] && s.held[k] < s.held[b] {
			best = i
		}
	}
	next = s.waiting[best]
	s.waiting = slices.Delete(s.waiting, best, best+1)
	s.used++
	s.held[next]++
	return next, true
}

// Leave forgets a taker; its slots must have been given back.
func (s *Share[K]) Leave(k K) {
	delete(s.held, k)
	delete(s.class, k)
	if at := slices.Index(s.waiting, k); at >= 0 {
		s.waiting = slices.Delete(s.waiting, at, at+1)
	}
}

// Held is how many slots k has.
func (s *Share[K]) Held(k K) int { return s.held[k] }
