package registry

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// Policy is what projects say about what their repositories hold. A project is
// the first path element of a repository's name.
type Policy interface {
	// Quota is how many bytes a project may hold, each digest counted once;
	// 0 is no limit.
	Quota(ctx context.Context, project string) (bytes int64, err error)
	// Immutable reports whether a tag that is set must stay as it is.
	Immutable(ctx context.Context, repository, tag string) (bool, error)
}

func keyUsage(project string) string { return "usage/" + project }
func keyCounted(project string, d blob.Digest) string {
	return "counted/" + project + within + string(d)
}

// usageRecord is what a project holds.
type usageRecord struct {
	Bytes int64 `json:"bytes"`
}

// countedRecord is a digest that a project holds, and how often: as a blob and
// as a manifest, in each of its repositories.
type countedRecord struct {
	Size  int64 `json:"size"`
	Count int   `json:"count"`
}

// holding is a link or a manifest that a change adds or takes away.
type holding struct {
	repository string
	digest     blob.Digest
	size       int64
	gone       bool
}

// account plans what a change does to its project's usage, and refuses one
// that would pass the quota. Both records are compared and written by every
// change that counts, so that no two of them can be based on the same sum.
func (g *Registry) account(ctx context.Context, h holding) (*change, error) {
	c := &change{}
	project := projectOf(h.repository)
	usage, usageRevision, err := get[usageRecord](ctx, g.Meta, keyUsage(project))
	if err != nil {
		return nil, err
	}
	counted, revision, err := get[countedRecord](ctx, g.Meta, keyCounted(project, h.digest))
	if err != nil {
		return nil, err
	}
	c.compare(keyUsage(project), usageRevision)
	c.compare(keyCounted(project, h.digest), revision)
	switch {
	case !h.gone && counted.Count == 0:
		if err := g.withinQuota(ctx, project, usage.Bytes, h.size); err != nil {
			return nil, err
		}
		counted = countedRecord{Size: h.size, Count: 1}
		usage.Bytes += h.size
	case !h.gone:
		counted.Count++
	case counted.Count > 0:
		if counted.Count--; counted.Count == 0 {
			usage.Bytes -= counted.Size
		}
	}
	c.write(putUnless(counted.Count == 0, keyCounted(project, h.digest), counted), putUnless(usage.Bytes == 0, keyUsage(project), usage))
	return c, nil
}

// putUnless is the op that writes a record, or removes it when it is empty.
func putUnless(empty bool, key string, record any) meta.Op {
	if empty {
		return meta.Delete(key)
	}
	return put(key, record)
}

func (g *Registry) withinQuota(ctx context.Context, project string, used, more int64) error {
	limit, err := g.quotaOf(ctx, project)
	if err != nil || limit == 0 || more <= limit-used {
		return err
	}
	return errQuota(project, used, limit, more)
}

// quotaOf is a project's quota; 0 is no limit.
func (g *Registry) quotaOf(ctx context.Context, project string) (int64, error) {
	if g.Policy == nil {
		return 0, nil
	}
	return g.Policy.Quota(ctx, project)
}

// errQuota tells the numbers: what is held, the quota, and what was to come.
func errQuota(project string, used, limit, more int64) error {
	text := fmt.Sprintf("the project %s holds %d of its %d bytes, and %d more do not fit; delete what is not needed and collect the garbage, or ask an administrator for a larger quota", project, used, limit, more)
	if more > limit {
		text = fmt.Sprintf("the quota of the project %s is %d bytes, and one blob has %d or more; ask an administrator for a larger quota", project, limit, more)
	}
	return &Error{Status: http.StatusForbidden, Code: codeDenied, Message: text,
		Detail: map[string]any{"project": project, "used": used, "quota": limit, "asked": more}}
}

// Usage is how many bytes a project holds, each digest counted once.
func (g *Registry) Usage(ctx context.Context, project string) (int64, error) {
	usage, _, err := get[usageRecord](ctx, g.Meta, keyUsage(project))
	return usage.Bytes, err
}

