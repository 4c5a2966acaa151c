package mirror

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	linkLife         = time.Hour
	maxLinks         = 16384 // per generation; two are kept
	maxChildren      = 4096  // of one manifest
	foreignLayer     = "application/vnd.docker.image.rootfs.foreign"
	nondistributable = "application/vnd.oci.image.layer.nondistributable"
)

// strength is what is known about "this repository links this digest".
type strength int

const (
	unknown strength = iota
	// named: an index of the repository names it. That is no right, since an
	// index may name what was never pushed there; it stands in for a proof
	// only while nobody can be asked.
	named
	// proven: the registry served it under this repository, or an image
	// manifest that it accepted there is made of it.
	proven
)

type link struct {
	strength strength
	expires  time.Time
}

// links remembers which repository links which digest. It forgets the older
// half when it is full; what is forgotten is proven again.
type links struct {
	mu         sync.Mutex
	young, old map[string]link // guarded by mu
}

func linkKey(ref blob.Ref, d blob.Digest) string {
	return ref.Registry + "\x00" + ref.Repository + "\x00" + d.String()
}

func (l *links) get(ref blob.Ref, d blob.Digest, now time.Time) strength {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := linkKey(ref, d)
	best := unknown
	for _, generation := range []map[string]link{l.young, l.old} {
		if got, ok := generation[key]; ok && now.Before(got.expires) {
			best = max(best, got.strength)
		}
	}
	return best
}

func (l *links) put(ref blob.Ref, d blob.Digest, s strength, expires time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.young == nil || len(l.young) >= maxLinks {
		l.old, l.young = l.young, make(map[string]link)
	}
	key := linkKey(ref, d)
	if before, ok := l.young[key]; ok && before.strength > s && before.expires.After(expires) {
		return
	}
	l.young[key] = link{s, expires}
}

// children are the digests that a manifest's repository links because the
// registry accepted it (an image's config and layers), and those that it
// merely names (an index's manifests).
func children(body []byte) (linked, mentioned []blob.Digest) {
	type child struct {
		MediaType string   `json:"mediaType"`
		Digest    string   `json:"digest"`
		URLs      []string `json:"urls"`
	}
	var m struct {
		Config    child   `json:"config"`
		Layers    []child `json:"layers"`
		Manifests []child `json:"manifests"`
	}
	if json.Unmarshal(body, &m) != nil {
		return nil, nil
	}
	for _, c := range append(m.Layers, m.Config) {
		// Such layers need not exist where the manifest lies.
		elsewhere := len(c.URLs) > 0 || strings.HasPrefix(c.MediaType, foreignLayer) || strings.HasPrefix(c.MediaType, nondistributable)
		if d, err := blob.ParseDigest(c.Digest); err == nil && !elsewhere {
			linked = append(linked, d)
		}
	}
	for _, c := range m.Manifests {
		if d, err := blob.ParseDigest(c.Digest); err == nil {
			mentioned = append(mentioned, d)
		}
	}
	return linked[:min(len(linked), maxChildren)], mentioned[:min(len(mentioned), maxChildren)]
}
