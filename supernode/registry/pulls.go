package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

const (
	// maxPulls bounds the pulls that wait to be written.
	maxPulls = 10_000
	// pullsBatch bounds the pulls that one commit writes.
	pullsBatch = 90
	// pullsApart is how much newer a pull must be than the one that is written
	// to be worth a write: rules count in days.
	pullsApart = time.Hour
)

// pulled is a manifest of a repository.
type pulled struct {
	repository string
	digest     blob.Digest
}

// pulls remembers which manifests were asked for, until NotePulls writes it
// down. A crash loses the last of them.
type pulls struct {
	mu   sync.Mutex
	last map[pulled]time.Time // guarded by mu
}

// pullRecord is when a manifest was last pulled, as far as the registry saw it.
type pullRecord struct {
	Time time.Time `json:"time"`
}

func keyPulled(repo string, d blob.Digest) string { return "pulled/" + repo + within + string(d) }

// note remembers a pull. full says that it is time to write them down.
func (p *pulls) note(repository string, d blob.Digest, now time.Time) (full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[pulled]time.Time{}
	}
	p.last[pulled{repository, d}] = now
	return len(p.last) >= maxPulls
}

func (p *pulls) take() map[pulled]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.last
	p.last = nil
	return out
}

// notePull remembers that a manifest was asked for.
func (g *Registry) notePull(ctx context.Context, repository string, d blob.Digest) {
	if g.pulls.note(repository, d, g.Now()) {
		if err := g.NotePulls(ctx); err != nil {
			g.Log.Error("registry: when images were last pulled was not written", "error", err)
		}
	}
}

// NotePulls writes down what was pulled since it was last called. Call it now
// and then, and at the end.
func (g *Registry) NotePulls(ctx context.Context) error {
	var ops []meta.Op
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		_, err := g.Meta.Commit(ctx, nil, ops)
		ops = nil
		if err != nil {
			return fmt.Errorf("note what was pulled: %w", err)
		}
		return nil
	}
	for p, at := range g.pulls.take() {
		before, _, err := get[pullRecord](ctx, g.Meta, keyPulled(p.repository, p.digest))
		if err != nil {
			return err
		}
		if at.Sub(before.Time) < pullsApart {
			continue
		}
		if ops = append(ops, put(keyPulled(p.repository, p.digest), pullRecord{Time: at.UTC()})); len(ops) < pullsBatch {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return flush()
}

// forgetPulls removes what was noted about manifests that are gone.
func (g *Registry) forgetPulls(ctx context.Context) error {
	for v, err := range meta.Scan(ctx, g.Meta, "pulled/") {
		if err != nil {
			return err
		}
		repository, name := splitWithin(v.Key)
		_, known, err := get[manifestRecord](ctx, g.Meta, keyManifest(repository, blob.Digest(name)))
		if err != nil {
			return err
		}
		if known != 0 {
			continue
		}
		if _, err := g.Meta.Commit(ctx, nil, []meta.Op{meta.Delete(v.Key)}); err != nil {
			return err
		}
	}
	return nil
}
