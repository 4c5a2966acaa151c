package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// GCReport counts what a collection took away.
type GCReport struct {
	Uploads   int   // sessions and half-written objects that rested too long
	Manifests int   // untagged manifests (Config.UntaggedTTL, Retain)
	Links     int   // blobs that a repository held for nothing
	Blobs     int   // digests that no repository holds any more
	Objects   int   // objects deleted
	Bytes     int64 // of the blobs whose objects will be deleted
	Entries   int   // log entries past their retention
}

// GC collects garbage while pushes and pulls go on. What it decides is
// committed only if nothing that the decision rests on changed meanwhile; a
// decision that is overtaken is left for the next collection. See the package
// comment for what stays.
func (g *Registry) GC(ctx context.Context) (GCReport, error) {
	g.gc.Lock()
	defer g.gc.Unlock()
	var report GCReport
	steps := []struct {
		what string
		run  func(context.Context, *GCReport) error
	}{
		{"uploads", g.collectUploads},
		{"repositories", g.collectRepositories},
		{"blobs", g.collectBlobs},
		{"trash", g.emptyTrash},
		{"orphans", g.collectOrphans},
		{"leases and tombstones", g.collectExpired},
		{"pulls", func(ctx context.Context, _ *GCReport) error { return g.forgetPulls(ctx) }},
		{"log", g.trimLog},
	}
	for _, step := range steps {
		if err := step.run(ctx, &report); err != nil {
			return report, fmt.Errorf("collect garbage (%s): %w", step.what, err)
		}
	}
	g.Log.Info("garbage collected", "links", report.Links, "blobs", report.Blobs, "bytes", report.Bytes,
		"objects", report.Objects, "manifests", report.Manifests, "uploads", report.Uploads)
	return report, nil
}

// unlessOvertaken makes a conflict no error: the next collection looks again.
func unlessOvertaken(err error) (bool, error) {
	if errors.Is(err, meta.ErrConflict) {
		return true, nil
	}
	return err != nil, err
}

func (g *Registry) collectRepositories(ctx context.Context, report *GCReport) error {
	for repository, err := range g.Repositories(ctx) {
		if err != nil {
			return err
		}
		if g.UntaggedTTL > 0 {
			if err := g.collectUntagged(ctx, repository.Name, report); err != nil {
				return err
			}
		}
		spent, err := g.collectSpent(ctx, repository.Name)
		if err != nil {
			return err
		}
		report.Manifests += spent
		if err := g.collectLinks(ctx, repository.Name, report); err != nil {
			return err
		}
	}
	return nil
}

// collectLinks unlinks the blobs that no manifest of the repository names and
// no lease protects. A manifest that is put after its record was passed by
// here has leases that outlive the start of this by half of Config.Lease.
// Hence leases count as of the start, and a collection that was held up for
// long, by a sleeping machine say, gives up.
func (g *Registry) collectLinks(ctx context.Context, repository string, report *GCReport) error {
	start := g.Now()
	named := map[blob.Digest]bool{}
	for v, err := range meta.Scan(ctx, g.Meta, keyManifest(repository, "")) {
		var record manifestRecord
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return err
		}
		for _, child := range record.Children {
			named[child] = true
		}
	}
	for v, err := range meta.Scan(ctx, g.Meta, keyLink(repository, "")) {
		var link linkRecord
		if err == nil {
			err = decode(v, &link)
		}
		if err != nil {
			return err
		}
		_, name := splitWithin(v.Key)
		if named[blob.Digest(name)] {
			continue
		}
		skip, err := unlessOvertaken(g.collectLink(ctx, start, repository, blob.Digest(name), link, v.Revision))
		if errors.Is(err, errHeldUp) {
			return nil
		}
		if err != nil {
			return err
		}
		if !skip {
			report.Links++
		}
	}
	return nil
}

var errHeldUp = errors.New("the collection was held up")

// leaseAsOf reads a lease and whether it ran at start. It gives errHeldUp when
// what was looked at since start is too old to go by.
func (g *Registry) leaseAsOf(ctx context.Context, start time.Time, repository string, d blob.Digest) (ran bool, revision meta.Revision, err error) {
	lease, revision, err := get[leaseRecord](ctx, g.Meta, keyLease(repository, d))
	if err == nil && g.Now().Sub(start) > g.Lease/4 {
		g.Log.Warn("registry: a collection was held up and leaves the rest for the next", "repository", repository, "since", start)
		err = errHeldUp
	}
	return lease.Until.After(start), revision, err
}

