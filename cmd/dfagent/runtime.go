package main

import (
	"context"
	"fmt"
	"os"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/discovery/tracker"
	"github.com/shoalproject/shoal/pkg/runtime"
)

// runtimeBlob is a blob of the container runtime's content store, given to
// neighbours from there by the piece map that this node kept.
type runtimeBlob struct {
	*os.File
	proof *blob.PieceMap
}

func (b *runtimeBlob) Digest() blob.Digest { return b.proof.Digest }
func (b *runtimeBlob) Size() int64         { return b.proof.Size }

// Progress says that every piece is there; nothing ever changes.
func (b *runtimeBlob) Progress() (blob.Bitmap, <-chan struct{}) {
	have := blob.NewBitmap(blob.PieceCount(b.proof.Size))
	have.Fill()
	return have, nil
}

func (b *runtimeBlob) Proof() (*blob.PieceMap, []*blob.Batch, <-chan struct{}) {
	return b.proof, nil, nil
}

// runtimeContent opens a blob of the runtime when its map is known, else nil.
func (a *agent) runtimeContent(d blob.Digest) *runtimeBlob {
	if a.runtime == nil {
		return nil
	}
	proof, err := a.records.Map(d)
	if err != nil || proof == nil {
		return nil
	}
	file, err := a.runtime.OpenLocal(d)
	if err != nil {
		return nil
	}
	return &runtimeBlob{File: file, proof: proof}
}

func (a *agent) runtimeHolds(d blob.Digest) bool {
	content := a.runtimeContent(d)
	if content == nil {
		return false
	}
	content.Close()
	return true
}

func (a *agent) runtimeHoldings(ctx context.Context) ([]tracker.Held, error) {
	if a.runtime == nil {
		return nil, nil
	}
	list, err := a.runtime.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []tracker.Held
	for _, c := range list {
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("look at each blob of the container runtime: %w", err)
		}
		if a.runtimeHolds(c.Digest) {
			out = append(out, tracker.Held{Digest: c.Digest, Size: c.Size})
		}
	}
	return out, nil
}

// watchRuntime follows what the container runtime holds. A blob that it took
// over needs no second copy here: its map is kept, and the store's copy goes.
func (a *agent) watchRuntime(ctx context.Context) error {
	for e := range a.runtime.Watch(ctx) {
		if err := a.runtimeChanged(ctx, e); err != nil {
			a.log.Warn("a blob of the container runtime was not taken note of", "digest", e.Digest, "error", err)
		}
	}
	return nil
}

func (a *agent) runtimeChanged(ctx context.Context, e runtime.Event) error {
	if e.Gone {
		if err := a.records.DeleteMap(e.Digest); err != nil {
			return err
		}
		if b, err := a.store.Get(e.Digest); err == nil {
			return b.Close() // it is still given from the store
		}
		a.tell(ctx, tracker.Held{Digest: e.Digest, Size: e.Size, Gone: true})
		return nil
	}
	b, err := a.store.Get(e.Digest)
	if err != nil {
		if a.runtimeHolds(e.Digest) {
			a.tell(ctx, tracker.Held{Digest: e.Digest, Size: e.Size})
		}
		return nil //nolint:nilerr // it never came through this node: nobody vouched for its pieces
	}
	defer b.Close()
	proof, _, _ := b.Proof()
	if proof == nil || !b.Complete() {
		return nil
	}
	if err := a.records.PutMap(proof); err != nil {
		return err
	}
	if !a.runtimeHolds(e.Digest) {
		return a.records.DeleteMap(e.Digest)
	}
	return a.store.Delete(e.Digest)
}
