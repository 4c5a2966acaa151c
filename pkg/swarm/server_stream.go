package swarm

import (
	"net/http"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// streamLife ends a stream that outlived any transfer; the reader asks
	// again.
	streamLife = 10 * time.Minute
)

// emit sends frames and pushes them out.
func emit(w http.ResponseWriter, control *http.ResponseController, frames []byte) error {
	_ = control.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := w.Write(frames); err != nil {
		return err
	}
	return control.Flush()
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
			return emit(c.w, c.control, appendFrame(frames, frameMap, final.Encode()))
		}
		for ; sent < len(batches); sent++ {
			frames = appendFrame(frames, frameBatch, batches[sent].Encode())
		}
		if err := emit(c.w, c.control, frames); err != nil {
			return err
		}
		if !c.pause(changed, life.C) {
			return nil
		}
		final, batches, changed = c.content.Proof()
	}
}

// snapshot is what the content holds now.
func snapshot(c Content) blob.Bitmap {
	have, _ := c.Progress()
	return have
}
