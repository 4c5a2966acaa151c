// Package image makes the images that the demo, the end-to-end tests and the
// benchmark move about. There is no registry to pull one from on the machines
// where they run, so an image is a static Go program that prints a known line,
// and layers of random bytes of whatever size is wanted. The same Spec gives
// the same digests.
package image

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what image is wanted.
type Spec struct {
	// Line is what the image's program prints when it is run.
	Line string
	// Layers are the sizes in bytes of the random layers as tars.
	Layers []int64
	// Seed makes the random bytes; two specs that differ in it share no layer.
	Seed uint64
	// Arch is the GOARCH of the program; empty means amd64. The system is
	// linux. NoProgram leaves the program out (nothing to compile, not to be
	// run).
	Arch      string
	NoProgram bool
}

//go:embed program/main.go
var program []byte

// Build makes the image. It calls the go command for the program.
func Build(ctx context.Context, s Spec) (v1.Image, error) {
	if s.Arch == "" {
		s.Arch = "amd64"
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	config := &v1.ConfigFile{
		OS: "linux", Architecture: s.Arch,
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: []string{"/hello"}, WorkingDir: "/", Labels: map[string]string{"line": s.Line}},
	}
	img, err := mutate.ConfigFile(img, config)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	var layers []v1.Layer
	if !s.NoProgram {
		hello, err := compile(ctx, s.Arch)
		if err != nil {
			return nil, err
		}
		first, err := files([]file{{"hello", 0o755, hello}, {"line", 0o644, []byte(s.Line + "\n")}})
		if err != nil {
			return nil, err
		}
		layers = append(layers, first)
	}
	for i, size := range s.Layers {
		layers = append(layers, bulk(fmt.Sprintf("bulk-%d", i), size, s.Seed<<16+uint64(i)))
	}
	img, err = mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, fmt.Errorf("image layers: %w", err)
	}
	return img, nil
}

// Index makes a multi-arch index with one image for each architecture. The
// bulk layers are shared, the program is not.
func Index(ctx context.Context, s Spec, archs ...string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range archs {
		s.Arch = arch
		img, err := Build(ctx, s)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return index, nil
}

// WriteLayout writes the image as an OCI layout folder with the tag as its
// ref name, as skopeo's oci:DIR:TAG reads it.
func WriteLayout(dir, tag string, img v1.Image) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("OCI layout in %s: %w", dir, err)
	}
	ref := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})
	if err := path.AppendImage(img, ref); err != nil {
		return fmt.Errorf("OCI layout in %s: %w", dir, err)
	}
	return nil
}

// WriteIndexLayout writes a multi-arch index as an OCI layout folder.
func WriteIndexLayout(dir, tag string, index v1.ImageIndex) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("OCI layout in %s: %w", dir, err)
	}
	ref := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})
	if err := path.AppendIndex(index, ref); err != nil {
		return fmt.Errorf("OCI layout in %s: %w", dir, err)
	}
	return nil
}

// WriteArchive writes the image as `docker load` reads it.
func WriteArchive(path, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	return nil
}

// Size is the number of bytes that a pull of the image moves: manifest,
// config and layers.
func Size(img v1.Image) (int64, error) {
	total, err := img.Size()
	if err != nil {
		return 0, fmt.Errorf("image size: %w", err)
	}
	m, err := img.Manifest()
	if err != nil {
		return 0, fmt.Errorf("image size: %w", err)
	}
	total += m.Config.Size
	for _, l := range m.Layers {
		total += l.Size
	}
	return total, nil
}

// compile builds the program for one architecture.
func compile(ctx context.Context, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "shoal-image-")
	if err != nil {
		return nil, fmt.Errorf("compile the image's program: %w", err)
	}
	defer os.RemoveAll(dir)
	source, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "hello")
	if err := os.WriteFile(source, program, 0o600); err != nil {
		return nil, fmt.Errorf("compile the image's program: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", out, source)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GO111MODULE=off", "GOFLAGS=")
	if complaint, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the image's program for %s: %w\n%s", arch, err, complaint)
	}
	hello, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("compile the image's program: %w", err)
	}
	return hello, nil
}
