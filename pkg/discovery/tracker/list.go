package tracker

import (
	"context"
	"slices"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

// list begins to list what this node holds when the tracker is a new one, or
// when the last list failed some time ago. While a list is being made, a new
// epoch is not adopted, so the next answer begins another list. It is called
// with mu held.
func (c *Client) list(ctx context.Context, epoch uint64) {
	retry := !c.listAt.IsZero() && !time.Now().Before(c.listAt)
	if c.changed != nil || epoch == c.epoch && !retry {
		return
	}
	c.epoch, c.listAt = epoch, time.Time{}
	if c.cfg.Holdings == nil {
		return
	}
	c.changed = map[blob.Digest]bool{}
	c.lists.Go(func() {
		within, cancel := context.WithTimeout(ctx, listWithin)
		defer cancel()
		held, err := c.cfg.Holdings(within)
		c.listed(held, err)
		signal(c.kick)
	})
}

// listed queues a list for the tracker, without the blobs of which there was
// newer news.
func (c *Client) listed(held []Held, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.log.Warn("listing the blobs of this host failed; retrying", "after", listAgain, "error", err)
		c.listAt = time.Now().Add(listAgain)
	}
	held = slices.DeleteFunc(held, func(h Held) bool { return c.changed[h.Digest] })
	c.changed = nil
	c.news = append(held, c.news...)
}
