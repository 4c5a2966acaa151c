package swarm

import (
	"net/http"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// gainedEvery is how often at most a have stream speaks. What is gained
	// after a silence is said at once.
	gainedEvery = 20 * time.Millisecond
	// streamLife ends a stream that outlived any transfer; the reader asks
	// again.
	streamLife = 10 * time.Minute
)

// emit sends frames and pushes them out.
func (c *call) emit(frames []byte) error {
	_ = c.control.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.w.Write(frames); err != nil {
		return err
	}
	return c.control.Flush()
}

// pause waits until changed is closed, and for no longer than the stream may
// live; false means that the stream ends.
func (c *call) pause(changed <-chan struct{}, life <-chan time.Time) bool {
	select {
	case <-changed:
		return true
	case <-life:
		return false
	case <-c.r.Context().Done():
		return false
	}
}

// sendMap streams signed batches as they come, until the final map.
func (c *call) sendMap() error {
	final, batches, changed := c.content.Proof()
	if final == nil && len(batches) == 0 {
		if have, _ := c.content.Progress(); have.Full() {
			return &refusal{status: http.StatusNotFound, reason: "no proof", text: "no signed piece hashes are known here"}
		}
	}
	c.w.Header().Set("Content-Type", "application/octet-stream")
	life := time.NewTimer(streamLife)
	defer life.Stop()
	var frames []byte
	for sent := 0; ; {
		frames = frames[:0]
		if final != nil {
			return c.emit(appendFrame(frames, frameMap, final.Encode()))
		}
		for ; sent < len(batches); sent++ {
			frames = appendFrame(frames, frameBatch, batches[sent].Encode())
		}
		if err := c.emit(frames); err != nil {
			return err
		}
		if !c.pause(changed, life.C) {
			return nil
		}
		final, batches, changed = c.content.Proof()
	}
}

// sendHave streams which pieces are held, until all are.
func (c *call) sendHave() error {
	c.w.Header().Set("Content-Type", "application/octet-stream")
	life := time.NewTimer(streamLife)
	defer life.Stop()
	have, changed := c.content.Progress()
	frames := appendHave(nil, have)
	told := have
	for {
		if have.Full() {
			return c.emit(appendFrame(frames, frameComplete, nil))
		}
		if len(frames) > 0 {
			if err := c.emit(frames); err != nil {
				return err
			}
		}
		spoke := time.Now()
		if !c.pause(changed, life.C) {
			return nil
		}
		if rest := gainedEvery - time.Since(spoke); rest > 0 {
			quiet := time.NewTimer(rest)
			select {
			case <-quiet.C:
			case <-c.r.Context().Done():
				quiet.Stop()
				return nil
			}
		}
		have, changed = c.content.Progress()
		gained := have.Minus(told)
		frames = frames[:0]
		if gained.Count() > 0 {
			frames = appendGained(frames, gained)
		}
		if lost := told.Minus(have); lost.Count() > 0 {
			frames = appendHave(frames[:0], have)
		}
		told = have
	}
}

// snapshot is what the content holds now.
func snapshot(c Content) blob.Bitmap {
	have, _ := c.Progress()
	return have
}
