package differential

import (
	"fmt"
	"slices"
	"strconv"
)

// newUpload adds the request that begins an upload.
func (s *script) newUpload(repository string) *upload {
	u := &upload{number: len(s.uploads) + 1, repository: repository}
	s.uploads = append(s.uploads, u)
	s.add(request{kind: begin, method: "POST", target: at(repository) + "/blobs/uploads/", begins: u.number})
	return u
}

// pushBlob is POST and PUT, as clients push.
func (s *script) pushBlob() { s.push(s.repository(), s.content()) }

func (s *script) push(repository string, c content) {
	u := s.newUpload(repository)
	u.over = true
	s.add(request{kind: finish, method: "PUT", upload: u.number, target: query("digest", c.digest), body: c.data,
		header: map[string]string{"Content-Type": "application/octet-stream"}})
	s.hold(repository, c)
}

// beginUpload begins one to be continued, or tries it with a body at once.
func (s *script) beginUpload() {
	repository, c := s.repository(), s.content()
	target := at(repository) + "/blobs/uploads/"
	switch s.IntN(8) {
	case 0:
		s.add(request{kind: begin, flaw: "blob in one request", method: "POST", target: target + query("digest", c.digest), body: c.data})
		s.hold(repository, c)
	case 1:
		s.add(request{kind: begin, flaw: "blob in one request, other bytes", method: "POST", target: target + query("digest", c.digest), body: []byte("others")})
	case 2:
		s.add(request{kind: begin, flaw: "blob in one request, no digest", method: "POST", target: target + query("digest", "sha256:12"), body: c.data})
	default:
		s.newUpload(repository)
	}
}

// continueUpload does something with one that was begun.
func (s *script) continueUpload() {
	if len(s.uploads) == 0 || s.one(25) {
		s.add(request{kind: pick(s, status), flaw: "unknown upload", method: "GET", target: nowhere})
		s.add(request{kind: patch, flaw: "unknown upload", method: "PATCH", target: nowhere, body: []byte("x")})
		return
	}
	u := s.uploads[len(s.uploads)-1-s.IntN(min(len(s.uploads), 3))]
	switch n := s.IntN(12); {
	case n < 6:
		s.chunk(u)
	case n < 8:
		s.add(request{kind: status, flaw: u.flaw(), method: "GET", upload: u.number})
	case n < 11:
		s.finish(u)
	default:
		s.add(request{kind: cancel, flaw: u.flaw(), method: "DELETE", upload: u.number})
		u.over = true
	}
}

func (u *upload) flaw() string {
	switch {
	case u.spoilt:
		return "upload of other bytes"
	case u.over:
		return "ended upload"
	}
	return ""
}

// chunk is PATCH with a range, without one, or with a wrong one.
func (s *script) chunk(u *upload) {
	c := s.content()
	r := request{kind: patch, flaw: u.flaw(), method: "PATCH", upload: u.number, begins: u.number, body: c.data,
		header: map[string]string{"Content-Type": "application/octet-stream"}}
	first, last := len(u.data), len(u.data)+len(c.data)-1
	taken := !u.over
	switch n := s.IntN(12); {
	case n == 0:
		first, last, taken = first+1, last+1, false
		r.setFlaw("chunk too far on")
	case n == 1 && first > 0:
		first, last, taken = first-1, last-1, false
		r.setFlaw("chunk again")
	case n == 2:
		last, taken = last+5, false
		r.setFlaw("chunk shorter than its range")
	case n == 3:
		r.header["Content-Range"], taken = pick(s, "x-y", "bytes 0-5/10", "5", "-5"), false
		r.setFlaw("chunk without a readable range")
	case n == 4:
		r.header["Content-Type"] = "text/plain"
		r.setFlaw("chunk of another type")
	case n == 5:
		r.stream = true
	}
	if r.header["Content-Range"] == "" && len(c.data) > 0 && !r.stream && !s.one(4) {
		r.header["Content-Range"] = fmt.Sprintf("%d-%d", first, last)
	} else if !taken && r.header["Content-Range"] == "" {
		r.flaw, taken = u.flaw(), !u.over // nothing is odd about it without its range
	}
	s.add(r)
	if taken {
		u.data = append(u.data, c.data...)
	}
}

func (r *request) setFlaw(flaw string) {
	if r.flaw == "" {
		r.flaw = flaw
	}
}

