package registry

import (
	"context"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// deleteBatch bounds the tags that one commit takes away.
const deleteBatch = 20

func (g *Registry) deleteTag(ctx context.Context, repository, tag string) error {
	return g.journal.commit(ctx, func() (*change, error) {
		c := &change{}
		found, err := g.planUntag(ctx, c, repository, tag, "")
		if err == nil && !found {
			err = errManifestUnknown(tag)
		}
		return c, err
	})
}

// planUntag plans that a tag goes and a tombstone stays. When only is set, a
// tag that names something else is left alone.
func (g *Registry) planUntag(ctx context.Context, c *change, repository, tag string, only blob.Digest) (bool, error) {
	current, revision, err := get[tagRecord](ctx, g.Meta, keyTag(repository, tag))
	if err != nil || revision == 0 || only != "" && current.Digest != only {
		return false, err
	}
	if err := g.mayMove(ctx, repository, tag); err != nil {
		return false, err
	}
	c.compare(keyTag(repository, tag), revision)
	c.write(meta.Delete(keyTag(repository, tag)))
	tomb := tagRecord{Time: g.Now().UTC(), version: version{Origin: g.Origin, Seen: current.seenWith(nil)}}
	entry := len(c.entries)
	c.entries = append(c.entries, Entry{Kind: TagDeleted, Repository: repository, Tag: tag, Digest: current.Digest, Seen: tomb.Seen})
	before := c.stamped
	c.stamped = func(clock func(int) Clock) []meta.Op {
		var ops []meta.Op
		if before != nil {
			ops = before(clock)
		}
		tomb.Clock = clock(entry)
		return append(ops, put(keyTomb(repository, tag), tomb))
	}
	return true, nil
}

// deleteManifest takes the tags that name a manifest away, then it.
func (g *Registry) deleteManifest(ctx context.Context, repository string, d blob.Digest) error {
	// With many tags it takes several commits: none is made when one tag stays.
	for tag, err := range g.Tags(ctx, repository) {
		if err == nil && tag.Digest == d {
			err = g.mayMove(ctx, repository, tag.Name)
		}
		if err != nil {
			return err
		}
	}
	for {
		done := false
		err := g.journal.commit(ctx, func() (c *change, err error) {
			c, done, err = g.planDelete(ctx, repository, d, nil)
			return c, err
		})
		if done || err != nil {
			return err
		}
	}
}

// planDelete plans the removal of a manifest, or of the first of its tags
// when these are too many for one commit: then done is false. unless may
// call the removal off after it saw the record.
func (g *Registry) planDelete(ctx context.Context, repository string, d blob.Digest, unless func(manifestRecord) (bool, error)) (c *change, done bool, err error) {
	c = &change{}
	record, known, err := get[manifestRecord](ctx, g.Meta, keyManifest(repository, d))
	if err != nil {
		return nil, false, err
	}
	if known == 0 {
		return nil, false, errManifestUnknown(string(d))
	}
	if unless != nil {
		if off, err := unless(record); off || err != nil {
			return c, true, err
		}
	}
	// A tag that is set from here on writes the manifest's record.
	c.compare(keyManifest(repository, d), known)
	tags, err := g.tagsOf(ctx, repository, d, deleteBatch+1)
	if err != nil {
		return nil, false, err
	}
	for _, tag := range tags[:min(len(tags), deleteBatch)] {
		if _, err := g.planUntag(ctx, c, repository, tag, d); err != nil {
			return nil, false, err
		}
	}
	if len(tags) > deleteBatch {
		return c, false, nil
	}
	c.held = &holding{repository: repository, digest: d, size: record.Size, gone: true}
	c.write(meta.Delete(keyManifest(repository, d)), meta.Delete(keyHeldManifest(d, repository)),
		meta.Delete(keyPulled(repository, d)), meta.Delete(keySpent(repository, d)))
	if record.Subject != "" {
		c.write(meta.Delete(keyReferrers(repository, record.Subject) + string(d)))
	}
	c.entries = append(c.entries, Entry{Kind: ManifestDeleted, Repository: repository, Digest: d, MediaType: record.MediaType, Size: record.Size})
	return c, true, nil
}
