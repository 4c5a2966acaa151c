package registry

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"

	"github.com/shoalproject/shoal/pkg/blob"
)

// Media types of manifests.
const (
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

const (
	// maxManifestBytes bounds a manifest.
	maxManifestBytes = 4 << 20
	// maxChildren bounds what one manifest names, so that its record fits one
	// metadata commit.
	maxChildren = 4096
)

// foreignTypes are layers that lie elsewhere, at their urls.
var foreignTypes = []string{
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
}

// manifest is what the registry needs to know of one.
type manifest struct {
	mediaType    string
	artifactType string // as a referrers listing has it
	subject      blob.Digest
	required     []blob.Descriptor // blobs that must have been pushed
	children     []blob.Digest     // everything it names but the subject
	annotations  map[string]string
}

// optional is what the manifest names and may do without.
func (m *manifest) optional() []blob.Digest {
	var out []blob.Digest
	if m.isIndex() {
		out = append(out, m.children...)
	}
	if m.subject != "" {
		out = append(out, m.subject)
	}
	return out
}

func errManifest(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Code: codeManifestInvalid, Message: fmt.Sprintf(format, args...)}
}

// parseManifest reads a manifest and checks that its content is what its
// media type says: never an image to one reader and an index to another.
func parseManifest(contentType string, body []byte) (*manifest, error) {
	// By exact names: Go's decoder would take "Layers" for "layers", which
	// other readers do not.
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, errManifest("the manifest is not a JSON object: %v", err)
	}
	m := &manifest{}
	var schema int
	var inner string
	for name, target := range map[string]any{
		"schemaVersion": &schema, "mediaType": &inner, "artifactType": &m.artifactType, "annotations": &m.annotations,
	} {
		if err := field(fields, name, target); err != nil {
			return nil, err
		}
	}
	var err error
	if m.mediaType, err = agreedType(contentType, inner); err != nil {
		return nil, err
	}
	if schema != 2 {
		return nil, errManifest("schemaVersion is %d, only 2 is taken; push the image with a newer client", schema)
	}
	if m.isIndex() {
		err = m.readIndex(fields)
	} else {
		err = m.readImage(fields)
	}
	if err != nil {
		return nil, err
	}
	return m, m.readSubject(fields)
}

func (m *manifest) isIndex() bool {
	return m.mediaType == typeOCIIndex || m.mediaType == typeDockerList
}

func field(fields map[string]json.RawMessage, name string, target any) error {
	raw, ok := fields[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, target); err != nil {
		return errManifest("%s of the manifest: %v", name, err)
	}
	return nil
}

// agreedType is the media type that header and content agree on.
func agreedType(header, inner string) (string, error) {
	outer := ""
	if header != "" {
		var err error
		if outer, _, err = mime.ParseMediaType(header); err != nil {
			return "", errManifest("Content-Type %.80q: %v", header, err)
		}
	}
	switch {
	case outer == "" && inner == "":
		return "", errManifest("the manifest's media type is missing; send it as Content-Type")
	case outer == "":
		outer = inner
	case inner != "" && inner != outer:
		return "", errManifest("Content-Type is %.80q, mediaType of the manifest %.80q; they must be the same", outer, inner)
	}
	switch outer {
	case typeOCIManifest, typeOCIIndex:
	case typeDockerManifest, typeDockerList:
		if inner == "" {
			return "", errManifest("a manifest of type %s must say so in its mediaType", outer)
		}
	default:
		return "", errManifest("media type %.80q is not taken; OCI image manifests and indexes and their Docker schema 2 forms are", outer)
	}
	return outer, nil
}

// refuse gives an error for fields of the other kind of manifest.
func (m *manifest) refuse(fields map[string]json.RawMessage, names ...string) error {
	for _, name := range names {
		if _, ok := fields[name]; ok {
			return errManifest("a manifest of type %s must not have %s", m.mediaType, name)
		}
	}
	return nil
}

func (m *manifest) readIndex(fields map[string]json.RawMessage) error {
	if err := m.refuse(fields, "config", "layers", "fsLayers", "blobs"); err != nil {
		return err
	}
	manifests, err := descriptors(fields, "manifests")
	if err != nil {
		return err
	}
	m.name(manifests)
	return nil
}

func (m *manifest) readImage(fields map[string]json.RawMessage) error {
	if err := m.refuse(fields, "manifests", "fsLayers", "blobs"); err != nil {
		return err
	}
	var config blob.Descriptor
	if _, ok := fields["config"]; !ok {
		return errManifest("config of the manifest is missing")
	}
	if err := field(fields, "config", &config); err != nil {
		return err
	}
	if err := checkDescriptor("config", config); err != nil {
		return err
	}
	layers, err := descriptors(fields, "layers")
	if err != nil {
		return err
	}
	m.name(append([]blob.Descriptor{config}, layers...))
	m.required = append(m.required, config)
	for _, layer := range layers {
		if !slices.Contains(foreignTypes, layer.MediaType) || len(layer.URLs) == 0 {
			m.required = append(m.required, layer)
		}
	}
	if m.artifactType == "" {
		m.artifactType = config.MediaType
	}
	return nil
}

// name notes what the manifest names, each digest once.
func (m *manifest) name(list []blob.Descriptor) {
	seen := make(map[blob.Digest]bool, len(list))
	for _, desc := range list {
		if !seen[desc.Digest] {
			seen[desc.Digest] = true
			m.children = append(m.children, desc.Digest)
		}
	}
}

func (m *manifest) readSubject(fields map[string]json.RawMessage) error {
	var subject *blob.Descriptor
	if err := field(fields, "subject", &subject); err != nil || subject == nil {
		return err
	}
	m.subject = subject.Digest
	return checkDescriptor("subject", *subject)
}

// descriptors reads a list that must be there, be it empty.
func descriptors(fields map[string]json.RawMessage, name string) ([]blob.Descriptor, error) {
	if _, ok := fields[name]; !ok {
		return nil, errManifest("%s of the manifest is missing", name)
	}
	var list []blob.Descriptor
	if err := field(fields, name, &list); err != nil {
		return nil, err
	}
	if len(list) > maxChildren {
		return nil, errManifest("the manifest has %d %s, at most %d are taken", len(list), name, maxChildren)
	}
	for i, desc := range list {
		if err := checkDescriptor(fmt.Sprintf("%s[%d]", name, i), desc); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func checkDescriptor(where string, desc blob.Descriptor) error {
	if _, err := blob.ParseDigest(string(desc.Digest)); err != nil {
		return errManifest("%s of the manifest: %v", where, err)
	}
	if desc.Size < 0 {
		return errManifest("%s of the manifest: size %d", where, desc.Size)
	}
	return nil
}
