package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"sync"

	"google.golang.org/protobuf/proto"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// ErrNotConnected is returned for a host that has no line open, or whose line
// broke before it was done.
var ErrNotConnected = errors.New("the host is not connected")

var errBusy = errors.New("the host has too many orders waiting; try again in a moment")

// question is an order that is answered by messages.
type question struct {
	answers chan proto.Message // never closed
	last    chan struct{}      // closed after the answer that ends it
	once    sync.Once          // closes last
	left    chan struct{}      // closed when nobody listens any more
}

// Give sends one host an order whose answer, if it has one, nobody waits for.
func (f *Fleet) Give(peerID string, order *shoalv1.Order) error {
	_, err := f.give(peerID, order)
	return err
}

func (f *Fleet) give(peerID string, order *shoalv1.Order) (*Line, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := f.lines[peerID]
	if line == nil {
		return nil, ErrNotConnected
	}
	select {
	case line.orders <- order:
		return line, nil
	default:
		return nil, errBusy
	}
}

// Ask gives one host an order and yields its answers, one at a time, up to the
// one that ends it. An error is the last that it yields: the context's, or
// ErrNotConnected. Whoever stops listening before has the order cancelled.
func (f *Fleet) Ask(ctx context.Context, peerID string, order *shoalv1.Order) iter.Seq2[proto.Message, error] {
	return func(yield func(proto.Message, error) bool) {
		q := &question{answers: make(chan proto.Message), last: make(chan struct{}), left: make(chan struct{})}
		order.Id = rand.Text()
		key := order.Id + peerID
		f.mu.Lock()
		f.questions[key] = q
		f.mu.Unlock()
		defer func() {
			f.mu.Lock()
			delete(f.questions, key)
			f.mu.Unlock()
			close(q.left)
		}()
		line, err := f.give(peerID, order)
		if err != nil {
			yield(nil, fmt.Errorf("give %s an order: %w", peerID, err))
			return
		}
		ended := false
		defer func() {
			if !ended { // a host that is gone forgets its orders by itself
				_ = f.Give(peerID, &shoalv1.Order{What: &shoalv1.Order_Cancel{Cancel: &shoalv1.Cancel{OrderId: order.Id}}})
			}
		}()
		for {
			select {
			case m := <-q.answers:
				if !yield(m, nil) {
					return
				}
			case <-q.last:
				ended = true
				return
			case <-line.gone:
				ended = true
				yield(nil, fmt.Errorf("%s went away before it was done: %w", peerID, ErrNotConnected))
				return
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

// Answer hands one message of a host's answer to whoever asked, and waits until
// it was taken; last says that no other follows. It reports false when nobody
// listens any more, and then the host may stop.
func (f *Fleet) Answer(ctx context.Context, peerID, orderID string, m proto.Message, last bool) bool {
	f.mu.Lock()
	q := f.questions[orderID+peerID]
	f.mu.Unlock()
	if q == nil || q.ended() {
		return false
	}
	select {
	case q.answers <- m:
	case <-q.last:
		return false
	case <-q.left:
		return false
	case <-ctx.Done():
		return false
	}
	if last {
		q.end()
	}
	return true
}

func (q *question) ended() bool {
	select {
	case <-q.last:
		return true
	default:
		return false
	}
}

// end is safe to be called twice, since a host may say twice that it is done.
func (q *question) end() {
	q.once.Do(func() { close(q.last) })
}
