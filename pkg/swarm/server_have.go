package swarm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// A have stream speaks at once after a silence, then not before
	// leastSilence, and then when gainedMany pieces or the time of its turn have
	// come together: a turn is turnEach for each stream that is open, so that
	// all of them together speak fifty times a second on a slow link. Told
	// piece by piece, news cost more than the pieces.
	leastSilence = 20 * time.Millisecond
	turnEach     = 20 * time.Millisecond
	turnMost     = 250 * time.Millisecond
	gainedMany   = 16
	// followed is how many blobs one have stream may follow.
	followed = 128
)

// haveStream tells one peer what is held of the blobs that it follows. There
// is one for each pair of peers, whatever the number of blobs: a connection
// for each blob and peer would cost more handshakes than pieces.
type haveStream struct {
	s    *Server
	r    *http.Request
	peer string
	news chan struct{} // gets a value when something is to be told

	mu   sync.Mutex
	subs map[uint16]*followedBlob // guarded by mu
	gone []uint16                 // to be told that they are absent; guarded by mu
	idle bool                     // whatever comes next is told at once; guarded by mu
	work sync.WaitGroup
}

// followedBlob is a blob that a peer follows. What is not fixed is guarded by
// haveStream.mu.
type followedBlob struct {
	stream *haveStream
	follow *watcher // of its progress; fixed once it is in subs

	seen bool // have is known
	have blob.Bitmap
	told *blob.Bitmap // nil until something was told
}

// untold is how many pieces were gained and not told, and whether there is
// something that should not wait: what was not told at all yet, or the end of
// the blob.
func (f *followedBlob) untold() (gained int, urgent bool) {
	if !f.seen {
		return 0, false
	}
	if f.told == nil {
		return 0, true
	}
	have, told := f.have.Count(), f.told.Count()
	return have - told, have < told || have == f.have.Len()
}

// serveHave runs a have stream. The client's wishes come in the body while
// the answer goes out.
func (s *Server) serveHave(w http.ResponseWriter, control *http.ResponseController, r *http.Request, peer string) error {
	if err := control.EnableFullDuplex(); err != nil {
		return &refusal{status: http.StatusHTTPVersionNotSupported, reason: "garbage", text: "a have stream needs HTTP/1.1"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), streamLife)
	defer cancel()
	h := &haveStream{s: s, r: r, peer: peer, news: make(chan struct{}, 1), subs: map[uint16]*followedBlob{}, idle: true}
	defer h.leaveAll()
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := control.Flush(); err != nil {
		return err
	}
	h.work.Go(func() {
		defer cancel()
		s.cfg.Log.Debug("a peer follows nothing more", "peer", peer, "why", h.listen(ctx))
	})
	err := h.speak(ctx, w, control)
	cancel()
	// The body's reader must be out of it before the handler returns.
	_ = control.SetReadDeadline(time.Unix(1, 0))
	h.work.Wait()
	if err == nil {
		err = errStreamEnd
	}
	return err
}

// errStreamEnd makes the server close a connection whose body was not read to
// the end.
var errStreamEnd = errors.New("the have stream has ended")

// listen reads what the peer wants to follow, and says what ended that.
func (h *haveStream) listen(ctx context.Context) error {
	var buf []byte
	for {
		kind, payload, err := readFrame(h.r.Body, 0, buf)
		if err != nil {
			return err
		}
		buf = payload
		id, text, err := cutTag(payload)
		if err != nil {
			return err
		}
		switch kind {
		case frameFollow:
			d, grant, err := decodeFollow(text)
			if err != nil {
				return err
			}
			if err := h.follow(ctx, id, d, grant); err != nil {
				return err
			}
		case frameLeave:
			h.leave(id)
		default:
			return fmt.Errorf("%w: type %d from a follower", errFrame, kind)
		}
	}
}

