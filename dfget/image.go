package dfget

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/durable"
)

// parallelBlobs is how many blobs of an image are fetched at once, as
// containerd does.
const parallelBlobs = 3

// fetchImage writes an image as an OCI layout (image-spec 1.1), or one blob
// when the digest names no manifest.
func (a *app) fetchImage(ctx context.Context, g *registry, image blob.Image, o fetchOptions) (result, error) {
	root, body, err := g.manifest(ctx, image.Reference())
	if errors.Is(err, errNotFound) && image.Digest != "" {
		return a.fetchBlob(ctx, g, image.Digest, o.out)
	}
	if err != nil {
		return result{}, err
	}
	if o.digest != "" && string(root.Digest) != o.digest {
		return result{}, fmt.Errorf("the digest of %s is %s, not %s; nothing was kept", image.Reference(), root.Digest, o.digest)
	}
	dir, isTar := o.out, strings.HasSuffix(o.out, ".tar")
	if isTar {
		dir = o.out + ".layout"
	}
	l := &layoutWriter{dir: dir, from: g, progress: a.newProgress()}
	root, err = l.write(ctx, root, body, o.platform)
	l.progress.wait()
	if err != nil {
		return result{}, err
	}
	if image.Tag != "" {
		root.Annotations = map[string]string{ocispec.AnnotationRefName: image.Tag}
	}
	if err := l.finish(root); err != nil {
		return result{}, err
	}
	if isTar {
		if err := l.tar(o.out); err != nil {
			return result{}, fmt.Errorf("write %s: %w", o.out, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return result{}, err
		}
	}
	return result{Digest: string(root.Digest), Bytes: l.bytes, Via: "agent"}, nil
}

// layoutWriter fills an OCI layout folder; blobs that are there already are
// not fetched again.
type layoutWriter struct {
	dir      string
	from     *registry
	progress *progress
	digests  []blob.Digest // of all that the image names
	bytes    int64
}

// write fetches all that root names; of an index only the wanted platform's
// manifest, whose descriptor is then the new root.
func (l *layoutWriter) write(ctx context.Context, root blob.Descriptor, body []byte, platform string) (blob.Descriptor, error) {
	var parsed struct {
		Manifests []blob.Descriptor `json:"manifests"`
		Config    *blob.Descriptor  `json:"config"`
		Layers    []blob.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(body, &parsed); err != nil {
		return root, fmt.Errorf("manifest %s is not JSON: %w", root.Digest, err)
	}
	if len(parsed.Manifests) > 0 {
		if platform != "all" {
			child, err := blob.PickPlatform(parsed.Manifests, platform)
			if err != nil {
				return root, err
			}
			return l.child(ctx, child, platform)
		}
		for _, child := range parsed.Manifests {
			if _, err := l.child(ctx, child, platform); err != nil {
				return root, err
			}
		}
	}
	blobs := parsed.Layers
	if parsed.Config != nil {
		blobs = append(blobs, *parsed.Config)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelBlobs)
	for _, d := range blobs {
		if _, err := blob.ParseDigest(string(d.Digest)); err != nil {
			return root, err
		}
		l.bytes += d.Size
		l.digests = append(l.digests, d.Digest)
		path := l.path(d.Digest)
		if exists(path) {
			continue
		}
		bar := l.progress.bar(short(d.Digest))
		group.Go(func() error {
			_, _, err := download(ctx, path, d.Digest, func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
				return l.from.blob(ctx, d.Digest, offset)
			}, bar)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return root, err
	}
	l.bytes += int64(len(body))
	l.digests = append(l.digests, root.Digest)
	if err := os.MkdirAll(filepath.Dir(l.path(root.Digest)), 0o755); err != nil {
		return root, err
	}
	return root, durable.WriteFile(l.path(root.Digest), body, 0o644)
}

func (l *layoutWriter) child(ctx context.Context, child blob.Descriptor, platform string) (blob.Descriptor, error) {
	if _, err := blob.ParseDigest(string(child.Digest)); err != nil {
		return child, err
	}
	got, body, err := l.from.manifest(ctx, string(child.Digest))
	if err != nil {
		return child, err
	}
	got.Platform = child.Platform
	return l.write(ctx, got, body, platform)
}

func (l *layoutWriter) path(d blob.Digest) string {
	return filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// finish writes what makes a folder an OCI layout, the index last.
func (l *layoutWriter) finish(root blob.Descriptor) error {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(l.dir, ocispec.ImageLayoutFile), layout, 0o644); err != nil {
		return err
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []blob.Descriptor{root}}
	index.SchemaVersion = 2
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(l.dir, ocispec.ImageIndexFile), raw, 0o644)
}

// tar packs the layout into one file, written aside and renamed. What else
// lies in the folder, left by an earlier try for another image, stays out.
func (l *layoutWriter) tar(out string) error {
	f, err := os.Create(out + ".part")
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	names := []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile}
	for _, d := range l.digests {
		names = append(names, filepath.Join("blobs", d.Algorithm().String(), d.Encoded()))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := addFile(w, l.dir, name); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.Rename(out+".part", out)
}

func addFile(w *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
