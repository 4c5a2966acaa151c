package swarm

import (
	"context"
	"fmt"
	"net/http"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/swarm/policy"
)

// Size asks a peer for the size in bytes that its signed map, or its first
// signed batch, states: what a reader needs who knows a digest alone. grant is shown to the peer.
func (e *Exchange) Size(ctx context.Context, d blob.Digest, p blob.Peer, grant []byte) (int64, error) {
	c := e.newClient(p)
	defer c.transport.CloseIdleConnections()
	response, err := c.get(ctx, d, "map", askHeader(policy.Wait, grant))
	if err != nil {
		return 0, fmt.Errorf("ask peer %s for the size of %s: %w", p.ID, d, err)
	}
	defer response.Body.Close()
	if err := failed(response); err != nil {
		return 0, fmt.Errorf("ask peer %s for the size of %s: %w", p.ID, d, err)
	}
	size, err := e.readSize(d, response)
	if err != nil {
		return 0, fmt.Errorf("read the size of %s from peer %s: %w", d, p.ID, err)
	}
	return size, nil
}

func (e *Exchange) readSize(d blob.Digest, response *http.Response) (int64, error) {
	kind, payload, err := readFrame(response.Body, blob.MaxPieces, nil)
	if err != nil {
		return 0, err
	}
	switch kind {
	case frameMap:
		m, err := blob.DecodePieceMap(payload)
		if err == nil {
			err = m.Check(e.cfg.Verify)
		}
		if err == nil && m.Digest != d {
			err = fmt.Errorf("%w: it is of %s", blob.ErrBadMap, m.Digest)
		}
		if err != nil {
			return 0, err
		}
		return m.Size, nil
	case frameBatch:
		b, err := blob.DecodeBatch(payload)
		if err == nil {
			err = b.Check(e.cfg.Verify)
		}
		if err == nil && b.Digest != d {
			err = fmt.Errorf("%w: it is of %s", blob.ErrBadMap, b.Digest)
		}
		if err != nil {
			return 0, err
		}
		return b.Size, nil
	}
	return 0, fmt.Errorf("%w: type %d on a map stream", errFrame, kind)
}
