package containerd

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/runtime"
)

const (
	// gatherFor is how long a Watch waits for further events before it lists:
	// a pull makes one for each blob.
	gatherFor = 200 * time.Millisecond
	// collectedAfter is when it lists once more, because the garbage collector
	// runs some time after an image was removed, and says nothing in 1.6.
	collectedAfter = 10 * time.Second
	// listEvery is the longest time between two lists.
	listEvery = 5 * time.Minute

	reconnectFirst = 500 * time.Millisecond
	reconnectMost  = 30 * time.Second
)

// Watch tells which blobs containerd holds now and then, as they come and go,
// until ctx or the Runtime ends; then the channel is closed. While containerd
// is away nothing is told; when it is back, the difference.
//
// An event (image or content; 1.6 has no content events) is only a hint: what
// is told is the difference between two lists.
func (r *Runtime) Watch(ctx context.Context) <-chan runtime.Event {
	out := make(chan runtime.Event, 64)
	go func() {
		defer close(out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(r.ctx, cancel)()
		known := map[blob.Digest]int64{}
		for wait := reconnectFirst; ctx.Err() == nil; wait = min(2*wait, reconnectMost) {
			if r.follow(ctx, known, out) {
				wait = reconnectFirst
			}
			if !pause(ctx, wait) {
				return
			}
		}
	}()
	return out
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow watches over one connection until it breaks. It reports whether it
// ever worked. Known belongs to the caller's goroutine.
func (r *Runtime) follow(ctx context.Context, known map[blob.Digest]int64, out chan<- runtime.Event) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Subscribed before the first list, so that nothing falls between.
	events, broken := r.client.Subscribe(ctx, `topic~="^/images/"`, `topic~="^/content/"`)
	if !r.tell(ctx, known, out) {
		return false
	}
	next := time.NewTimer(listEvery)
	defer next.Stop()
	hinted := false
	for {
		select {
		case e := <-events:
			if e == nil || !slices.Contains(r.opts.Namespaces, e.Namespace) {
				continue
			}
			if !hinted || strings.HasSuffix(e.Topic, "/delete") {
				next.Reset(gatherFor)
			}
			hinted = true
		case <-next.C:
			if !r.tell(ctx, known, out) {
				return true
			}
			next.Reset(listEvery)
			if hinted {
				next.Reset(collectedAfter)
			}
			hinted = false
		case err := <-broken:
			if ctx.Err() == nil {
				r.opts.Log.Info("containerd went away, waiting for it", "address", r.opts.Address, "error", err)
			}
			return true
		case <-ctx.Done():
			return true
		}
	}
}

// tell lists and sends what differs from known. False: containerd did not
// answer, or ctx ended.
func (r *Runtime) tell(ctx context.Context, known map[blob.Digest]int64, out chan<- runtime.Event) bool {
	list, err := r.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.opts.Log.Debug("containerd does not list its content", "error", err)
		}
		return false
	}
	for _, e := range difference(known, list) {
		select {
		case out <- e:
		case <-ctx.Done():
			return false
		}
		if e.Gone {
			delete(known, e.Digest)
		} else {
			known[e.Digest] = e.Size
		}
	}
	return true
}

// difference is what must be told to get from known to list.
func difference(known map[blob.Digest]int64, list []runtime.Content) []runtime.Event {
	var events []runtime.Event
	there := make(map[blob.Digest]bool, len(list))
	for _, c := range list {
		there[c.Digest] = true
		if size, ok := known[c.Digest]; !ok || size != c.Size {
			events = append(events, runtime.Event{Digest: c.Digest, Size: c.Size})
		}
	}
	for d := range known {
		if !there[d] {
			events = append(events, runtime.Event{Digest: d, Gone: true})
		}
	}
	return events
}
