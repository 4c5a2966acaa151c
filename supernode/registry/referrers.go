package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
)

// maxInlineAnnotations is the size in bytes up to which annotations stand in
// a referrer's record; larger ones are read from the manifest.
const maxInlineAnnotations = 32 << 10

// referrerRecord is a row of a referrers listing.
type referrerRecord struct {
	blob.Descriptor
	// Bulky says that the annotations are in the manifest only.
	Bulky bool `json:"bulky,omitempty"`
}

func referrerOf(p *manifestPush) referrerRecord {
	out := referrerRecord{Descriptor: blob.Descriptor{MediaType: p.manifest.mediaType, Digest: p.digest,
		Size: int64(len(p.body)), ArtifactType: p.manifest.artifactType, Annotations: p.manifest.annotations}}
	size := 0
	for key, value := range out.Annotations {
		size += len(key) + len(value)
	}
	if size > maxInlineAnnotations {
		out.Annotations, out.Bulky = nil, true
	}
	return out
}

// listReferrers answers with an image index of the manifests whose subject
// the digest is; the subject itself need not be there.
func (g *Registry) listReferrers(w http.ResponseWriter, q *request) error {
	query := q.URL.Query()
	p, err := parsePage(query)
	if err != nil {
		return err
	}
	artifactType := query.Get("artifactType")
	rows, last, more, err := g.referrers(q.Context(), q.repository, q.digest, artifactType, p)
	if err != nil {
		return err
	}
	if artifactType != "" {
		w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	if more {
		again := url.Values{}
		if artifactType != "" {
			again.Set("artifactType", artifactType)
		}
		next(w, "/v2/"+q.repository+"/referrers/"+string(q.digest), again, last, p.size)
	}
	return writeJSON(w, typeOCIIndex, map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": rows})
}

// referrers reads one page; an answer stays below the size of a manifest.
func (g *Registry) referrers(ctx context.Context, repository string, subject blob.Digest, artifactType string, p page) (rows []json.RawMessage, last string, more bool, err error) {
	prefix := keyReferrers(repository, subject)
	from := prefix
	if p.last != "" {
		from = prefix + p.last + "\x00"
	}
	rows = []json.RawMessage{}
	size := 0
	for v, err := range meta.ScanFrom(ctx, g.Meta, prefix, from) {
		var record referrerRecord
		if err == nil {
			err = decode(v, &record)
		}
		if err != nil {
			return nil, "", false, err
		}
		if artifactType != "" && record.ArtifactType != artifactType {
			continue
		}
		row, err := g.referrerRow(ctx, record)
		if err != nil {
			return nil, "", false, err
		}
		if len(rows) == p.size || len(rows) > 0 && size+len(row) > maxManifestBytes-1024 {
			return rows, last, p.size > 0, nil
		}
		rows, size, last = append(rows, row), size+len(row)+1, strings.TrimPrefix(v.Key, prefix)
	}
	return rows, last, false, nil
}

func (g *Registry) referrerRow(ctx context.Context, record referrerRecord) (json.RawMessage, error) {
	if record.Bulky {
		annotations, err := g.annotationsOf(ctx, record.Digest)
		if err != nil {
			return nil, err
		}
		record.Annotations = annotations
	}
	row, err := json.Marshal(record.Descriptor)
	if err != nil {
		return nil, fmt.Errorf("encode referrer: %w", err)
	}
	return row, nil
}

func (g *Registry) annotationsOf(ctx context.Context, d blob.Digest) (map[string]string, error) {
	object, err := g.open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	body, err := io.ReadAll(io.NewSectionReader(object, 0, min(object.Size(), maxManifestBytes)))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", d, err)
	}
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return m.Annotations, nil
}
