package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// proofStreams is how many peers a session reads signed hashes from at a
	// time, and proofStep how long it waits before it asks one more.
	proofStreams = 3
	proofStep    = 500 * time.Millisecond
)

// proofState is a session's search for signed piece hashes; owned by the
// session.
type proofState struct {
	final   bool            // the final map is known
	running map[string]bool // peers whose map stream is read
	tried   map[string]bool // peers whose stream ended without the final map; cleared when all were tried
	denied  map[string]bool // peers that answered, and had none
	asked   time.Time       // when the last peer was asked
	began   time.Time
}

// none reports whether nobody has signed hashes: all who are linked said so,
// or time enough has passed.
func (p *proofState) none(now time.Time, links []*link, known int) bool {
	if p.final || known > 0 || len(links) == 0 || now.Sub(p.began) < proofPatience {
		return false
	}
	for _, l := range links {
		if !p.denied[l.peer.ID] {
			return now.Sub(p.began) >= 5*proofPatience
		}
	}
	return true
}

// wantProof reads map streams until the final map is known: the seed's first,
// then anybody's.
func (s *session) wantProof(now time.Time) {
	p := &s.proof
	if len(s.links) == 0 {
		p.began = now
	}
	if p.final || len(p.running) >= proofStreams || len(p.running) > 0 && now.Sub(p.asked) < proofStep {
		return
	}
	if len(p.running) > 0 && s.known.Count() > 0 {
		return
	}
	var best *link
	for _, l := range s.order {
		if p.running[l.peer.ID] || p.tried[l.peer.ID] {
			continue
		}
		if best == nil || l.peer.Seed && !best.peer.Seed {
			best = l
		}
	}
	if best == nil {
		if len(p.running) == 0 && now.Sub(p.asked) >= proofStep {
			clear(p.tried)
		}
		return
	}
	p.asked = now
	p.running[best.peer.ID] = true
	s.work.Go(func() {
		err := s.readProof(s.ctx, best)
		if err != nil && s.ctx.Err() == nil {
			s.log.Debug("read signed piece hashes", "peer", best.peer.ID, "err", err)
		}
		var status *statusError
		denied := err == nil || errors.As(err, &status) && status.status == http.StatusNotFound || errors.Is(err, blob.ErrBadMap)
		s.post(func() {
			delete(p.running, best.peer.ID)
			p.tried[best.peer.ID] = true
			p.denied[best.peer.ID] = denied
			s.learn()
			s.due = true
		})
	})
}

// readProof reads one map stream, checks what it says and gives it to the
// sink.
func (s *session) readProof(ctx context.Context, l *link) error {
	resp, err := l.client.get(ctx, s.sink.Digest(), "map", askHeader(s.class, s.req.Grant()))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := failed(resp); err != nil {
		return err
	}
	var buf []byte
	for {
		kind, payload, err := readFrame(resp.Body, s.pieces, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		buf = payload
		switch kind {
		case frameMap:
			return s.addMap(payload)
		case frameBatch:
			if err := s.addBatch(payload); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: type %d on a map stream", errFrame, kind)
		}
	}
}

func (s *session) addMap(payload []byte) error {
	m, err := blob.DecodePieceMap(payload)
	if err != nil {
		return err
	}
	if m.Digest != s.sink.Digest() || m.Size != s.size {
		return fmt.Errorf("%w: it is of %s, %d bytes", blob.ErrBadMap, m.Digest, m.Size)
	}
	if err := m.Check(s.e.cfg.Verify); err != nil {
		return err
	}
	return s.sink.AddProof(m, nil)
}

func (s *session) addBatch(payload []byte) error {
	b, err := blob.DecodeBatch(payload)
	if err != nil {
		return err
	}
	if b.Digest != s.sink.Digest() || b.Size != s.size {
		return fmt.Errorf("%w: it is of %s, %d bytes", blob.ErrBadMap, b.Digest, b.Size)
	}
	if err := b.Check(s.e.cfg.Verify); err != nil {
		return err
	}
	return s.sink.AddProof(nil, b)
}
