package registry

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/retention"
)

// Retained is what a project's rules say of one tag.
type Retained struct {
	Repository string
	retention.Verdict
	// Removed says that the tag is gone now; not in a dry run, and not when
	// somebody set the tag anew meanwhile.
	Removed bool
}

// Retain applies a project's rules to its tags and gives each an account of
// what became of every one; an error of each ends it. In a dry run nothing is
// removed. A tag goes as if somebody deleted it, with its entry in the log;
// the manifests that only such tags led to go with it, and their blobs with
// the next collection.
func (g *Registry) Retain(ctx context.Context, project string, rules []retention.Rule, dry bool, each func(Retained) error) error {
	if len(rules) == 0 {
		return nil
	}
	if err := g.NotePulls(ctx); err != nil {
		return err
	}
	names, err := g.repositoriesOf(ctx, project)
	if err != nil {
		return fmt.Errorf("list the repositories of %s: %w", project, err)
	}
	for _, name := range names {
		if err := g.retainIn(ctx, name, rules, dry, each); err != nil {
			return fmt.Errorf("apply the retention rules to %s: %w", name, err)
		}
	}
	return nil
}

func (g *Registry) retainIn(ctx context.Context, repository string, rules []retention.Rule, dry bool, each func(Retained) error) error {
	tags, err := g.retentionTags(ctx, repository)
	if err != nil {
		return err
	}
	_, below, _ := strings.Cut(repository, "/")
	removed := 0
	for _, v := range retention.Decide(rules, below, tags, g.Now()) {
		r := Retained{Repository: repository, Verdict: v}
		if v.Goes && !dry {
			if r.Removed, err = g.letGo(ctx, repository, v.Tag); err != nil {
				return err
			}
			if r.Removed {
				removed++
			}
		}
		if err := each(r); err != nil {
			return err
		}
	}
	if dry {
		return nil
	}
	manifests, err := g.collectSpent(ctx, repository)
	if removed > 0 || manifests > 0 {
		g.Log.Info("retention rules removed", "repository", repository, "tags", removed, "manifests", manifests)
	}
	return err
}

