package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// manifestPush is a manifest on its way in.
type manifestPush struct {
	repository  string
	digest      blob.Digest
	manifest    *manifest
	body        []byte
	tags        []string
	ifMatch     string
	ifNoneMatch string
	parts       []meta.Compare // links that the manifest rests on
}

const (
	// leaseBatch bounds the leases of one commit.
	leaseBatch = 80
	// maxComparedParts bounds the links that the last commit compares again.
	// Beyond them only the leases protect, from the collection but not from
	// somebody who deletes a blob in the very moment.
	maxComparedParts = 40
)

// push takes a manifest in: everything it rests on, its bytes, its tags.
func (g *Registry) push(ctx context.Context, p *manifestPush) error {
	if err := g.requireParts(ctx, p); err != nil {
		return err
	}
	b := &stored{digest: p.digest, size: int64(len(p.body))}
	err := g.adopt(ctx, b, func(c *change) error { return g.planManifest(ctx, c, p) })
	if !errors.Is(err, errNoBytes) {
		return err
	}
	if b, err = g.storeBytes(ctx, p.digest, p.body); err != nil {
		return err
	}
	return g.adopt(ctx, b, func(c *change) error { return g.planManifest(ctx, c, p) })
}

// storeBytes makes an object of bytes at hand.
func (g *Registry) storeBytes(ctx context.Context, d blob.Digest, body []byte) (*stored, error) {
	h, err := newHasher(d.Algorithm().String())
	if err != nil {
		return nil, err
	}
	w, err := g.Objects.Create(ctx)
	if err != nil {
		return nil, err
	}
	h.Write(body) //nolint:errcheck // a hash takes every byte
	if _, err := w.Write(body); err != nil {
		return nil, errors.Join(err, w.Abort(ctx))
	}
	b, err := g.store(ctx, w, h, d)
	if err != nil {
		return nil, errors.Join(err, w.Abort(ctx))
	}
	return b, nil
}

// missingBlob is a row of the detail of MANIFEST_BLOB_UNKNOWN.
type missingBlob struct {
	Digest    blob.Digest `json:"digest"`
	MediaType string      `json:"mediaType,omitempty"`
	Size      int64       `json:"size"`
}

// requireParts sees to it that every blob an image names is in the
// repository, and stays there until the manifest is. Of an index, and of a
// subject, what is there is kept; it need not be there.
func (g *Registry) requireParts(ctx context.Context, p *manifestPush) error {
	var missing []missingBlob
	var batch leaseRun
	seen := map[blob.Digest]bool{}
	for _, part := range p.manifest.required {
		if seen[part.Digest] {
			continue
		}
		seen[part.Digest] = true
		link, linked, err := get[linkRecord](ctx, g.Meta, keyLink(p.repository, part.Digest))
		if err != nil {
			return err
		}
		if linked == 0 {
			missing = append(missing, missingBlob{part.Digest, part.MediaType, part.Size})
			continue
		}
		if link.Size != part.Size {
			return errManifest("%s has %d bytes, the manifest says %d", part.Digest, link.Size, part.Size)
		}
		compare := meta.Compare{Key: keyLink(p.repository, part.Digest), Revision: linked}
		if len(p.parts) < maxComparedParts {
			p.parts = append(p.parts, compare)
		}
		if err := g.protect(ctx, &batch, p.repository, part.Digest, compare); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return &Error{Status: http.StatusNotFound, Code: codeManifestBlobUnknown, Detail: missing,
			Message: fmt.Sprintf("the manifest names %d blobs that are not in the repository; push these first, then the manifest: %s", len(missing), listed(missing))}
	}
	for _, d := range p.manifest.optional() {
		for _, key := range []string{keyLink(p.repository, d), keyManifest(p.repository, d)} {
			v, err := g.Meta.Get(ctx, key)
			if err == nil {
				err = g.protect(ctx, &batch, p.repository, d, meta.Compare{Key: key, Revision: v.Revision})
			}
			if err != nil && !errors.Is(err, meta.ErrNotFound) {
				return err
			}
		}
	}
	return g.renew(ctx, &batch)
}

// leaseRun gathers leases for one commit.
type leaseRun struct {
	compares []meta.Compare
	leases   []meta.Op
}

// protect renews the lease of what a manifest rests on, unless it is fresh.
func (g *Registry) protect(ctx context.Context, run *leaseRun, repository string, d blob.Digest, holder meta.Compare) error {
	lease, _, err := get[leaseRecord](ctx, g.Meta, keyLease(repository, d))
	if err != nil || g.fresh(lease) {
		return err
	}
	run.compares = append(run.compares, holder)
	op := g.leaseOp(repository, d)
	if !slices.ContainsFunc(run.leases, func(other meta.Op) bool { return other.Key == op.Key }) {
		run.leases = append(run.leases, op)
	}
	if len(run.compares) < leaseBatch {
		return nil
	}
	return g.renew(ctx, run)
}

