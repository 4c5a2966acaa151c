package swarm

import (
	"sync"

	"github.com/shoalproject/shoal/pkg/blob"
)

// watchers are those of a server, by blob. One goroutine for each blob looks
// at its progress, whatever the number of streams that tell of it: with one for
// each stream every piece woke a host fifteen times.
type watchers struct {
	mu  sync.Mutex
	all map[blob.Digest]*watcher // guarded by mu
}

// watcher follows the progress of a blob until it is complete or nobody is
// left who wants to know.
type watcher struct {
	content   Content
	have      blob.Bitmap                // as of the last look; guarded by watchers.mu
	followers map[*followedBlob]struct{} // guarded by watchers.mu
	deserted  chan struct{}              // closed when the last follower left

	of *watchers
}

// join makes f a follower of the content, and takes the content over.
func (ws *watchers) join(f *followedBlob, content Content) *watcher {
	d := content.Digest()
	have := snapshot(content)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	// One that sees something else may be watching a blob that was removed
	// from the store and has begun anew since.
	if w := ws.all[d]; w != nil && w.have.Minus(have).Count() == 0 && have.Minus(w.have).Count() == 0 {
		w.followers[f] = struct{}{}
		content.Close()
		return w
	}
	w := &watcher{
		content: content, have: have, of: ws,
		followers: map[*followedBlob]struct{}{f: {}}, deserted: make(chan struct{}),
	}
	ws.all[d] = w
	go w.run()
	return w
}

// leave takes a follower out.
func (ws *watchers) leave(f *followedBlob) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := f.follow
	if _, there := w.followers[f]; !there {
		return
	}
	delete(w.followers, f)
	if len(w.followers) == 0 {
		ws.drop(w)
		close(w.deserted)
	}
}

// drop lets nobody join w any more; ws.mu is held.
func (ws *watchers) drop(w *watcher) {
	if ws.all[w.content.Digest()] == w {
		delete(ws.all, w.content.Digest())
	}
}

func (w *watcher) run() {
	defer w.content.Close()
	for {
		have, changed := w.content.Progress()
		if w.look(have) {
			return
		}
		select {
		case <-changed:
		case <-w.deserted:
			return
		}
	}
}

// look passes on what is held now; done means that nothing more will come.
func (w *watcher) look(have blob.Bitmap) (done bool) {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	w.have = have
	for f := range w.followers {
		f.stream.note(f, have)
	}
	if have.Full() {
		clear(w.followers)
		w.of.drop(w)
		return true
	}
	return false
}

// tell gives a new follower the first news.
func (w *watcher) tell(f *followedBlob) {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	f.stream.note(f, w.have)
}
