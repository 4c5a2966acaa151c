package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/objects"
)

// maxInlineMap is the encoded size in bytes up to which a piece map stands in
// the metadata; a larger one is an object.
const maxInlineMap = 64 << 10

type mismatchError struct{ error }

func (e mismatchError) Unwrap() error { return e.error }

func isDigestMismatch(err error) bool {
	var e mismatchError
	return errors.As(err, &e)
}

func errMismatch(want, got blob.Digest) error {
	return mismatchError{&Error{Status: http.StatusBadRequest, Code: codeDigestInvalid,
		Message: fmt.Sprintf("the bytes have the digest %s, not the one that was given; send them again", got),
		Detail:  map[string]string{"digest": string(want)}}}
}

// errNoBytes says that a digest was taken for known and is not, or not any more.
var errNoBytes = errors.New("the bytes are not there")

// stored is a blob whose bytes are an object, verified, and not yet known to
// the metadata. Without an object it only hopes that the digest is known.
type stored struct {
	digest    blob.Digest
	size      int64
	object    string
	pieces    []byte // the piece map; nil when it is in an object
	mapObject string
}

// finish verifies the digest of a whole upload and makes it a blob of the
// session's repository.
func (g *Registry) finish(ctx context.Context, s *session, d blob.Digest) error {
	b, err := g.store(ctx, s.writer, s.hasher, d)
	if err != nil {
		return err
	}
	return g.adopt(ctx, b, func(c *change) error {
		if err := g.planEnd(ctx, c, s); err != nil {
			return err
		}
		return g.planLink(ctx, c, s.record.Repository, d, b.size)
	})
}

// planEnd plans the end of a kept session, which must not have been cancelled.
func (g *Registry) planEnd(ctx context.Context, c *change, s *session) error {
	if s.revision == 0 {
		return nil
	}
	_, revision, err := get[uploadRecord](ctx, g.Meta, keyUpload(s.id))
	if err != nil {
		return err
	}
	if revision != s.revision {
		return errUploadUnknown()
	}
	c.compare(keyUpload(s.id), revision)
	c.write(meta.Delete(keyUpload(s.id)))
	return nil
}

// store commits an upload's bytes as an object, after they passed d.
func (g *Registry) store(ctx context.Context, w objects.Writer, h *hasher, d blob.Digest) (*stored, error) {
	algorithm := d.Algorithm().String()
	if h.algorithm == algorithm {
		if got := digestOf(algorithm, h.flat); got != d {
			return nil, errMismatch(d, got)
		}
	}
	b := &stored{digest: d, size: h.tree.Size()}
	var err error
	if b.object, err = w.Commit(ctx); err != nil {
		return nil, err
	}
	if h.algorithm != algorithm {
		err = g.rehash(ctx, b)
	}
	if err == nil {
		err = g.signMap(ctx, b, h.tree.Hashes())
	}
	if err != nil {
		return nil, errors.Join(err, g.forget(ctx, b))
	}
	return b, nil
}

// rehash reads an object again for a digest of another algorithm than the one
// that was hashed while it came.
func (g *Registry) rehash(ctx context.Context, b *stored) error {
	object, err := g.Objects.Open(ctx, b.object)
	if err != nil {
		return err
	}
	defer object.Close()
	algorithm := b.digest.Algorithm().String()
	flat, err := newFlat(algorithm)
	if err != nil {
		return err
	}
	if _, err := io.Copy(flat, io.NewSectionReader(object, 0, object.Size())); err != nil {
		return fmt.Errorf("hash an upload again: %w", err)
	}
	if got := digestOf(algorithm, flat); got != b.digest {
		return errMismatch(b.digest, got)
	}
	return nil
}

