package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// link is a session's end of the talk with one peer; owned by the session.
type link struct {
	peer   blob.Peer
	state  *policy.Peer // guarded by Exchange.mu
	client *client
	cancel context.CancelFunc
	asked  int         // next requests that are open
	told   blob.Bitmap // what a seed is said to hold
	alive  bool        // it has said what it holds
	absent int         // how often in a row it knew nothing of the blob
}

// relink makes the links those of the latest list.
func (s *session) relink(list []blob.Peer) {
	keep := map[string]blob.Peer{}
	seeds, others := 0, 0
	now := time.Now()
	s.e.mu.Lock()
	for _, p := range list {
		if _, twice := keep[p.ID]; twice || p.ID == s.e.cfg.Self || p.ID == "" || p.Addr == "" {
			continue
		}
		count := &others
		if p.Seed {
			count = &seeds
		}
		if *count >= s.e.params.Neighbours || s.e.peer(p).Banned(now) {
			continue
		}
		*count++
		keep[p.ID] = p
	}
	s.e.mu.Unlock()
	for _, l := range append([]*link(nil), s.order...) {
		if p, ok := keep[l.peer.ID]; !ok || p.Addr != l.peer.Addr || p.Seed != l.peer.Seed {
			s.unlink(l)
		}
	}
	for _, p := range list {
		if _, ok := keep[p.ID]; ok && s.links[p.ID] == nil {
			s.link(keep[p.ID])
		}
	}
}

func (s *session) link(p blob.Peer) {
	ctx, cancel := context.WithCancel(s.ctx)
	l := &link{peer: p, cancel: cancel, told: blob.NewBitmap(s.pieces)}
	s.e.mu.Lock()
	l.state = s.e.peer(p)
	l.client = s.e.client(p)
	if !p.Seed {
		s.picker.Add(p.ID, l.state)
	}
	s.e.mu.Unlock()
	s.links[p.ID] = l
	s.order = append(s.order, l)
	s.work.Go(func() { s.follow(ctx, l) })
}

// unlink stops talking to a peer. Pieces that are on their way may still
// arrive.
func (s *session) unlink(l *link) {
	l.cancel()
	s.picker.Remove(l.peer.ID)
	delete(s.links, l.peer.ID)
	for i, o := range s.order {
		if o == l {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
	s.e.leaveClient(l.client)
}

// linked reports whether l is still one of the session's links.
func (s *session) linked(l *link) bool { return s.links[l.peer.ID] == l }

// follow keeps a have stream open to a peer until the peer holds everything.
func (s *session) follow(ctx context.Context, l *link) {
	wait := 100 * time.Millisecond
	for {
		began := time.Now()
		complete, err := s.readHave(ctx, l)
		if complete || ctx.Err() != nil {
			return
		}
		var status *statusError
		switch {
		case errors.As(err, &status) && status.status == http.StatusServiceUnavailable:
			wait = max(wait, status.retry)
		case errors.As(err, &status) && status.status == http.StatusNotFound:
			// It may be about to fetch the blob too.
			s.post(func() { l.absent++ })
		case err != nil:
			s.log.Debug("follow a peer", "peer", l.peer.ID, "addr", l.peer.Addr, "err", err)
			s.e.judge(l.state, (*policy.Peer).Failed)
		}
		if time.Since(began) > 5*time.Second {
			wait = 100 * time.Millisecond
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// readHave reads one have stream to its end.
func (s *session) readHave(ctx context.Context, l *link) (complete bool, err error) {
	resp, err := l.client.get(ctx, s.sink.Digest(), "have", http.Header{headerClass: {s.class.String()}})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if err := failed(resp); err != nil {
		return false, err
	}
	var buf []byte
	for {
		kind, payload, err := readFrame(resp.Body, s.pieces, buf)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		buf = payload
		switch kind {
		case frameHave:
			have, err := decodeHave(payload, s.pieces)
			if err != nil {
				return false, err
			}
			s.post(func() { s.reset(l, have) })
		case frameGained:
			gained, err := decodeGained(payload, s.pieces)
			if err != nil {
				return false, err
			}
			s.post(func() { s.gained(l, gained) })
		case frameComplete:
			all := blob.NewBitmap(s.pieces)
			all.Fill()
			s.post(func() { s.reset(l, all) })
			// Read to the end, so that the connection can be used again.
			_, err := io.CopyN(io.Discard, resp.Body, 1)
			return errors.Is(err, io.EOF), nil
		default:
			return false, fmt.Errorf("%w: type %d on a have stream", errFrame, kind)
		}
	}
}

func (s *session) reset(l *link, have blob.Bitmap) {
	l.told, l.alive, l.absent = have, true, 0
	if s.linked(l) {
		s.picker.Reset(l.peer.ID, have)
	}
}

func (s *session) gained(l *link, gained []int) {
	for _, i := range gained {
		l.told.Set(i)
		if s.linked(l) {
			s.picker.Gained(l.peer.ID, i)
		}
	}
}