// collectLink removes a link, or gives meta.ErrConflict when it had a lease
// at the start.
func (g *Registry) collectLink(ctx context.Context, start time.Time, repository string, d blob.Digest, link linkRecord, revision meta.Revision) error {
	return g.journal.try(ctx, func() (*change, error) {
		ran, leased, err := g.leaseAsOf(ctx, start, repository, d)
		if err != nil {
			return nil, err
		}
		if ran {
			return nil, meta.ErrConflict
		}
		c := unlink(repository, d, link, revision)
		c.compare(keyLease(repository, d), leased)
		return c, nil
	})
}

// collectUntagged deletes the old manifests that nothing leads to: no tag, no
// index, and no subject that stays.
func (g *Registry) collectUntagged(ctx context.Context, repository string, report *GCReport) error {
	start := g.Now()
	manifests, err := g.manifestsOf(ctx, repository)
	if err != nil {
		return err
	}
	var roots []blob.Digest
	for tag, err := range g.Tags(ctx, repository) {
		if err != nil {
			return err
		}
		roots = append(roots, tag.Digest)
	}
	before := start.Add(-g.UntaggedTTL)
	old := func(m manifestRecord) bool { return m.Pushed.Before(before) }
	for d, m := range manifests {
		if !old(m) {
			roots = append(roots, d)
		}
	}
	for _, d := range unreached(manifests, roots) {
		deleted, err := g.collectManifest(ctx, start, repository, d, func(m manifestRecord) (bool, error) { return !old(m), nil })
		if errors.Is(err, errHeldUp) {
			return nil
		}
		if err != nil {
			return err
		}
		if deleted {
			report.Manifests++
		}
	}
	return nil
}

// manifestsOf are all manifests of a repository.
func (g *Registry) manifestsOf(ctx context.Context, repository string) (map[blob.Digest]manifestRecord, error) {
	manifests := map[blob.Digest]manifestRecord{}
	for v, err := range meta.Scan(ctx, g.Meta, keyManifest(repository, "")) {
		var record manifestRecord
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return nil, err
		}
		_, name := splitWithin(v.Key)
		manifests[blob.Digest(name)] = record
	}
	return manifests, nil
}

// collectManifest deletes a manifest to which no way led at start, unless it
// had a lease then or spared says so now. Its error may be errHeldUp.
func (g *Registry) collectManifest(ctx context.Context, start time.Time, repository string, d blob.Digest, spared func(manifestRecord) (bool, error)) (deleted bool, err error) {
	err = g.journal.try(ctx, func() (*change, error) {
		ran, leased, err := g.leaseAsOf(ctx, start, repository, d)
		if err != nil {
			return nil, err
		}
		c, done, err := g.planDelete(ctx, repository, d, func(m manifestRecord) (bool, error) {
			if ran {
				return true, nil
			}
			return spared(m)
		})
		if err != nil {
			return nil, err
		}
		c.compare(keyLease(repository, d), leased)
		deleted = done && len(c.ops) > 0
		return c, nil
	})
	if isNotFound(err) {
		return false, nil
	}
	skip, err := unlessOvertaken(err)
	return deleted && !skip && err == nil, err
}

// unreached are the manifests to which no way leads from the roots: from an
// index to what it names, and from a subject to its referrers.
func unreached(manifests map[blob.Digest]manifestRecord, roots []blob.Digest) []blob.Digest {
	referrers := map[blob.Digest][]blob.Digest{}
	for d, m := range manifests {
		if m.Subject != "" {
			referrers[m.Subject] = append(referrers[m.Subject], d)
		}
	}
	reached := map[blob.Digest]bool{}
	for len(roots) > 0 {
		d := roots[len(roots)-1]
		roots = roots[:len(roots)-1]
		m, here := manifests[d]
		if !here || reached[d] {
			continue
		}
		reached[d] = true
		roots = append(append(roots, m.Children...), referrers[d]...)
	}
	var out []blob.Digest
	for d := range manifests {
		if !reached[d] {
			out = append(out, d)
		}
	}
	return out
}