// signMap makes the piece map of verified bytes.
func (g *Registry) signMap(ctx context.Context, b *stored, hashes []blob.PieceHash) error {
	m, err := blob.NewPieceMap(b.digest, b.size, hashes, g.Sign)
	if err != nil {
		return err
	}
	raw := m.Encode()
	if len(raw) <= g.inlineMap {
		b.pieces = raw
		return nil
	}
	w, err := g.Objects.Create(ctx)
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return errors.Join(err, w.Abort(ctx))
	}
	if b.mapObject, err = w.Commit(ctx); err != nil {
		return errors.Join(err, w.Abort(ctx))
	}
	return nil
}

// mapOp is the op that keeps the piece map, or removes a former one.
func (b *stored) mapOp() meta.Op {
	if b.mapObject != "" {
		return meta.Delete(keyMap(b.digest))
	}
	return meta.Put(keyMap(b.digest), b.pieces)
}

// forget deletes the objects of a blob that the metadata never named.
func (g *Registry) forget(ctx context.Context, b *stored) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(g.Objects.Delete(ctx, b.object), g.Objects.Delete(ctx, b.mapObject))
}

// adopt commits a stored blob together with the changes that more plans. When
// the digest has an object already, that one stays and the new one goes.
func (g *Registry) adopt(ctx context.Context, b *stored, more func(*change) error) error {
	mine, tried := false, false
	err := g.journal.commit(ctx, func() (*change, error) {
		c := &change{}
		record, revision, err := get[blobRecord](ctx, g.Meta, keyBlob(b.digest))
		if err != nil {
			return nil, err
		}
		mine = revision == 0 || !g.present(ctx, record)
		if mine && b.object == "" {
			return nil, errNoBytes
		}
		if mine {
			record = blobRecord{Object: b.object, MapObject: b.mapObject, Size: b.size, Created: g.Now().UTC()}
			c.write(b.mapOp())
		}
		record.Linked = g.Now().UTC()
		c.compare(keyBlob(b.digest), revision)
		c.write(put(keyBlob(b.digest), record))
		if err := more(c); err != nil {
			return nil, err
		}
		tried = true
		return c, nil
	})
	var answered *Error
	if err == nil && !mine || err != nil && (!tried || errors.As(err, &answered)) {
		// Whoever else failed may have been committed all the same: then the
		// collection finds out whether the object has a name.
		if forgetErr := g.forget(ctx, b); forgetErr != nil {
			g.Log.Warn("registry: delete a spare object", "error", forgetErr)
		}
	}
	return err
}

// present reports whether a record's object is really there; a push heals a
// blob whose object was lost.
func (g *Registry) present(ctx context.Context, record blobRecord) bool {
	object, err := g.Objects.Open(ctx, record.Object)
	if err != nil {
		return !errors.Is(err, objects.ErrNotFound)
	}
	defer object.Close()
	return object.Size() == record.Size
}

// planLink plans that a repository holds a blob, under a new lease. The
// caller compares and writes the blob's record.
func (g *Registry) planLink(ctx context.Context, c *change, repo string, d blob.Digest, size int64) error {
	_, linked, err := get[linkRecord](ctx, g.Meta, keyLink(repo, d))
	if err != nil {
		return err
	}
	c.compare(keyLink(repo, d), linked)
	c.write(g.leaseOp(repo, d))
	if linked != 0 {
		return nil
	}
	c.write(put(keyLink(repo, d), linkRecord{Size: size, Linked: g.Now().UTC()}), meta.Put(keyHeldBlob(d, repo), nil))
	c.entries = append(c.entries, linkEntry(BlobLinked, repo, d, size))
	c.held = &holding{repository: repo, digest: d, size: size}
	return g.planRepository(ctx, c, repo)
}

type repositoryRecord struct {
	Created time.Time `json:"created"`
}

// planRepository plans that the repository is listed.
func (g *Registry) planRepository(ctx context.Context, c *change, repo string) error {
	_, known, err := get[repositoryRecord](ctx, g.Meta, keyRepository(repo))
	if err == nil && known == 0 {
		c.write(put(keyRepository(repo), repositoryRecord{Created: g.Now().UTC()}))
	}
	return err
}
