package swarm

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// talkIdle is how long a have stream is kept that follows nothing.
const talkIdle = 15 * time.Second

// talk keeps the have stream to one peer, for all blobs.
type talk struct {
	e      *Exchange
	client *client
	state  *policy.Peer

	mu      sync.Mutex
	subs    map[uint16]*subscription // guarded by mu
	last    uint16                   // the number that was given last; guarded by mu
	pending []byte                   // frames to be sent on the stream that is open; guarded by mu
	open    bool                     // a stream is open; guarded by mu
	running bool                     // guarded by mu
	wake    chan struct{}            // gets a value when pending or subs changed
	stop    context.CancelFunc       // guarded by mu
}

// subscription is a blob that is followed at one peer. tell is called from
// the talk's goroutine.
type subscription struct {
	id     uint16
	digest blob.Digest
	pieces int
	grant  func() []byte
	tell   func(n news)
}

// news is what a peer says about a blob.
type news struct {
	absent bool
	have   *blob.Bitmap // replaces what was known
	gained []int        // adds to it
}

// follow begins to follow a blob. The stream outlives ctx: others use it too.
func (t *talk) follow(ctx context.Context, sub *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.last++; t.subs[t.last] != nil; t.last++ {
	}
	sub.id = t.last
	t.subs[sub.id] = sub
	t.say(frameFollow, sub.id, encodeFollow(sub.digest, sub.grant()))
	if !t.running {
		t.running = true
		ctx, t.stop = context.WithCancel(context.WithoutCancel(ctx))
		go t.run(ctx)
	}
}

// again asks once more about a blob that was absent.
func (t *talk) again(sub *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.subs[sub.id] == sub {
		t.say(frameFollow, sub.id, encodeFollow(sub.digest, sub.grant()))
	}
}

// leave ends a subscription.
func (t *talk) leave(sub *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.subs[sub.id] == sub {
		delete(t.subs, sub.id)
		t.say(frameLeave, sub.id, nil)
	}
}

// end closes the stream of a talk that nobody uses.
func (t *talk) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		t.stop()
	}
}

// say queues a frame for the stream that is open; a new stream begins with all
// subscriptions. t.mu is held.
func (t *talk) say(kind byte, id uint16, payload []byte) {
	if t.open {
		t.pending = appendTagged(t.pending, kind, id, payload)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run keeps a stream open as long as anything is followed.
func (t *talk) run(ctx context.Context) {
	wait := 100 * time.Millisecond
	for {
		began := time.Now()
		err := t.stream(ctx)
		t.mu.Lock()
		t.open, t.pending = false, nil
		if len(t.subs) == 0 || ctx.Err() != nil {
			t.running = false
			t.stop()
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		t.e.cfg.Log.Debug("follow a peer", "peer", t.client.peer.ID, "addr", t.client.peer.Addr, "err", err)
		if time.Since(began) > 5*time.Second {
			wait = 100 * time.Millisecond
		} else {
			t.e.judge(t.state, (*policy.Peer).Failed)
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// stream opens one have stream and reads it to its end.
func (t *talk) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, wishes := io.Pipe()
	defer body.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.client.base+pathPrefix+"have", body)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.open, t.pending = true, nil
	for id, sub := range t.subs {
		t.say(frameFollow, id, encodeFollow(sub.digest, sub.grant()))
	}
	t.mu.Unlock()
	go func() { _ = wishes.CloseWithError(t.write(ctx, cancel, wishes)) }()
	resp, err := t.client.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := failed(resp); err != nil {
		return err
	}
	var buf []byte
	for {
		kind, payload, err := readFrame(resp.Body, t.largest(), buf)
		if err != nil {
			return err
		}
		buf = payload
		if err := t.hear(kind, payload); err != nil {
			return err
		}
	}
}

// write sends what say queued; the stream ends when nothing was followed for
// talkIdle.
func (t *talk) write(ctx context.Context, cancel context.CancelFunc, w io.Writer) error {
	idle := time.NewTimer(talkIdle)
	defer idle.Stop()
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			t.mu.Lock()
			empty := len(t.subs) == 0
			t.mu.Unlock()
			if empty {
				cancel()
				return io.EOF
			}
		}
		idle.Reset(talkIdle)
		t.mu.Lock()
		frames := t.pending
		t.pending = nil
		t.mu.Unlock()
		if len(frames) == 0 {
			continue
		}
		if _, err := w.Write(frames); err != nil {
			return err
		}
	}
}

// largest is the number of pieces of the largest blob that is followed.
func (t *talk) largest() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, sub := range t.subs {
		n = max(n, sub.pieces)
	}
	return n
}

// hear passes a frame on to whom it is for.
func (t *talk) hear(kind byte, payload []byte) error {
	id, rest, err := cutTag(payload)
	if err != nil {
		return err
	}
	t.mu.Lock()
	sub := t.subs[id]
	t.mu.Unlock()
	if sub == nil {
		return nil // it was left while the frame was on its way
	}
	switch kind {
	case frameHave:
		have, err := decodeHave(rest, sub.pieces)
		if err != nil {
			return err
		}
		sub.tell(news{have: &have})
	case frameGained:
		gained, err := decodeGained(rest, sub.pieces)
		if err != nil {
			return err
		}
		sub.tell(news{gained: gained})
	case frameComplete:
		all := blob.NewBitmap(sub.pieces)
		all.Fill()
		sub.tell(news{have: &all})
	case frameAbsent:
		sub.tell(news{absent: true})
	default:
		return fmt.Errorf("%w: type %d on a have stream", errFrame, kind)
	}
	return nil
}
