package differential

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// difference is one thing in which two answers differ.
type difference struct {
	aspect       string
	ours, theirs string
}

func (d difference) String() string {
	return fmt.Sprintf("%s: ours %.300q, theirs %.300q", d.aspect, d.ours, d.theirs)
}

// The aspects of an answer.
const (
	ofStatus   = "status"
	ofCode     = "error code"
	ofDigest   = "Docker-Content-Digest"
	ofType     = "Content-Type"
	ofLength   = "Content-Length"
	ofContent  = "Content-Range"
	ofRange    = "Range"
	ofLocation = "Location"
	ofLink     = "Link"
	ofBody     = "body"
)

// compare lists in what two answers to a request differ, of that which the
// specification decides. Only answers of the same success are compared any
// further than their status.
func compare(r request, play string, ours, theirs answer) []difference {
	var out []difference
	check := func(aspect, ours, theirs string) {
		if ours != theirs {
			out = append(out, difference{aspect, ours, theirs})
		}
	}
	same := func(aspect string, view func(answer) string) { check(aspect, view(ours), view(theirs)) }
	header := func(name string) func(answer) string {
		return func(a answer) string { return a.header.Get(name) }
	}
	check(ofStatus, strconv.Itoa(ours.status), strconv.Itoa(theirs.status))
	if ours.status >= 400 && theirs.status >= 400 && r.method != http.MethodHead {
		check(ofCode, ours.code, theirs.code)
	}
	if ours.status == http.StatusRequestedRangeNotSatisfiable && r.kind == readBlob {
		same(ofContent, header("Content-Range"))
	}
	if ours.status != theirs.status || ours.status >= 400 {
		return out
	}
	switch r.kind {
	case listTags, catalogue, referrers:
		same(ofType, mediaType)
		same(ofLink, func(a answer) string { return page(a, play) })
		same(ofBody, func(a answer) string { return canonical(a.body) })
	case readBlob, readManifest:
		same(ofType, mediaType)
		same(ofLength, header("Content-Length"))
		same(ofContent, header("Content-Range"))
		check(ofBody, string(ours.body), string(theirs.body))
	}
	same(ofDigest, header("Docker-Content-Digest"))
	same(ofRange, header("Range"))
	same(ofLocation, func(a answer) string { return place(a.header.Get("Location")) })
	return out
}

func mediaType(a answer) string {
	t, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		return a.header.Get("Content-Type")
	}
	return t
}

// place is the shape of a Location: its path, without the name that a registry
// chose for an upload, and without what it keeps in the query.
func place(location string) string {
	u, err := url.Parse(location)
	if err != nil {
		return "no URL: " + location
	}
	if before, id, found := strings.Cut(u.Path, "/blobs/uploads/"); found && id != "" && !strings.Contains(id, "/") {
		return before + "/blobs/uploads/{id}"
	}
	return u.Path
}

// page is where a Link leads: the same question, from another name on.
func page(a answer, play string) string {
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	target, rest, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	u, err := url.Parse(target)
	if err != nil {
		return "no link: " + link
	}
	return strings.ReplaceAll(u.Path+"?"+u.Query().Encode(), play, home) + ";" + strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(rest, ";")), ";")
}

// canonical is JSON without its spaces, its fields in order.
func canonical(body []byte) string {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return "no JSON: " + string(body)
	}
	out, err := json.Marshal(value)
	if err != nil {
		return "no JSON: " + string(body)
	}
	return string(out)
}