// listed names the first of what is missing.
func listed(missing []missingBlob) string {
	const most = 5
	text := ""
	for i, m := range missing {
		if i == most {
			return text + " …"
		}
		if i > 0 {
			text += ", "
		}
		text += string(m.Digest)
	}
	return text
}

func errPartDeleted() error {
	return &Error{Status: http.StatusConflict, Code: codeManifestBlobUnknown,
		Message: "something the manifest names was deleted while it was pushed; push the image again"}
}

// renew commits the leases gathered.
func (g *Registry) renew(ctx context.Context, run *leaseRun) error {
	if len(run.leases) == 0 {
		return nil
	}
	_, err := g.Meta.Commit(ctx, run.compares, run.leases)
	*run = leaseRun{}
	if errors.Is(err, meta.ErrConflict) {
		return errPartDeleted()
	}
	return err
}

// planManifest plans the manifest, its referrer entry and its tags.
func (g *Registry) planManifest(ctx context.Context, c *change, p *manifestPush) error {
	m := p.manifest
	for _, part := range p.parts {
		if err := g.stillLinked(ctx, part); err != nil {
			return err
		}
	}
	c.compares = append(c.compares, p.parts...)
	_, known, err := get[manifestRecord](ctx, g.Meta, keyManifest(p.repository, p.digest))
	if err != nil {
		return err
	}
	// Written again even when known: who deletes the manifest compares it, and
	// must notice a new tag.
	c.compare(keyManifest(p.repository, p.digest), known)
	record := manifestRecord{MediaType: m.mediaType, Size: int64(len(p.body)), ArtifactType: m.artifactType,
		Subject: m.subject, Children: m.children, Pushed: g.Now().UTC()}
	c.write(put(keyManifest(p.repository, p.digest), record))
	if known == 0 {
		c.write(meta.Put(keyHeldManifest(p.digest, p.repository), nil))
		c.held = &holding{repository: p.repository, digest: p.digest, size: record.Size}
		c.entries = append(c.entries, Entry{Kind: ManifestPut, Repository: p.repository, Digest: p.digest,
			MediaType: m.mediaType, Size: record.Size})
		if m.subject != "" {
			c.write(put(keyReferrers(p.repository, m.subject)+string(p.digest), referrerOf(p)))
		}
		if err := g.planRepository(ctx, c, p.repository); err != nil {
			return err
		}
	}
	return g.planTags(ctx, c, p, record)
}

// stillLinked tells a blob that was deleted meanwhile from mere contention.
func (g *Registry) stillLinked(ctx context.Context, part meta.Compare) error {
	_, linked, err := get[linkRecord](ctx, g.Meta, part.Key)
	if err == nil && linked != part.Revision {
		return errPartDeleted()
	}
	return err
}

func (g *Registry) planTags(ctx context.Context, c *change, p *manifestPush, record manifestRecord) error {
	type write struct {
		entry int
		tag   string
		next  tagRecord
	}
	var writes []write
	for _, tag := range p.tags {
		current, revision, err := get[tagRecord](ctx, g.Meta, keyTag(p.repository, tag))
		if err != nil {
			return err
		}
		if err := p.matchesTag(current.Digest); err != nil {
			return err
		}
		c.compare(keyTag(p.repository, tag), revision)
		if revision != 0 && current.Digest == p.digest {
			continue
		}
		if revision != 0 {
			if err := g.mayMove(ctx, p.repository, tag); err != nil {
				return err
			}
		}
		tomb, buried, err := get[tagRecord](ctx, g.Meta, keyTomb(p.repository, tag))
		if err != nil {
			return err
		}
		c.compare(keyTomb(p.repository, tag), buried)
		c.write(meta.Delete(keyTomb(p.repository, tag)))
		next := tagRecord{Digest: p.digest, MediaType: record.MediaType, Size: record.Size, Time: record.Pushed}
		next.Origin, next.Seen = g.Origin, current.seenWith(tomb.seenWith(nil))
		writes = append(writes, write{len(c.entries), tag, next})
		c.entries = append(c.entries, Entry{Kind: TagSet, Repository: p.repository, Tag: tag, Digest: p.digest,
			MediaType: record.MediaType, Size: record.Size, Seen: next.Seen})
	}
	c.stamped = func(clock func(int) Clock) []meta.Op {
		var ops []meta.Op
		for _, w := range writes {
			w.next.Clock = clock(w.entry)
			ops = append(ops, put(keyTag(p.repository, w.tag), w.next))
		}
		return ops
	}
	return nil
}
