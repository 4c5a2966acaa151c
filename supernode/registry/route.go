package registry

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

const (
	// maxNameBytes bounds a repository name; with a host name before it, it
	// still fits what clients take (255 bytes).
	maxNameBytes = 200
)

// CheckRepository reports whether name is a repository name by
// blob.CheckRepository and at most maxNameBytes long.
func CheckRepository(name string) error {
	if len(name) > maxNameBytes {
		return &Error{Status: http.StatusBadRequest, Code: codeNameInvalid,
			Message: fmt.Sprintf("the repository name is %d bytes long, at most %d are taken", len(name), maxNameBytes)}
	}
	if err := blob.CheckRepository(name); err != nil {
		return &Error{Status: http.StatusBadRequest, Code: codeNameInvalid, Message: err.Error()}
	}
	return nil
}

// CheckTag is blob.CheckTag with the registry's error code.
func CheckTag(tag string) error {
	if err := blob.CheckTag(tag); err != nil {
		return &Error{Status: http.StatusBadRequest, Code: codeTagInvalid, Message: err.Error()}
	}
	return nil
}

type kind int

const (
	kindNone kind = iota
	kindPing
	kindCatalog
	kindTags
	kindReferrers
	kindManifest
	kindBlob
	kindUploads
	kindUpload
)

// route is what a path names.
type route struct {
	kind       kind
	repository string
	tag        string      // of a manifest named by tag
	digest     blob.Digest // of a blob, a subject or a manifest named by digest
	upload     string
}

var errNoRoute = &Error{Status: http.StatusNotFound, Code: codeUnsupported, Message: "the registry has no such address; see the OCI distribution-spec 1.1"}

// parseRoute takes a path apart. It looks nothing up.
func parseRoute(path string) (route, error) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || ok && rest == "":
		return route{kind: kindPing}, nil
	case rest == "_catalog":
		return route{kind: kindCatalog}, nil
	case !ok:
		return route{}, errNoRoute
	}
	parts := strings.Split(rest, "/")
	n := len(parts)
	last := parts[n-1]
	out := route{}
	var err error
	switch {
	case n >= 3 && parts[n-2] == "tags" && last == "list":
		out.kind, parts = kindTags, parts[:n-2]
	case n >= 3 && parts[n-2] == "referrers":
		out.kind, parts = kindReferrers, parts[:n-2]
		out.digest, err = parseDigest(last)
	case n >= 3 && parts[n-2] == "manifests":
		out.kind, parts = kindManifest, parts[:n-2]
		out.tag, out.digest, err = parseReference(last)
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads" && last == "":
		out.kind, parts = kindUploads, parts[:n-3]
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads":
		out.kind, parts, out.upload = kindUpload, parts[:n-3], last
	case n >= 3 && parts[n-2] == "blobs" && last == "uploads":
		out.kind, parts = kindUploads, parts[:n-2]
	case n >= 3 && parts[n-2] == "blobs":
		out.kind, parts = kindBlob, parts[:n-2]
		out.digest, err = parseDigest(last)
	default:
		return route{}, errNoRoute
	}
	out.repository = strings.Join(parts, "/")
	if nameErr := CheckRepository(out.repository); nameErr != nil {
		return route{}, nameErr
	}
	return out, err
}

func parseDigest(s string) (blob.Digest, error) {
	d, err := blob.ParseDigest(s)
	if err != nil {
		return "", &Error{Status: http.StatusBadRequest, Code: codeDigestInvalid, Message: err.Error()}
	}
	return d, nil
}

func parseReference(s string) (tag string, d blob.Digest, err error) {
	if strings.Contains(s, ":") {
		d, err = parseDigest(s)
		return "", d, err
	}
	return s, "", CheckTag(s)
}

type handler func(*Registry, http.ResponseWriter, *request) error

// method is what one method on a kind of address needs and does.
type method struct {
	name    string
	actions []string
	handler handler
}

var (
	pull   = []string{"pull"}
	push   = []string{"push"}
	remove = []string{"delete"}
)

// methods is the route table.
var methods = map[kind][]method{
	kindPing:      {{"GET", nil, (*Registry).ping}, {"HEAD", nil, (*Registry).ping}},
	kindCatalog:   {{"GET", []string{"catalog"}, (*Registry).catalog}},
	kindTags:      {{"GET", pull, (*Registry).listTags}},
	kindReferrers: {{"GET", pull, (*Registry).listReferrers}},
	kindManifest: {{"GET", pull, (*Registry).getManifest}, {"HEAD", pull, (*Registry).getManifest},
		{"PUT", push, (*Registry).putManifest}, {"DELETE", remove, (*Registry).deleteReference}},
	kindBlob: {{"GET", pull, (*Registry).getBlob}, {"HEAD", pull, (*Registry).getBlob},
		{"DELETE", remove, (*Registry).deleteBlob}},
	kindUploads: {{"POST", push, (*Registry).beginUpload}},
	kindUpload: {{"GET", push, (*Registry).uploadStatus}, {"PATCH", push, (*Registry).patchUpload},
		{"PUT", push, (*Registry).putUpload}, {"DELETE", push, (*Registry).cancelUpload}},
}

func (r route) method(name string) *method {
	table := methods[r.kind]
	if i := slices.IndexFunc(table, func(m method) bool { return m.name == name }); i >= 0 {
		return &table[i]
	}
	return nil
}

// actions are the rights that a method needs on the repository.
func (r route) actions(name string) ([]string, error) {
	if m := r.method(name); m != nil {
		return m.actions, nil
	}
	if r.kind == kindNone {
		return nil, nil
	}
	return nil, &Error{Status: http.StatusMethodNotAllowed, Code: codeUnsupported,
		Message: "this address takes " + r.allow() + " only"}
}

func (r route) handler(name string) handler { return r.method(name).handler }

func (r route) allow() string {
	var names []string
	for _, m := range methods[r.kind] {
		names = append(names, m.name)
	}
	return strings.Join(names, ", ")
}

// isNotFound reports whether an error is an answer with status 404.
func isNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}