func (h *haveStream) follow(ctx context.Context, id uint16, d blob.Digest, grant []byte) error {
	h.leave(id)
	var content Content
	err := h.s.cfg.Allow(ctx, h.peer, d, grant)
	if err == nil {
		content, err = h.s.cfg.Lookup(ctx, d)
	}
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.gone) >= followed {
			return fmt.Errorf("%w: it asks for blobs faster than it is answered", errFrame)
		}
		h.gone = append(h.gone, id)
		h.wake()
		return nil
	}
	h.mu.Lock()
	full := len(h.subs) >= followed
	h.mu.Unlock()
	if full {
		content.Close()
		return fmt.Errorf("%w: it follows more than %d blobs", errFrame, followed)
	}
	f := &followedBlob{stream: h}
	f.follow = h.s.watchers.join(f, content)
	h.mu.Lock()
	h.subs[id] = f
	h.mu.Unlock()
	f.follow.tell(f)
	return nil
}

func (h *haveStream) leave(id uint16) {
	h.mu.Lock()
	f := h.subs[id]
	delete(h.subs, id)
	h.mu.Unlock()
	if f != nil {
		h.s.watchers.leave(f)
	}
}

// leaveAll is the stream's end.
func (h *haveStream) leaveAll() {
	h.mu.Lock()
	ids := slices.Collect(maps.Keys(h.subs))
	h.mu.Unlock()
	for _, id := range ids {
		h.leave(id)
	}
}

// note takes note of what a followed blob holds now, and wakes the stream when
// that should not wait for its turn.
func (h *haveStream) note(f *followedBlob, have blob.Bitmap) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.have, f.seen = have, true
	if gained, urgent := h.untold(); h.idle || urgent || gained >= gainedMany {
		h.wake()
	}
}

func (h *haveStream) wake() {
	select {
	case h.news <- struct{}{}:
	default:
	}
}

// speak tells the news, many in one write.
func (h *haveStream) speak(ctx context.Context, w http.ResponseWriter, control *http.ResponseController) error {
	for {
		select {
		case <-h.news:
		case <-ctx.Done():
			return nil
		}
		if frames := h.frames(); len(frames) > 0 {
			if err := emit(w, control, frames); err != nil {
				return err
			}
		}
		if !h.gather(ctx) {
			return nil
		}
	}
}

// gather waits until there is enough to tell; false means that the stream
// ends.
func (h *haveStream) gather(ctx context.Context) bool {
	least := time.NewTimer(leastSilence)
	defer least.Stop()
	select {
	case <-least.C:
	case <-ctx.Done():
		return false
	}
	turn := time.NewTimer(max(0, h.s.turn()-leastSilence))
	defer turn.Stop()
	for due := false; ; {
		if h.worthATurn(due) {
			h.wake()
			return true
		}
		if due {
			return true
		}
		select {
		case <-h.news:
		case <-turn.C:
			due = true
		case <-ctx.Done():
			return false
		}
	}
}

// worthATurn reports whether there is enough to tell, which at the end of a
// turn is anything. Where there is nothing then, what comes next is told at
// once.
func (h *haveStream) worthATurn(due bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	gained, urgent := h.untold()
	h.idle = due && gained == 0 && !urgent
	return urgent || gained >= gainedMany || due && gained > 0
}

// untold sums up what is to be told; h.mu is held.
func (h *haveStream) untold() (gained int, urgent bool) {
	urgent = len(h.gone) > 0
	for _, f := range h.subs {
		g, u := f.untold()
		gained += g
		urgent = urgent || u
	}
	return gained, urgent
}

// frames is what has not been told yet.
func (h *haveStream) frames() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle = false
	var out []byte
	for _, id := range h.gone {
		out = appendTagged(out, frameAbsent, id, nil)
	}
	h.gone = h.gone[:0]
	for id, sub := range h.subs {
		if !sub.seen {
			continue
		}
		if sub.have.Full() {
			out = appendTagged(out, frameComplete, id, nil)
			delete(h.subs, id)
			continue
		}
		switch {
		case sub.told == nil || sub.told.Minus(sub.have).Count() > 0:
			out = appendTagged(out, frameHave, id, encodeHave(sub.have))
		default:
			gained := sub.have.Minus(*sub.told)
			if gained.Count() == 0 {
				continue
			}
			out = appendTagged(out, frameGained, id, encodeGained(gained))
		}
		told := sub.have
		sub.told = &told
	}
	return out
}
