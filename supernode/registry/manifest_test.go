package registry_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/registry"
)

func TestManifestPushPull(t *testing.T) {
	f := newFixture(t, nil)
	image := f.pushImage("lib/app", "v1", "one", "two")
	for _, reference := range []string{"v1", string(image.Digest)} {
		for _, method := range []string{"GET", "HEAD"} {
			a := f.do(method, "/v2/lib/app/manifests/"+reference, nil).want(http.StatusOK)
			h := a.Header()
			if h.Get("Docker-Content-Digest") != string(image.Digest) || h.Get("Content-Type") != imageType || h.Get("Content-Length") != fmt.Sprint(image.Size) {
				t.Errorf("%s %s: %v", method, reference, h)
			}
			if method == "GET" && digest.FromBytes(a.Body.Bytes()) != image.Digest {
				t.Errorf("pulled another manifest: %s", a.Body)
			}
		}
	}
	body := f.do("GET", "/v2/lib/app/manifests/v1", nil).Body.Bytes()
	f.checkManifestContent(image.Digest, body)
}

// checkManifestContent reads a manifest as the swarm does.
func (f *fixture) checkManifestContent(d blob.Digest, want []byte) {
	f.t.Helper()
	c, err := f.Content(f.t.Context(), d)
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, c.Size())
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		f.t.Errorf("content %q, %v; want %q", got, err, want)
	}
}

