package differential

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/url"
)

// script writes the requests of one play. It keeps in mind what the requests
// so far should have led to, so that most of what it writes makes sense; it
// never sees an answer.
type script struct {
	*rand.Rand
	out       []request
	held      map[string][]content // by repository: blobs that should be there
	written   map[string]bool      // repositories that any blob may have come to
	uploads   []*upload
	manifests []manifest
}

type content struct {
	digest string
	data   []byte
}

func contentOf(data []byte) content {
	sum := sha256.Sum256(data)
	return content{"sha256:" + hex.EncodeToString(sum[:]), data}
}

func sha512Of(data []byte) string {
	sum := sha512.Sum512(data)
	return "sha512:" + hex.EncodeToString(sum[:])
}

// upload is one that was begun; over when it should have ended, spoilt when
// that was because its bytes did not have the digest.
type upload struct {
	number     int
	repository string
	data       []byte
	over       bool
	spoilt     bool
}

// manifest is one that was pushed, or tried.
type manifest struct {
	repository, tag, mediaType string
	content                    content
	good                       bool
}

// write makes the requests of the play of that seed.
func write(seed uint64) []request {
	s := &script{Rand: rand.New(rand.NewPCG(seed, 0)), held: map[string][]content{}, written: map[string]bool{}}
	for range 4 + s.IntN(30) {
		s.act()
	}
	return s.out
}

// act adds a request, or the few that belong together.
func (s *script) act() {
	acts := []struct {
		weight int
		act    func(*script)
	}{
		{10, (*script).pushBlob}, {8, (*script).beginUpload}, {14, (*script).continueUpload}, {6, (*script).mountBlob},
		{12, (*script).readBlob}, {3, (*script).deleteBlob}, {14, (*script).pushImage}, {8, (*script).pushOther},
		{14, (*script).readManifest}, {4, (*script).deleteManifest}, {6, (*script).listTags}, {3, (*script).listRepositories},
		{2, (*script).listReferrers}, {5, (*script).stray}, {1, (*script).ping},
	}
	total := 0
	for _, a := range acts {
		total += a.weight
	}
	at := s.IntN(total)
	for _, a := range acts {
		if at -= a.weight; at < 0 {
			a.act(s)
			return
		}
	}
}

func (s *script) add(r request) { s.out = append(s.out, r) }

// one in n.
func (s *script) one(n int) bool { return s.IntN(n) == 0 }

func pick[T any](s *script, list ...T) T { return list[s.IntN(len(list))] }

func (s *script) repository() string {
	return home + pick(s, "/a", "/a", "/a", "/b/c", "/b/c", "/d__e-f.g")
}

func at(repository string) string { return "/v2/" + repository }

// contents are few, so that they meet again.
func (s *script) content() content {
	switch n := s.IntN(8); n {
	case 0:
		return contentOf(nil)
	case 1:
		return contentOf([]byte("{}"))
	default:
		data := make([]byte, []int{1, 10, 100, 4096, 70_000, 300_001}[n-2])
		for i := range data {
			data[i] = byte(i * n)
		}
		return contentOf(data)
	}
}

// anyBlob is one that the repository should have, or sometimes another.
func (s *script) anyBlob(repository string) content {
	if held := s.held[repository]; len(held) > 0 && !s.one(6) {
		return pick(s, held...)
	}
	return s.content()
}

func (s *script) hold(repository string, c content) {
	s.held[repository] = append(s.held[repository], c)
	s.written[repository] = true
}

// wrongDigest is something that is no digest of any content here, and what is
// wrong about it.
func (s *script) wrongDigest() (digest, flaw string) {
	hex64 := contentOf([]byte("never pushed")).digest[len("sha256:"):]
	wrong := []struct{ digest, flaw string }{
		{"sha256:" + hex64[:40], "short digest"}, {"sha256:" + hex64 + "0", "long digest"},
		{"sha256:" + hex64[:63] + "g", "digest that is not hex"}, {"sha256:" + "ABCDEF" + hex64[6:], "digest in capitals"},
		{"sha999:" + hex64, "digest of an unknown algorithm"}, {"md5:" + hex64[:32], "digest of an unknown algorithm"},
		{"sha256:", "empty digest"}, {"sha256:..%2f" + hex64[5:], "digest with a path in it"},
	}
	w := pick(s, wrong...)
	return w.digest, w.flaw
}

func (s *script) ping() {
	r := request{kind: ping, method: pick(s, "GET", "GET", "HEAD"), target: "/v2/"}
	if s.one(4) {
		r.method, r.flaw = pick(s, "POST", "DELETE", "PUT"), "wrong method"
	}
	s.add(r)
}

// stray asks for what no route of the specification is.
func (s *script) stray() {
	name := s.repository()
	digest, digestFlaw := s.wrongDigest()
	known := s.content().digest
	s.add(pick(s,
		request{method: "GET", target: "/v2/x", flaw: "unknown address"},
		request{method: "GET", target: at(name) + "/nothing/x", flaw: "unknown address"},
		request{method: "GET", target: at(home+"/UPPER") + "/tags/list", flaw: "invalid name"},
		request{method: "GET", target: at(home+"/a_") + "/manifests/v1", flaw: "invalid name"},
		request{method: "GET", target: at(home+"/.a") + "/blobs/" + known, flaw: "invalid name"},
		request{method: "POST", target: at(home+"/-a") + "/blobs/uploads/", flaw: "invalid name"},
		request{method: "GET", target: at(home+"/"+longName(190)) + "/tags/list", flaw: "long name"},
		request{method: "GET", target: at(home+"/"+longName(260)) + "/tags/list", flaw: "overlong name"},
		request{method: "GET", target: at(name) + "/blobs/" + digest, flaw: digestFlaw},
		request{method: "HEAD", target: at(name) + "/manifests/" + digest, flaw: digestFlaw},
		request{method: "GET", target: at(name) + "/manifests/" + digest, flaw: digestFlaw},
		request{method: "GET", target: at(name) + "/manifests/-v1", flaw: "invalid tag"},
		request{method: "GET", target: at(name) + "/manifests/" + longName(129), flaw: "invalid tag"},
		request{method: "GET", target: at(name) + "/manifests/v1%20", flaw: "invalid tag"},
		request{method: "GET", target: at(name) + "/manifests/" + known[len("sha256:"):], flaw: "tag like a digest"},
		request{method: pick(s, "POST", "PATCH"), target: at(name) + "/manifests/v1", flaw: "wrong method"},
		request{method: pick(s, "POST", "PUT", "PATCH"), target: at(name) + "/blobs/" + known, flaw: "wrong method"},
		request{method: pick(s, "POST", "PUT", "DELETE"), target: at(name) + "/tags/list", flaw: "wrong method"},
		request{method: pick(s, "PATCH", "DELETE"), target: at(name) + "/blobs/uploads/", flaw: "wrong method"},
		request{method: pick(s, "POST", "DELETE"), target: "/v2/_catalog", flaw: "wrong method"},
	).as(stray))
}

func (r request) as(k kind) request { r.kind = k; return r }

func longName(n int) string {
	name := make([]byte, n)
	for i := range name {
		name[i] = 'a' + byte(i%26)
	}
	return string(name)
}

// query writes parameters in a fixed order, so that a play is the same text
// each time.
func query(pairs ...string) string {
	text := ""
	for i := 0; i+1 < len(pairs); i += 2 {
		text += fmt.Sprintf("%c%s=%s", "?&"[min(i, 1)], pairs[i], url.QueryEscape(pairs[i+1]))
	}
	return text
}
