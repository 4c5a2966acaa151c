package differential

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	ociImage    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	dockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	allTypes    = ociImage + ", " + ociIndex + ", " + dockerImage + ", " + dockerList

	ociConfig    = "application/vnd.oci.image.config.v1+json"
	ociLayer     = "application/vnd.oci.image.layer.v1.tar"
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	dockerLayer  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

type object = map[string]any

func descriptor(mediaType string, c content) object {
	return object{"mediaType": mediaType, "digest": c.digest, "size": len(c.data)}
}

func (s *script) tag() string { return pick(s, "v1", "v2", "latest", "A_b-c.9", "z") }

// parts are the config and the layers of an image; most of the time they are
// in the repository or pushed first.
func (s *script) parts(repository string) (config content, layers []content) {
	config = contentOf([]byte("{}"))
	for range s.IntN(3) {
		layers = append(layers, s.anyBlob(repository))
	}
	for _, part := range append([]content{config}, layers...) {
		if !s.has(repository, part) && !s.one(8) {
			s.push(repository, part)
		}
	}
	return config, layers
}

// complete reports whether the repository should have what a manifest needs.
func (s *script) complete(repository string, body []byte) bool {
	var m struct {
		Config *struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return false
	}
	if m.Config != nil && !s.has(repository, content{digest: m.Config.Digest}) {
		return false
	}
	return !slices.ContainsFunc(m.Layers, func(layer struct{ Digest string }) bool {
		return !s.has(repository, content{digest: layer.Digest})
	})
}

func (s *script) has(repository string, c content) bool {
	for _, held := range s.held[repository] {
		if held.digest == c.digest {
			return true
		}
	}
	return false
}

func (s *script) image(repository string) (mediaType string, m object) {
	config, layers := s.parts(repository)
	mediaType, configType, layerType := ociImage, ociConfig, ociLayer
	if s.one(3) {
		mediaType, configType, layerType = dockerImage, dockerConfig, dockerLayer
	}
	list := []object{}
	for _, layer := range layers {
		list = append(list, descriptor(layerType, layer))
	}
	return mediaType, object{"schemaVersion": 2, "mediaType": mediaType, "config": descriptor(configType, config), "layers": list}
}

// sendManifest adds the PUT of a manifest, by a tag or by its digest.
func (s *script) sendManifest(repository, contentType string, m any, flaw string) {
	s.sendBytes(repository, contentType, encode(m), flaw)
}

func encode(m any) []byte {
	body, err := json.Marshal(m)
	if err != nil {
		panic(err) // manifests here are plain data
	}
	return body
}

func (s *script) sendBytes(repository, contentType string, body []byte, flaw string) {
	sent := manifest{repository: repository, mediaType: contentType, content: contentOf(body), good: flaw == "" && s.complete(repository, body)}
	reference := sent.content.digest
	if s.one(2) {
		sent.tag = s.tag()
		reference = sent.tag
	}
	r := request{kind: putManifest, flaw: flaw, method: "PUT", target: at(repository) + "/manifests/" + reference, body: body, header: map[string]string{}}
	if contentType != "" {
		r.header["Content-Type"] = contentType
	}
	s.add(r)
	s.manifests = append(s.manifests, sent)
}

func (s *script) pushImage() {
	repository := s.repository()
	mediaType, m := s.image(repository)
	if s.one(2) {
		m["annotations"] = object{"n": strconv.Itoa(s.IntN(3))}
	}
	s.sendManifest(repository, mediaType, m, "")
}

