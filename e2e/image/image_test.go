package image

import (
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestImageIsValidAndRepeats(t *testing.T) {
	spec := Spec{Line: "the line", Layers: []int64{1 << 20, 300000}, Seed: 7}
	img, err := Build(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Errorf("invalid image: %v", err)
	}
	again, err := Build(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := img.Digest()
	two, _ := again.Digest()
	if one != two {
		t.Errorf("one spec, two digests: %s and %s", one, two)
	}
	layers, _ := img.Layers()
	if size, _ := layers[1].Size(); size < 1<<20 || size > 1<<20+256 {
		t.Errorf("bulk layer of %d bytes, want %d and little more", size, 1<<20)
	}
	spec.Seed++
	other, _ := Build(t.Context(), spec)
	others, _ := other.Layers()
	a, _ := layers[1].Digest()
	b, _ := others[1].Digest()
	if a == b {
		t.Error("two seeds share a layer")
	}
}

func TestWrittenForms(t *testing.T) {
	spec := Spec{Layers: []int64{64 << 10}, NoProgram: true}
	img, err := Build(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.Digest()

	dir := filepath.Join(t.TempDir(), "layout")
	if err := WriteLayout(dir, "v1", img); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("layout: %v", err)
	}

	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := WriteArchive(archive, "example.com/a/b:v1", img); err != nil {
		t.Fatal(err)
	}
	back, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(back); err != nil {
		t.Errorf("archive of %s: %v", want, err)
	}
}

func TestIndex(t *testing.T) {
	index, err := Index(t.Context(), Spec{Layers: []int64{4096}, NoProgram: true}, "amd64", "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	m, _ := index.IndexManifest()
	if len(m.Manifests) != 2 || m.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("index: %+v", m.Manifests)
	}
}
