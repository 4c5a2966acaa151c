package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/registry"
)

// decisionKey marks where the gatekeeper leaves what it decided about a
// request to the registry.
type decisionKey struct{}

// decision is the first one that was made about a request: about who asks,
// and the repository that they named.
type decision struct {
	made    bool
	subject string
	err     error
}

func noteDecision(ctx context.Context, subject string, err error) {
	if d, _ := ctx.Value(decisionKey{}).(*decision); d != nil && !d.made {
		*d = decision{true, subject, err}
	}
}

// registryRecorded is the registry, whose requests get their rows in the audit.
func (c Config) registryRecorded() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, answer := &decision{}, &answerWriter{ResponseWriter: w, status: http.StatusOK}
		c.Registry.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), decisionKey{}, d)))
		from := r.URL.Query().Get("ns")
		if slices.Contains(c.Registry.PublicNames, from) {
			from = ""
		}
		if e, tell := registryEvent(r, from, *d, answer.status, w.Header().Get("Docker-Content-Digest")); tell {
			e.From = hostOf(r.RemoteAddr)
			c.Audit.Record(e)
		}
	})
}

// answerWriter notes an answer's status.
type answerWriter struct {
	http.ResponseWriter
	status int
}

func (a *answerWriter) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// ReadFrom keeps the kernel's own way from a file to a socket open.
func (a *answerWriter) ReadFrom(src io.Reader) (int64, error) { return io.Copy(a.ResponseWriter, src) }

// Unwrap is for http.ResponseController.
func (a *answerWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// named is what a path under /v2/ names.
type named struct{ repository, kind, reference string }

func parseNamed(path string) (n named, ok bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/v2/"), "/")
	last := len(parts) - 1
	switch {
	case last >= 3 && parts[last-2] == "blobs" && parts[last-1] == "uploads":
		return named{strings.Join(parts[:last-2], "/"), "uploads", ""}, true
	case last >= 2 && parts[last-1] == "blobs" && parts[last] == "uploads":
		return named{strings.Join(parts[:last-1], "/"), "uploads", ""}, true
	case last >= 2:
		return named{strings.Join(parts[:last-1], "/"), parts[last-1], parts[last]}, true
	case parts[0] == "_catalog":
		return named{kind: "catalog"}, true
	}
	return named{}, false
}

// registryEvent is the row of a request that was decided, and answered with a
// status. Steps on the way to what was asked for have none, unless they were
// refused. from is the other registry that it is about, if any; digest is what
// the answer says of the content.
func registryEvent(r *http.Request, from string, d decision, status int, digest string) (e audit.Event, tell bool) {
	n, ok := parseNamed(r.URL.Path)
	if !d.made || !ok {
		return e, false
	}
	denied := d.err != nil || status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusTooManyRequests
	action, often, step := registryAction(r.Method, n, status)
	if action == "" || step && !denied {
		return e, false
	}
	failed := status >= http.StatusBadRequest
	e = audit.Event{Subject: d.subject, Action: action, Allowed: !denied, Often: often || failed, Object: n.object(digest, often)}
	if from == "" {
		e.Project, _, _ = strings.Cut(n.repository, "/")
	} else if d.err == nil { // a stranger's word for a registry is anything
		e.Object = from + "/" + e.Object
	}
	if n.kind == "manifests" && r.Method == http.MethodPut && digest != "" {
		e.Detail = map[string]string{"digest": digest}
	}
	var known interface{ Subject() string }
	switch {
	case errors.As(d.err, &known):
		e.Subject, e.Reason = known.Subject(), d.err.Error()
	case status == http.StatusUnauthorized:
		e.Reason = "no login that covers this"
	case failed:
		e.Reason = http.StatusText(status)
	}
	return e, true
}

// registryAction names what a request does. often: it is counted rather than
// written each time; step: it changes nothing that anybody could see.
func registryAction(method string, n named, status int) (action string, often, step bool) {
	read := method == http.MethodGet || method == http.MethodHead
	tag := !strings.Contains(n.reference, ":")
	switch n.kind {
	case "manifests":
		switch {
		case read:
			return "image.pull", true, false
		case method == http.MethodPut:
			return "image.push", false, false
		case method == http.MethodDelete && tag:
			return "tag.delete", false, false
		case method == http.MethodDelete:
			return "image.delete", false, false
		}
	case "blobs":
		switch {
		case read:
			return "blob.pull", true, method == http.MethodHead
		case method == http.MethodDelete:
			return "blob.delete", false, false
		}
	case "uploads":
		if method == http.MethodDelete {
			return "upload.cancel", false, false
		}
		return "blob.push", false, status != http.StatusCreated
	case "tags", "referrers":
		return "image.list", true, false
	case "catalog":
		return "catalog.list", true, false
	}
	return "", false, false
}

// object names what the path names; of blobs that are pulled only whose they
// are, since an image has many.
func (n named) object(digest string, pulled bool) string {
	switch {
	case n.kind == "blobs" && !pulled:
		return n.repository + "@" + n.reference
	case n.kind == "catalog":
		return "catalog"
	case n.kind == "uploads" && digest != "":
		return n.repository + "@" + digest
	case n.kind == "manifests" && strings.Contains(n.reference, ":"):
		return n.repository + "@" + n.reference
	case n.kind == "manifests":
		return n.repository + ":" + n.reference
	}
	return n.repository
}

// recordRetained gives a tag a row that went by its project's rules.
func (c Config) recordRetained(by, from string, r registry.Retained) {
	if !r.Removed {
		return
	}
	project, _, _ := strings.Cut(r.Repository, "/")
	c.Audit.Record(audit.Event{
		Subject: by, Action: "tag.delete", Object: r.Repository + ":" + r.Name, Project: project, From: from, Allowed: true,
		Detail: map[string]string{"digest": string(r.Digest), "rule": r.Why},
	})
}
