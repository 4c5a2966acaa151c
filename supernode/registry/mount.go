package registry

import (
	"context"
	"net/http"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

// maxMountSources bounds the repositories that are tried for a mount that
// names none.
const maxMountSources = 50

// mount links a blob of another repository, one that the caller may pull
// from. That it can't is no error: the client pushes instead.
func (g *Registry) mount(q *request, d blob.Digest, from string) (bool, error) {
	ctx := q.Context()
	if err := g.lease(ctx, q.repository, d); !isNotFound(err) {
		return err == nil, err // there already
	}
	if from != "" {
		if CheckRepository(from) != nil {
			return false, nil
		}
		return g.mountFrom(ctx, q.Request, q.repository, d, from)
	}
	prefix := keyHeldBlob(d, "")
	holders, err := g.Meta.List(ctx, prefix, "", maxMountSources)
	if err != nil {
		return false, err
	}
	for _, holder := range holders {
		mounted, err := g.mountFrom(ctx, q.Request, q.repository, d, strings.TrimPrefix(holder.Key, prefix))
		if mounted || err != nil {
			return mounted, err
		}
	}
	return false, nil
}

func (g *Registry) mountFrom(ctx context.Context, r *http.Request, to string, d blob.Digest, from string) (bool, error) {
	if _, err := g.Auth.Authorize(r, from, "pull"); err != nil {
		return false, nil //nolint:nilerr // who may not read it learns nothing: they push
	}
	mounted := false
	err := g.journal.commit(ctx, func() (*change, error) {
		c := &change{}
		_, linked, err := get[linkRecord](ctx, g.Meta, keyLink(from, d))
		if err != nil {
			return nil, err
		}
		record, revision, err := get[blobRecord](ctx, g.Meta, keyBlob(d))
		if err != nil {
			return nil, err
		}
		if mounted = linked != 0 && revision != 0; !mounted {
			return c, nil
		}
		record.Linked = g.Now().UTC()
		c.compare(keyLink(from, d), linked)
		c.compare(keyBlob(d), revision)
		c.write(put(keyBlob(d), record))
		return c, g.planLink(ctx, c, to, d, record.Size)
	})
	return mounted && err == nil, err
}
