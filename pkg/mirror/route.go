package mirror

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

type kind int

const (
	pingPath kind = iota
	tokenPath
	manifestPath
	blobPath
	otherPath
)

// route is what a path means.
type route struct {
	kind       kind
	repository string
	reference  string      // as it was written: tag or digest
	digest     blob.Digest // empty for a tag
}

// parsePath takes a request path apart. Whatever passes holds only names and
// digests of the OCI grammar.
func parsePath(path string) route {
	switch path {
	case "/v2", "/v2/":
		return route{kind: pingPath}
	case "/token":
		return route{kind: tokenPath}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return route{kind: otherPath}
	}
	head, reference, ok := cutLast(rest, "/")
	repository, noun, ok2 := cutLast(head, "/")
	if !ok || !ok2 || blob.CheckRepository(repository) != nil {
		return route{kind: otherPath}
	}
	d, digestErr := blob.ParseDigest(reference)
	r := route{repository: repository, reference: reference, digest: d}
	switch {
	case noun == "blobs" && digestErr == nil:
		r.kind = blobPath
	case noun == "manifests" && (digestErr == nil || blob.CheckTag(reference) == nil):
		r.kind = manifestPath
	default:
		return route{kind: otherPath}
	}
	return r
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+len(sep):], true
}

// names says which registries there are.
type names struct {
	own      func(string) bool // names of the supernode's own registry
	upstream func(string) bool // configured upstreams
	// only, when set, is the one registry of this listener.
	only string
}

// registry is the registry that a query means; "" is the supernode's own.
// Only exact, configured names pass.
func (n names) registry(query url.Values) (registry string, ok bool) {
	given := query["ns"]
	if len(given) > 1 {
		return "", false
	}
	ns := ""
	if len(given) == 1 {
		ns = given[0]
	}
	switch {
	case n.only != "":
		return n.only, ns == "" || ns == n.only
	case ns == "" || n.own(ns):
		return "", true
	}
	return ns, n.upstream(ns)
}

// hostAllowed decides whether a Host header may be answered. A name that is
// neither loopback nor configured is a foreign site whose DNS was pointed
// here, so that a browser's pages could read the mirror.
func hostAllowed(hostport string, configured map[string]bool) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "localhost" || configured[host] || configured[strings.ToLower(hostport)] {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
