package dht

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	holdsProtocol = "/shoal/holds/1"
	tagsProtocol  = "/shoal/tags/1"

	// serveTimeout bounds one question of a peer, reading and writing.
	serveTimeout = 5 * time.Second
)

// serveHolds answers what this node has of a digest. Who may not read it gets
// the same answer as for one that is not here.
func (n *Node) serveHolds(s network.Stream) {
	n.reply(s, func(peer string, request []byte) ([]byte, error) {
		d, err := blob.ParseDigest(string(request))
		if err != nil {
			return nil, err
		}
		return n.holds(peer, d).encode(), nil
	})
}

func (n *Node) holds(peer string, d blob.Digest) holdsAnswer {
	if !n.cfg.Allow(peer, d) {
		return holdsAnswer{}
	}
	holding, ok := n.cfg.Holdings(d)
	if !ok || holding.Have.Len() != blob.PieceCount(holding.Size) {
		return holdsAnswer{}
	}
	return holdsAnswer{held: true, seed: n.cfg.Seed, addr: n.cfg.SwarmAddr, holding: holding}
}

// serveTags answers with this node's records of a tag, those whose digest the
// peer may know of.
func (n *Node) serveTags(s network.Stream) {
	n.reply(s, func(peer string, request []byte) ([]byte, error) {
		q, err := decodeTagsRequest(request)
		if err != nil {
			return nil, err
		}
		var records []*blob.TagRecord
		for _, r := range n.cfg.Tags(q.ref, q.tag) {
			if n.cfg.Allow(peer, r.Digest) {
				records = append(records, r)
			}
		}
		return encodeTags(records), nil
	})
}

// reply reads one request and writes one answer, within its time, its size and
// the peer's allowance. What is wrong ends the stream without an answer.
func (n *Node) reply(s network.Stream, answer func(peer string, request []byte) ([]byte, error)) {
	p := s.Conn().RemotePeer()
	if !n.members.mayAsk(p) || s.SetDeadline(time.Now().Add(serveTimeout)) != nil {
		_ = s.Reset()
		return
	}
	request, err := readFrame(s, maxRequest)
	if err != nil {
		_ = s.Reset()
		return
	}
	raw, err := answer(p.String(), request)
	if err == nil {
		err = writeFrame(s, raw)
	}
	if err != nil {
		n.cfg.Log.Debug("refused a question", "peer", p.String(), "protocol", string(s.Protocol()), "error", err)
		_ = s.Reset()
		return
	}
	_ = s.Close()
}
