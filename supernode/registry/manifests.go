package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/objects"
)

// Headers by which an agent asks for a signed tag record, and gets it.
const (
	HeaderWantTagRecord = "Shoal-Want-Tag-Record"
	HeaderTagRecord     = "Shoal-Tag-Record"
)

func errManifestUnknown(reference string) error {
	return &Error{Status: http.StatusNotFound, Code: codeManifestUnknown,
		Message: "the repository has no such manifest; look at its tags, or push it", Detail: map[string]string{"reference": reference}}
}

// reference is the tag or digest that the request names.
func (q *request) reference() string {
	if q.tag != "" {
		return q.tag
	}
	return string(q.digest)
}

// getManifest serves GET and HEAD of a manifest.
func (g *Registry) getManifest(w http.ResponseWriter, q *request) error {
	ctx := q.Context()
	d := q.digest
	if q.tag != "" {
		tag, found, err := get[tagRecord](ctx, g.Meta, keyTag(q.repository, q.tag))
		if err != nil {
			return err
		}
		if found == 0 {
			return errManifestUnknown(q.tag)
		}
		d = tag.Digest
		if err := g.attachTagRecord(w, q, q.tag, tag); err != nil {
			return err
		}
	}
	record, found, err := get[manifestRecord](ctx, g.Meta, keyManifest(q.repository, d))
	if err != nil {
		return err
	}
	if found == 0 {
		return errManifestUnknown(q.reference())
	}
	g.notePull(ctx, q.repository, d)
	// The same statement about the digest: this repository has it.
	if err := g.attachTagRecord(w, q, string(d), tagRecord{Digest: d, MediaType: record.MediaType, Size: record.Size}); err != nil {
		return err
	}
	if q.Method == http.MethodHead {
		return serveContent(w, q.Request, d, record.MediaType, record.Size, nil)
	}
	object, err := g.open(ctx, d)
	if errors.Is(err, objects.ErrNotFound) {
		return errManifestUnknown(q.reference())
	}
	if err != nil {
		return err
	}
	defer object.Close()
	return serveContent(w, q.Request, d, record.MediaType, object.Size(), func(r blob.Range) error {
		return sendObject(w, object, r)
	})
}

func (g *Registry) attachTagRecord(w http.ResponseWriter, q *request, name string, tag tagRecord) error {
	if q.Header.Get(HeaderWantTagRecord) != "1" {
		return nil
	}
	signed, err := g.signTag(q.Context(), q.repository, name, tag)
	if err != nil {
		return err
	}
	w.Header().Add(HeaderTagRecord, base64.StdEncoding.EncodeToString(signed.Encode()))
	return nil
}

// maxTagParameters bounds the tags of one push, so that they fit one commit.
const maxTagParameters = 25

// wantedTags is what the pushed manifest is to be tagged with.
func wantedTags(q *request) ([]string, error) {
	if q.tag != "" {
		return []string{q.tag}, nil
	}
	var tags []string
	seen := map[string]bool{}
	for _, tag := range q.URL.Query()["tag"] {
		if err := CheckTag(tag); err != nil {
			return nil, err
		}
		if !seen[tag] {
			seen[tag] = true
			tags = append(tags, tag)
		}
	}
	if len(tags) > maxTagParameters {
		return nil, &Error{Status: http.StatusRequestURITooLong, Code: codeTagInvalid,
			Message: fmt.Sprintf("%d tags in one request, at most %d are taken; push the rest one by one", len(tags), maxTagParameters)}
	}
	return tags, nil
}

// putManifest is PUT of a manifest, by tag or by digest.
func (g *Registry) putManifest(w http.ResponseWriter, q *request) error {
	tags, err := wantedTags(q)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxManifestBytes))
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return bodyFailed(bodyError{err})
	}
	if err != nil {
		return err
	}
	d := q.digest
	if d == "" {
		d = digest.SHA256.FromBytes(body)
	} else if got := d.Algorithm().FromBytes(body); got != d {
		return errMismatch(d, got)
	}
	m, err := parseManifest(q.Header.Get("Content-Type"), body)
	if err != nil {
		return err
	}
	p := &manifestPush{repository: q.repository, digest: d, manifest: m, body: body, tags: tags,
		ifMatch: q.Header.Get("If-Match"), ifNoneMatch: q.Header.Get("If-None-Match")}
	if err := g.push(q.Context(), p); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+q.repository+"/manifests/"+string(d))
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Content-Length", "0")
	if m.subject != "" {
		h.Set("Oci-Subject", string(m.subject))
	}
	if q.tag == "" {
		for _, tag := range tags {
			h.Add("Oci-Tag", tag)
		}
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// deleteReference is DELETE of a tag or, with all tags that name it, of a
// manifest.
func (g *Registry) deleteReference(w http.ResponseWriter, q *request) error {
	var err error
	if q.tag != "" {
		err = g.deleteTag(q.Context(), q.repository, q.tag)
	} else {
		err = g.deleteManifest(q.Context(), q.repository, q.digest)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// TagRecord is the signed statement of what a tag names now. An *Error with
// status 404 says that there is no such tag.
func (g *Registry) TagRecord(ctx context.Context, repository, tag string) (*blob.TagRecord, error) {
	if err := errors.Join(CheckRepository(repository), CheckTag(tag)); err != nil {
		return nil, err
	}
	record, found, err := get[tagRecord](ctx, g.Meta, keyTag(repository, tag))
	if err != nil {
		return nil, err
	}
	if found == 0 {
		return nil, errManifestUnknown(tag)
	}
	return g.signTag(ctx, repository, tag, record)
}

func (g *Registry) signTag(ctx context.Context, repository, tag string, record tagRecord) (*blob.TagRecord, error) {
	epoch, err := g.journal.epoch(ctx)
	if err != nil {
		return nil, err
	}
	signed := &blob.TagRecord{Ref: blob.Ref{Repository: repository}, Tag: tag, Digest: record.Digest,
		MediaType: record.MediaType, Size: record.Size, Epoch: epoch, Time: g.Now().UTC()}
	return signed, signed.Sign(g.Sign)
}

// matchesTag checks the conditions of a tag write against what stands there.
func (p *manifestPush) matchesTag(current blob.Digest) error {
	none := p.ifNoneMatch == "*" && current != ""
	other := p.ifMatch != "" && (current == "" || !matchesEtag(p.ifMatch, `"`+string(current)+`"`))
	if !none && !other {
		return nil
	}
	e := &Error{Status: http.StatusPreconditionFailed, Code: codeDenied,
		Message: "the tag is not where If-Match or If-None-Match wants it; look at it again"}
	if current != "" {
		e.Detail = map[string]string{"digest": string(current)}
	}
	return e
}

// tagsOf walks over the tags of a repository that name a digest, at most limit.
func (g *Registry) tagsOf(ctx context.Context, repository string, d blob.Digest, limit int) ([]string, error) {
	var out []string
	for tag, err := range g.Tags(ctx, repository) {
		if err != nil {
			return nil, err
		}
		if tag.Digest == d {
			out = append(out, strings.Clone(tag.Name))
		}
		if len(out) == limit {
			break
		}
	}
	return out, nil
}