// retentionTags are the tags of a repository with what a decision needs.
func (g *Registry) retentionTags(ctx context.Context, repository string) ([]retention.Tag, error) {
	var out []retention.Tag
	for tag, err := range g.Tags(ctx, repository) {
		if err != nil {
			return nil, err
		}
		one := retention.Tag{Name: tag.Name, Digest: tag.Digest}
		if one.Set, _, err = g.lastPush(ctx, repository, tag.Digest, tag.Time); err != nil {
			return nil, err
		}
		pull, _, err := get[pullRecord](ctx, g.Meta, keyPulled(repository, tag.Digest))
		if err != nil {
			return nil, err
		}
		one.Pulled = pull.Time
		if g.Policy != nil {
			if one.Immutable, err = g.Policy.Immutable(ctx, repository, tag.Name); err != nil {
				return nil, err
			}
		}
		if one.Follows, err = g.followed(ctx, repository, tag.Name); err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// lastPush is when a tag was set or the manifest that it names was pushed
// again, which leaves the tag as it is, and the revision of that manifest.
func (g *Registry) lastPush(ctx context.Context, repository string, d blob.Digest, set time.Time) (time.Time, meta.Revision, error) {
	m, known, err := get[manifestRecord](ctx, g.Meta, keyManifest(repository, d))
	if m.Pushed.After(set) {
		set = m.Pushed
	}
	return set, known, err
}

// aboutDigest is how tags are named that are about another manifest: those of
// the specification's referrers fallback, and of signatures beside an image,
// such as sha256-<hex>.sig.
var aboutDigest = regexp.MustCompile(`^(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64,})(\.[a-z]+)?$`)

// followed is the manifest that a tag is about, if the repository has it.
func (g *Registry) followed(ctx context.Context, repository, tag string) (blob.Digest, error) {
	m := aboutDigest.FindStringSubmatch(tag)
	if m == nil {
		return "", nil
	}
	d := blob.Digest(strings.Replace(m[1], "-", ":", 1))
	_, known, err := get[manifestRecord](ctx, g.Meta, keyManifest(repository, d))
	if err != nil || known == 0 {
		return "", err
	}
	return d, nil
}

// spentRecord marks a manifest that a retention rule took the tag of. A push
// after that makes it of no meaning.
type spentRecord struct {
	Since time.Time `json:"since"`
}

func keySpent(repo string, d blob.Digest) string { return "spent/" + repo + within + string(d) }

// letGo deletes a tag, unless it was set anew since the decision or became
// immutable, and marks what it named as spent in the same commit.
func (g *Registry) letGo(ctx context.Context, repository string, tag retention.Tag) (gone bool, err error) {
	err = g.journal.commit(ctx, func() (*change, error) {
		c := &change{}
		current, revision, err := get[tagRecord](ctx, g.Meta, keyTag(repository, tag.Name))
		if gone = revision != 0 && current.Digest == tag.Digest; err != nil || !gone {
			return c, err
		}
		set, known, err := g.lastPush(ctx, repository, tag.Digest, current.Time)
		if gone = set.Equal(tag.Set); err != nil || !gone {
			return c, err
		}
		c.compare(keyManifest(repository, tag.Digest), known)
		if gone, err = g.planUntag(ctx, c, repository, tag.Name, tag.Digest); err != nil || !gone {
			return c, err
		}
		c.write(put(keySpent(repository, tag.Digest), spentRecord{g.Now().UTC()}))
		return c, nil
	})
	var refused *Error
	if errors.As(err, &refused) && refused.Code == codeDenied {
		return false, nil // immutable by now
	}
	return gone && err == nil, err
}

// collectSpent deletes the manifests of a repository that are marked as spent,
// with what only they lead to. What nobody ever tagged is none of these. One
// that has a lease stays marked for the next time.
func (g *Registry) collectSpent(ctx context.Context, repository string) (deleted int, err error) {
	since := map[blob.Digest]time.Time{}
	for v, err := range meta.Scan(ctx, g.Meta, keySpent(repository, "")) {
		var mark spentRecord
		if err == nil {
			err = decode(v, &mark)
		}
		if err != nil {
			return 0, err
		}
		_, name := splitWithin(v.Key)
		since[blob.Digest(name)] = mark.Since
	}
	if len(since) == 0 {
		return 0, nil
	}
	start := g.Now()
	manifests, err := g.manifestsOf(ctx, repository)
	if err != nil {
		return 0, err
	}
	var marked, back []blob.Digest
	for d, at := range since {
		if m, here := manifests[d]; here && !m.Pushed.After(at) {
			marked = append(marked, d)
		} else {
			back = append(back, d)
		}
	}
	var tagged []blob.Digest
	for tag, err := range g.Tags(ctx, repository) {
		if err != nil {
			return 0, err
		}
		tagged = append(tagged, tag.Digest)
	}
	spent, used := spentOf(manifests, tagged, marked)
	// All are marked before the first goes: from an index that is gone, no way
	// leads to its parts.
	if err := g.mark(ctx, repository, spent, append(back, used...)); err != nil {
		return 0, err
	}
	for _, d := range spent {
		gone, err := g.collectManifest(ctx, start, repository, d, func(m manifestRecord) (bool, error) {
			if m.Pushed.After(start) {
				return true, nil
			}
			named, err := g.tagsOf(ctx, repository, d, 1)
			return len(named) > 0, err
		})
		if errors.Is(err, errHeldUp) {
			return deleted, nil
		}
		if err != nil {
			return deleted, err
		}
		if gone {
			deleted++
		}
	}
	return deleted, nil
}

// spentOf are the manifests to which a way leads from the marked ones and
// neither from a tag nor from what was never tagged, and the marked ones that
// are in use again.
func spentOf(manifests map[blob.Digest]manifestRecord, tagged, marked []blob.Digest) (spent, used []blob.Digest) {
	never := unreached(manifests, slices.Concat(tagged, marked))
	spent = unreached(manifests, slices.Concat(tagged, never))
	ends := map[blob.Digest]bool{}
	for _, d := range spent {
		ends[d] = true
	}
	for _, d := range marked {
		if !ends[d] {
			used = append(used, d)
		}
	}
	return spent, used
}

// markBatch bounds the marks that one commit writes.
const markBatch = 90

// mark marks what is spent and takes the marks off what is not.
func (g *Registry) mark(ctx context.Context, repository string, spent, not []blob.Digest) error {
	var ops []meta.Op
	now := g.Now().UTC()
	for _, d := range spent {
		ops = append(ops, put(keySpent(repository, d), spentRecord{now}))
	}
	for _, d := range not {
		ops = append(ops, meta.Delete(keySpent(repository, d)))
	}
	for len(ops) > 0 {
		n := min(len(ops), markBatch)
		if _, err := g.Meta.Commit(ctx, nil, ops[:n]); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}
