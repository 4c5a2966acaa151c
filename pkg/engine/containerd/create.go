package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/oci"
	kernel "github.com/containerd/containerd/v2/pkg/seccomp"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimespec "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/pkg/engine"
)

const (
	// cpuPeriod is the slice of time of which a limited container gets a part,
	// in microseconds.
	cpuPeriod = 100_000
	// maxIndex bounds an index that is read from the content store, in bytes.
	maxIndex = 4 << 20
	// swapV1 is there where cgroups of version 1 count swap.
	swapV1 = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	rootV2 = "/sys/fs/cgroup/cgroup.controllers"
)

// Create implements engine.Engine.
func (e *Engine) Create(ctx context.Context, s engine.Spec) error {
	if err := s.Check(); err != nil {
		return err
	}
	ctx = e.in(ctx)
	err := e.create(ctx, s)
	if errdefs.IsAlreadyExists(err) {
		var there bool
		if there, err = e.there(ctx, s); err == nil && !there {
			err = fmt.Errorf("containerd says that it is there, and does not list it: %w", engine.ErrDiffers)
		}
	}
	if err != nil {
		return fmt.Errorf("create container %s of %s@%s: %w", s.ID, s.Image, s.Digest, err)
	}
	return nil
}

// there reports whether the container was made before; it wraps ErrDiffers
// when that one is not this one.
func (e *Engine) there(ctx context.Context, s engine.Spec) (bool, error) {
	info, err := e.client.ContainerService().Get(ctx, s.ID)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Labels[engine.LabelOwner] != e.opts.Owner || info.Labels[engine.LabelHash] != s.Hash() {
		return false, engine.ErrDiffers
	}
	return true, nil
}

func (e *Engine) create(ctx context.Context, s engine.Spec) error {
	if there, err := e.there(ctx, s); there || err != nil {
		return err
	}
	image, err := e.find(ctx, s.Digest)
	if err != nil {
		return err
	}
	// Left behind by an agent that died between the two steps of making it, or
	// of removing it.
	if err := e.client.SnapshotService(e.opts.Snapshotter).Remove(ctx, snapshotKey(s.ID)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("clear away its files: %w", err)
	}
	if err := forget(e.logPath(s.ID)); err != nil {
		return err
	}
	opts := []containerd.NewContainerOpts{
		containerd.WithImage(image),
		containerd.WithNewSnapshot(snapshotKey(s.ID), image),
		containerd.WithImageStopSignal(image, "SIGTERM"),
		containerd.WithNewSpec(e.describe(s, image)...),
		containerd.WithAdditionalContainerLabels(map[string]string{
			engine.LabelOwner: e.opts.Owner, engine.LabelHash: s.Hash(),
		}),
	}
	if e.opts.Snapshotter != "" {
		opts = slices.Insert(opts, 0, containerd.WithSnapshotter(e.opts.Snapshotter))
	}
	_, err = e.client.NewContainer(ctx, s.ID, opts...)
	return err
}

// describe says in the runtime's words how the container runs.
func (e *Engine) describe(s engine.Spec, image containerd.Image) []oci.SpecOpts {
	opts := []oci.SpecOpts{
		oci.WithEnv(s.Env), // first: what is there stays when the image's comes
		oci.WithImageConfigArgs(image, s.Args),
		oci.WithCgroup(cgroupOf(e.opts.Namespace, s.ID)),
		oci.WithHostNamespace(runtimespec.NetworkNamespace),
	}
	if name, err := os.Hostname(); err == nil {
		opts = append(opts, oci.WithHostname(name))
	}
	for path, mount := range map[string]oci.SpecOpts{"/etc/hosts": oci.WithHostHostsFile, "/etc/resolv.conf": oci.WithHostResolvconf} {
		if _, err := os.Stat(path); err == nil {
			opts = append(opts, mount)
		}
	}
	if kernel.IsEnabled() {
		opts = append(opts, seccomp.WithDefaultProfile())
	}
	if s.CPUMilli > 0 {
		opts = append(opts, oci.WithCPUCFS(s.CPUMilli*cpuPeriod/1000, cpuPeriod))
	}
	if s.MemoryBytes > 0 {
		opts = append(opts, oci.WithMemoryLimit(uint64(s.MemoryBytes)))
		if countsSwap() {
			opts = append(opts, oci.WithMemorySwap(s.MemoryBytes)) // memory and swap together
		}
	}
	return opts
}

// countsSwap reports whether the kernel lets swap be limited; the runtime
// fails where it is asked to and cannot.
func countsSwap() bool {
	for _, path := range []string{rootV2, swapV1} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// find is the unpacked image that a digest names; it wraps ErrNoImage.
func (e *Engine) find(ctx context.Context, d blob.Digest) (containerd.Image, error) {
	list, err := e.client.ImageService().List(ctx, "target.digest=="+string(d))
	if err != nil {
		return nil, fmt.Errorf("look for the image: %w", err)
	}
	if len(list) == 0 { // it may be one of an index
		all, err := e.client.ImageService().List(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for the image: %w", err)
		}
		list = slices.DeleteFunc(all, func(i images.Image) bool { return e.chosen(ctx, i.Target) != d })
	}
	for _, i := range list {
		image := containerd.NewImage(e.client, i)
		if e.unpacked(ctx, image) {
			return image, nil
		}
	}
	return nil, engine.ErrNoImage
}

// unpacked reports whether all is there to run an image. What cannot be found
// out is not there.
func (e *Engine) unpacked(ctx context.Context, image containerd.Image) bool {
	ok, err := image.IsUnpacked(ctx, e.opts.Snapshotter)
	if err != nil && !errdefs.IsNotFound(err) {
		e.opts.Log.Debug("it is not known whether an image is unpacked", "image", image.Name(), "error", err)
	}
	return ok && err == nil
}

// chosen is the manifest that an index names for this host; empty when target
// is no index, or cannot be read.
func (e *Engine) chosen(ctx context.Context, target ocispec.Descriptor) blob.Digest {
	if !images.IsIndexType(target.MediaType) || target.Size > maxIndex {
		return ""
	}
	raw, err := content.ReadBlob(ctx, e.client.ContentStore(), target)
	var index ocispec.Index
	if err != nil || json.Unmarshal(raw, &index) != nil {
		return ""
	}
	here := platforms.Default()
	var best *ocispec.Descriptor
	for _, m := range index.Manifests {
		if m.Platform == nil || !here.Match(*m.Platform) {
			continue
		}
		if best == nil || here.Less(*m.Platform, *best.Platform) {
			best = &m
		}
	}
	if best == nil {
		return ""
	}
	return best.Digest
}

// Images implements engine.Engine.
func (e *Engine) Images(ctx context.Context) ([]blob.Digest, error) {
	ctx = e.in(ctx)
	list, err := e.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []blob.Digest
	seen := map[blob.Digest]bool{}
	for _, i := range list {
		if seen[i.Target.Digest] || !e.unpacked(ctx, containerd.NewImage(e.client, i)) {
			continue
		}
		for _, d := range []blob.Digest{i.Target.Digest, e.chosen(ctx, i.Target)} {
			if d != "" && !seen[d] {
				seen[d] = true
				out = append(out, d)
			}
		}
	}
	return out, nil
}
