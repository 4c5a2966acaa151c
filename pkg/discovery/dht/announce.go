package dht

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalproject/shoal/pkg/blob"
)

const announceTimeout = 20 * time.Second

// ErrTooMany says that the node announces as many digests as it ever will.
var ErrTooMany = errors.New("too many digests announced")

// Announce tells the network, soon and then again and again, that this node
// holds d or is receiving it, unless 32 others say so already. It returns at
// once. ErrTooMany: Withdraw others first.
func (n *Node) Announce(ctx context.Context, d blob.Digest) error {
	return n.announce(ctx, n.cfg.blobKey(d), string(d))
}

// AnnounceTag is Announce for the tag records that Config.Tags serves.
func (n *Node) AnnounceTag(ctx context.Context, ref blob.Ref, tag string) error {
	return n.announce(ctx, n.cfg.tagKey(ref, tag), ref.String()+":"+tag)
}

func (n *Node) announce(ctx context.Context, key cid.Cid, name string) error {
	if err := errors.Join(ctx.Err(), n.ctx.Err()); err != nil {
		return fmt.Errorf("announce %s: %w", name, err)
	}
	n.mu.Lock()
	ok := n.plan.add(key, time.Now().Add(jitter(n.cfg.Jitter)))
	n.mu.Unlock()
	if !ok {
		return fmt.Errorf("announce %s: %w, the limit is %d", name, ErrTooMany, maxAnnounced)
	}
	n.rouse()
	return nil
}

// Withdraw stops announcing d. Records that others keep run out within the
// TTL; until then this node answers that it does not hold it.
func (n *Node) Withdraw(d blob.Digest) { n.withdraw(n.cfg.blobKey(d)) }

// WithdrawTag stops announcing a tag.
func (n *Node) WithdrawTag(ref blob.Ref, tag string) { n.withdraw(n.cfg.tagKey(ref, tag)) }

func (n *Node) withdraw(key cid.Cid) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.plan.remove(key)
}

// rouse makes one worker look at the schedule again.
func (n *Node) rouse() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// announceLoop is one worker.
func (n *Node) announceLoop() {
	for {
		n.mu.Lock()
		a, wait := n.plan.take(time.Now())
		n.mu.Unlock()
		if a == nil {
			if !n.rest(wait) {
				return
			}
			continue
		}
		n.rouse() // more may be due: let another worker look
		if n.limit.Wait(n.ctx) != nil {
			return
		}
		result := n.announceOnce(a.key)
		if result == failed {
			a.failures++
		} else {
			a.failures = 0
		}
		n.mu.Lock()
		n.plan.done(a, time.Now().Add(pause(result, a.failures, n.cfg.TTL, rand.Float64())))
		n.mu.Unlock()
	}
}

// rest waits until something may be due; false at the node's end.
func (n *Node) rest(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-n.wake:
	case <-n.ctx.Done():
		return false
	}
	return true
}

// announceOnce looks how many hold the key and joins them if they are few.
func (n *Node) announceOnce(key cid.Cid) outcome {
	ctx, cancel := context.WithTimeout(n.ctx, announceTimeout)
	defer cancel()
	if n.holders(ctx, key) >= MaxHolders {
		return enough
	}
	if err := n.kad.Provide(ctx, key, true); err != nil {
		n.cfg.Log.Debug("announcement failed, will be tried again", "error", err)
		return failed
	}
	return announced
}

// holders counts the others that announce the key, up to MaxHolders.
func (n *Node) holders(ctx context.Context, key cid.Cid) int {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout/4)
	defer cancel()
	count := 0
	for info := range n.kad.FindProvidersAsync(ctx, key, MaxHolders+1) {
		if info.ID != n.host.ID() {
			count++
		}
	}
	return count
}