// finish is PUT: with a last chunk or without, with the right digest or not.
func (s *script) finish(u *upload) {
	last := []byte(nil)
	if s.one(2) {
		last = s.content().data
	}
	whole := contentOf(append(u.data[:len(u.data):len(u.data)], last...))
	r := request{kind: finish, flaw: u.flaw(), method: "PUT", upload: u.number, body: last, target: query("digest", whole.digest)}
	ends := true
	switch s.IntN(10) {
	case 0:
		r.target = query("digest", contentOf([]byte("something else")).digest)
		r.setFlaw("other bytes")
	case 1:
		digest, flaw := s.wrongDigest()
		r.target, ends = query("digest", digest), false
		r.setFlaw(flaw)
	case 2:
		r.target, ends = "", false
		r.setFlaw("no digest")
	case 3:
		r.target = query("digest", sha512Of(whole.data))
		r.setFlaw("sha512")
	case 4:
		if len(last) > 0 {
			r.header, ends = map[string]string{"Content-Range": fmt.Sprintf("%d-%d", len(u.data)+3, len(u.data)+2+len(last))}, false
			r.setFlaw("chunk too far on")
		}
	case 5:
		if len(last) > 0 {
			r.header = map[string]string{"Content-Range": fmt.Sprintf("%d-%d", len(u.data), len(u.data)+len(last)-1)}
		}
	}
	s.add(r)
	if ends && !u.over {
		u.over = true
		s.written[u.repository] = true
		if r.flaw == "" {
			s.hold(u.repository, whole)
		}
	}
	if r.flaw == "other bytes" {
		u.spoilt = true
		s.continueUpload() // perhaps this one
	}
}

// mountBlob asks for a blob of another repository.
func (s *script) mountBlob() {
	to, from := s.repository(), s.repository()
	c := s.anyBlob(from)
	r := request{kind: mount, method: "POST"}
	pairs := []string{"mount", c.digest, "from", from}
	switch s.IntN(8) {
	case 0:
		pairs, r.flaw = []string{"mount", c.digest}, "mount from anywhere"
	case 1:
		pairs[1], r.flaw = s.wrongDigest()
	case 2:
		pairs[3], r.flaw = "NO/Name", "invalid name"
	case 3:
		pairs[3] = home + "/never/pushed/to"
	case 4:
		pairs[1], r.flaw = sha512Of(c.data), "sha512"
	}
	// The name of the source is text in a query: written by hand, so that the
	// play's own name can still be put into it.
	r.target = at(to) + "/blobs/uploads/?mount=" + pairs[1]
	if len(pairs) > 2 {
		r.target += "&from=" + pairs[3]
	}
	s.add(r)
	if r.flaw == "" && s.has(from, c) {
		s.hold(to, c)
	}
}

// readBlob is GET or HEAD, perhaps of a part, perhaps on a condition.
func (s *script) readBlob() {
	repository := s.repository()
	c := s.anyBlob(repository)
	r := request{kind: readBlob, method: pick(s, "GET", "GET", "HEAD"), target: at(repository) + "/blobs/" + c.digest, header: map[string]string{}}
	n := len(c.data)
	switch s.IntN(10) {
	case 0:
		r.header["Range"] = "bytes=0-0"
	case 1:
		r.header["Range"] = "bytes=" + strconv.Itoa(n/2) + "-"
	case 2:
		r.header["Range"] = "bytes=-" + strconv.Itoa(1+n/3)
	case 3:
		r.header["Range"] = "bytes=" + strconv.Itoa(n/3) + "-" + strconv.Itoa(n+10)
	case 4:
		r.header["Range"], r.flaw = "bytes="+strconv.Itoa(n+1)+"-", "range beyond the end"
	case 5:
		r.header["Range"], r.flaw = pick(s, "bytes=9-1", "bytes=a-b", "bytes=", "bytes=--1", "bytes=-0"), "range that is none"
	case 6:
		r.header["Range"], r.flaw = "bytes=0-0,2-3", "several ranges"
	case 7:
		r.header["Range"], r.flaw = "lines=1-2", "range of another unit"
	case 8:
		r.header["If-None-Match"] = `"` + c.digest + `"`
	}
	if n == 0 && r.header["Range"] != "" {
		r.setFlaw("range of nothing")
	}
	s.add(r)
}

func (s *script) deleteBlob() {
	repository := s.repository()
	c := s.anyBlob(repository)
	s.add(request{kind: deleteBlob, method: "DELETE", target: at(repository) + "/blobs/" + c.digest})
	s.held[repository] = slices.DeleteFunc(s.held[repository], func(held content) bool { return held.digest == c.digest })
}