func TestMissingBlobsAreNamed(t *testing.T) {
	f := newFixture(t, nil)
	config := f.pushBlob("a", []byte("{}"))
	elsewhere := f.pushBlob("b", []byte("in b only"))
	absent := blob.Descriptor{MediaType: "x/y", Digest: digest.FromString("absent"), Size: 6}
	a, _ := f.putManifest("a", "v1", imageOf(config, elsewhere, absent))
	a.fails(http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN")
	for _, d := range []blob.Digest{elsewhere.Digest, absent.Digest} {
		if strings.Count(a.Body.String(), string(d)) != 2 { // in the message and in the detail
			t.Errorf("%s is not named: %s", d, a.Body)
		}
	}
	if strings.Contains(a.Body.String(), string(config.Digest)) {
		t.Errorf("the config is there and called missing: %s", a.Body)
	}
	f.do("GET", "/v2/a/manifests/v1", nil).fails(http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// TestSparse takes an index whose platforms were not pushed, and foreign
// layers with an address.
func TestSparse(t *testing.T) {
	f := newFixture(t, nil)
	absent := blob.Descriptor{MediaType: imageType, Digest: digest.FromString("absent"), Size: 6}
	a, _ := f.putManifest("a", "index", map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{absent}})
	a.want(http.StatusCreated)
	foreign := absent
	foreign.MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	config := f.pushBlob("a", []byte("{}"))
	a, _ = f.putManifest("a", "windows", imageOf(config, foreign))
	a.fails(http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN")
	foreign.URLs = []string{"https://example.com/layer"}
	a, _ = f.putManifest("a", "windows", imageOf(config, foreign))
	a.want(http.StatusCreated)
}

func TestManifestRefused(t *testing.T) {
	f := newFixture(t, nil)
	c := f.pushBlob("a", []byte("{}"))
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	const docker = "application/vnd.docker.distribution.manifest.v2+json"
	head := `{"schemaVersion":2,"mediaType":"` + imageType + `",`
	image := head + `"config":` + string(config) + `,"layers":[]`
	big := blob.Descriptor{Digest: c.Digest, Size: 3}
	bigJSON, _ := json.Marshal(big)
	tests := map[string]struct{ contentType, body, code string }{
		"no JSON":               {imageType, "{", "MANIFEST_INVALID"},
		"no object":             {imageType, "[]", "MANIFEST_INVALID"},
		"two values":            {imageType, image + "}{}", "MANIFEST_INVALID"},
		"another type":          {indexType, image + "}", "MANIFEST_INVALID"},
		"type of Docker":        {docker, image + "}", "MANIFEST_INVALID"},
		"unknown type":          {"text/plain", strings.Replace(image, imageType, "text/plain", 1) + "}", "MANIFEST_INVALID"},
		"no type":               {"", `{"schemaVersion":2,"config":` + string(config) + `,"layers":[]}`, "MANIFEST_INVALID"},
		"Docker without type":   {docker, `{"schemaVersion":2,"config":` + string(config) + `,"layers":[]}`, "MANIFEST_INVALID"},
		"bad Content-Type":      {"a/b; c", image + "}", "MANIFEST_INVALID"},
		"schema 1":              {imageType, strings.Replace(image, ":2,", ":1,", 1) + "}", "MANIFEST_INVALID"},
		"image and index":       {imageType, image + `,"manifests":[]}`, "MANIFEST_INVALID"},
		"index with layers":     {indexType, `{"schemaVersion":2,"manifests":[],"layers":[]}`, "MANIFEST_INVALID"},
		"no config":             {imageType, head + `"layers":[]}`, "MANIFEST_INVALID"},
		"no layers":             {imageType, head + `"config":` + string(config) + `}`, "MANIFEST_INVALID"},
		"layers of other case":  {imageType, head + `"config":` + string(config) + `,"Layers":[]}`, "MANIFEST_INVALID"},
		"no manifests":          {indexType, `{"schemaVersion":2}`, "MANIFEST_INVALID"},
		"bad digest":            {imageType, head + `"config":{"digest":"sha256:1","size":1},"layers":[]}`, "MANIFEST_INVALID"},
		"negative size":         {imageType, strings.Replace(image, `"size":2`, `"size":-2`, 1) + "}", "MANIFEST_INVALID"},
		"wrong size":            {imageType, head + `"config":` + string(bigJSON) + `,"layers":[]}`, "MANIFEST_INVALID"},
		"bad subject":           {imageType, image + `,"subject":{"digest":"x"}}`, "MANIFEST_INVALID"},
		"bad annotations":       {imageType, image + `,"annotations":[]}`, "MANIFEST_INVALID"},
		"too many children":     {indexType, `{"schemaVersion":2,"manifests":[` + strings.Repeat(string(config)+",", 4096) + string(config) + `]}`, "MANIFEST_INVALID"},
		"too large":             {imageType, image + `,"x":"` + strings.Repeat("x", 4<<20) + `"}`, "SIZE_INVALID"},
		"schema version a text": {imageType, strings.Replace(image, ":2,", `:"2",`, 1) + "}", "MANIFEST_INVALID"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f.t = t
			status := http.StatusBadRequest
			if test.code == "SIZE_INVALID" {
				status = http.StatusRequestEntityTooLarge
			}
			f.do("PUT", "/v2/a/manifests/t", strings.NewReader(test.body), "Content-Type: "+test.contentType).fails(status, test.code)
		})
	}
	f.t = t
	f.do("PUT", "/v2/a/manifests/"+string(digest.FromString("x")), strings.NewReader(image+"}"), "Content-Type: "+imageType).
		fails(http.StatusBadRequest, "DIGEST_INVALID")
	for body, contentType := range map[string]string{image + "}": imageType + "; charset=utf-8", image + ` } `: "",
		strings.Replace(image, imageType, docker, 1) + "}": docker} {
		f.do("PUT", "/v2/a/manifests/t", strings.NewReader(body), "Content-Type: "+contentType).want(http.StatusCreated)
	}
}

func TestTagParameters(t *testing.T) {
	f := newFixture(t, nil)
	config := f.pushBlob("a", []byte("{}"))
	query := "?tag=t0"
	for i := range 24 {
		query += fmt.Sprintf("&tag=t%d", i+1)
	}
	m := imageOf(config)
	body, _ := json.Marshal(m)
	d := sha512Of(body)
	a, _ := f.putManifest("a", string(d)+query+"&tag=t0", m)
	if a.want(http.StatusCreated); len(a.Header().Values("OCI-Tag")) != 25 {
		t.Errorf("tags %v", a.Header().Values("OCI-Tag"))
	}
	for _, tag := range []string{"t0", "t24"} {
		if got := f.do("HEAD", "/v2/a/manifests/"+tag, nil).want(200).Header().Get("Docker-Content-Digest"); got != string(d) {
			t.Errorf("%s is %s", tag, got)
		}
	}
	a, _ = f.putManifest("a", string(d)+query+"&tag=t25", m)
	a.fails(http.StatusRequestURITooLong, "TAG_INVALID")
	a, _ = f.putManifest("a", string(d)+"?tag=-", m)
	a.fails(http.StatusBadRequest, "TAG_INVALID")
}

func TestTagConditions(t *testing.T) {
	f := newFixture(t, nil)
	first, second := f.pushImage("a", "v1", "1"), f.pushImage("a", "other", "2")
	body := f.do("GET", "/v2/a/manifests/other", nil).Body.String()
	put := func(header string) answer {
		return f.do("PUT", "/v2/a/manifests/v1", strings.NewReader(body), "Content-Type: "+imageType, header)
	}
	put("If-None-Match: *").fails(http.StatusPreconditionFailed, "DENIED")
	put(`If-Match: "`+string(second.Digest)+`"`).fails(http.StatusPreconditionFailed, "DENIED")
	put(`If-Match: "` + string(first.Digest) + `"`).want(http.StatusCreated)
}

func TestDeleteTagAndManifest(t *testing.T) {
	f := newFixture(t, nil)
	image := f.pushImage("a", "t", "layer")
	body := f.do("GET", "/v2/a/manifests/t", nil).Body.String()
	for i := range 45 { // more than one commit takes
		f.do("PUT", fmt.Sprintf("/v2/a/manifests/t%d", i), strings.NewReader(body), "Content-Type: "+imageType).want(http.StatusCreated)
	}
	other := f.pushImage("a", "other", "else")
	f.do("DELETE", "/v2/a/manifests/t", nil).want(http.StatusAccepted)
	f.do("DELETE", "/v2/a/manifests/t", nil).fails(http.StatusNotFound, "MANIFEST_UNKNOWN")
	f.do("GET", "/v2/a/manifests/t", nil).fails(http.StatusNotFound, "MANIFEST_UNKNOWN")
	f.do("GET", "/v2/a/manifests/"+string(image.Digest), nil).want(http.StatusOK)
	f.do("DELETE", "/v2/a/manifests/"+string(image.Digest), nil).want(http.StatusAccepted)
	f.do("DELETE", "/v2/a/manifests/"+string(image.Digest), nil).fails(http.StatusNotFound, "MANIFEST_UNKNOWN")
	if got := f.do("GET", "/v2/a/tags/list", nil).Body.String(); got != `{"name":"a","tags":["other"]}` {
		t.Errorf("tags %s", got)
	}
	f.do("GET", "/v2/a/manifests/"+string(other.Digest), nil).want(http.StatusOK)
}

func TestListings(t *testing.T) {
	f := newFixture(t, nil)
	for _, repo := range []string{"b", "a", "a/c"} {
		for _, tag := range []string{"v2", "V3", "v1"} {
			f.pushImage(repo, tag, "x")
		}
	}
	tests := []struct{ target, want, link string }{
		{"/v2/a/tags/list", `{"name":"a","tags":["V3","v1","v2"]}`, ""},
		{"/v2/a/tags/list?n=2", `{"name":"a","tags":["V3","v1"]}`, `</v2/a/tags/list?last=v1&n=2>; rel="next"`},
		{"/v2/a/tags/list?last=v1&n=2", `{"name":"a","tags":["v2"]}`, ""},
		{"/v2/a/tags/list?last=v", `{"name":"a","tags":["v1","v2"]}`, ""},
		{"/v2/a/tags/list?n=0", `{"name":"a","tags":[]}`, ""},
		{"/v2/a/tags/list?n=5000", `{"name":"a","tags":["V3","v1","v2"]}`, ""},
		{"/v2/_catalog", `{"repositories":["a","a/c","b"]}`, ""},
		{"/v2/_catalog?n=1&last=a", `{"repositories":["a/c"]}`, `</v2/_catalog?last=a%2Fc&n=1>; rel="next"`},
	}
	for _, test := range tests {
		a := f.do("GET", test.target, nil).want(http.StatusOK)
		if a.Body.String() != test.want || a.Header().Get("Link") != test.link {
			t.Errorf("%s = %s, Link %s", test.target, a.Body, a.Header().Get("Link"))
		}
	}
	var names []string
	for r, err := range f.Repositories(t.Context()) {
		if err != nil || r.Created.IsZero() {
			t.Fatalf("%+v, %v", r, err)
		}
		names = append(names, r.Name)
	}
	if fmt.Sprint(names) != "[a a/c b]" {
		t.Errorf("repositories %v", names)
	}
	holders, err := f.HoldersOf(t.Context(), digest.FromString("x"), 10)
	if err != nil || fmt.Sprint(holders) != "[a a/c b]" {
		t.Errorf("holders %v, %v", holders, err)
	}
}

func TestReferrers(t *testing.T) {
	f := newFixture(t, nil)
	config := f.pushBlob("a", []byte("{}"))
	subject := blob.Descriptor{MediaType: imageType, Digest: digest.FromString("to come"), Size: 7}
	want := map[string]bool{}
	for i := range 5 {
		m := imageOf(config)
		m["subject"], m["artifactType"] = subject, fmt.Sprintf("x/%d", i%2)
		m["annotations"] = map[string]string{"n": fmt.Sprint(i), "bulk": strings.Repeat("b", i*10_000)}
		a, desc := f.putManifest("a", "", m)
		if a.want(http.StatusCreated).Header().Get("OCI-Subject") != string(subject.Digest) {
			t.Errorf("headers %v", a.Header())
		}
		if i%2 == 0 {
			want[string(desc.Digest)] = true
		}
	}
	target := "/v2/a/referrers/" + string(subject.Digest) + "?artifactType=x/0&n=1"
	for pages := 0; target != ""; pages++ {
		a := f.do("GET", target, nil).want(http.StatusOK)
		if a.Header().Get("OCI-Filters-Applied") != "artifactType" || a.Header().Get("Content-Type") != indexType || pages > 4 {
			t.Fatalf("page %d: %v", pages, a.Header())
		}
		var index struct{ Manifests []blob.Descriptor }
		if err := json.Unmarshal(a.Body.Bytes(), &index); err != nil {
			t.Fatal(err)
		}
		for _, m := range index.Manifests {
			if !want[string(m.Digest)] || m.ArtifactType != "x/0" || m.Annotations["n"] != fmt.Sprint(len(m.Annotations["bulk"])/10_000) {
				t.Errorf("unexpected %s %s", m.Digest, m.ArtifactType)
			}
			delete(want, string(m.Digest))
			f.do("DELETE", "/v2/a/manifests/"+string(m.Digest), nil).want(http.StatusAccepted)
		}
		target, _, _ = strings.Cut(strings.TrimPrefix(a.Header().Get("Link"), "<"), ">")
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	if got := f.do("GET", "/v2/a/referrers/"+string(subject.Digest)+"?artifactType=x/0", nil).Body.String(); !strings.Contains(got, `"manifests":[]`) {
		t.Errorf("deleted referrers are listed: %s", got)
	}
}

func TestTagRecord(t *testing.T) {
	f := newFixture(t, nil)
	image := f.pushImage("a/b", "v1", "x")
	if h := f.do("GET", "/v2/a/b/manifests/v1", nil).Header(); h.Get(registry.HeaderTagRecord) != "" {
		t.Error("a record that nobody asked for")
	}
	a := f.do("HEAD", "/v2/a/b/manifests/v1", nil, registry.HeaderWantTagRecord+": 1").want(http.StatusOK)
	raw, err := base64.StdEncoding.DecodeString(a.Header().Get(registry.HeaderTagRecord))
	if err != nil {
		t.Fatal(err)
	}
	record, err := blob.DecodeTagRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := record.Check(verify); err != nil {
		t.Fatal(err)
	}
	if record.Ref.Repository != "a/b" || record.Tag != "v1" || record.Digest != image.Digest || record.MediaType != imageType ||
		record.Size != image.Size || !record.Time.Equal(f.clock()) || record.Epoch == 0 {
		t.Errorf("record %+v", record)
	}
	if _, err := f.TagRecord(t.Context(), "a/b", "v2"); err == nil {
		t.Error("a record of a tag that is not there")
	}
	if _, err := f.TagRecord(t.Context(), "a/b/_/", "v1"); err == nil {
		t.Error("a record of a repository that is none")
	}
}