// pushOther pushes an index, or something that is no good manifest.
func (s *script) pushOther() {
	repository := s.repository()
	if s.one(3) {
		s.pushIndex(repository)
		return
	}
	mediaType, m := s.image(repository)
	config := m["config"].(object)
	switch s.IntN(18) {
	case 0:
		body := encode(m)
		s.sendBytes(repository, mediaType, body[:len(body)-2], "broken JSON")
	case 1:
		s.sendBytes(repository, mediaType, []byte(pick(s, "", "null", "[]", `"text"`, "12")), "no JSON object")
	case 2:
		m["schemaVersion"] = pick(s, 1, 3, 0)
		s.sendManifest(repository, mediaType, m, "another schema version")
	case 3:
		s.sendManifest(repository, pick(s, "application/json", "text/plain", "application/vnd.example.unknown+json"), m, "unknown media type")
	case 4:
		other := map[string]string{ociImage: dockerImage, dockerImage: ociImage}[mediaType]
		s.sendManifest(repository, other, m, "two media types")
	case 5:
		delete(m, "mediaType")
		s.sendManifest(repository, mediaType, m, "media type in the header only")
	case 6:
		s.sendManifest(repository, "", m, "no Content-Type")
	case 7:
		delete(m, "config")
		s.sendManifest(repository, mediaType, m, "no config")
	case 8:
		m["layers"] = pick[any](s, nil, "text", object{}, []int{1})
		s.sendManifest(repository, mediaType, m, "layers that are no list")
	case 9:
		config["digest"] = pick(s, "sha256:12", "", "latest")
		s.sendManifest(repository, mediaType, m, "descriptor without a digest")
	case 10:
		config["size"] = pick(s, -1, 1, 1000)
		s.sendManifest(repository, mediaType, m, "descriptor with another size")
	case 11:
		m["manifests"] = []object{}
		s.sendManifest(repository, mediaType, m, "image and index in one")
	case 12:
		m["subject"] = descriptor(ociImage, contentOf([]byte("some subject")))
		s.sendManifest(repository, mediaType, m, "with a subject")
	case 13:
		elsewhere := map[string]string{ociImage: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
			dockerImage: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
		m["layers"] = []object{{"mediaType": elsewhere[mediaType],
			"digest": contentOf([]byte("elsewhere")).digest, "size": 9, "urls": []string{"https://example.com/layer"}}}
		s.sendManifest(repository, mediaType, m, "layer that lies elsewhere")
	case 14:
		body := encode(m)
		s.add(request{kind: putManifest, flaw: "other bytes", method: "PUT", body: body, header: map[string]string{"Content-Type": mediaType},
			target: at(repository) + "/manifests/" + contentOf([]byte("something else")).digest})
	case 15:
		s.oversize(repository, mediaType, m)
	case 16:
		s.sendManifest(repository, mediaType+"; charset=utf-8", m, "media type with a parameter")
	case 17:
		body := encode(m)
		s.add(request{kind: putManifest, flaw: "sha512", method: "PUT", body: body, header: map[string]string{"Content-Type": mediaType},
			target: at(repository) + "/manifests/" + sha512Of(body)})
	}
}

// oversize pads a manifest to the most that both take, or by a byte more.
func (s *script) oversize(repository, mediaType string, m object) {
	if !s.one(4) { // they are slow
		return
	}
	const most = 4 << 20
	body := encode(m)
	if s.one(2) {
		s.sendBytes(repository, mediaType, append(body, bytes.Repeat([]byte(" "), most-len(body))...), "as large as may be")
		return
	}
	s.sendBytes(repository, mediaType, append(body, bytes.Repeat([]byte(" "), most+1-len(body))...), "too large")
}

func (s *script) pushIndex(repository string) {
	mediaType, list, flaw := ociIndex, []object{}, ""
	if s.one(3) {
		mediaType = dockerList
	}
	for _, m := range s.manifests {
		if m.repository == repository && s.one(2) {
			list = append(list, platformed(descriptor(m.mediaType, m.content)))
		}
	}
	if s.one(4) {
		list = append(list, platformed(descriptor(ociImage, contentOf([]byte("a platform that was not pushed")))))
	}
	index := object{"schemaVersion": 2, "mediaType": mediaType, "manifests": list}
	switch s.IntN(8) {
	case 0:
		delete(index, "manifests")
		flaw = "no manifests"
	case 1:
		index["layers"] = []object{}
		flaw = "image and index in one"
	case 2:
		delete(index, "mediaType")
		flaw = "media type in the header only"
	}
	s.sendManifest(repository, mediaType, index, flaw)
}

func platformed(d object) object {
	d["platform"] = object{"architecture": "amd64", "os": "linux"}
	return d
}

// anyManifest is one that was sent, or one that never was.
func (s *script) anyManifest() manifest {
	if len(s.manifests) > 0 && !s.one(10) {
		return pick(s, s.manifests...)
	}
	return manifest{repository: s.repository(), tag: s.tag(), mediaType: ociImage, content: s.content()}
}

func (m manifest) reference(byTag bool) string {
	if byTag && m.tag != "" {
		return m.tag
	}
	return m.content.digest
}

func (s *script) readManifest() {
	m := s.anyManifest()
	r := request{kind: readManifest, method: pick(s, "GET", "GET", "HEAD"), header: map[string]string{"Accept": allTypes},
		target: at(m.repository) + "/manifests/" + m.reference(s.one(2))}
	switch s.IntN(10) {
	case 0:
		delete(r.header, "Accept")
		r.flaw = "no Accept"
	case 1:
		r.header["Accept"], r.flaw = "text/html", "Accept without its type"
	case 2:
		r.header["If-None-Match"] = `"` + m.content.digest + `"`
		r.target = at(m.repository) + "/manifests/" + m.content.digest
		r.flaw = "on a condition"
	case 3:
		r.kind, r.flaw = readBlob, "manifest as a blob"
		r.target = at(m.repository) + "/blobs/" + m.content.digest
	case 4:
		r.target, r.flaw = at(m.repository)+"/manifests/"+s.anyBlob(m.repository).digest, "blob as a manifest"
	}
	s.add(r)
}

func (s *script) deleteManifest() {
	m := s.anyManifest()
	s.add(request{kind: dropManifest, method: "DELETE", target: at(m.repository) + "/manifests/" + m.reference(s.one(2))})
}

func (s *script) page() (query, flaw string) {
	query, flaw = pick(s, "", "?n=1", "?n=2", "?n=100", "?n=1&last=latest", "?last=v1", "?last=nothing", "?n=2&last=A_b-c.9"), ""
	switch s.IntN(8) {
	case 0:
		return "?n=0", "no entries asked for"
	case 1:
		return "?n=" + pick(s, "x", "-1", "1.5", "99999999999999999999"), "n that is no number"
	case 2:
		return "?n=5000", "more than a page"
	}
	return query, flaw
}

func (s *script) listTags() {
	query, flaw := s.page()
	s.add(request{kind: listTags, flaw: flaw, method: "GET", target: at(s.repository()) + "/tags/list" + query})
}

// listRepositories begins after the play's name, which is greater than those
// of all plays before.
func (s *script) listRepositories() {
	query, flaw := s.page()
	if before, _, found := strings.Cut(query, "last="); found {
		query = strings.TrimRight(before, "?&")
	}
	separator := "?"
	if query != "" {
		separator = "&"
	}
	if flaw == "" && s.blobsOnly() {
		flaw = "a repository without manifests"
	}
	s.add(request{kind: catalogue, flaw: flaw, method: "GET", target: fmt.Sprintf("/v2/_catalog%s%slast=%s%s", query, separator, home, pick(s, "", "/a", "/b/c"))})
}

// blobsOnly reports whether blobs may have been pushed to a repository that no
// manifest was pushed to.
func (s *script) blobsOnly() bool {
	for repository := range s.written {
		if !slices.ContainsFunc(s.manifests, func(m manifest) bool { return m.repository == repository && m.good }) {
			return true
		}
	}
	return false
}

func (s *script) listReferrers() {
	m := s.anyManifest()
	s.add(request{kind: referrers, method: "GET", target: at(m.repository) + "/referrers/" + m.content.digest})
}
