package fetch

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// missingFor is how long a 404 of an origin is believed.
	missingFor = 10 * time.Second
	// refutedFor is how long a digest is not asked for again after its bytes
	// were found to be others.
	refutedFor = time.Minute
	// refusalsKept bounds the negative answers that are remembered.
	refusalsKept = 4096
)

// refusalKey tells negative answers apart. What one reader's token did not
// open says nothing about another's, so the token is part of it, hashed.
type refusalKey struct {
	digest blob.Digest
	ref    blob.Ref
	token  [sha256.Size]byte
}

type refusalEntry struct {
	err   error
	until time.Time
}

// refusals is the cache of negative answers.
type refusals struct {
	mu      sync.Mutex // guards entries
	entries map[refusalKey]refusalEntry
}

func newRefusals() *refusals { return &refusals{entries: map[refusalKey]refusalEntry{}} }

// find returns the negative answer that stands for the request, if any.
func (r *refusals) find(req Request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range []refusalKey{{digest: req.Digest}, keyOf(req.Digest, blob.Origin{Ref: req.Ref, Token: req.OriginToken})} {
		if e, ok := r.entries[key]; ok && time.Now().Before(e.until) {
			return fmt.Errorf("answered a moment ago: %w", e.err)
		}
	}
	return nil
}

func keyOf(d blob.Digest, o blob.Origin) refusalKey {
	return refusalKey{digest: d, ref: o.Ref, token: sha256.Sum256([]byte(o.Token))}
}

// missing notes a 404 for one origin and token.
func (r *refusals) missing(d blob.Digest, o blob.Origin, err error) {
	r.put(keyOf(d, o), err, missingFor)
}

// refuted notes, for everybody, that the bytes are not what the digest says.
func (r *refusals) refuted(d blob.Digest, err error) {
	r.put(refusalKey{digest: d}, err, refutedFor)
}

func (r *refusals) put(key refusalKey, err error, ttl time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if len(r.entries) >= refusalsKept {
		for k, e := range r.entries {
			if len(r.entries) < refusalsKept && now.Before(e.until) {
				break
			}
			delete(r.entries, k)
		}
	}
	r.entries[key] = refusalEntry{err: err, until: now.Add(ttl)}
}

// fullNotice says once that the disk is full, and once that it no longer is.
type fullNotice struct {
	log *slog.Logger

	mu   sync.Mutex // guards full
	full bool
}

// Full reports that the last blob found no room: what is fetched now is passed
// through without being kept.
func (f *Fetcher) Full() bool {
	f.once.mu.Lock()
	defer f.once.mu.Unlock()
	return f.once.full
}

func (n *fullNotice) set(full bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if full == n.full {
		return
	}
	n.full = full
	if full {
		n.log.Error("no room for blobs: they are passed through without being kept; free disk space or lower the cache size", "err", err)
	} else {
		n.log.Info("there is room for blobs again")
	}
}
