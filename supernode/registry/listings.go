package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// maxPage bounds the entries of one answer.
const maxPage = 1000

// page is what a listing asks for.
type page struct {
	size int
	last string
}

func parsePage(query url.Values) (page, error) {
	p := page{size: maxPage, last: query.Get("last")}
	if raw := query.Get("n"); raw != "" {
		n, err := strconv.Atoi(raw)
		if err != nil || n < 0 {
			return p, &Error{Status: http.StatusBadRequest, Code: codePaginationInvalid,
				Message: fmt.Sprintf("n must be a number from 0 on, at most %d are answered at once", maxPage)}
		}
		p.size = min(n, maxPage)
	}
	return p, nil
}

// list reads a page of names below a prefix, and whether more follow.
func (g *Registry) list(ctx context.Context, prefix string, p page) (names []string, more bool, err error) {
	if p.size == 0 {
		return nil, false, nil
	}
	from := prefix
	if p.last != "" {
		from = prefix + p.last + "\x00"
	}
	for v, err := range meta.ScanFrom(ctx, g.Meta, prefix, from) {
		if err != nil {
			return nil, false, err
		}
		if len(names) == p.size {
			return names, true, nil
		}
		names = append(names, strings.TrimPrefix(v.Key, prefix))
	}
	return names, false, nil
}

// next sets the Link header to the page behind last.
func next(w http.ResponseWriter, path string, query url.Values, last string, n int) {
	query.Set("last", last)
	query.Set("n", strconv.Itoa(n))
	w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", path, query.Encode()))
}

func writeJSON(w http.ResponseWriter, mediaType string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, err = w.Write(body)
	return clientGone(err)
}

// errRepositoryUnknown is for who may read the repository, were it there.
func errRepositoryUnknown(repository string) error {
	return &Error{Status: http.StatusNotFound, Code: codeNameUnknown,
		Message: "nothing was pushed to this repository yet", Detail: map[string]string{"name": repository}}
}

func (g *Registry) listTags(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	p, err := parsePage(query)
	if err != nil {
		return err
	}
	_, known, err := get[repositoryRecord](q.Context(), g.Meta, keyRepository(q.repository))
	if err != nil {
		return err
	}
	if known == 0 {
		return errRepositoryUnknown(q.repository)
	}
	names, more, err := g.list(q.Context(), keyTag(q.repository, ""), p)
	if err != nil {
		return err
	}
	if more {
		next(w, "/v2/"+q.repository+"/tags/list", url.Values{}, names[len(names)-1], p.size)
	}
	return writeJSON(w, "application/json", map[string]any{"name": q.repository, "tags": orEmpty(names)})
}

func (g *Registry) catalog(w http.ResponseWriter, q *request) error {
	p, err := parsePage(q.URL.Query())
	if err != nil {
		return err
	}
	readable, err := g.Auth.Readable(q.Context(), q.subject)
	if err != nil {
		return authError(err)
	}
	names, more, err := g.listReadable(q.Context(), p, readable)
	if err != nil {
		return err
	}
	if more {
		next(w, "/v2/_catalog", url.Values{}, names[len(names)-1], p.size)
	}
	return writeJSON(w, "application/json", map[string]any{"repositories": orEmpty(names)})
}

// listReadable reads a page of the repositories that pass readable, and
// whether more of these follow. What lies in a project that does not is
// stepped over as one.
func (g *Registry) listReadable(ctx context.Context, p page, readable func(string) (bool, error)) (names []string, more bool, err error) {
	prefix := keyRepository("")
	from := prefix
	if p.last != "" {
		from += p.last + "\x00"
	}
	for p.size > 0 {
		values, err := g.Meta.List(ctx, prefix, from, p.size+1)
		if err != nil {
			return nil, false, fmt.Errorf("list repositories: %w", err)
		}
		if len(values) == 0 {
			break
		}
		for _, v := range values {
			name := strings.TrimPrefix(v.Key, prefix)
			from = max(from, v.Key+"\x00")
			if v.Key+"\x00" != from {
				continue // within what is stepped over
			}
			may, err := readable(name)
			switch {
			case err != nil:
				return nil, false, err
			case may && len(names) == p.size:
				return names, true, nil
			case may:
				names = append(names, name)
			case strings.Contains(name, "/"):
				from = keyRepository(projectOf(name)) + "0" // the sign after the slash
			}
		}
	}
	return names, false, nil
}

// projectOf is the first path element of a repository's name: the project
// that it counts for.
func projectOf(repository string) string {
	name, _, _ := strings.Cut(repository, "/")
	return name
}

func orEmpty(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

// Repository is a row of Repositories.
type Repository struct {
	Name    string
	Created time.Time
}

// Repositories walks over all repositories by name.
func (g *Registry) Repositories(ctx context.Context) iter.Seq2[Repository, error] {
	return func(yield func(Repository, error) bool) {
		for v, err := range meta.Scan(ctx, g.Meta, keyRepository("")) {
			var record repositoryRecord
			if err == nil {
				err = decode(v, &record)
			}
			out := Repository{Name: strings.TrimPrefix(v.Key, keyRepository("")), Created: record.Created}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

// Tag is a row of Tags.
type Tag struct {
	Name      string
	Digest    blob.Digest
	MediaType string
	Size      int64 // of the manifest, bytes
	Time      time.Time
	Origin    string
}

// Tags walks over the tags of a repository by name.
func (g *Registry) Tags(ctx context.Context, repository string) iter.Seq2[Tag, error] {
	return func(yield func(Tag, error) bool) {
		for v, err := range meta.Scan(ctx, g.Meta, keyTag(repository, "")) {
			var record tagRecord
			if err == nil {
				err = decode(v, &record)
			}
			_, name := splitWithin(v.Key)
			out := Tag{Name: name, Digest: record.Digest, MediaType: record.MediaType, Size: record.Size, Time: record.Time, Origin: record.Origin}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

// HoldersOf lists repositories that hold a digest, as a blob or a manifest;
// at most limit. Who may read one of them may have the bytes.
func (g *Registry) HoldersOf(ctx context.Context, d blob.Digest, limit int) ([]string, error) {
	prefix := "held/" + string(d) + "/"
	values, err := g.Meta.List(ctx, prefix, "", limit)
	if err != nil {
		return nil, fmt.Errorf("list who holds %s: %w", d, err)
	}
	var out []string
	for _, v := range values {
		_, repository, _ := strings.Cut(strings.TrimPrefix(v.Key, prefix), "/")
		out = append(out, repository)
	}
	return out, nil
}
