package store

// signal wakes everybody who waits for a change. Its lock is the owner's.
type signal struct{ ch chan struct{} }

// wait is closed at the next fire.
func (s *signal) wait() <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
