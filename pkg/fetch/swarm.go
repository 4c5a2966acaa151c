package fetch

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// probesMost is how many neighbours are asked whether they can be reached.
const probesMost = 3

// swarm asks neighbours for as long as the flight lasts.
func (fl *flight) swarm(ctx context.Context, b Blob) {
	for ctx.Err() == nil {
		turn, cancel := context.WithCancel(ctx)
		fl.mu.Lock()
		class := fl.class
		fl.renew = cancel
		peers := fl.scouted.subscribe()
		fl.mu.Unlock()
		err := fl.f.cfg.Swarm.Fetch(turn, SwarmRequest{
			Blob: swarmBlob{b, fl}, Peers: peers, Class: class, Claim: fl.claims.bySwarm,
			Got: fl.gotFromPeer, Grant: fl.grant, Hedged: fl.rec.hedge,
		})
		renewed := turn.Err() != nil
		cancel()
		switch {
		case err == nil:
			fl.poke()
			return
		case errors.Is(err, blob.ErrFull):
			fl.fail(err)
			return
		case renewed:
			continue
		}
		fl.f.log.Debug("the swarm has nobody left to ask", "digest", fl.digest, "err", err)
		pause := time.NewTimer(lookAgain)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

func (fl *flight) gotFromPeer(p blob.Peer, n int64) {
	kind := FromPeer
	if p.Seed {
		kind = FromSupernode
	}
	fl.rec.add(kind, p.ID, n)
	fl.poke()
}

// reachable reports whether a peer's port can be reached, whatever the peer
// answered there.
func reachable(err error) bool {
	var dial *net.OpError
	return !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) && !errors.As(err, &dial)
}

// swarmBlob is the blob as the swarm fills it. It sees each byte as it comes,
// since a piece may take longer than a stall.
type swarmBlob struct {
	Blob
	fl *flight
}

// PutPiece implements Blob.
func (b swarmBlob) PutPiece(i int, r io.Reader, want *blob.PieceHash) (blob.PieceHash, error) {
	return b.Blob.PutPiece(i, &meter{r: r, got: b.fl.gotBytes}, want)
}

func (fl *flight) gotBytes(int) {
	now := time.Now()
	fl.moved.set(now)
	fl.swarmed.set(now)
}

// moment is a time that goroutines write and read.
type moment struct{ nanos atomic.Int64 }

func (m *moment) set(t time.Time) { m.nanos.Store(t.UnixNano()) }

// get is the zero time when it was never set.
func (m *moment) get() time.Time {
	if n := m.nanos.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// probe asks a few neighbours whether they can be reached at all, before the
// supernode's registry is asked to stand in for them.
func (fl *flight) probe(ctx context.Context) {
	defer fl.probing.Store(false)
	fl.mu.Lock()
	peers := fl.scouted.merged()
	fl.mu.Unlock()
	for _, p := range peers[:min(len(peers), probesMost)] {
		one, cancel := context.WithTimeout(ctx, stall)
		_, err := fl.f.cfg.Swarm.Size(one, fl.digest, p, fl.grant())
		cancel()
		if reachable(err) {
			fl.mu.Lock()
			fl.scouted.reached = true
			fl.mu.Unlock()
			return
		}
	}
	pause := time.NewTimer(stall)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
	}
}