// collectBlobs forgets the digests that no repository holds. A link that is
// made meanwhile writes the blob's record, which is compared.
func (g *Registry) collectBlobs(ctx context.Context, report *GCReport) error {
	due := g.Now().Add(g.DeleteDelay)
	for v, err := range meta.Scan(ctx, g.Meta, keyBlob("")) {
		var record blobRecord
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return err
		}
		d := blob.Digest(strings.TrimPrefix(v.Key, keyBlob("")))
		holders, err := g.HoldersOf(ctx, d, 1)
		if err != nil {
			return err
		}
		if len(holders) > 0 {
			continue
		}
		ops := []meta.Op{meta.Delete(v.Key), meta.Delete(keyMap(d)), meta.Put(keyTrash(due, record.Object), nil)}
		if record.MapObject != "" {
			ops = append(ops, meta.Put(keyTrash(due, record.MapObject), nil))
		}
		_, err = g.Meta.Commit(ctx, []meta.Compare{{Key: v.Key, Revision: v.Revision}}, ops)
		if skip, err := unlessOvertaken(err); err != nil {
			return err
		} else if !skip {
			report.Blobs++
			report.Bytes += record.Size
		}
	}
	return nil
}

// emptyTrash deletes the objects whose delay is over.
func (g *Registry) emptyTrash(ctx context.Context, report *GCReport) error {
	end := keyTrash(g.Now().Add(time.Nanosecond), "")
	for v, err := range meta.Scan(ctx, g.Meta, "trash/") {
		if err != nil {
			return err
		}
		if v.Key >= end {
			return nil
		}
		if err := g.Objects.Delete(ctx, v.Key[strings.LastIndexByte(v.Key, '/')+1:]); err != nil {
			return err
		}
		if _, err := g.Meta.Commit(ctx, nil, []meta.Op{meta.Delete(v.Key)}); err != nil {
			return err
		}
		report.Objects++
	}
	return nil
}

// collectOrphans deletes objects that no record names: a crash came between
// the object and the record. Only old ones, since a push makes the object first.
func (g *Registry) collectOrphans(ctx context.Context, report *GCReport) error {
	before := g.Now().Add(-g.UploadTTL)
	known, err := g.knownObjects(ctx)
	if err != nil {
		return err
	}
	const pageSize = 1000
	for after := ""; ; {
		infos, err := g.Objects.List(ctx, after, pageSize)
		if err != nil {
			return err
		}
		for _, info := range infos {
			after = info.Key
			if known[info.Key] || info.Modified.After(before) {
				continue
			}
			if err := g.Objects.Delete(ctx, info.Key); err != nil {
				return err
			}
			report.Objects++
			report.Bytes += info.Size
		}
		if len(infos) < pageSize {
			return nil
		}
	}
}

// knownObjects are the keys of all objects that a record names.
func (g *Registry) knownObjects(ctx context.Context) (map[string]bool, error) {
	known := map[string]bool{}
	for v, err := range meta.Scan(ctx, g.Meta, keyBlob("")) {
		var record blobRecord
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return nil, err
		}
		known[record.Object], known[record.MapObject] = true, true
	}
	for v, err := range meta.Scan(ctx, g.Meta, "trash/") {
		if err != nil {
			return nil, err
		}
		known[v.Key[strings.LastIndexByte(v.Key, '/')+1:]] = true
	}
	return known, nil
}

// collectExpired removes the leases that ran out, and the tombstones that are
// past the log's retention as the deletion itself is.
func (g *Registry) collectExpired(ctx context.Context, _ *GCReport) error {
	now := g.Now()
	return errors.Join(
		collectIf(ctx, g, "lease/", func(lease leaseRecord) bool { return !lease.Until.After(now) }),
		collectIf(ctx, g, "tomb/", func(tomb tagRecord) bool { return tomb.Time.Before(now.Add(-g.LogRetention)) }))
}

// collectIf removes the records below a prefix that are over.
func collectIf[T any](ctx context.Context, g *Registry, prefix string, over func(T) bool) error {
	for v, err := range meta.Scan(ctx, g.Meta, prefix) {
		var record T
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return err
		}
		if !over(record) {
			continue
		}
		_, err = g.Meta.Commit(ctx, []meta.Compare{{Key: v.Key, Revision: v.Revision}}, []meta.Op{meta.Delete(v.Key)})
		if _, err := unlessOvertaken(err); err != nil {
			return err
		}
	}
	return nil
}

// trimLog drops log entries past their retention.
func (g *Registry) trimLog(ctx context.Context, report *GCReport) error {
	for {
		n, err := g.journal.trim(ctx, g.Now().Add(-g.LogRetention))
		report.Entries += n
		if skip, err := unlessOvertaken(err); skip || err != nil || n == 0 {
			return err
		}
	}
}
