package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/meta"
	"github.com/shoalproject/shoal/supernode/registry"
	"github.com/shoalproject/shoal/supernode/retention"
)

const oneDay = 24 * time.Hour

// retain applies rules to the project p and gives "repository:tag" of what
// went, or would in a dry run.
func (f *fixture) retain(dry bool, rules ...retention.Rule) []string {
	f.t.Helper()
	out := []string{}
	err := f.Retain(f.t.Context(), "p", rules, dry, func(r registry.Retained) error {
		if r.Removed && dry || r.Why == "" {
			f.t.Errorf("in a dry run %t: %+v", dry, r)
		}
		if r.Goes {
			out = append(out, r.Repository+":"+r.Name)
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *fixture) tagged(repository string) string {
	f.t.Helper()
	var names []string
	for tag, err := range f.Tags(f.t.Context(), repository) {
		if err != nil {
			f.t.Fatal(err)
		}
		names = append(names, tag.Name)
	}
	return strings.Join(names, " ")
}

// has reports whether a repository holds a manifest, without asking for it as
// somebody who pulls does.
func (f *fixture) has(repository string, d blob.Digest) bool {
	f.t.Helper()
	return !f.gone(f.t.Context(), "manifest/"+repository+"/_/"+string(d))
}

func (f *fixture) kinds() map[registry.EntryKind]int {
	out := map[registry.EntryKind]int{}
	for _, e := range f.log() {
		out[e.Kind]++
	}
	return out
}

func TestRetain(t *testing.T) {
	f := newFixture(t, withPolicy(policy{immutable: "keep*"}))
	digests := map[string]blob.Digest{}
	for _, repository := range []string{"p/a", "p/b/c", "q/a"} {
		for _, tag := range []string{"1", "2", "keep", "3"} {
			digests[repository+":"+tag] = f.pushImage(repository, tag, repository+tag).Digest
			f.pass(oneDay)
		}
	}
	before := f.kinds()
	if got := f.retain(true); len(got) > 0 {
		t.Errorf("without rules %v would go", got)
	}
	last := retention.Rule{KeepLast: 1}
	want := []string{"p/a:1", "p/a:2", "p/b/c:1", "p/b/c:2"}
	if got := f.retain(true, last); !slices.Equal(got, want) || f.tagged("p/a") != "1 2 3 keep" {
		t.Errorf("a dry run: %v would go; left %s", got, f.tagged("p/a"))
	}
	if got := f.retain(false, last); !slices.Equal(got, want) {
		t.Errorf("%v went", got)
	}
	for repository, want := range map[string]string{"p/a": "3 keep", "p/b/c": "3 keep", "q/a": "1 2 3 keep"} {
		if got := f.tagged(repository); got != want {
			t.Errorf("%s has the tags %s; want %s", repository, got, want)
		}
	}
	for name, d := range digests {
		repository, tag, _ := strings.Cut(name, ":")
		if stays := strings.HasPrefix(name, "q/") || tag == "3" || tag == "keep"; f.has(repository, d) != stays {
			t.Errorf("the manifest of %s: there %t", name, !stays)
		}
	}
	after := f.kinds()
	if after[registry.TagDeleted]-before[registry.TagDeleted] != 4 || after[registry.ManifestDeleted]-before[registry.ManifestDeleted] != 4 {
		t.Errorf("the log has %v, before %v", after, before)
	}
	// The bytes go with the collections that follow.
	f.collect()
	f.verifyClean()
	if got := f.retain(false, last); len(got) > 0 {
		t.Errorf("a second run removes %v", got)
	}
}

// What was pulled lately stays, over a restart too, and when it was is
// forgotten with the manifest.
func TestRetainGoesByPulls(t *testing.T) {
	f := newFixture(t, nil)
	var digests []blob.Digest
	for i := range 4 {
		digests = append(digests, f.pushImage("p/a", fmt.Sprint(i), fmt.Sprint(i)).Digest)
	}
	f.pass(10 * oneDay)
	f.do("HEAD", "/v2/p/a/manifests/0", nil).want(http.StatusOK)
	f.do("GET", "/v2/p/a/manifests/"+string(digests[1]), nil).want(http.StatusOK)
	f.do("HEAD", "/v2/p/a/manifests/9", nil).want(http.StatusNotFound)
	f.putManifest("p/a", "2", imageOf(f.pushBlob("p/a", []byte("{}")), f.pushBlob("p/a", []byte("2"))))
	rule := retention.Rule{KeepDays: 5}
	if got := f.retain(true, rule); !slices.Equal(got, []string{"p/a:3"}) {
		t.Errorf("%v would go", got)
	}
	again, err := registry.New(t.Context(), f.Config)
	if err != nil {
		t.Fatal(err)
	}
	f.Registry = again
	f.pass(oneDay)
	if got := f.retain(false, rule); !slices.Equal(got, []string{"p/a:3"}) {
		t.Errorf("after a restart %v go", got)
	}
	f.pass(5 * oneDay)
	if got := f.retain(false, rule); len(got) != 3 {
		t.Errorf("then %v go", got)
	}
	f.collect()
	for v, err := range meta.Scan(t.Context(), f.meta, "") {
		if strings.HasPrefix(v.Key, "pulled/") || strings.HasPrefix(v.Key, "spent/") || err != nil {
			t.Errorf("left: %s, %v", v.Key, err)
		}
	}
}

// With an index go its parts, unless something else leads to them, and
// signatures go with what they sign.
func TestRetainTakesWhatOnlySuchTagsLeadTo(t *testing.T) {
	f := newFixture(t, nil)
	part := func(content string) blob.Descriptor {
		_, d := f.putManifest("p/a", "", imageOf(f.pushBlob("p/a", []byte("{}")), f.pushBlob("p/a", []byte(content))))
		return d
	}
	index := func(tag string, parts ...blob.Descriptor) blob.Descriptor {
		a, d := f.putManifest("p/a", tag, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": parts})
		a.want(http.StatusCreated)
		return d
	}
	old, shared, byDigest, fresh, alone := part("old"), part("shared"), part("by digest"), part("fresh"), part("alone")
	first := index("1", old, shared, byDigest)
	untagged := index("", byDigest)
	signature := imageOf(f.pushBlob("p/a", []byte("{}")))
	signature["subject"] = first
	_, referrer := f.putManifest("p/a", "", signature)
	beside := f.pushImage("p/a", strings.Replace(string(first.Digest), ":", "-", 1)+".sig", "signature").Digest
	f.pass(oneDay)
	second := index("2", shared, fresh)
	besideNew := f.pushImage("p/a", strings.Replace(string(second.Digest), ":", "-", 1)+".sig", "another signature").Digest
	f.pass(2 * oneDay) // the leases of the parts end

	if got := f.retain(false, retention.Rule{KeepLast: 1}); len(got) != 2 {
		t.Fatalf("%v went", got)
	}
	for name, c := range map[string]struct {
		d     blob.Digest
		stays bool
	}{
		"the old index": {first.Digest, false}, "its own part": {old.Digest, false}, "its referrer": {referrer.Digest, false},
		"its signature": {beside, false}, "a part of both": {shared.Digest, true}, "the new index": {second.Digest, true},
		"its part": {fresh.Digest, true}, "its signature, too": {besideNew, true}, "what nobody tagged": {alone.Digest, true},
		"an index that nobody tagged": {untagged.Digest, true}, "its part as well": {byDigest.Digest, true},
	} {
		if got := f.has("p/a", c.d); got != c.stays {
			t.Errorf("%s: there %t", name, got)
		}
	}
	f.collect()
	f.verifyClean()
}

// A part that has a lease when its index goes stays until the lease is over,
// and no longer.
func TestRetainComesBackForWhatIsLeased(t *testing.T) {
	f := newFixture(t, nil)
	_, part := f.putManifest("p/a", "", imageOf(f.pushBlob("p/a", []byte("{}")), f.pushBlob("p/a", []byte("layer"))))
	f.putManifest("p/a", "1", map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{part}})
	f.pass(time.Minute)
	f.pushImage("p/a", "2", "new")
	f.pass(time.Minute)
	f.retain(false, retention.Rule{KeepLast: 1})
	if f.tagged("p/a") != "2" || !f.has("p/a", part.Digest) {
		t.Fatalf("tags %s, the leased part is there: %t", f.tagged("p/a"), f.has("p/a", part.Digest))
	}
	f.pass(2 * oneDay)
	f.collect()
	if f.has("p/a", part.Digest) {
		t.Error("the part is never collected")
	}
	f.verifyClean()
}

// meanwhile is a policy that lets something happen once, when it was asked
// about tags so often as the decision asks, and then once more: about the first
// tag that is to go.
type meanwhile struct {
	policy
	asked *int
	tags  int
	do    func(tag string)
}

func (m meanwhile) Immutable(ctx context.Context, repository, tag string) (bool, error) {
	if *m.asked++; *m.asked == m.tags+1 {
		m.do(tag)
	}
	return m.policy.Immutable(ctx, repository, tag)
}

// Whoever pushes while the rules are applied loses nothing.
func TestRetainAgainstPushes(t *testing.T) {
	for name, push := range map[string]func(f *fixture, tag string){
		"the same image under the tag":    func(f *fixture, tag string) { f.pushImage("p/a", tag, "image "+tag) },
		"another image under the tag":     func(f *fixture, tag string) { f.pushImage("p/a", tag, "new image") },
		"the same image under a new tag":  func(f *fixture, _ string) { f.pushImage("p/a", "new", "image 1") },
		"an index that names the image":   func(f *fixture, _ string) { f.pushIndexOf("image 1") },
		"the same image, without any tag": func(f *fixture, _ string) { f.pushUntagged("image 1") },
	} {
		f := newFixture(t, nil)
		f.pushImage("p/a", "1", "image 1")
		f.pass(oneDay)
		f.pushImage("p/a", "2", "image 2")
		f.pass(2 * oneDay)
		asked := 0
		f.Policy = meanwhile{policy{immutable: "never"}, &asked, 2, func(tag string) { push(f, tag) }}
		f.retain(false, retention.Rule{KeepLast: 1})
		if asked < 3 {
			t.Fatalf("%s: nothing came between", name)
		}
		if !f.has("p/a", f.imageDigest("image 1")) && name != "another image under the tag" {
			t.Errorf("%s: the image is gone", name)
		}
		f.collect()
		f.verifyClean()
	}
}

func (f *fixture) image(content string) map[string]any {
	return imageOf(f.pushBlob("p/a", []byte("{}")), f.pushBlob("p/a", []byte(content)))
}

func (f *fixture) imageDigest(content string) blob.Digest {
	f.t.Helper()
	other := newFixture(f.t, nil)
	return other.pushImage("p/a", "x", content).Digest
}

func (f *fixture) pushUntagged(content string) blob.Descriptor {
	f.t.Helper()
	a, d := f.putManifest("p/a", "", f.image(content))
	a.want(http.StatusCreated)
	return d
}

func (f *fixture) pushIndexOf(content string) {
	f.t.Helper()
	part := f.pushUntagged(content)
	a, _ := f.putManifest("p/a", "index", map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{part}})
	a.want(http.StatusCreated)
}

// A tag that became immutable after the decision stays.
func TestRetainStopsAtATagThatBecameImmutable(t *testing.T) {
	f := newFixture(t, withPolicy(policy{immutable: "never"}))
	f.pushImage("p/a", "1", "one")
	f.pass(oneDay)
	f.pushImage("p/a", "2", "two")
	f.Policy = &fromThenOn{asked: 2}
	err := f.Retain(t.Context(), "p", []retention.Rule{{KeepLast: 1}}, false, func(r registry.Retained) error {
		if r.Removed {
			t.Errorf("%s was removed", r.Name)
		}
		return nil
	})
	if err != nil || f.tagged("p/a") != "1 2" {
		t.Errorf("left %s, %v", f.tagged("p/a"), err)
	}
}

// fromThenOn says that every tag is immutable after it was asked so often.
type fromThenOn struct {
	policy
	asked int
}

func (p *fromThenOn) Immutable(context.Context, string, string) (bool, error) {
	p.asked--
	return p.asked < 0, nil
}