// mayMove refuses to move or delete a tag that its project wants to stay.
func (g *Registry) mayMove(ctx context.Context, repository, tag string) error {
	if g.Policy == nil {
		return nil
	}
	immutable, err := g.Policy.Immutable(ctx, repository, tag)
	if err != nil || !immutable {
		return err
	}
	return &Error{Status: http.StatusConflict, Code: codeDenied, Detail: map[string]string{"tag": tag},
		Message: "the tag " + tag + " is immutable by the settings of the project " + projectOf(repository) + ": it can be neither moved nor deleted; push under another tag"}
}

// repositoriesOf walks over the repositories of a project.
func (g *Registry) repositoriesOf(ctx context.Context, project string) ([]string, error) {
	var out []string
	for v, err := range meta.Scan(ctx, g.Meta, keyRepository(project)) {
		if err != nil {
			return nil, err
		}
		if name := strings.TrimPrefix(v.Key, keyRepository("")); projectOf(name) == project {
			out = append(out, name)
		}
	}
	return out, nil
}

// Vacate forgets the repositories of a project, with blobs that no manifest
// names, when none of them holds a manifest. Otherwise it changes nothing and
// returns how many hold some.
func (g *Registry) Vacate(ctx context.Context, project string) (holding int, err error) {
	names, err := g.repositoriesOf(ctx, project)
	if err != nil {
		return 0, fmt.Errorf("list the repositories of %s: %w", project, err)
	}
	for _, name := range names {
		page, err := g.Meta.List(ctx, keyManifest(name, ""), "", 1)
		if err != nil {
			return 0, fmt.Errorf("look for manifests in %s: %w", name, err)
		}
		if len(page) > 0 {
			holding++
		}
	}
	if holding > 0 {
		return holding, nil
	}
	for _, name := range names {
		if err := g.forgetRepository(ctx, name); err != nil {
			return 0, fmt.Errorf("forget the repository %s: %w", name, err)
		}
	}
	return 0, nil
}

func (g *Registry) forgetRepository(ctx context.Context, name string) error {
	for v, err := range meta.Scan(ctx, g.Meta, keyLink(name, "")) {
		if err != nil {
			return err
		}
		_, digest := splitWithin(v.Key)
		err = g.journal.commit(ctx, func() (*change, error) {
			link, linked, err := get[linkRecord](ctx, g.Meta, v.Key)
			if err != nil || linked == 0 {
				return &change{}, err
			}
			return unlink(name, blob.Digest(digest), link, linked), nil
		})
		if err != nil {
			return err
		}
	}
	_, err := g.Meta.Commit(ctx, nil, []meta.Op{meta.Delete(keyRepository(name))})
	return err
}

// checkCounted compares how often a project is said to hold a digest with how
// often it does.
func (g *Registry) checkCounted(ctx context.Context, v meta.Value) (string, error) {
	project, name := splitWithin(v.Key)
	var record countedRecord
	if err := decode(v, &record); err != nil {
		return err.Error(), nil
	}
	held := 0
	for _, prefix := range []string{keyHeldBlob(blob.Digest(name), project), keyHeldManifest(blob.Digest(name), project)} {
		for holder, err := range meta.Scan(ctx, g.Meta, prefix) {
			if err != nil {
				return "", err
			}
			if rest := strings.TrimPrefix(holder.Key, prefix); rest == "" || rest[0] == '/' {
				held++
			}
		}
	}
	if held != record.Count {
		return fmt.Sprintf("the project is said to hold it %d times and does %d times", record.Count, held), nil
	}
	return "", nil
}

// checkUsage adds up what a project holds.
func (g *Registry) checkUsage(ctx context.Context, v meta.Value) (string, error) {
	project := strings.TrimPrefix(v.Key, keyUsage(""))
	var record usageRecord
	if err := decode(v, &record); err != nil {
		return err.Error(), nil
	}
	sum := int64(0)
	for counted, err := range meta.Scan(ctx, g.Meta, keyCounted(project, "")) {
		var one countedRecord
		if err == nil {
			err = decode(counted, &one)
		}
		if err != nil {
			return "", err
		}
		sum += one.Size
	}
	if sum != record.Bytes {
		return fmt.Sprintf("the project %s is said to hold %d bytes and holds %d", project, record.Bytes, sum), nil
	}
	return "", nil
}
