package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
)

// ErrNotHeld is what Content wraps for a digest that no repository holds.
var ErrNotHeld = fmt.Errorf("the registry does not hold this digest: %w", blob.ErrNotHeld)

// Content is a whole blob for the swarm's seed: every piece is there.
type Content struct {
	digest blob.Digest
	object objects.Object
	proof  func() *blob.PieceMap
}

// never is the change that a whole blob waits for in vain.
var never = make(chan struct{})

// Content opens a blob or manifest by its digest, whoever holds it: the
// caller must have checked that the asker may read a repository that does
// (HoldersOf). Close it.
func (g *Registry) Content(ctx context.Context, d blob.Digest) (*Content, error) {
	object, err := g.open(ctx, d)
	if errors.Is(err, objects.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNotHeld, d)
	}
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // a proof may be asked for as long as it is open
	return &Content{digest: d, object: object, proof: sync.OnceValue(func() *blob.PieceMap {
		m, err := g.PieceMap(ctx, d)
		if err != nil {
			g.Log.Error("registry: read piece map", "digest", d, "error", err)
		}
		return m
	})}, nil
}

// PieceMap is the signed piece map of a held digest.
func (g *Registry) PieceMap(ctx context.Context, d blob.Digest) (*blob.PieceMap, error) {
	raw, err := g.encodedMap(ctx, d)
	if errors.Is(err, meta.ErrNotFound) || errors.Is(err, objects.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNotHeld, d)
	}
	if err != nil {
		return nil, fmt.Errorf("read piece map of %s: %w", d, err)
	}
	m, err := blob.DecodePieceMap(raw)
	if err != nil {
		return nil, fmt.Errorf("piece map of %s: %w", d, err)
	}
	return m, nil
}

func (g *Registry) encodedMap(ctx context.Context, d blob.Digest) ([]byte, error) {
	record, _, err := get[blobRecord](ctx, g.Meta, keyBlob(d))
	if err != nil {
		return nil, err
	}
	if record.MapObject != "" {
		return g.readObject(ctx, record.MapObject)
	}
	v, err := g.Meta.Get(ctx, keyMap(d))
	return v.Data, err
}

func (g *Registry) readObject(ctx context.Context, key string) ([]byte, error) {
	object, err := g.Objects.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	return io.ReadAll(io.NewSectionReader(object, 0, object.Size()))
}

// Digest is the blob's digest.
func (c *Content) Digest() blob.Digest { return c.digest }

// Size is the blob's size in bytes.
func (c *Content) Size() int64 { return c.object.Size() }

// Progress is every piece; the channel never closes.
func (c *Content) Progress() (blob.Bitmap, <-chan struct{}) {
	have := blob.NewBitmap(blob.PieceCount(c.Size()))
	have.Fill()
	return have, never
}

// ReadAt reads the blob's bytes.
func (c *Content) ReadAt(p []byte, off int64) (int, error) { return c.object.ReadAt(p, off) }

// Proof is the signed piece map, or nil when it can't be read.
func (c *Content) Proof() (*blob.PieceMap, []*blob.Batch, <-chan struct{}) {
	return c.proof(), nil, never
}

// Close lets the blob go.
func (c *Content) Close() error { return c.object.Close() }

// Holds reports whether a repository holds a digest, as a blob or a manifest.
func (g *Registry) Holds(ctx context.Context, repository string, d blob.Digest) (bool, error) {
	for _, key := range []string{keyLink(repository, d), keyManifest(repository, d)} {
		_, err := g.Meta.Get(ctx, key)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, meta.ErrNotFound) {
			return false, fmt.Errorf("look for %s in %s: %w", d, repository, err)
		}
	}
	return false, nil
}
